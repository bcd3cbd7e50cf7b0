"""Multi-task soft actor-critic for continuous actions: a replay ring and a temperature a task.

Haarnoja et al. 2018, arXiv 1812.05905, as Meta-World's baselines use it for many tasks. The losses
stand in `losses/sac`, a gradient step in `sac_step`; here they meet rings, rollouts and devices.

  * Every gradient step draws as many transitions of each task, so that the tasks' gradients exist
    side by side and any method of `surgery` combines them, for actor and critics separately.
  * Twin critics, their slow copies in the target; the actor learns from the critics just updated.
  * A time limit is no end: the ring holds the state in which the episode was cut off. Reset rows
    are never stored, so nothing can learn from them (`experience`).

Departures and choices:
  1. `updates_per_step` counts gradient steps per environment step of *one* task; the published
     protocol's one update a vector step, of one environment a task, is 1.
  2. `reward_scaling="mean"` with `reset_every` is the recipe of Cho et al. (ICML 2025, "ARS"): the
     tasks' rewards are brought to one size (`experience.reward_scales`), decided when learning
     starts and at each reset of the networks; rings and statistics stay. Without resets a task
     that is solved later keeps the large scale of uniform play, and can drown the others.
  3. Observations are as they come (metres, in Meta-World) unless `statistics` says otherwise; the
     rings hold raw ones, and one set of moments serves actor, critics and targets.
  4. On several devices the update is the one-device update; `experience` says how.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtrl_jax import curriculum, learner, normalisers, ranges, replay, surgery
from mtrl_jax.algorithms import actor_q, checks, experience, sac_step
from mtrl_jax.ranges import Count, CountOr0, NotNegative, OneOf, Positive, Steps, Unit
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Metrics, Rollout, Timestep

STATISTICS = ("task", "shared", "none")
REWARD_SCALINGS = ("none", "mean")


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one agent. A task's counts are of each task, over all its environments."""

    network: str = "onehot"
    hidden: tuple[Count, ...] = (256, 256)
    activation: str = "relu"
    layer_norm: bool = True  # in the critics
    num_critics: Count = 2
    statistics: Annotated[str, OneOf(STATISTICS)] = "none"  # scale observations of
    observation_limit: Positive = 10.0  # in standard deviations
    discount: Unit = 0.99
    unroll_length: Count = 25
    updates_per_step: Positive = 1.0  # gradient steps per environment step of a task
    batch_size: Count = 128  # of each task
    capacity: Steps = 100_000  # transitions of each task
    warmup: CountOr0 = 4_000  # a task's environment steps with uniform actions and no learning
    target_rate: Unit = 0.005  # weight of the newest critics in the slow ones
    temperature: Positive = 1.0  # at the start
    max_temperature: NotNegative = 0.0  # 0: no bound
    target_entropy: float = -1.0  # nats per coordinate of an action
    reward_scaling: Annotated[str, OneOf(REWARD_SCALINGS)] = "none"
    reset_every: CountOr0 = 0  # gradient steps between fresh networks; 0: never
    surgery: checks.Surgery = "mean"
    task_weights: tuple[NotNegative, ...] = ()  # of the tasks' losses; (): 1 each
    curriculum: str = ""  # what moves them: success or progress, with options; "": nothing
    freeze: tuple[str, ...] = ()  # patterns of names of parameters that stay as they are
    learning_rate: Positive = 3e-4
    temperature_learning_rate: Positive = 3e-4
    adam_epsilon: Positive = 1e-5
    max_grad_norm: Positive = 1.0  # of each network
    overlap: bool = True  # on a host suite: collect beside the update, one policy behind


class State(NamedTuple):
    """Everything that a run carries on.

    Attributes:
      learned: networks, optimisers, temperatures.
      observations: moments `[K, F]`, equal for all tasks with `statistics="shared"`.
      reward_scale: `[K]`.
      rings: of `experience.Transition`s.
      key: of batches, noise and resets; constant.
      steps: int32, environment steps of each task so far.
      updates: int32, gradient steps so far.
      curriculum: what moves the tasks' weights, if anything does.
    """

    learned: sac_step.Learned
    observations: normalisers.Moments
    reward_scale: Array
    rings: replay.ReplayState
    key: Key
    steps: Array
    updates: Array
    curriculum: ArrayTree = ()


class Policy(NamedTuple):
    """What acting reads; as long as `warmup` (bool) is True, actions are uniform."""

    params: learner.Params
    observations: normalisers.Moments
    warmup: Array


