"""Multi-task DQN: one Q-network for K tasks, learnt from a replay ring for each.

Mnih et al. 2015, *Human-level control through deep reinforcement learning*, Nature 518; with
`double_q` van Hasselt et al. 2016 (arXiv 1509.06461), with `n_step` above 1 returns of several
steps. With one task it is plain DQN. The errors stand in `losses/q_learning`.

  * A gradient step draws `batch_size` transitions of every task: tasks weigh the same whatever
    they have stored, and their gradients exist side by side, so that any `surgery` combines them.
  * `network` says what the tasks share: "onehot" is one network told the task's number, "multihead"
    has outputs for each task, "separate" shares nothing, "blind" is told nothing.
  * A time limit is not an end: its last row is bootstrapped from. Reset rows are not stored.
  * The number of gradient steps follows from the steps just made: `replay_ratio` samples of a task
    are drawn for each of its steps (32 every 4 steps, as published, is 8).

Departures and choices:
  1. Environments are stepped in batches of T rows; the gradient steps come after each batch.
  2. Adam stands for RMSProp. `target_period` counts gradient steps, as in the paper.
  3. Transitions of n steps are cut short where the batch of T rows ends (`n_step_returns` does the
     same): with T rows and n steps, (n - 1) / T of them are.
  4. On several devices all of them hold all of the replay: what each has collected is gathered, the
     batch is drawn with one key, and each device learns from its share of it. So eight devices
     compute what one does, and a checkpoint holds the replay once.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtrl_jax import curriculum, freeze, learner, ranges, replay, returns, surgery
from mtrl_jax.algorithms import checks, q_network
from mtrl_jax.losses import q_learning as losses
from mtrl_jax.ranges import Count, NotNegative, Positive, Steps, Unit
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Metrics, Rollout, Timestep

__all__ = [
    "Config",
    "Policy",
    "State",
    "Transition",
    "agent",
    "check",
    "init",
    "item_spec",
    "make_parts",
    "transitions",
    "update",
]


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one agent. Steps are an agent's, of one task over all its environments."""

    network: str = "onehot"
    torso: str = "auto"
    hidden: tuple[Count, ...] = (128,)
    double_q: bool = True
    n_step: Count = 3
    discount: Unit = 0.99
    unroll_length: Count = 8
    replay_size: Steps = 20_000  # transitions of each task
    min_replay: Count = 1_000  # transitions of each task before learning begins
    replay_ratio: Positive = 8.0  # samples drawn for each step of a task
    batch_size: Count = 32  # of each task
    target_period: Count = 250  # gradient steps
    epsilon: Unit = 0.02  # of acting, at last
    epsilon_steps: Count = 10_000  # until then, from 1
    eval_epsilon: Unit = 0.0
    reward_clip: NotNegative = 0.0  # rewards are cut off at +- this; 0: not at all
    huber: Positive = 1.0  # where the loss of an error turns linear
    surgery: checks.Surgery = "mean"
    task_weights: tuple[NotNegative, ...] = ()  # of the tasks' losses; (): 1 each
    curriculum: str = ""  # what moves them: success or progress, with options; "": nothing
    freeze: tuple[str, ...] = ()  # patterns of names of parameters that stay as they are
    learning_rate: Positive = 5e-4
    adam_epsilon: Positive = 1.5e-4
    max_grad_norm: Positive = 10.0
    overlap: bool = True  # on a host suite: step beside the update, one policy behind


class Transition(NamedTuple):
    """What the replay keeps; leaves `[K, N, ...]`, `[K, B, ...]`, or of one item.

    Attributes:
      observation: of the row on which `action` was chosen.
      action: int32.
      reward: float32, discounted sum of m rewards.
      discount: float32, product of m discounts; 0 if the episode ended for good.
      next_observation: m rows later.
    """

    observation: Any
    action: Any
    reward: Any
    discount: Any
    next_observation: Any


class State(NamedTuple):
    """Everything learnt and remembered.

    Attributes:
      params: of the Q-network.
      target: of the target network.
      opt_state: both halves.
      replay: rings of `Transition`.
      key: of the batches; constant.
      steps: int32, steps of each task so far.
      updates: int32, gradient steps so far.
      curriculum: what moves the tasks' weights, if anything does.
    """

    params: learner.Params
    target: learner.Params
    opt_state: learner.OptState
    replay: replay.ReplayState
    key: Key
    steps: Array
    updates: Array
    curriculum: ArrayTree = ()


class Policy(NamedTuple):
    """What acting reads; `epsilon` is the probability of a uniform action."""

    params: learner.Params
    epsilon: Array


