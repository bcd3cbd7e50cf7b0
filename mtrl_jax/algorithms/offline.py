"""Offline multi-task learning that shares data between tasks: CQL or IQL, under a rule of sharing.

Every task has transitions of its own, and may learn from what was recorded for the others,
relabelled with its own reward or with the least there is (`losses.sharing` has the rules and their
sources). A batch of task i is half own data and half candidates from the others, whose losses are
multiplied by the rule's weights; under `none` all of it is own data, so that every rule sees as
many samples a step. Bases are conservative and implicit Q-learning (`offline_step`); under IQL the
rules compare values of critics that are not pushed down, but have never been asked about an action
that was not recorded.

Departures and choices:
  1. Critics, policy and value make one Adam step together, each seeing the others of before it.
  2. Candidates are drawn uniformly from all that the others have; a pair of tasks has no say.
  3. Soft weights are sigmoid(delta / tau) with tau a running mean of |delta|, task by task.
  4. Until `share_after` gradient steps have been made rules that look at values let everything in:
     critics that know nothing of other tasks' transitions cannot judge them.
  5. The level that CDS compares with is recomputed every `refresh_every` steps, on the same sample
     of own data; HIPI's normaliser on that of all tasks together.
  6. With continuous actions CQL's temperature is fixed, and actors are not cloned first.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import learner, ranges, surgery
from mtrl_jax.algorithms import offline_data, offline_nets, offline_step
from mtrl_jax.losses import sharing
from mtrl_jax.ranges import Count, CountOr0, NotNegative, OneOf, Positive, Range, Unit
from mtrl_jax.types import Agent, Array, EnvSpec, Key, Metrics, Timestep

__all__ = ["BASES", "Config", "Learner", "State", "check", "learner_of"]

BASES = ("cql", "iql")
_KEPT = 0.99  # of the running mean of |delta| in a step


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one agent."""

    base: Annotated[str, OneOf(BASES)] = "cql"
    rule: Annotated[str, OneOf(tuple(sharing.RULES))] = "none"
    network: str = "onehot"
    hidden: tuple[Count, ...] = (64, 64)
    num_critics: Count = 2
    discount: Unit = 0.95
    batch_size: Count = 64  # of each task
    target_rate: Unit = 0.01  # weight of the newest critics in the slow ones
    learning_rate: Positive = 1e-3
    decay_steps: CountOr0 = 0  # gradient steps over which it falls to 0, linearly; 0: it stays
    max_grad_norm: Positive = 10.0
    cql_strength: NotNegative = 1.0  # alpha
    cql_samples: Count = 4  # of each of three kinds, where actions are continuous
    temperature: NotNegative = 0.02  # of CQL's policy, where actions are continuous
    expectile: Unit = 0.8
    sharpness: NotNegative = 10.0  # beta of IQL's policy
    percentile: Annotated[float, Range(0, 100)] = 90.0  # of own values, for cds and cds_uds
    soft_weights: bool = True  # of CDS; else 0 and 1
    share_after: CountOr0 = 1_000  # gradient steps
    refresh_every: Count = 250  # gradient steps
    level_samples: Count = 512  # of each task's own data


class State(NamedTuple):
    """Everything learnt.

    Attributes:
      params, target: of all parts, and slow copies of them.
      opt_state: of Adam.
      level: `[K]`, what shared data have to reach.
      log_partition: `[K]`, HIPI's normaliser.
      spread: `[K]`, running mean of |delta|.
      updates: int32, gradient steps so far.
    """

    params: learner.Params
    target: learner.Params
    opt_state: learner.OptState
    level: Array
    log_partition: Array
    spread: Array
    updates: Array


class Learner(NamedTuple):
    """Functions of one agent bound to its numbers; all of them pure.

    Attributes:
      init: `(key) -> state`.
      learn: `(state, data, split, key, count) -> (state, metrics)`, `count` gradient steps from one
        multiple of `refresh_every` on, and no further than to the next. Metrics are means over
        them: `[K]`, and `share` `[K, K]`, of what task i learnt from, how much was recorded for j.
      player: acts, greedily; its policy is `state.params`. It does not learn.
    """

    init: Callable[[Key], State]
    learn: Callable[..., tuple[State, Metrics]]
    player: Agent


class _Parts(NamedTuple):
    config: Config
    numbers: offline_step.Numbers
    transforms: learner.Transforms
    least_reward: float


