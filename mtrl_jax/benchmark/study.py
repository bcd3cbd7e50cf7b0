"""From the lines of one or more results tables to arrays, one record an agent.

Scores are normalised between a random policy, 0, and a reference, 1. The reference is the
specialist: the best mean score that any agent of the table reaches on the game from scratch, with
the same budget. Games with published human scores have a second scale. A game on which no
specialist is measurably better than random (two standard errors) has no scale: it is named, and
left out of everything that is normalised.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.benchmark.atari_scores import ATARI_57
from mtrl_jax.benchmark.transfer import learning_curve_area

__all__ = ["Record", "Study", "areas", "human_scores", "read"]

CONTROLS = ("random", "frozen")


class Record(NamedTuple):
    """What one agent did on N games with S seeds; None where no complete set of runs exists.

    Attributes:
      name: of the agent.
      learns: False for a control, whose one score stands for all.
      steps: `[M]`, environment steps of the curves below.
      scratch, transfer: raw scores `[S, N, M]`, over training on that game alone.
      scratch_final, transfer_final, multitask: raw scores `[S, N]` at the end.
      before, after: raw scores of the games of a pre-training at its end, and after learning one
        held-out game more, `[S, P]` with a column for each pair of a held-out and a known game.
      pretrain: fold to the steps `[M]` and raw scores `[S, N, M]` of all games over it.
    """

    name: str
    learns: bool
    steps: np.ndarray | None
    scratch: np.ndarray | None
    transfer: np.ndarray | None
    scratch_final: np.ndarray | None
    transfer_final: np.ndarray | None
    multitask: np.ndarray | None
    before: np.ndarray | None
    after: np.ndarray | None
    pretrain: dict[int, tuple[np.ndarray, np.ndarray]]


class Study(NamedTuple):
    """All agents of a table.

    Attributes:
      games: N names.
      folds: int `[N]`, -1 where no run says it.
      records: agent to record, controls first.
      random: mean raw score `[N]` of a random policy.
      reference: mean raw score `[N]` of the specialist; NaN where nobody is better than random.
      human: published human scores `[N]`, NaN where there is none.
    """

    games: tuple[str, ...]
    folds: np.ndarray
    records: dict[str, Record]
    random: np.ndarray
    reference: np.ndarray
    human: np.ndarray

    @property
    def scaled(self) -> np.ndarray:
        """Numbers of the games that have a scale."""
        return np.flatnonzero(np.isfinite(self.reference))

    def normalise(self, scores: np.ndarray) -> np.ndarray:
        """Raw scores `[S, N, ...]` to `[S, scaled N, ...]`, random at 0 and the specialist at 1."""
        shape = (-1, *[1] * (scores.ndim - 2))
        low, high = (x[self.scaled].reshape(shape) for x in (self.random, self.reference))
        return (scores[:, self.scaled] - low) / (high - low)


def human_scores(games: Sequence[str]) -> np.ndarray:
    """Published human scores of Atari games by their envpool ids, NaN for all else."""
    found = (ATARI_57.get(game.removesuffix("-v5")) for game in games)
    return np.array([np.nan if reference is None else reference.human for reference in found])


def read(rows: Sequence[Mapping[str, Any]]) -> Study:
    """The study of all rows.

    Raises:
      ValueError: without the random control, or for rows of different tracks or games.
    """
    tracks = {row["track"] for row in rows}
    if len(tracks) != 1:
        raise ValueError(f"results must be of one track, got {', '.join(sorted(tracks)) or 'none'}")
    controls = [row for row in rows if row["agent"] == "random"]
    if not controls:
        raise ValueError("results must hold the random control, which has not been run yet")
    games = tuple(controls[0]["final"])
    for row in rows:
        unknown = (set(row["final"]) | ({row["task"]} - {None})) - set(games)
        if unknown:
            raise ValueError(f"results must be of the same games; {row['cell']} has {unknown}")
    fold = np.full(len(games), -1)
    for row in rows:
        if row["kind"] == "transfer":
            fold[games.index(row["task"])] = row["fold"]
    names = [
        *(c for c in CONTROLS if any(r["agent"] == c for r in rows)),
        *dict.fromkeys(r["agent"] for r in rows if r["agent"] not in CONTROLS),
    ]
    records = {
        name: _record(name, [row for row in rows if row["agent"] == name], games) for name in names
    }
    control = records["random"].multitask
    assert control is not None
    random = control.mean(0)
    error = control.std(0) / max(len(control), 1) ** 0.5
    reference = np.full(len(games), np.nan)
    for record in records.values():
        if record.learns and record.scratch_final is not None:
            mean = record.scratch_final.mean(0)
            spread = record.scratch_final.std(0) / len(record.scratch_final) ** 0.5
            better = mean - random > 2 * np.hypot(error, spread) + 1e-9
            higher = better & ~(reference >= mean)
            reference = np.where(higher, mean, reference)
    return Study(games, fold, records, random, reference, human_scores(games))


def areas(study: Study, curves: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Mean heights of normalised curves, raw scores `[S, N, M]` to `[S, scaled N]`."""
    return learning_curve_area(steps, study.normalise(curves))


