"""Multi-task model-free episodic control: acts as it once did best in the most similar situations.

Blundell et al. 2016, *Model-free episodic control*, arXiv 1606.04460, sections 2 and 3. Nothing is
learnt by gradient. Each task has a table an action (`mtrl_jax.episodic`) of keys phi(s) and the
highest discounted return that followed there, and acts greedily on

    Q(s, a) = Q_EC(s, a) if s is in the table of a, else the mean over its k nearest keys
    Q_EC(s, a) := max(Q_EC(s, a), R_t)   or R_t where s is new,   R_t = r_{t+1} + gamma R_{t+1}

  * Returns are Monte-Carlo's, scanned backwards when an episode is over: nothing is bootstrapped. A
    time limit is an end like any other: what would have come behind it counts as 0.
  * The write is a maximum, hence optimistic: where chance decides (sticky actions, no-op starts,
    games that draw) it remembers the luckiest return, and acts as if luck were skill.
  * An action that a table has nothing of is worth infinity, and so tried first; with fewer than k
    keys the mean is over those that there are. Ties are broken at random.
  * Rewards are not clipped.

Departures and choices:
  1. The rows of the running episodes are the actor's memory, of the last `longest` actions: of a
     longer episode those are written, with their whole returns.
  2. The learner sees the actor's memory at the beginning of a rollout. So an episode is in the
     tables, and what was read counts as used, one rollout (T rows) later.
  3. Used, against being thrown out, is what a read went by while collecting: the k neighbours, or
     the one exact key; and what is written. Evaluations read without a trace.
  4. Keys are of whole observations (`embeddings.inputs`), so of all four frames of Atari's.
  5. On several devices all hold all tables: the actors' memories are gathered, all write them.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import episodic, learner, ranges, returns
from mtrl_jax.algorithms import embeddings
from mtrl_jax.ranges import Count, Range, Steps, Unit
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Metrics, Rollout, Timestep

__all__ = [
    "Actor",
    "Config",
    "State",
    "agent",
    "best_actions",
    "check",
    "embedding_of",
    "init",
    "most",
    "update",
]

_CHUNK = 64  # rows of a task that are written at a time


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one agent."""

    embedding: str = "projection"
    dim: Count = 64  # numbers of a key, of a projection
    capacity: Steps = 10_000  # keys of each action of each task
    neighbours: Count = 11  # k
    discount: Unit = 1.0
    epsilon: Unit = 0.005  # of acting
    eval_epsilon: Unit = 0.0
    unroll_length: Count = 16
    longest: Count = 2_000  # actions of an episode that are written, the last
    recall: Annotated[float, Range(0, 1, open_low=True)] = 1.0  # of `episodic.nearest`


class State(NamedTuple):
    """Everything remembered.

    Attributes:
      tables: of each task and action, leaves `[K, A, ...]`.
      embedding: parameters of it; constant.
    """

    tables: episodic.Table
    embedding: ArrayTree


class Actor(NamedTuple):
    """The last R rows of every environment, a ring that all of them are at one place of.

    Attributes:
      key: float32 `[K, E, R, D]`, of the observation that `action` was chosen on.
      action: int32 `[K, E, R]`.
      reward, discount, valid: `[K, E, R]`, of the transition into the row.
      slot: int32 `[K, E, T, A, k]`, what was read on the last T rows; -1 for nothing.
      rows: int32 `[K, E]`, rows so far.
    """

    key: Array
    action: Array
    reward: Array
    discount: Array
    valid: Array
    slot: Array
    rows: Array


class _Parts(NamedTuple):
    """A config made concrete for one spec."""

    config: Config
    spec: EnvSpec
    embedding: embeddings.Embedding
    num_rows: int  # R
    collectives: learner.Collectives


def check(spec: EnvSpec, config: Config, embedding: embeddings.Embedding | None = None) -> None:
    """Raises ValueError, naming the field, what came and what is allowed."""
    if spec.action_size:
        raise ValueError("suite must have discrete actions for MFEC; got continuous ones")
    ranges.check(config)
    if config.neighbours > config.capacity:
        raise ValueError(
            f"neighbours must not exceed capacity = {config.capacity}; got {config.neighbours}"
        )
    made = embedding or embedding_of(spec, config)
    jax.eval_shape(lambda: episodic.init(1, made.dim))  # raises for keys that are too long


def embedding_of(spec: EnvSpec, config: Config) -> embeddings.Embedding:
    """The embedding that `config` names."""
    return embeddings.make(spec, config.embedding, config.dim)