def check(spec: EnvSpec, config: Config) -> None:
    """Raises ValueError, naming the field, what came and what is allowed."""
    ranges.check(config)
    if config.rule != "none" and config.batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 to share data; got {config.batch_size}")
    if spec.num_tasks < 2 and config.rule != "none":
        raise ValueError(f"rule must be none with one task; got {config.rule}")
    _nets(spec, config)  # raises


def learner_of(spec: EnvSpec, config: Config, least_reward: float = 0.0) -> Learner:
    """The functions of an agent.

    Args:
      spec: of the suite.
      config: its numbers.
      least_reward: what `uds` and `cds_uds` relabel with.

    Raises:
      ValueError: as `check`.
    """
    check(spec, config)
    nets = _nets(spec, config)
    rate: Any = config.learning_rate
    if config.decay_steps:
        rate = optax.linear_schedule(rate, 0.0, config.decay_steps)
    adam = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(rate))
    shared = optax.chain(surgery.mean(num_tasks=spec.num_tasks, diagnostics=True), adam)
    numbers = offline_step.Numbers(
        nets,
        config.cql_strength,
        config.cql_samples,
        config.temperature,
        config.expectile,
        config.sharpness,
    )
    parts = _Parts(config, numbers, learner.Transforms(shared, adam), least_reward)
    return Learner(
        init=lambda key: init(parts, key),
        learn=lambda state, data, split, key, count: learn(parts, state, data, split, key, count),
        player=_player(parts),
    )


def _nets(spec: EnvSpec, config: Config) -> offline_nets.Nets:
    parts = offline_step.parts_of(config.base, spec.action_size > 0)
    return offline_nets.make(spec, config.network, config.hidden, config.num_critics, parts)


def init(parts: _Parts, key: Key) -> State:
    """Fresh parameters."""
    params = offline_nets.init_params(parts.numbers.nets, key)
    k = parts.numbers.nets.spec.num_tasks
    return State(
        params,
        jax.tree.map(jnp.copy, params),  # a donated state may not hold one buffer twice
        learner.init_optimisers(parts.transforms, params),
        jnp.zeros(k),
        jnp.zeros(k),
        jnp.zeros(k),
        jnp.int32(0),
    )


# ----------------------------------------------------------------------------------------- learning


def learn(
    parts: _Parts,
    state: State,
    data: offline_data.Data,
    split: offline_data.Split,
    key: Key,
    count: Array | int,
) -> tuple[State, Metrics]:
    """`Learner.learn`; what gradient step n draws depends on `key` and n alone."""
    data, split = jax.tree.map(jnp.asarray, (data, split))
    level_key, step_key = jax.random.split(key)
    state = refresh(parts, state, data, split, level_key)

    def one(state: State, _: Array) -> tuple[State, Metrics]:
        return step(parts, state, data, split, jax.random.fold_in(step_key, state.updates))

    return learner.repeat(one, state, count)


def refresh(
    parts: _Parts,
    state: State,
    data: offline_data.Data,
    split: offline_data.Split,
    key: Key,
) -> State:
    """The level and the normaliser of the critics as they are, on samples that stay the same."""
    config, nets = parts.config, parts.numbers.nets
    index = offline_data.draw_own(split, key, config.level_samples)
    own = offline_data.gather(data, index, jnp.ones(index.shape[1], bool), None)
    q = _values(nets, state.params, own.observation, own.action)
    k = jnp.arange(nets.spec.num_tasks)
    percentile = None if config.rule == "cds_basic" else config.percentile
    level = jax.vmap(lambda x: sharing.own_level(x, percentile))(q[k, k])
    flat = q.reshape(len(k), -1)
    return state._replace(level=level, log_partition=jax.vmap(sharing.log_partition)(flat))


def _values(
    nets: offline_nets.Nets, params: learner.Params, observation: Array, action: Array
) -> Array:
    """Smallest critics `[J, K, B]` of each task j at samples `[K, B, ...]`."""

    def of_task(own: Any, j: Array) -> Array:
        def one(observation: Array, action: Array) -> Array:
            x = offline_nets.inputs(nets, observation)
            return offline_nets.least(nets, params.shared, own, x, action, j)

        return jax.vmap(one)(observation, action)

    return jax.vmap(of_task)(params.task, jnp.arange(nets.spec.num_tasks))