class _Parts(NamedTuple):
    """A config made concrete for one spec."""

    config: Config
    spec: EnvSpec
    numbers: sac_step.Numbers
    weights: curriculum.Plan
    at_once: int  # tasks that an update is of


def check(spec: EnvSpec, config: Config) -> None:
    """Raises ValueError, naming the field, what came and what is allowed."""
    ranges.check(config)
    checks.surgery_without_losses(config, "which an actor's are not")
    checks.task_weights(spec, config)
    if config.freeze and config.reset_every:
        raise ValueError(
            "freeze must be left out where networks are made anew (reset_every = "
            f"{config.reset_every}); got {config.freeze}"
        )
    if config.capacity < config.batch_size:
        raise ValueError(
            f"capacity must be at least batch_size = {config.batch_size}; got {config.capacity}"
        )


def agent(
    spec: EnvSpec,
    config: Config,
    num_updates: int = 0,
    collectives: learner.Collectives = learner.ALONE,
) -> Agent:
    """The functions that `train.py` calls; rates are constant, so `num_updates` is not read, and
    `collectives` are of the devices of the run.

    Raises:
      ValueError: as `check`, or if the rings would not fit into memory.
    """
    check(spec, config)
    parts = make_parts(spec, config, collectives)
    experience.check_memory(spec, config.capacity)

    def act_(
        policy: Policy,
        actor: tuple[()],
        timestep: Timestep,
        keys: Key,
        *,
        distilled: bool = False,
        greedy: bool = False,
    ) -> tuple[Array, Array, tuple[()]]:
        return *act(parts, policy, timestep.observation, keys, greedy=greedy), actor

    return Agent(
        init=lambda key: init(parts, key),
        init_actor=lambda num_envs: (),
        policy_params=lambda state: Policy(
            state.learned.actor, state.observations, state.steps < config.warmup
        ),
        act=act_,
        update=lambda state, rollout: update(parts, state, rollout),
        unroll_length=config.unroll_length,
        has_distilled=False,
        greedy_eval=True,
        has_greedy=True,
        overlap=config.overlap,
        num_devices=collectives.size,
        observe=curriculum.observer(parts.weights),
        environments=curriculum.stepping(parts.weights),
    )


def make_parts(
    spec: EnvSpec,
    config: Config,
    collectives: learner.Collectives = learner.ALONE,
    at_once: int = 0,
) -> _Parts:
    """Networks and optimisers of the numbers in `config`. An update is of `at_once` of the tasks
    (0: of all), whose numbers whoever calls it puts into `numbers.tasks`."""
    nets = actor_q.make(
        spec,
        config.network,
        config.hidden,
        num_critics=config.num_critics,
        layer_norm=config.layer_norm,
        activation=config.activation,
        limit=0.0 if config.statistics == "none" else config.observation_limit,
    )

    def step():
        return optax.chain(
            optax.clip_by_global_norm(config.max_grad_norm),
            optax.adam(config.learning_rate, eps=config.adam_epsilon),
        )

    operate: Any = surgery.METHODS[config.surgery]
    count = at_once or spec.num_tasks
    shared = optax.chain(operate(num_tasks=count, diagnostics=True), step())
    frozen = actor_q.frozen(nets, config.freeze)
    return _Parts(
        config,
        spec,
        sac_step.Numbers(
            nets,
            learner.Transforms(shared, step(), frozen[0]),
            learner.Transforms(shared, step(), frozen[1]),
            temperature=optax.adam(config.temperature_learning_rate, eps=config.adam_epsilon),
            discount=config.discount,
            target_entropy=config.target_entropy * _sizes(spec),
            max_temperature=config.max_temperature,
            target_rate=config.target_rate,
            collectives=collectives,
        ),
        checks.task_weights(spec, config),
        count,
    )


def init(parts: _Parts, key: Key) -> State:
    """Fresh networks, and empty rings."""
    k, count, config = parts.spec.num_tasks, parts.at_once, parts.config
    return State(
        sac_step.init_learned(parts.numbers, jax.random.fold_in(key, 0), config.temperature),
        normalisers.init_moments((k, parts.numbers.nets.num_inputs)),
        jnp.ones(count),
        replay.init(experience.item_spec(parts.spec), count, config.capacity),
        jax.random.fold_in(key, 1),
        jnp.int32(0),
        jnp.int32(0),
        curriculum.init(parts.weights, k),
    )


