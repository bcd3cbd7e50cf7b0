"""Many settings of one agent side by side, as one compiled program.

Where settings differ in numbers only (a learning rate, a cost), a vmap over them compiles once and
fills an accelerator that one small run leaves idle. Functional suites only; nothing is written.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import engines, rollout
from mtrl_jax.types import Agent, Array, ArrayTree, FunctionalSuite, Key

UPDATES_PER_DISPATCH = 10


class Totals(NamedTuple):
    """Training episodes that ended in each of M dispatches of N runs, float64 `[M, N, K]`."""

    episode_return: np.ndarray  # sum of returns
    episode_count: np.ndarray


def run(
    suite: FunctionalSuite,
    make_agent: Callable[[ArrayTree], Agent],
    settings: ArrayTree,
    keys: Key,
    num_envs: int,
    num_updates: int,
    on_progress: Callable[[int, int], None] = lambda step, total: None,
) -> Totals:
    """Trains N runs, each as `engines` would train it alone with the same key.

    Args:
      suite: K tasks.
      make_agent: from the settings of one run, which are traced, to its agent.
      settings: what differs, leaves `[N, ...]`.
      keys: roots of the runs' randomness, typed keys `[N]`.
      num_envs: E, of each task.
      num_updates: of every run, rounded up to whole dispatches.
      on_progress: called after every dispatch, with dispatches done and in all.

    Returns:
      The episodes that ended while training.
    """
    env_index = jnp.asarray(rollout.env_indices(suite.spec.num_tasks, num_envs))

    def start(values: ArrayTree, key: Key) -> tuple[ArrayTree, rollout.EnvLoop]:
        agent = make_agent(values)
        reset = engines.stream(key, "reset")
        loop = rollout.init_env_loop(suite, reset, env_index, agent.init_actor)
        return agent.init(engines.stream(key, "params")), loop

    def dispatch(carry: ArrayTree, values: ArrayTree, key: Key, update: Array) -> ArrayTree:
        agent = make_agent(values)

        def one(carry, u):
            state, loop = carry
            drawn = jax.random.fold_in(engines.stream(key, "rollout"), u)
            active = rollout.stepping(agent, state, env_index)
            loop, experience = rollout.unroll(
                suite,
                agent.act,
                agent.policy_params(state),
                loop,
                drawn,
                agent.unroll_length,
                active,
            )
            state, _ = agent.update(state, experience)
            stats, episodes = rollout.episode_statistics(loop.stats, experience.timestep)
            if agent.observe is not None:
                state = agent.observe(state, episodes)
            return (state, loop._replace(stats=stats)), episodes

        carry, episodes = jax.lax.scan(one, carry, update + jnp.arange(UPDATES_PER_DISPATCH))
        return carry, (episodes["episode/return"].sum(0), episodes["episode/count"].sum(0))

    carry = jax.jit(jax.vmap(start))(settings, keys)
    advance = jax.jit(jax.vmap(dispatch, in_axes=(0, 0, 0, None)), donate_argnums=0)
    dispatches = -(-num_updates // UPDATES_PER_DISPATCH)
    finished = []
    for n in range(dispatches):
        carry, episodes = advance(carry, settings, keys, jnp.int32(n * UPDATES_PER_DISPATCH))
        finished.append(jax.device_get(episodes))
        on_progress(n + 1, dispatches)
    returns, counts = (np.stack(x).astype(np.float64) for x in zip(*finished, strict=True))
    return Totals(returns, counts)


def final_returns(totals: Totals) -> np.ndarray:
    """Mean return of the episodes that ended in the last tenth of training, `[N, K]`."""
    last = slice(-max(len(totals.episode_count) // 10, 1), None)
    returns, count = (x[last].sum(0) for x in totals)
    with np.errstate(invalid="ignore"):  # no episode ended: nan
        return returns / count