def agent(
    spec: EnvSpec,
    config: Config,
    num_updates: int = 0,
    collectives: learner.Collectives = learner.ALONE,
    embedding: embeddings.Embedding | None = None,
) -> Agent:
    """The functions that `train.py` calls; `num_updates` is not used, `collectives` are of the
    devices of the run, and `embedding` stands for the one that `config` names.

    Raises:
      ValueError: as `check`.
    """
    check(spec, config, embedding)
    limits = np.asarray(spec.episode_limit)
    longest = min(config.longest, int(limits.max()) if (limits > 0).all() else config.longest)
    parts = _Parts(
        config,
        spec,
        embedding or embedding_of(spec, config),
        longest + 1 + config.unroll_length,
        collectives,
    )

    def act_(
        policy: State,
        actor: Actor,
        timestep: Timestep,
        keys: Key,
        *,
        distilled: bool = False,
        greedy: bool = False,
    ) -> tuple[Array, Array, Actor]:
        key, q, slot = look(parts, policy, timestep.observation)
        epsilon = jnp.float32(config.eval_epsilon if greedy else config.epsilon)
        action, log_prob = best_actions(q, spec.action_mask, epsilon, keys)
        return action, log_prob, actor if greedy else remember(actor, timestep, key, action, slot)

    return Agent(
        init=lambda key: init(parts, key),
        init_actor=lambda num_envs: init_actor(parts, num_envs),
        policy_params=lambda state: state,
        act=act_,
        update=lambda state, rollout: update(parts, state, rollout),
        unroll_length=config.unroll_length,
        has_distilled=False,
        greedy_eval=True,
        has_greedy=True,
        num_devices=collectives.size,
    )


def init(parts: _Parts, key: Key) -> State:
    """Empty tables."""
    lead = (parts.spec.num_tasks, parts.spec.num_actions)
    tables = episodic.init(parts.config.capacity, parts.embedding.dim, lead)
    return State(tables, parts.embedding.init(key))


# ------------------------------------------------------------------------------------------ acting


def look(parts: _Parts, policy: State, observation: Array) -> tuple[Array, Array, Array]:
    """Keys `[K, E, D]` of observations `[K, E, ...]`, the actions' values `[K, E, A]`, and the
    slots that they are of, `[K, E, A, k]`, -1 where there are fewer."""
    config = parts.config
    k, e = observation.shape[:2]
    key = parts.embedding.apply(
        policy.embedding, observation.reshape(k * e, *observation.shape[2:])
    ).reshape(k, e, -1)

    def one(table, key):
        found = episodic.nearest(table, key, config.neighbours, config.recall)
        value = episodic.mean_value(table, key, found, empty=jnp.inf)
        first = jnp.arange(config.neighbours)[None] == 0
        went_by = found.valid & (first | ~found.exact[:, None])
        return value, jnp.where(went_by, found.slot, -1)

    q, slot = jax.vmap(jax.vmap(one, (0, None)))(policy.tables, key)
    return key, jnp.moveaxis(q, 1, 2), jnp.moveaxis(slot, 1, 2)


def best_actions(
    q: Array, action_mask: np.ndarray | Array, epsilon: Array, keys: Key
) -> tuple[Array, Array]:
    """The best action, one of equal ones at random, or with probability `epsilon` a uniform one.

    Args:
      q: [K, E, A], infinity allowed.
      action_mask: bool [K, A], actions that a task has.
      epsilon: [] in [0, 1].
      keys: [K, E].

    Returns:
      int32 [K, E] actions, and float32 [K, E] their log-probabilities.
    """
    mask = jnp.asarray(action_mask)[:, None]
    q = jnp.where(mask, q, -jnp.inf)
    best = mask & (q == q.max(-1, keepdims=True))
    share = best / best.sum(-1, keepdims=True)
    uniform = mask / mask.sum(-1, keepdims=True)
    log_probs = jnp.log((1.0 - epsilon) * share + epsilon * uniform)
    action = jax.vmap(jax.vmap(jax.random.categorical))(keys, log_probs).astype(jnp.int32)
    return action, jnp.take_along_axis(log_probs, action[..., None], -1)[..., 0]


def init_actor(parts: _Parts, num_envs: int) -> Actor:
    """Nothing remembered; rows that never were are not valid."""
    spec, config, r = parts.spec, parts.config, parts.num_rows
    lead = (spec.num_tasks, num_envs)
    return Actor(
        key=jnp.zeros((*lead, r, parts.embedding.dim)),
        action=jnp.zeros((*lead, r), jnp.int32),
        reward=jnp.zeros((*lead, r)),
        discount=jnp.zeros((*lead, r)),
        valid=jnp.zeros((*lead, r), bool),
        slot=jnp.full((*lead, config.unroll_length, spec.num_actions, config.neighbours), -1),
        rows=jnp.zeros(lead, jnp.int32),
    )