def act(
    parts: _Parts, policy: Policy, observation: Array, keys: Key, *, greedy: bool = False
) -> tuple[Array, Array]:
    """Actions `[K, E, A]` in [-1, 1] and their log-densities `[K, E]`; greedy ones are tanh(mean),
    whatever the policy says of warming up."""
    nets, size, mask = parts.numbers.nets, parts.spec.action_size, parts.spec.coordinate_mask
    sizes = jnp.asarray(_sizes(parts.spec))

    def one_task(own, moments, observation, keys, k):
        x = actor_q.inputs(nets, moments, observation)
        if greedy:
            noise = jnp.zeros((x.shape[0], size))
            return actor_q.draw(nets, policy.params.shared, own, x, noise, k)
        noise = jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)
        action, log_prob = actor_q.draw(nets, policy.params.shared, own, x, noise, k)
        uniform = jax.lax.erf(noise / np.sqrt(2.0))  # 2 P(below) - 1
        if mask is not None:
            uniform = jnp.where(jnp.asarray(mask)[k], uniform, 0.0)
        return (
            jnp.where(policy.warmup, uniform, action),
            jnp.where(policy.warmup, -sizes[k] * np.log(2.0), log_prob),
        )

    numbers = parts.numbers.task_numbers()
    return jax.vmap(one_task)(policy.params.task, policy.observations, observation, keys, numbers)


def _sizes(spec: EnvSpec) -> np.ndarray:
    """float32 `[K]`, coordinates of each task's actions."""
    mask = spec.coordinate_mask
    if mask is None:
        return np.full(spec.num_tasks, spec.action_size, np.float32)
    return mask.sum(1).astype(np.float32)


# ------------------------------------------------------------------------------------------ update


def update(parts: _Parts, state: State, rollout: Rollout) -> tuple[State, Metrics]:
    """Stores a rollout, then makes all its gradient steps; metrics are means over those, 0 if none
    was made."""
    config, collectives = parts.config, parts.numbers.collectives
    t, _, e = rollout.log_prob.shape
    e *= collectives.size
    n = max(1, round(config.updates_per_step * t * e))
    observations = state.observations
    if config.statistics != "none" and parts.spec.vocabulary is None:
        rows = rollout.timestep
        observations = normalisers.observe(
            observations,
            jnp.moveaxis(rows.observation[:-1], 1, 0),
            jnp.moveaxis(rows.valid[1:], 1, 0),
            config.statistics == "shared",
            collectives.sum,
            parts.numbers.of_tasks(parts.spec.observation_mask),
        )
    state = state._replace(
        observations=observations,
        rings=experience.store(state.rings, rollout, collectives),
        steps=state.steps + t * e,
    )
    ready = (state.steps > config.warmup) & (replay.size(state.rings) >= config.batch_size).all()
    state = renew(parts, state, n, ready)
    key = jax.random.fold_in(state.key, 0)
    weights = curriculum.weights(parts.weights, state.curriculum)

    def gradient_step(learned, i):
        batch, noise = experience.draw_batch(
            state.rings,
            state.reward_scale,
            jax.random.fold_in(key, state.updates + i),
            config.batch_size,
            collectives,
        )
        return sac_step.step(parts.numbers, learned, state.observations, batch, noise, weights)

    count = jnp.where(ready, n, 0)
    learned, metrics = learner.repeat(gradient_step, state.learned, count)
    metrics |= {
        "policy/temperature": jnp.exp(learned.log_temperature),
        "replay/size": replay.size(state.rings).astype(jnp.float32),
        "replay/updates": count.astype(jnp.float32),
        **curriculum.logged(parts.weights, state.curriculum),
    }
    if config.reward_scaling != "none":
        metrics["replay/reward_scale"] = state.reward_scale
    return state._replace(learned=learned, updates=state.updates + count), metrics


def renew(parts: _Parts, state: State, n: int, ready: Array) -> State:
    """Fresh networks where a multiple of `reset_every` was passed in the last `n` gradient steps,
    and the rewards' scales at such times and when learning starts."""
    config, done = parts.config, state.updates
    due = jnp.bool_(False)
    if config.reset_every:
        due = (done > 0) & (done // config.reset_every > (done - n) // config.reset_every)
        key = jax.random.fold_in(jax.random.fold_in(state.key, 1), done)

        def fresh(learned):
            return sac_step.init_learned(parts.numbers, key, config.temperature)

        state = state._replace(learned=jax.lax.cond(due, fresh, lambda x: x, state.learned))
    if config.reward_scaling == "mean":
        scale = experience.reward_scales(state.rings)
        begins = ready & (done == 0)
        state = state._replace(reward_scale=jnp.where(due | begins, scale, state.reward_scale))
    return state
