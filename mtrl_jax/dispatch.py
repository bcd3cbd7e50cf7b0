"""The program of a run on a functional suite: rollouts and updates as one function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import learner, rollout
from mtrl_jax.types import Agent, ArrayTree, FunctionalSuite, Key, Metrics

__all__ = ["program_of", "split_tasks", "stream", "with_episodes"]


def program_of(
    suite: FunctionalSuite, agent: Agent, collectives: learner.Collectives, updates: int
) -> Callable[..., Any]:
    """`(state, loop, root, data, update) -> (state, loop, metrics)`, of one device and one seed.

    Args:
      suite: what is played; `data` are the leaves that `split_tasks` gives of it.
      agent: who learns.
      collectives: of the devices.
      updates: N of one call; metrics are `[N, ...]`.
    """
    _, with_data = split_tasks(suite)

    def dispatch(state, loop, root, data, update):
        games = with_data(data)

        def one(carry, u):
            state, loop = carry
            key = jax.random.fold_in(stream(root, "rollout"), u)
            active = rollout.stepping(agent, state, loop.env_index, collectives.size)
            loop, experience = rollout.unroll(
                games, agent.act, agent.policy_params(state), loop, key, agent.unroll_length, active
            )
            state, values = agent.update(state, experience)
            if active is not None:
                count = collectives.sum(active.sum(1, dtype=jnp.float32))
                values |= {
                    "curriculum/environments": count,
                    "curriculum/steps": count * agent.unroll_length,
                }
            stats, episodes = rollout.episode_statistics(loop.stats, experience.timestep)
            state, values = with_episodes(agent, state, values, collectives.sum(episodes))
            return (state, loop._replace(stats=stats)), values

        (state, loop), values = jax.lax.scan(one, (state, loop), update + jnp.arange(updates))
        return state, loop, values

    return dispatch


def with_episodes(
    agent: Agent, state: ArrayTree, values: Metrics, episodes: Metrics
) -> tuple[ArrayTree, Metrics]:
    """Tells the agent of the episodes that have ended, and the log."""
    if agent.observe is not None:
        state = agent.observe(state, episodes)
    return state, {**values, **episodes}


def stream(key: Key, name: str) -> Key:
    """One of the independent streams of a run: params, reset, rollout, eval."""
    return jax.random.fold_in(key, ("params", "reset", "rollout", "eval").index(name))


def split_tasks(
    suite: FunctionalSuite,
) -> tuple[list[jax.Array], Callable[[list[jax.Array]], FunctionalSuite]]:
    """What of a suite's tasks is an argument of programs: leaves that are JAX arrays. Suites that
    differ in nothing else share programs, through JAX's compile cache. NumPy leaves are constants,
    which an environment may be specialised on.

    Returns:
      The leaves, and the suite with others in their place.
    """
    leaves, structure = jax.tree.flatten(suite.tasks)

    def with_data(data: list[jax.Array]) -> FunctionalSuite:
        rest = iter(data)
        mixed = [next(rest) if isinstance(x, jax.Array) else x for x in leaves]
        return suite._replace(tasks=jax.tree.unflatten(structure, mixed))

    return [x for x in leaves if isinstance(x, jax.Array)], with_data
