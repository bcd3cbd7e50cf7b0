"""GIFs of a restored policy: an episode of every task, with a caption that says what is seen."""

import pathlib
from typing import Any, NamedTuple

import jax

from mtrl_jax import engines, plots, record
from mtrl_jax.types import Agent, ArrayTree


class Recording(NamedTuple):
    """What is recorded: the checkpoint's step, the seed of the episodes, whether actions are the
    likeliest (None: as the agent's scores), and after how many actions it is cut."""

    step: int
    seed: int
    greedy: bool | None
    max_actions: int


def caption(
    task: str, policy: str, step: int, episode: record.Episode, *, has_success: bool
) -> list[str]:
    """Task, policy, environment steps that it was trained for, and what came of the episode."""
    head = f"{plots.short_task(task)}, {policy.replace('_', ' ')} after {step:,} steps"
    return [head, record.outcome(episode, has_success=has_success)]


def write(
    suite: Any,
    agent: Agent,
    policy: ArrayTree,
    folder: pathlib.Path,
    kinds: dict[str, bool],
    what: Recording,
) -> None:
    """gifs/<task>.gif of one episode of every task and policy.

    Args:
      suite: of the run.
      agent: who acts.
      policy: of one seed.
      folder: of the run.
      kinds: name of a policy to whether it is the distilled one.
      what: to record.
    """
    key = jax.random.fold_in(engines.stream(jax.random.key(what.seed), "eval"), 1)
    for name, distilled in kinds.items():
        episodes = record.play(
            suite,
            agent,
            policy,
            key,
            distilled=distilled,
            greedy=what.greedy,
            max_actions=what.max_actions,
        )
        for task, episode in zip(suite.spec.task_names, episodes, strict=True):
            lines = caption(task, name, what.step, episode, has_success=suite.spec.has_success)
            suffix = "-distilled" if distilled else ""
            path = folder / "gifs" / f"{task.replace('/', '-')}{suffix}.gif"
            record.write_gif(record.captioned(episode.frames, lines), path)
            print(f"gif     {path} ({name.removesuffix('_policy')}: {lines[-1]})")