def remember(actor: Actor, timestep: Timestep, key: Array, action: Array, slot: Array) -> Actor:
    """The memory after one more row, on which `action` was chosen."""
    now = actor.rows[0, 0]

    def put(ring, row):
        return jax.lax.dynamic_update_index_in_dim(ring, row, now % ring.shape[2], 2)

    return Actor(
        put(actor.key, key),
        put(actor.action, action),
        put(actor.reward, timestep.reward),
        put(actor.discount, timestep.discount),
        put(actor.valid, timestep.valid),
        put(actor.slot, slot),
        actor.rows + 1,
    )


# ------------------------------------------------------------------------------------------ update


def update(parts: _Parts, state: State, rollout: Rollout) -> tuple[State, Metrics]:
    """Counts what was read as used and writes the episodes that ended, both of the rows before this
    rollout; metrics `[K]`."""
    actor: Actor = parts.collectives.gather(rollout.actor_state, 1)
    # No action is below 0, but XLA must wait for the rollout to know: tables that were written
    # while it still reads them would be copied.
    actor = actor._replace(slot=jnp.where(rollout.action.min() < 0, -1, actor.slot))
    tables = _touch(state.tables, actor)
    value, ended = episode_returns(parts.config, actor)
    k, e, r = value.shape
    ended, value = ended.reshape(k, e * r), value.reshape(k, e * r)
    count = ended.sum(1)
    padded = -(-e * r // _CHUNK) * _CHUNK
    order = jnp.argsort(~ended, axis=1, stable=True)  # what is to be written comes first, in order
    order = jnp.pad(order, ((0, 0), (0, padded - e * r)))
    now = actor.rows[0, 0]

    def chunk(i, tables):
        pick = jax.lax.dynamic_slice_in_dim(order, i * _CHUNK, _CHUNK, 1)
        valid = (i * _CHUNK + jnp.arange(_CHUNK))[None] < count[:, None]

        def one_task(tables, keys, actions, value, pick, valid):
            env, row = pick // r, (now + pick) % r  # the ring's oldest row is the next to go
            action = actions[env, row]
            mine = valid[None] & (action[None] == jnp.arange(parts.spec.num_actions)[:, None])
            write = jax.vmap(episodic.write_max, (0, None, None, 0))
            return write(tables, keys[env, row], value[pick], mine)

        return jax.vmap(one_task)(tables, actor.key, actor.action, value, pick, valid)

    tables = jax.lax.fori_loop(0, -(-most(count.max()) // _CHUNK), chunk, tables)
    metrics = {
        "memory/keys": episodic.size(tables).sum(1).astype(jnp.float32),
        "memory/written": count.astype(jnp.float32),
    }
    return state._replace(tables=tables), metrics


def episode_returns(config: Config, actor: Actor) -> tuple[Array, Array]:
    """Of the actor's rows, oldest first, the discounted return that followed each, `[K, E, R]`, and
    whether it is to be written now: its episode ended within the last T rows."""
    r, t = actor.reward.shape[2], actor.slot.shape[2]
    in_order = (actor.rows[0, 0] + jnp.arange(r)) % r
    reward, discount, valid = (
        x[:, :, in_order] for x in (actor.reward, actor.discount, actor.valid)
    )

    def one(reward, discount, valid):
        g = returns.discounted_returns(
            reward[1:], config.discount * discount[1:], jnp.zeros(r), valid[1:]
        )
        reset = jnp.where(valid, r, jnp.arange(r))  # rows behind an end
        ends = jax.lax.cummin(reset, reverse=True)[1:]
        return jnp.append(g, 0.0), jnp.append(valid[1:] & (ends >= r - t) & (ends < r), False)

    return jax.vmap(jax.vmap(one))(reward, discount, valid)


def _touch(tables: episodic.Table, actor: Actor) -> episodic.Table:
    """What was read on the last T rows, the newest last."""
    t = actor.slot.shape[2]
    in_order = (actor.rows[0, 0] + jnp.arange(t)) % t
    slot = jnp.moveaxis(actor.slot[:, :, in_order], (3, 2), (1, 2))  # [K, A, T, E, k]
    return jax.vmap(jax.vmap(episodic.touch))(tables, slot, slot >= 0)


@jax.custom_batching.custom_vmap
def most(count: Array) -> Array:
    """`count`, under a vmap the largest of all: how often a loop runs whose steps change nothing
    where there is nothing to do. Loops of different lengths would copy what they carry."""
    return count


@most.def_vmap
def _(size: int, batched: Any, count: Array) -> tuple[Array, bool]:
    return most(count.max()), False
