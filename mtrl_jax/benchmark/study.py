"""From the lines of one or more results tables to arrays, one record an agent.

Scores are normalised between a random policy, 0, and a reference, 1. The reference is the
specialist: the best mean score that any agent of the table reaches on the game from scratch, with
the same budget. Games with published human scores have a second scale. A game on which no
specialist is measurably better than random (two standard errors) has no scale: it is named, and
left out of everything that is normalised.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.benchmark.atari_scores import ATARI_57
from mtrl_jax.benchmark.transfer import learning_curve_area

__all__ = ["Record", "Study", "areas", "human_scores", "read"]

CONTROLS = ("random", "frozen")
Row = Mapping[str, Any]  # of the table, see `results`


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


def read(rows: Sequence[Row]) -> Study:
    """The study of all rows.

    Raises:
      ValueError: without the random control, or for rows of different tracks or games.
    """
    games = _games(rows)
    records = _records(rows, games)
    control = records["random"].multitask
    assert control is not None
    return Study(
        games=games,
        folds=_folds(rows, games),
        records=records,
        random=control.mean(0),
        reference=_reference(records, control),
        human=human_scores(games),
    )


def _games(rows: Sequence[Row]) -> tuple[str, ...]:
    """The games of all rows, which must be of one matrix; as `read` for errors."""
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
    return games


def _folds(rows: Sequence[Row], games: tuple[str, ...]) -> np.ndarray:
    """Fold of each game, -1 where no row says it."""
    fold = np.full(len(games), -1)
    for row in rows:
        if row["kind"] == "transfer":
            fold[games.index(row["task"])] = row["fold"]
    return fold


def _records(rows: Sequence[Row], games: tuple[str, ...]) -> dict[str, Record]:
    """What each agent did, controls first."""
    by_agent: dict[str, list[Row]] = {name: [] for name in CONTROLS}
    for row in rows:
        by_agent.setdefault(row["agent"], []).append(row)
    return {name: _record(name, own, games) for name, own in by_agent.items() if own}


def _reference(records: Mapping[str, Record], random: np.ndarray) -> np.ndarray:
    """The best mean score from scratch on each game, NaN where none is measurably better than the
    control's scores `[S, N]`."""
    low, error = random.mean(0), _standard_error(random)
    reference = np.full(random.shape[1], np.nan)
    for record in records.values():
        if record.learns and record.scratch_final is not None:
            mean = record.scratch_final.mean(0)
            spread = _standard_error(record.scratch_final)
            better = mean - low > 2 * np.hypot(error, spread) + 1e-9
            higher = better & ~(reference >= mean)
            reference = np.where(higher, mean, reference)
    return reference


def _standard_error(scores: np.ndarray) -> np.ndarray:
    """Of the mean over seeds, `[S, N]` to `[N]`."""
    return scores.std(0) / len(scores) ** 0.5


def areas(study: Study, curves: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Mean heights of normalised curves, raw scores `[S, N, M]` to `[S, scaled N]`."""
    return learning_curve_area(steps, study.normalise(curves))


def _record(name: str, rows: Sequence[Row], games: tuple[str, ...]) -> Record:
    def of(kind):
        return [row for row in rows if row["kind"] == kind]

    if of("control"):
        final = _by_seed(of("control"), lambda row: [row["final"][g] for g in games])
        return Record(name, False, None, None, None, final, final, final, None, None, {})
    scratch_steps, scratch, scratch_final = _alone(of("scratch"), games)
    transfer_steps, transfer, transfer_final = _alone(of("transfer"), games)
    if scratch is not None and transfer is not None and scratch.shape != transfer.shape:
        raise ValueError(f"results of {name} must have the same evaluations and seeds everywhere")
    before, after = _kept(of("pretrain"), of("transfer"), games)
    return Record(
        name=name,
        learns=True,
        steps=scratch_steps if scratch_steps is not None else transfer_steps,
        scratch=scratch,
        transfer=transfer,
        scratch_final=scratch_final,
        transfer_final=transfer_final,
        multitask=_by_seed(of("multitask"), lambda row: [row["final"][g] for g in games]),
        before=before,
        after=after,
        pretrain=_pretraining(of("pretrain"), games),
    )


def _pretraining(
    rows: Sequence[Row], games: tuple[str, ...]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Fold to steps `[M]` and curves `[S, N, M]`, of the folds that were scored on every game."""
    found = {}
    for fold in sorted({row["fold"] for row in rows}):
        own = [row for row in rows if row["fold"] == fold]
        if all(len(row["scores"]) == len(games) for row in own):
            curves = np.array([[row["scores"][g] for g in games] for row in own])
            found[fold] = (np.array(own[0]["steps"]), curves)
    return found


def _by_seed(rows: Sequence[Row], value: Callable[[Row], Any]) -> np.ndarray | None:
    """A value of each row as an array `[S, ...]` in the order of the seeds; None without rows."""
    ordered = sorted(rows, key=lambda row: row["seed"])
    return np.array([value(row) for row in ordered]) if rows else None


def _alone(rows: Sequence[Row], games: tuple[str, ...]) -> tuple[Any, Any, Any]:
    """Steps, curves `[S, N, M]` and final scores `[S, N]` of runs on one game each."""
    if {row["task"] for row in rows} != set(games):
        return None, None, None
    curves, finals = [], []
    for game in games:
        own = sorted((row for row in rows if row["task"] == game), key=lambda row: row["seed"])
        curves.append(np.array([row["scores"][game] for row in own]))
        finals.append(np.array([row["final"][game] for row in own]))
    return np.array(rows[0]["steps"]), np.stack(curves, 1), np.stack(finals, 1)


def _kept(
    pretrain: Sequence[Row], transfer: Sequence[Row], games: tuple[str, ...]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """`before` and `after` of a `Record`."""
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
