"""Evaluations in proportion: what is played to see how far training is takes no longer than it."""

import dataclasses

from mtrl_jax.engines import RunConfig
from mtrl_jax.evaluate import episode_limit
from mtrl_jax.types import EnvSpec

__all__ = ["TYPICAL", "affordable", "in_proportion", "note"]

TYPICAL = 1_000  # actions: episodes of suites with a longer limit, or none, seldom reach it


def affordable(spec: EnvSpec, episodes: int, steps: int) -> int:
    """As many episodes of every task, up to `episodes` and at least one, as take no more than
    `steps` environment steps in all if they are as long as they may be."""
    one = spec.num_tasks * min(episode_limit(spec), TYPICAL)
    return min(episodes, max(steps // one, 1))


def in_proportion(spec: EnvSpec, run: RunConfig, *, stated: bool) -> RunConfig:
    """`run` with fewer episodes where evaluations would be longer than training.

    Those before the end play no more steps than are trained up to the next one; all of them no
    more than the whole run, unless the number of episodes was `stated`. An `early_episodes` other
    than 0 stays.
    """
    episodes = run.eval_episodes
    if not stated:
        episodes = affordable(spec, episodes, run.total_env_steps)
    early = affordable(spec, episodes, min(run.eval_every, run.total_env_steps))
    if run.early_episodes or early == episodes:
        early = run.early_episodes
    return dataclasses.replace(run, eval_episodes=episodes, early_episodes=early)


def note(run: RunConfig, wanted: int) -> str:
    """A sentence on what `in_proportion` did where `wanted` episodes were meant, or nothing."""
    early = run.early_episodes or run.eval_episodes
    if early >= wanted and run.eval_episodes >= wanted:
        return ""
    counts = f"{early} at first and {run.eval_episodes} at the end"
    if early == run.eval_episodes:
        counts = str(early)
    return (
        f"Episodes of every task in an evaluation: {counts}, instead of {wanted}, which would take "
        "longer than the training that it looks at; --early_episodes and --eval_episodes set them."
    )
