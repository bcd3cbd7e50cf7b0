"""The cells of the benchmark's matrix: what each of them trains, and what it starts from.

The five kinds::

    kind       trains on                        starts from           scored on
    control    nothing                          fresh parameters      all games
    scratch    one game                         fresh parameters      that game; all at the end
    pretrain   the games of all other folds     fresh parameters      all games
    transfer   one game                         the pre-training that that game; all at the end
                                                did not see it
    multitask  all games                        fresh parameters      all games

On a functional suite a cell holds all seeds, as one program; on a host suite one seed. Seed n of
`transfer` goes on from seed n of `pretrain` and is paired with seed n of `scratch`: both have the
same evaluation episodes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from mtrl_jax import ranges
from mtrl_jax.benchmark import regime
from mtrl_jax.ranges import Count, OneOf, Seed, Steps, StepsOr0

__all__ = [
    "KINDS",
    "TRACKS",
    "Cell",
    "Settings",
    "cells",
    "check",
    "in_order",
    "steps_of",
    "training_games",
    "values",
]

KINDS = ("control", "scratch", "pretrain", "transfer", "multitask")
# Whether the agent is told which game it plays. With "task_id" it has K tasks, as in `train.py`.
TRACKS = ("no_id", "task_id")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one matrix is, but for its agents, which can be added later. Steps are environment
    steps, reset rows included."""

    suite: str
    games: tuple[str, ...] = ()  # of the suite; (): all of them
    track: Annotated[str, OneOf(TRACKS)] = "no_id"
    folds: Count = 4
    fold_seed: Seed = 0
    seed: Seed = 0  # the first one
    seeds: Count = 5
    num_envs: Count = 16  # of the stream, or of each task where the task is given
    steps_per_task: Steps = 100_000  # of a run on one game
    pretrain_steps: StepsOr0 = 0  # 0: as many for each game in it
    multitask_steps: StepsOr0 = 0  # 0: the same
    evaluations: Count = 10  # in each run, at equal distances, besides the one before training
    eval_episodes: Count = 16  # of each game in an evaluation
    final_episodes: Count = 32  # of every game at the end of a cell
    pad: bool = False  # whether games that differ in shape are padded


def values(settings: Settings) -> dict[str, Any]:
    """What a folder is known by; `pad` only where it is True, as older folders lack it."""
    return {n: x for n, x in dataclasses.asdict(settings).items() if n != "pad" or x}


class Cell(NamedTuple):
    """One run of several seeds, or of one.

    Attributes:
      agent: its name in the table.
      kind: of `KINDS`.
      task: number of the one game, -1 where there are several.
      fold: the fold held out, of `pretrain` and `transfer`; else -1.
      seeds: that run side by side.
      name: unique, fit for a directory.
      needs: name of the cell that this one starts from, or "".
      steps: budget.
    """

    agent: str
    kind: str
    task: int
    fold: int
    seeds: tuple[int, ...]
    name: str
    needs: str
    steps: int


def check(settings: Settings, num_games: int) -> None:
    """Raises ValueError, naming the setting, for what cannot run."""
    ranges.check(settings)
    regime.folds(num_games, settings.folds, settings.fold_seed)


def steps_of(settings: Settings, kind: str, num_games: int) -> int:
    """The budget of a cell that trains on `num_games`."""
    given = {"pretrain": settings.pretrain_steps, "multitask": settings.multitask_steps}
    return given.get(kind, 0) or settings.steps_per_task * num_games


def cells(
    settings: Settings, task_names: Sequence[str], agents: dict[str, bool], *, functional: bool
) -> list[Cell]:
    """All cells, those that others wait for first.

    Args:
      settings: of the matrix.
      task_names: N games.
      agents: name to whether it learns; one that does not has a `control` cell and no other.
      functional: whether seeds run side by side.
    """
    n = len(task_names)
    fold = regime.folds(n, settings.folds, settings.fold_seed)
    seeds = tuple(range(settings.seed, settings.seed + settings.seeds))
    groups = [seeds] if functional else [(seed,) for seed in seeds]
    found = []

    def add(agent: str, kind: str, group: tuple[int, ...], task: int = -1, held: int = -1) -> None:
        suffix = "" if functional else f"-seed{group[0]}"
        prefix = f"{agent.replace(':', '.')}-"
        pretrain = f"{prefix}pretrain-fold{held}{suffix}"
        what = f"-{_path(task_names[task])}" if task >= 0 else f"-fold{held}" if held >= 0 else ""
        games = 0 if kind == "control" else len(_games(kind, task, held, fold))
        steps = steps_of(settings, kind, games)
        needs = pretrain if kind == "transfer" else ""
        found.append(
            Cell(agent, kind, task, held, group, f"{prefix}{kind}{what}{suffix}", needs, steps)
        )

    for agent, learns in agents.items():
        for group in groups:
            if not learns:
                add(agent, "control", group)
                continue
            for k in range(settings.folds):
                add(agent, "pretrain", group, held=k)
            add(agent, "multitask", group)
            for i in range(n):
                add(agent, "scratch", group, i)
            for i in range(n):
                add(agent, "transfer", group, i, int(fold[i]))
    return in_order(found)


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Long ones, and those that others wait for, first."""
    order = {"control": 0, "pretrain": 1, "multitask": 2, "scratch": 3, "transfer": 4}
    return sorted(cells, key=lambda cell: order[cell.kind])


def training_games(settings: Settings, cell: Cell, num_games: int) -> list[int]:
    """Numbers of the games that a cell trains on."""
    fold = regime.folds(num_games, settings.folds, settings.fold_seed)
    return _games(cell.kind, cell.task, cell.fold, fold)


def _games(kind: str, task: int, held: int, fold: Any) -> list[int]:
    if kind in ("scratch", "transfer"):
        return [task]
    if kind == "pretrain":
        return [i for i in range(len(fold)) if fold[i] != held]
    return list(range(len(fold)))


def _path(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_.-" else "_" for c in name)
