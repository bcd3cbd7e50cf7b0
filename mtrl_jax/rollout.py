"""Two ways to make the same `Rollout`: `lax.scan` over a functional suite, or the host loop over a
pool.

Randomness is a function of where it is used and of nothing else: step t of update u in environment
n draws from fold_in(fold_in(fold_in(root, u), t), n), n being the environment's global index. So a
resumed run draws what the uninterrupted one would have, and one device what eight would.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs import functional
from mtrl_jax.types import (
    Agent,
    Array,
    ArrayTree,
    FunctionalSuite,
    Key,
    Metrics,
    Pool,
    Rollout,
    Timestep,
)

# act(policy, actor_state, timestep [K, E, ...], keys [K, E]) -> (action, log_prob, actor_state)
Act = Callable[[ArrayTree, ArrayTree, Timestep, Key], tuple[Array, Array, ArrayTree]]


def acting(agent: Agent, *, distilled: bool = False, greedy: bool | None = None) -> Act:
    """`agent.act` as scores and pictures want it.

    Args:
      agent: who acts.
      distilled: with the shared policy.
      greedy: with the likeliest actions (True) or drawn ones; None: as the agent says.

    Raises:
      ValueError: for likeliest actions of an agent that only draws.
    """
    greedy = agent.greedy_eval if greedy is None else greedy
    if greedy and not (agent.has_greedy or agent.greedy_eval):
        raise ValueError("actions: this agent has no likeliest actions, it only draws them")
    keyword: dict[str, Any] = {"greedy": True} if greedy else {}

    def act(policy, actor_state, timestep, keys):
        return agent.act(policy, actor_state, timestep, keys, distilled=distilled, **keyword)

    return act


class EnvLoop(NamedTuple):
    """Everything on the environments' side of the functional path; leaves lead with `[K, E]`."""

    env_state: ArrayTree
    timestep: Timestep
    actor_state: ArrayTree
    env_index: Array  # int32, the environment's global number: its random stream
    stats: "EpisodeStats"


class EpisodeStats(NamedTuple):
    """Running sums of the unfinished episode of each environment, `[K, E]` each."""

    episode_return: Array  # float32
    length: Array  # int32, actions
    success: Array  # bool


def env_indices(num_tasks: int, num_envs: int) -> np.ndarray:
    """Global numbers of all environments, int32 `[K, E]`."""
    return np.arange(num_tasks * num_envs, dtype=np.int32).reshape(num_tasks, num_envs)


def step_keys(key: Key, t: Array | int, env_index: Array) -> Key:
    """Keys `env_index.shape` for step `t` of the rollout that owns `key`."""
    return functional.environment_keys(jax.random.fold_in(key, t), env_index)


def init_stats(shape: tuple[int, ...]) -> EpisodeStats:
    """Zero sums."""
    return EpisodeStats(jnp.zeros(shape), jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))


def episode_statistics(stats: EpisodeStats, timestep: Timestep) -> tuple[EpisodeStats, Metrics]:
    """Adds rows 1..T of a rollout to the running episodes and sums up those that finished.

    An episode is counted when its successor's reset row arrives.

    Args:
      stats: sums before the rollout, `[K, E]`.
      timestep: leaves `[T + 1, K, E, ...]`.

    Returns:
      The new sums, and `episode/{count, return, length, success}`: float32 `[K]`, sums over the
      finished episodes (so that they add up over devices and updates).
    """

    def add(carry, row):
        stats, total = carry
        done = row.first & (stats.length > 0)
        finished = (
            jnp.where(done, 1.0, 0.0),
            jnp.where(done, stats.episode_return, 0.0),
            jnp.where(done, stats.length, 0).astype(jnp.float32),
            jnp.where(done & stats.success, 1.0, 0.0),
        )
        total = jax.tree.map(lambda t, x: t + x.sum(-1), total, finished)
        keep = ~row.first
        stats = EpisodeStats(
            jnp.where(keep, stats.episode_return, 0.0) + jnp.where(row.valid, row.reward, 0.0),
            jnp.where(keep, stats.length, 0) + row.valid.astype(jnp.int32),
            (keep & stats.success) | (row.valid & row.success),
        )
        return (stats, total), None

    zero = jnp.zeros(stats.length.shape[:-1])
    rows = jax.tree.map(lambda x: x[1:], timestep._replace(observation=()))
    (stats, total), _ = jax.lax.scan(add, (stats, (zero,) * 4), rows)
    names = ("episode/count", "episode/return", "episode/length", "episode/success")
    return stats, dict(zip(names, total, strict=True))


# ------------------------------------------------------------------------------- functional path


def init_env_loop(
    suite: FunctionalSuite, key: Key, env_index: Array, init_actor: Callable[[int], ArrayTree]
) -> EnvLoop:
    """Resets environments `env_index.shape`; `init_actor(E)` gives the agent's memory."""
    reset, _ = functional.auto_reset_batch(suite.env)
    env_state, timestep = reset(step_keys(key, 0, env_index), suite.tasks)
    return EnvLoop(
        env_state, timestep, init_actor(env_index.shape[1]), env_index, init_stats(env_index.shape)
    )


def stepping(
    agent: Agent, state: ArrayTree, env_index: Array, num_devices: int = 1
) -> Array | None:
    """Which environments step in the next rollout, bool `[K, E]`, or None: all.

    By their global numbers, so that it does not depend on how many devices share them.
    """
    if agent.environments is None:
        return None
    num_envs = env_index.shape[1] * num_devices
    return env_index % num_envs < agent.environments(state, num_envs)[:, None]