class _Parts(NamedTuple):
    """A config made concrete for one spec."""

    config: Config
    spec: EnvSpec
    net: q_network.QNetwork
    transforms: learner.Transforms
    collectives: learner.Collectives
    weights: curriculum.Plan
    at_once: int  # tasks that an update is of
    tasks: Any = None  # int32 [at_once], which of the network's tasks those are; None: all

    def task_numbers(self) -> Array:
        return jnp.arange(self.spec.num_tasks) if self.tasks is None else self.tasks


def check(spec: EnvSpec, config: Config) -> None:
    """Raises ValueError, naming the field, what came and what is allowed."""
    if spec.action_size:
        raise ValueError("suite must have discrete actions for DQN; got continuous ones")
    ranges.check(config)
    checks.surgery_without_losses(config, "whose targets move here")
    checks.task_weights(spec, config)
    if config.min_replay > config.replay_size:
        raise ValueError(
            f"min_replay must not exceed replay_size = {config.replay_size}; got "
            f"{config.min_replay}"
        )
    q_network.make(spec, config.network, config.torso, config.hidden)  # raises


def item_spec(spec: EnvSpec) -> Transition:
    """One transition of the replay, for `replay.check_memory`."""
    observation = jax.ShapeDtypeStruct(spec.observation_shape, spec.observation_dtype)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    return Transition(observation, jax.ShapeDtypeStruct((), jnp.int32), number, number, observation)


def agent(
    spec: EnvSpec,
    config: Config,
    num_updates: int = 0,
    collectives: learner.Collectives = learner.ALONE,
) -> Agent:
    """The functions that `train.py` calls; `num_updates` is not used (the rate is constant), and
    `collectives` are of the devices of the run.

    Raises:
      ValueError: as `check`.
    """
    check(spec, config)
    parts = make_parts(spec, config, collectives)

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
        policy_params=lambda state: Policy(state.params, epsilon_at(config, state.steps)),
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
    """Network and optimisers of the numbers in `config`. An update is of `at_once` of the tasks
    (0: of all), whose numbers whoever calls it puts into `tasks`."""
    net = q_network.make(spec, config.network, config.torso, config.hidden)
    task = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(config.learning_rate, eps=config.adam_epsilon),
    )
    operate: Any = surgery.METHODS[config.surgery]
    count = at_once or spec.num_tasks
    shared = optax.chain(operate(num_tasks=count, diagnostics=True), task)
    frozen = freeze.select(config.freeze, lambda key: q_network.init_params(net, key))
    transforms = learner.Transforms(shared, task, frozen)
    weights = checks.task_weights(spec, config)
    return _Parts(config, spec, net, transforms, collectives, weights, count)


def init(parts: _Parts, key: Key) -> State:
    """Fresh parameters, optimiser states and empty replay."""
    spec = parts.spec
    params = q_network.init_params(parts.net, key)
    opt_state = learner.init_optimisers(parts.transforms, params)
    return State(
        params=params,
        target=params,
        opt_state=opt_state._replace(shared=surgery.reseed(opt_state.shared, key)),
        replay=replay.init(item_spec(spec), parts.at_once, parts.config.replay_size),
        key=jax.random.fold_in(key, 2),
        steps=jnp.int32(0),
        updates=jnp.int32(0),
        curriculum=curriculum.init(parts.weights, spec.num_tasks),
    )


def epsilon_at(config: Any, steps: Array) -> Array:
    """From 1 to `config.epsilon` in a straight line over `config.epsilon_steps`; of any `Config`
    that has these."""
    done = jnp.minimum(steps / config.epsilon_steps, 1.0)
    return 1.0 + done * (config.epsilon - 1.0)


def act(
    parts: _Parts, policy: Policy, observation: Array, keys: Key, *, greedy: bool = False
) -> tuple[Array, Array]:
    """Actions `[K, E]` and their log-probabilities; greedy ones are with `eval_epsilon`."""
    tasks = parts.task_numbers()
    epsilon = jnp.float32(parts.config.eval_epsilon) if greedy else policy.epsilon
    q = q_network.values(parts.net, policy.params, observation, tasks)
    return q_network.epsilon_greedy(q, jnp.asarray(parts.spec.action_mask)[tasks], epsilon, keys)


# ------------------------------------------------------------------------------------------ update


