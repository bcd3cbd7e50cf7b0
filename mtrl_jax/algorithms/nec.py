"""Multi-task neural episodic control: DQN's network makes keys, tables of returns make values.

Pritzel et al. 2017, *Neural episodic control*, arXiv 1703.01988, sections 2 and 3. The network
says h(s); each task has a differentiable dictionary an action (`mtrl_jax.episodic`), of which the p
nearest keys count:

    Q(s, a) = sum_i w_i v_i,   w_i = k(h, h_i) / sum_j k(h, h_j)
    k(h, h_i) = 1 / (|h - h_i|^2 + delta)
    Q^(N)(s_t, a_t) = r_{t+1} + ... + gamma^{N-1} r_{t+N} + gamma^N max_a Q(s_{t+N}, a)
    write   (h(s_t), Q^(N)) into the table of a_t; of a key that is there v += alpha (Q^(N) - v)
    learn   minimise (Q(s, a) - Q^(N))^2 over the network and the keys and values that were read

  * What tasks share is the network, as `network` says; tables are a task's own. Gradients of the
    tasks exist side by side, so that any `surgery` combines them.
  * Nothing is bootstrapped from an end; a time limit is none, and its last row is bootstrapped
    from. Reset rows are neither written nor learnt from. Rewards are not clipped.
  * Keys stay as they were written, but for the steps that reads take them: the network moves on.
  * With fewer than p keys those that there are count; a table that is empty says 0, since infinity
    would go into the targets. Exploration is epsilon-greedy.

Departures and choices:
  1. Environments are stepped in batches of T rows; writes and gradient steps come after each.
     Targets are cut short where the batch ends, (N - 1) / T of them; public code has N = 100.
  2. A key is there if all its numbers are equal, not if the screen is: the network that has moved
     writes the same screen anew.
  3. Adam stands for RMSProp; keys and values take plain steps, with rates of their own.
  4. Used, against being thrown out, is what was read while collecting, and what is written.
  5. On several devices all of them hold the replay and the tables, as in DQN.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import episodic, learner, ranges, replay, returns, surgery
from mtrl_jax.algorithms import checks, dqn, q_network
from mtrl_jax.algorithms.mfec import most
from mtrl_jax.ranges import Count, NotNegative, Positive, Steps, Unit
from mtrl_jax.types import Agent, Array, EnvSpec, Key, Metrics, Rollout, Timestep

__all__ = [
    "Config",
    "Item",
    "Policy",
    "State",
    "agent",
    "check",
    "init",
    "item_spec",
    "look",
    "make_parts",
    "targets",
    "update",
]


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one agent. Steps are an agent's, of one task over all its environments."""

    network: str = "onehot"
    torso: str = "auto"
    hidden: tuple[Count, ...] = (128,)
    dim: Count = 32  # numbers of a key
    capacity: Steps = 10_000  # keys of each action of each task
    neighbours: Count = 50  # p
    delta: Positive = 1e-3
    n_step: Count = 16
    discount: Unit = 0.99
    unroll_length: Count = 32
    write_rate: Unit = 0.1  # alpha
    value_rate: NotNegative = 0.1  # of the values that were read
    key_rate: NotNegative = 1e-4  # of their keys
    replay_size: Steps = 20_000  # items of each task
    min_replay: Count = 500  # steps of each task before learning begins
    replay_ratio: Positive = 2.0  # samples drawn for each step of a task
    batch_size: Count = 32  # of each task
    epsilon: Unit = 0.02  # of acting, at last
    epsilon_steps: Count = 5_000  # until then, from 1
    eval_epsilon: Unit = 0.0
    surgery: checks.Surgery = "mean"
    learning_rate: Positive = 5e-4
    adam_epsilon: Positive = 1.5e-4
    max_grad_norm: Positive = 10.0
    overlap: bool = True  # on a host suite: step beside the update, one policy behind


class Item(NamedTuple):
    """What the replay keeps: an observation, the int32 action chosen on it, its float32 target."""

    observation: Any
    action: Any
    target: Any


class State(NamedTuple):
    """Everything learnt and remembered.

    Attributes:
      params: of the network.
      opt_state: both halves.
      tables: of each task and action, leaves `[K, A, ...]`.
      replay: rings of `Item`.
      key: of the batches; constant.
      steps: int32, steps of each task so far.
      updates: int32, gradient steps so far.
    """

    params: learner.Params
    opt_state: learner.OptState
    tables: episodic.Table
    replay: replay.ReplayState
    key: Key
    steps: Array
    updates: Array


class Policy(NamedTuple):
    """What acting reads; `epsilon` is the probability of a uniform action."""

    params: learner.Params
    tables: episodic.Table
    epsilon: Array


class _Parts(NamedTuple):
    """A config made concrete for one spec; the network's outputs are keys."""

    config: Config
    spec: EnvSpec
    net: q_network.QNetwork
    transforms: learner.Transforms
    collectives: learner.Collectives