def unroll(
    suite: FunctionalSuite,
    act: Act,
    policy: ArrayTree,
    loop: EnvLoop,
    key: Key,
    num_steps: int,
    active: Array | None = None,
) -> tuple[EnvLoop, Rollout]:
    """T = `num_steps` steps of every environment inside one scan; `key` belongs to this rollout.

    Where `active`, bool `[K, E]`, is False, an environment rests: its state, its row and the
    agent's memory stay to the bit, and rows 1 to T repeat its row without being valid.
    """
    _, step = functional.auto_reset_batch(suite.env)
    select = jax.vmap(jax.vmap(jnp.where))

    def one(carry, t):
        env_state, timestep, actor_state = carry
        keys = step_keys(key, t, loop.env_index)
        pair = jax.vmap(jax.vmap(jax.random.split))(keys)
        action, log_prob, new_actor = act(policy, actor_state, timestep, pair[..., 0])
        env_state, new_timestep = step(pair[..., 1], env_state, action, suite.tasks)
        after = (env_state, new_timestep, new_actor)
        if active is not None:
            after = jax.tree.map(lambda new, old: select(active, new, old), after, carry)
        return after, (timestep, action, log_prob)

    carry = (loop.env_state, loop.timestep, loop.actor_state)
    (env_state, last, actor_state), (rows, action, log_prob) = jax.lax.scan(
        one, carry, jnp.arange(num_steps)
    )
    timestep = jax.tree.map(lambda r, x: jnp.concatenate([r, x[None]]), rows, last)
    if active is not None:
        timestep = timestep._replace(valid=timestep.valid.at[1:].min(active))
    rollout = Rollout(timestep, action, log_prob, loop.actor_state)
    return loop._replace(env_state=env_state, timestep=last, actor_state=actor_state), rollout


# ------------------------------------------------------------------------------------- host path


class HostLoop(NamedTuple):
    """A pool's row not yet acted on and the agent's memory, one entry a group."""

    timestep: tuple[Timestep, ...]
    actor_state: tuple[ArrayTree, ...]


def init_host_loop(pool: Pool, num_envs: int, init_actor: Callable[[int], ArrayTree]) -> HostLoop:
    """Resets every group of the pool."""
    groups = range(pool.num_groups)
    return HostLoop(
        tuple(pool.reset(g) for g in groups),
        tuple(host_actor(init_actor, num_envs // pool.num_groups) for _ in groups),
    )


def host_actor(init_actor: Callable[[int], ArrayTree], num_envs: int) -> ArrayTree:
    """The agent's first memory, put where acting leaves it: else `act` would compile twice."""
    return jax.device_put(init_actor(num_envs), jax.local_devices()[0])


def collect(
    pool: Pool,
    act: Callable[..., tuple[Array, Array, ArrayTree]],
    policy: ArrayTree,
    loop: HostLoop,
    key: Key,
    env_index: np.ndarray,
    num_steps: int,
) -> tuple[HostLoop, Rollout]:
    """T = `num_steps` steps of every environment, the groups staggered: one acts while others step.

    Args:
      pool: where the environments are.
      act: jitted `(policy, actor_state, timestep, key, t, env_index) -> (action, log_prob, state)`
        of one group, usually `act_at`.
      policy: what `act` reads, on one device.
      loop: from `init_host_loop` or the last call.
      key: of this rollout.
      env_index: int32 `[K, E]`.
      num_steps: T.

    Returns:
      The loop, and a rollout of NumPy arrays that nobody else holds (`actor_state` stays on the
      device).
    """
    k, e = env_index.shape
    width = e // pool.num_groups
    columns = [slice(g * width, (g + 1) * width) for g in range(pool.num_groups)]
    # Fresh buffers each time: on CPU a device array may alias the NumPy memory it was made from.
    rows = jax.tree.map(
        lambda x: np.empty((num_steps + 1, k, e, *x.shape[2:]), x.dtype), loop.timestep[0]
    )
    action = np.empty((num_steps, k, e, *pool.spec.action_shape), pool.spec.action_dtype)
    log_prob = np.empty((num_steps, k, e), np.float32)

    def keep(t, g, timestep):
        jax.tree.map(lambda buffer, x: buffer[t, :, columns[g]].__setitem__(..., x), rows, timestep)

    timestep, actor_state = list(loop.timestep), list(loop.actor_state)
    for t in range(num_steps):
        for g, cut in enumerate(columns):
            if t > 0:
                timestep[g] = pool.recv(g)
            keep(t, g, timestep[g])
            a, lp, actor_state[g] = act(
                policy, actor_state[g], timestep[g], key, t, env_index[:, cut]
            )
            action[t, :, cut] = a
            pool.send(g, action[t, :, cut])
            log_prob[t, :, cut] = lp
    for g in range(pool.num_groups):
        timestep[g] = pool.recv(g)
        keep(num_steps, g, timestep[g])
    start = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *loop.actor_state)
    return HostLoop(tuple(timestep), tuple(actor_state)), Rollout(rows, action, log_prob, start)


def act_at(act: Act) -> Callable[..., tuple[Array, Array, ArrayTree]]:
    """`act` for the host loop: one jitted call that also derives its keys, as `unroll` does."""

    def call(policy, actor_state, timestep, key, t, env_index):
        return act(policy, actor_state, timestep, step_keys(key, t, env_index))

    return jax.jit(call)
