"""Tabular Distral: soft Q-learning in every task, in turn with distillation from counts.

Teh et al. 2017, arXiv 1707.04175, section 2.2; the equations stand in `losses/distral`. In
one iteration every task acts for T rows and learns after each, with V_i of (2) under the current
pi_0, and then pi_0 is made of the counts N of what all tasks did:

    pi_i = pi_0^alpha exp(beta A_i)                                     (4)
    Q_i(s, a) += lr [ r + discount V_i(s') - Q_i(s, a) ]
    pi_0(a|s) = (1 + N(s, a)) / (A + N(s))

Without distillation pi_0 is uniform and stays so: separate soft Q-learning, the baseline.

Choices:
  1. Counts decay by 0.98 an iteration; 1 counts for ever, which blurs pi_0 for long.
  2. Counts are not weighted by gamma^t.
  3. A row between episodes goes to the reset, as everywhere here; nothing learns from it.

Everything is for one run; vmap over seeds, and over settings with the numbers of `Settings` as
arrays.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.envs.functional import AutoResetState, auto_reset
from mtrl_jax.losses import distral
from mtrl_jax.types import Array, ArrayTree, FunctionalEnv, Key, Timestep

__all__ = [
    "Carry",
    "IterationLog",
    "Settings",
    "State",
    "distilled_policy",
    "init",
    "iterate",
    "learn",
    "start",
]

Scalar = Array | float


class Settings(NamedTuple):
    """Numbers of a run, all of which may be traced; the defaults suit `envs.two_rooms`.

    Attributes:
      alpha: share of the divergence in 1/beta.
      beta: inverse temperature.
      learning_rate: of Q.
      discount: gamma.
      count_decay: what an iteration leaves of earlier counts, in [0, 1].
      distils: 1.0, or 0.0 for a pi_0 that stays uniform.
    """

    alpha: Scalar = 1.0
    beta: Scalar = 5.0
    learning_rate: Scalar = 0.1
    discount: Scalar = 0.95
    count_decay: Scalar = 0.98
    distils: Scalar = 1.0


class State(NamedTuple):
    """What is learnt: `q` float32 [K, N, A] over N states; `counts` float32 [N, A]."""

    q: Array
    counts: Array


class Carry(NamedTuple):
    """What goes from iteration to iteration; leaves of `env` and `timestep` are [K, ...]."""

    state: State
    env: AutoResetState
    timestep: Timestep


class IterationLog(NamedTuple):
    """Of one iteration, over all tasks: steps taken, episodes ended, and their reward in all."""

    steps: Array
    episodes: Array
    reward: Array


def init(num_tasks: int, num_states: int, num_actions: int) -> State:
    """Q and counts of 0, so that pi_0 is uniform."""
    return State(
        q=jnp.zeros((num_tasks, num_states, num_actions)),
        counts=jnp.zeros((num_states, num_actions)),
    )


def start(env: FunctionalEnv, tasks: ArrayTree, state: State, key: Key) -> Carry:
    """Resets the K environments, one a task."""
    reset, _ = auto_reset(env)
    keys = jax.random.split(key, state.q.shape[0])
    return Carry(state, *jax.vmap(reset)(keys, tasks))


def iterate(
    env: FunctionalEnv,
    tasks: ArrayTree,
    index: Callable[[Array], Array],
    settings: Settings,
    carry: Carry,
    key: Key,
    num_rows: int = 10,
) -> tuple[Carry, IterationLog]:
    """One E and one M step.

    Args:
      env: a functional family, one environment a task.
      tasks: leaves [K, ...].
      index: observation -> int32 number of the state in [0, N).
      settings: numbers.
      carry: of the iteration before, or from `start`.
      key: consumed.
      num_rows: T, rows of each task.

    Returns:
      The carry, and what happened.
    """
    num_tasks, _, num_actions = carry.state.q.shape
    task_numbers = jnp.arange(num_tasks)
    counts = carry.state.counts
    _, env_step = auto_reset(env)

    def log_pi_0(s: Array) -> Array:
        return settings.distils * jnp.log(distral.pseudocount_policy(counts[s])) - (
            1.0 - settings.distils
        ) * jnp.log(1.0 * num_actions)

    def row(carried, random):
        q, env_state, s_tm1 = carried
        uniform, keys = random
        log_pi = jax.vmap(distral.optimal_log_policy, (0, 0, None, None))(
            q[task_numbers, s_tm1], log_pi_0(s_tm1), settings.alpha, settings.beta
        )
        below = jnp.cumsum(jnp.exp(log_pi), axis=-1)[:, :-1] < uniform[:, None]
        a_tm1 = below.sum(-1)  # one draw an action, where jax.random.categorical takes A
        env_state, timestep = jax.vmap(env_step)(keys, env_state, a_tm1, tasks)
        s_t = jax.vmap(index)(timestep.observation)
        error = jax.vmap(distral.soft_q_td_error, (0, 0, 0, 0, 0, 0, None, None))(
            q[task_numbers, s_tm1],
            a_tm1,
            timestep.reward,
            settings.discount * timestep.discount,
            q[task_numbers, s_t],
            log_pi_0(s_t),
            settings.alpha,
            settings.beta,
        )
        step = jnp.where(timestep.valid, settings.learning_rate * error, 0.0)
        q = q.at[task_numbers, s_tm1, a_tm1].add(step)
        valid = timestep.valid.astype(q.dtype)
        log = IterationLog(valid.sum(), env_state.ended.sum(), (valid * timestep.reward).sum())
        return (q, env_state, s_t), (s_tm1, a_tm1, valid, timestep, log)

    act_key, step_key = jax.random.split(key)
    random = (
        jax.random.uniform(act_key, (num_rows, num_tasks)),
        jax.random.split(step_key, (num_rows, num_tasks)),
    )
    s = jax.vmap(index)(carry.timestep.observation)
    (q, env_state, _), (states, actions, valid, timesteps, logs) = jax.lax.scan(
        row, (carry.state.q, carry.env, s), random
    )
    counts = (settings.count_decay * counts).at[states, actions].add(valid)
    last = jax.tree.map(lambda x: x[-1], timesteps)
    log = jax.tree.map(lambda x: x.sum(0), logs)
    return Carry(State(q, counts), env_state, last), log


def learn(
    env: FunctionalEnv,
    tasks: ArrayTree,
    index: Callable[[Array], Array],
    settings: Settings,
    key: Key,
    *,
    shape: tuple[int, int],
    num_blocks: int,
    block_length: int,
) -> tuple[State, IterationLog]:
    """A whole run of `num_blocks * block_length` iterations; jit it, vmap it over keys and
    settings.

    Args:
      env: a functional family.
      tasks: leaves [K, ...].
      index: observation -> int32 in [0, N).
      settings: numbers.
      key: consumed.
      shape: (N, A), of a table of Q.
      num_blocks: rows of the log.
      block_length: iterations summed in a row.

    Returns:
      The state at the end, and the log, leaves [num_blocks].
    """
    start_key, run_key = jax.random.split(key)
    num_tasks = jax.tree.leaves(tasks)[0].shape[0]
    carry = start(env, tasks, init(num_tasks, *shape), start_key)

    def one(carry, n):
        return iterate(env, tasks, index, settings, carry, jax.random.fold_in(run_key, n))

    def block(carry, numbers):
        carry, log = jax.lax.scan(one, carry, numbers)
        return carry, jax.tree.map(lambda x: x.sum(0), log)

    numbers = jnp.arange(num_blocks * block_length).reshape(num_blocks, block_length)
    carry, log = jax.lax.scan(block, carry, numbers)
    return carry.state, log


def distilled_policy(state: State) -> Array:
    """pi_0 [N, A] of the counts."""
    return distral.pseudocount_policy(state.counts)