def weigh(parts: _Parts, state: State, batch: offline_data.Batch) -> tuple[Array, Array]:
    """Weights `[K, B]` of a batch under the rule, and the running mean of |delta| `[K]`."""
    config, nets = parts.config, parts.numbers.nets
    rule, spread = config.rule, state.spread
    ones = jnp.ones(batch.own.shape)
    if rule in ("none", "all", "uds"):
        return ones, spread
    tasks = jnp.arange(nets.spec.num_tasks)
    if rule == "hipi":
        q = _values(nets, state.params, batch.observation, batch.action)
        weights = jax.vmap(sharing.hipi_weights, (1, None, 0))(q, state.log_partition, tasks)
    else:

        def own_value(own: Any, observation: Array, action: Array, k: Array) -> Array:
            x = offline_nets.inputs(nets, observation)
            return offline_nets.least(nets, state.params.shared, own, x, action, k)

        q = jax.vmap(own_value)(state.params.task, batch.observation, batch.action, tasks)
        apart = jnp.where(batch.own, 0.0, jnp.abs(q - state.level[:, None])).sum(1)
        now = apart / jnp.maximum((~batch.own).sum(1), 1)
        spread = jnp.where(state.updates > 0, _KEPT * spread + (1.0 - _KEPT) * now, now)
        if config.soft_weights:
            tau = jnp.maximum(spread, 1e-6)
            weights = jax.vmap(sharing.cds_weights)(q, state.level, tau)
        else:
            weights = jax.vmap(lambda q, level: sharing.cds_weights(q, level, None))(q, state.level)
    weights = jnp.where(state.updates < config.share_after, ones, weights)
    return jax.vmap(sharing.own_first)(weights, batch.own), spread


def step(
    parts: _Parts,
    state: State,
    data: offline_data.Data,
    split: offline_data.Split,
    key: Key,
) -> tuple[State, Metrics]:
    """One gradient step of all tasks; metrics `[K]` and `share` `[K, K]`."""
    config, nets = parts.config, parts.numbers.nets
    size, k = config.batch_size, nets.spec.num_tasks
    sizes = (size, 0) if config.rule == "none" else (size - size // 2, size // 2)
    least = parts.least_reward if config.rule in sharing.UNLABELLED else None
    batch_key, noise_key = jax.random.split(key)
    batch = offline_data.draw_batch(data, split, batch_key, sizes, least)
    weight, spread = weigh(parts, state, batch)
    read = jax.vmap(lambda x: offline_nets.inputs(nets, x))
    samples = offline_step.Samples(
        x_tm1=read(batch.observation),
        x_t=read(batch.next_observation),
        action=batch.action,
        reward=batch.reward,
        discount=jnp.where(batch.ended, 0.0, config.discount),
        weight=weight,
        own=batch.own,
        key=jax.random.split(noise_key, k),
    )
    base = offline_step.cql if config.base == "cql" else offline_step.implicit

    def loss(shared: Any, own: Any, one: Any) -> tuple[Array, Metrics]:
        samples, slow, number = one
        return base(parts.numbers, shared, own, (state.target.shared, slow), samples, number)

    params, opt_state, metrics = learner.gradient_step(
        loss,
        parts.transforms,
        state.params,
        state.opt_state,
        (samples, state.target.task, jnp.arange(k)),
    )
    share = jax.vmap(lambda w, source: sharing.effective_share(w, source, k))
    metrics |= {"share": share(weight, batch.source), "level": state.level}
    target = optax.incremental_update(params, state.target, config.target_rate)
    state = state._replace(
        params=params,
        target=target,
        opt_state=opt_state,
        spread=spread,
        updates=state.updates + 1,
    )
    return state, metrics


# ------------------------------------------------------------------------------------------- acting


def _player(parts: _Parts) -> Agent:
    nets = parts.numbers.nets

    def act(
        params: learner.Params, actor: tuple[()], timestep: Timestep, keys: Key, **_: Any
    ) -> tuple[Array, Array, tuple[()]]:
        def one(own: Any, observation: Array, k: Array) -> Array:
            x = offline_nets.inputs(nets, observation)
            return offline_step.greedy(nets, params.shared, own, x, k)

        tasks = jnp.arange(nets.spec.num_tasks)
        action = jax.vmap(one)(params.task, timestep.observation, tasks)
        return action, jnp.zeros(keys.shape), actor

    return Agent(
        init=lambda key: init(parts, key),
        init_actor=lambda num_envs: (),
        policy_params=lambda state: state.params,
        act=act,
        update=lambda state, rollout: (state, {}),
        unroll_length=1,
        has_distilled=False,
        greedy_eval=True,
        has_greedy=True,
    )