def update(parts: _Parts, state: State, rollout: Rollout) -> tuple[State, Metrics]:
    """Stores a rollout, then makes the gradient steps that it pays for, none until all tasks have
    `min_replay` transitions; metrics are means over them, 0 of none."""
    config, collectives = parts.config, parts.collectives
    rows, action = collectives.gather((rollout.timestep, rollout.action), 2)
    items, valid = transitions(config, rollout._replace(timestep=rows, action=action))
    rings = replay.add(state.replay, items, valid)
    n = valid.shape[1]  # T * E, of all devices
    ready = replay.size(rings).min() >= config.min_replay
    weights = curriculum.weights(parts.weights, state.curriculum)

    def step(carry, i):
        params, target, opt_state = carry
        key = jax.random.fold_in(state.key, state.updates + i)
        index = collectives.scatter(replay.indices(rings, key, config.batch_size), 1)
        params, opt_state, values = gradient_step(
            parts, params, target, opt_state, replay.take(rings, index), weights
        )
        renew = (state.updates + i + 1) % config.target_period == 0
        target = jax.tree.map(lambda new, old: jnp.where(renew, new, old), params, target)
        return (params, target, opt_state), values

    count = jnp.where(ready, max(round(config.replay_ratio * n / config.batch_size), 1), 0)
    learnt = (state.params, state.target, state.opt_state)
    (params, target, opt_state), metrics = learner.repeat(step, learnt, count)
    metrics |= {
        "policy/epsilon": epsilon_at(config, state.steps),
        "replay/size": replay.size(rings).astype(jnp.float32),
        **curriculum.logged(parts.weights, state.curriculum),
    }
    return state._replace(
        params=params,
        target=target,
        opt_state=opt_state,
        replay=rings,
        steps=state.steps + n,
        updates=state.updates + count,
    ), metrics


def transitions(config: Config, rollout: Rollout) -> tuple[Transition, Array]:
    """What of a rollout goes into the replay, leaves `[K, T * E, ...]` time-major, and which of it
    is real, bool `[K, T * E]`."""
    rows, (t, k, e) = rollout.timestep, rollout.action.shape
    reward = rows.reward[1:]
    if config.reward_clip:
        reward = jnp.clip(reward, -config.reward_clip, config.reward_clip)

    def of_environment(r_t, discount_t, valid_t):
        return returns.n_step_transitions(r_t, discount_t, valid_t, config.n_step)

    over_batch = jax.vmap(jax.vmap(of_environment, 1, 1), 1, 1)
    several = over_batch(reward, rows.discount[1:] * config.discount, rows.valid[1:])
    index = jnp.arange(t, dtype=jnp.int32)[:, None, None] + several.steps
    task, env = (jnp.broadcast_to(i, index.shape) for i in np.ix_(range(k), range(e)))
    items = Transition(
        rows.observation[:-1],
        rollout.action,
        several.reward,
        several.discount,
        rows.observation[index, task, env],
    )

    def flat(x):
        return jnp.moveaxis(x, 1, 0).reshape(k, t * e, *x.shape[3:])

    return jax.tree.map(flat, items), flat(rows.valid[1:])


def gradient_step(
    parts: _Parts,
    params: learner.Params,
    target: learner.Params,
    opt_state: learner.OptState,
    batch: Transition,
    weights: Any = None,
) -> tuple[learner.Params, learner.OptState, Metrics]:
    """One step of every task on its batch, leaves `[K, B, ...]`; metrics `[K]`. `weights` are of
    the tasks' losses, `[K]` or None."""
    config, net, numbers = parts.config, parts.net, parts.task_numbers()
    q_t = q_network.values(net, target, batch.next_observation, numbers)
    q_t_selector = q_t
    if config.double_q:
        q_t_selector = q_network.values(net, params, batch.next_observation, numbers)

    def loss(shared, task, one):
        batch, q_t, q_t_selector, mask, k = one
        q_tm1 = q_network.values_of_task(net, shared, task, batch.observation, k)
        delta = errors(q_tm1, batch, q_t, q_t_selector, mask)
        real = jnp.broadcast_to(mask, q_tm1.shape)
        values = {"value/mean": q_tm1.mean(where=real), "value/error": jnp.abs(delta).mean()}
        return losses.huber(delta, config.huber).mean(), values

    mask = jnp.asarray(parts.spec.action_mask)[numbers]
    return learner.gradient_step(
        loss,
        parts.transforms,
        params,
        opt_state,
        (batch, q_t, q_t_selector, mask, numbers),
        parts.collectives,
        weights,
    )


def errors(q_tm1: Array, batch: Transition, q_t: Array, q_t_selector: Array, mask: Array) -> Array:
    """`losses.double_q_learning` of one task's transitions, `[B]` of values `[B, A]` and a mask
    `[A]`."""
    return jax.vmap(losses.double_q_learning, (0, 0, 0, 0, 0, 0, None))(
        q_tm1, batch.action, batch.reward, batch.discount, q_t, q_t_selector, mask
    )