def _record(name: str, rows: list[Any], games: tuple[str, ...]) -> Record:
    def of(kind):
        return [row for row in rows if row["kind"] == kind]

    if of("control"):
        seeds = sorted({row["seed"] for row in rows})
        final = np.array(
            [
                [row["final"][g] for g in games]
                for seed in seeds
                for row in rows
                if row["seed"] == seed
            ]
        )
        return Record(name, False, None, None, None, final, final, final, None, None, {})
    steps, scratch, scratch_final = _alone(of("scratch"), games)
    steps2, transfer, transfer_final = _alone(of("transfer"), games)
    if scratch is not None and transfer is not None and scratch.shape != transfer.shape:
        raise ValueError(f"results of {name} must have the same evaluations and seeds everywhere")
    multitask = _by_seed(of("multitask"), lambda row: [row["final"][g] for g in games])
    before, after = _kept(of("pretrain"), of("transfer"), games)
    pretrain = {}
    for fold in sorted({row["fold"] for row in of("pretrain")}):
        mine = [row for row in of("pretrain") if row["fold"] == fold]
        if all(len(row["scores"]) == len(games) for row in mine):
            curves = np.array([[row["scores"][g] for g in games] for row in mine])
            pretrain[fold] = (np.array(mine[0]["steps"]), curves)
    return Record(
        name,
        True,
        steps if steps is not None else steps2,
        scratch,
        transfer,
        scratch_final,
        transfer_final,
        multitask,
        before,
        after,
        pretrain,
    )


def _by_seed(rows: list[Any], value: Any) -> np.ndarray | None:
    return np.array([value(row) for row in sorted(rows, key=lambda r: r["seed"])]) if rows else None


def _alone(rows: list[Any], games: tuple[str, ...]) -> tuple[Any, Any, Any]:
    """Steps, curves `[S, N, M]` and final scores `[S, N]` of runs on one game each."""
    if {row["task"] for row in rows} != set(games):
        return None, None, None
    found: dict[str, list[Any]] = {g: [r for r in rows if r["task"] == g] for g in games}
    curves = [_by_seed(found[g], lambda row, g=g: row["scores"][g]) for g in games]
    finals = [_by_seed(found[g], lambda row, g=g: row["final"][g]) for g in games]
    return np.array(rows[0]["steps"]), np.stack(curves, 1), np.stack(finals, 1)  # type: ignore[arg-type]


def _kept(
    pretrain: list[Any], transfer: list[Any], games: tuple[str, ...]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    known = {row["fold"]: row for row in pretrain}
    fold_of = {row["task"]: row["fold"] for row in transfer}
    if set(fold_of) != set(games) or set(fold_of.values()) - set(known):
        return None, None
    seeds = sorted({row["seed"] for row in transfer})
    at = {
        (row["kind"], row["fold"], row["task"], row["seed"]): row["final"]
        for row in [*pretrain, *transfer]
    }
    pairs = [(task, game) for task in games for game in games if fold_of[game] != fold_of[task]]
    before, after = [], []
    for seed in seeds:
        first = [at["pretrain", fold_of[t], None, seed].get(g, np.nan) for t, g in pairs]
        last = [at["transfer", fold_of[t], t, seed].get(g, np.nan) for t, g in pairs]
        before.append(first)
        after.append(last)
    if not pairs or not np.isfinite(before + after).all():  # scored on its own game only
        return None, None
    return np.array(before), np.array(after)