def check(spec: EnvSpec, config: Config) -> None:
    """Raises ValueError, naming the field, what came and what is allowed."""
    if spec.action_size:
        raise ValueError("suite must have discrete actions for NEC; got continuous ones")
    ranges.check(config)
    checks.surgery_without_losses(config, "whose targets move here")
    if config.neighbours > config.capacity:
        raise ValueError(
            f"neighbours must not exceed capacity = {config.capacity}; got {config.neighbours}"
        )
    jax.eval_shape(lambda: episodic.init(1, config.dim))  # raises for keys that are too long
    make_parts(spec, config)  # raises


def item_spec(spec: EnvSpec) -> Item:
    """One item of the replay, for `replay.check_memory`."""
    observation = jax.ShapeDtypeStruct(spec.observation_shape, spec.observation_dtype)
    return Item(
        observation, jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
    )


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

    def policy_of(state: State) -> Policy:
        return Policy(state.params, state.tables, dqn.epsilon_at(config, state.steps))

    def act_(
        policy: Policy,
        actor: tuple[()],
        timestep: Timestep,
        keys: Key,
        *,
        distilled: bool = False,
        greedy: bool = False,
    ) -> tuple[Array, Array, tuple[()]]:
        epsilon = jnp.float32(config.eval_epsilon) if greedy else policy.epsilon
        _, q, _ = look(parts, policy.params, policy.tables, timestep.observation)
        return *q_network.epsilon_greedy(q, spec.action_mask, epsilon, keys), actor

    return Agent(
        init=lambda key: init(parts, key),
        init_actor=lambda num_envs: (),
        policy_params=policy_of,
        act=act_,
        update=lambda state, rollout: update(parts, state, rollout),
        unroll_length=config.unroll_length,
        has_distilled=False,
        greedy_eval=True,
        has_greedy=True,
        overlap=config.overlap,
        num_devices=collectives.size,
    )


def make_parts(
    spec: EnvSpec, config: Config, collectives: learner.Collectives = learner.ALONE
) -> _Parts:
    """Network and optimisers of the numbers in `config`."""
    outputs = spec._replace(num_actions=config.dim)
    net = q_network.make(outputs, config.network, config.torso, config.hidden)
    task = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(config.learning_rate, eps=config.adam_epsilon),
    )
    operate: Any = surgery.METHODS[config.surgery]
    shared = optax.chain(operate(num_tasks=spec.num_tasks, diagnostics=True), task)
    return _Parts(config, spec, net, learner.Transforms(shared, task), collectives)


def init(parts: _Parts, key: Key) -> State:
    """Fresh parameters and optimiser states, empty tables and replay."""
    spec, config = parts.spec, parts.config
    params = q_network.init_params(parts.net, key)
    opt_state = learner.init_optimisers(parts.transforms, params)
    return State(
        params=params,
        opt_state=opt_state._replace(shared=surgery.reseed(opt_state.shared, key)),
        tables=episodic.init(config.capacity, config.dim, (spec.num_tasks, spec.num_actions)),
        replay=replay.init(item_spec(spec), spec.num_tasks, config.replay_size),
        key=jax.random.fold_in(key, 2),
        steps=jnp.int32(0),
        updates=jnp.int32(0),
    )


def look(
    parts: _Parts, params: learner.Params, tables: episodic.Table, observation: Array
) -> tuple[Array, Array, Array]:
    """Keys `[K, B, D]` of observations `[K, B, ...]`, the actions' values `[K, B, A]`, and the
    slots that these are of, `[K, B, A, p]`, -1 where there are fewer."""
    h = q_network.values(parts.net, params, observation)

    def one(table, h):
        found = episodic.nearest(table, h, parts.config.neighbours)
        slot = found.slot
        q = jax.vmap(episodic.kernel_value, (0, 0, 0, 0, None))(
            h, table.keys[slot], table.values[slot], found.valid, parts.config.delta
        )
        return q, jnp.where(found.valid, slot, -1)

    q, slot = jax.vmap(jax.vmap(one, (0, None)))(tables, h)
    return h, jnp.moveaxis(q, 1, 2), jnp.moveaxis(slot, 1, 2)


# ------------------------------------------------------------------------------------------ update


def update(parts: _Parts, state: State, rollout: Rollout) -> tuple[State, Metrics]:
    """Writes a rollout, then makes the gradient steps that it pays for, none before `min_replay`
    steps; metrics are means over them, 0 of none."""
    config, spec = parts.config, parts.spec
    rows, action = parts.collectives.gather((rollout.timestep, rollout.action), 2)
    h, q, slot = jax.lax.map(lambda x: look(parts, state.params, state.tables, x), rows.observation)
    mask = jnp.asarray(spec.action_mask)[None, :, None]
    target = targets(config, rows, jnp.where(mask, q, -jnp.inf).max(-1))

    def flat(x):  # [T, K, E, ...] to [K, T * E, ...]
        x = jnp.moveaxis(x, 1, 0)
        return x.reshape(x.shape[0], -1, *x.shape[3:])

    items = Item(rows.observation[:-1], action, target)
    h, items, valid = jax.tree.map(flat, (h[:-1], items, rows.valid[1:]))
    slot = jnp.moveaxis(flat(slot[:-1]), 2, 1)  # [K, A, T * E, p]
    tables = jax.vmap(jax.vmap(episodic.touch))(state.tables, slot, slot >= 0)

    def write(tables, h, action, target, valid):
        mine = valid[None] & (action[None] == jnp.arange(spec.num_actions)[:, None])
        one = jax.vmap(episodic.write_towards, (0, None, None, None, 0))
        return one(tables, h, target, config.write_rate, mine)

    tables = jax.vmap(write)(tables, h, items.action, items.target, valid)
    rings = replay.add(state.replay, items, valid)
    steps = state.steps + valid.shape[1]

    def step(carry, i):
        key = jax.random.fold_in(state.key, state.updates + i)
        index = parts.collectives.scatter(replay.indices(rings, key, config.batch_size), 1)
        params, opt_state, tables = carry
        return gradient_step(parts, params, opt_state, tables, replay.take(rings, index))

    count = max(round(config.replay_ratio * valid.shape[1] / config.batch_size), 1)
    count = most(jnp.where(steps >= config.min_replay, count, 0))  # the same for all seeds
    learnt = (state.params, state.opt_state, tables)
    (params, opt_state, tables), metrics = learner.repeat(step, learnt, count)
    metrics |= {
        "policy/epsilon": dqn.epsilon_at(config, state.steps),
        "memory/keys": episodic.size(tables).sum(1).astype(jnp.float32),
    }
    updates = state.updates + count
    return State(params, opt_state, tables, rings, state.key, steps, updates), metrics


def targets(config: Config, rows: Timestep, v: Array) -> Array:
    """Q^(N) `[T, K, E]` of rows `[T + 1, K, E]`, with the values `v` of the best actions there."""

    def one(reward, discount, valid, v):
        return returns.n_step_returns(reward, discount, v, valid, config.n_step)

    over_batch = jax.vmap(jax.vmap(one, 1, 1), 1, 1)
    discount = config.discount * rows.discount[1:]
    return over_batch(rows.reward[1:], discount, rows.valid[1:], v)


def gradient_step(
    parts: _Parts,
    params: learner.Params,
    opt_state: learner.OptState,
    tables: episodic.Table,
    batch: Item,
) -> tuple[tuple[learner.Params, learner.OptState, episodic.Table], Metrics]:
    """One step of every task on its batch, leaves `[K, B, ...]`: of the network, and of the keys
    and values that are read; metrics `[K]`."""
    config = parts.config
    h, _, slot = look(parts, params, tables, batch.observation)
    own = batch.action[..., None, None]
    slot = jnp.take_along_axis(slot, own, 2)[:, :, 0]  # [K, B, p], of the action's own table
    k, there = jnp.arange(slot.shape[0]), slot >= 0
    at = (k[:, None, None], own[..., 0], slot)
    keys, values = tables.keys[at], tables.values[at]

    def read(h, keys, values, there):
        return jax.vmap(episodic.kernel_value, (0, 0, 0, 0, None))(
            h, keys, values, there, config.delta
        )

    def loss(shared, task, one):
        observation, keys, values, there, target, k = one
        h = q_network.values_of_task(parts.net, shared, task, observation, k)
        q = read(h, keys, values, there)
        error = target - q
        return jnp.square(error).mean(), {
            "value/mean": q.mean(),
            "value/error": jnp.abs(error).mean(),
        }

    data = (batch.observation, keys, values, there, batch.target, k)
    params, opt_state, metrics = learner.gradient_step(
        loss, parts.transforms, params, opt_state, data, parts.collectives
    )

    def half_error(keys, values):
        q = jax.vmap(read)(h, keys, values, there)
        return 0.5 * jnp.square(batch.target - q).sum()

    down, fall = jax.grad(half_error, (0, 1))(keys, values)
    steps = (slot, batch.action, -config.key_rate * down, -config.value_rate * fall)
    slot, action, key_steps, value_steps = parts.collectives.gather(steps, 1)

    def move(tables, slot, action, key_steps, value_steps):
        def one(table, a):  # slots that are not there are left out
            mine = (action == a)[:, None] & (slot >= 0)
            index = jnp.where(mine, slot, config.capacity).reshape(-1)
            d = key_steps.shape[-1]
            return episodic.move(table, index, key_steps.reshape(-1, d), value_steps.reshape(-1))

        return jax.vmap(one)(tables, jnp.arange(parts.spec.num_actions))

    tables = jax.vmap(move)(tables, slot, action, key_steps, value_steps)
    return (params, opt_state, tables), metrics
