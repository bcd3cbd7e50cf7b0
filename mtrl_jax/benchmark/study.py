"""From the lines of one or more results tables to arrays, one record an agent.

Scores are normalised between a random policy, 0, and a reference, 1. The reference is the
specialist: the score from scratch, with the same budget, of the agent that is best on the game. The
best mean of several agents would be too high, having been chosen for its luck too, so the choice
and the score are made of different runs: for each seed the agent is chosen by the other seeds, and
its score is that of this one (Stone 1974, *Cross-validatory choice and assessment of statistical
predictions*, JRSS B 36). Games with published human scores have a second scale. A game on which
nobody is measurably better than random (`has_scale`) has no scale: it is named, and left out of
everything that is normalised.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax import intervals
from mtrl_jax.benchmark.atari_scores import ATARI_57

__all__ = ["Record", "Study", "has_scale", "held_out_best", "human_scores", "new", "read"]

CONTROLS = ("random", "frozen")
MIN_SEEDS = 3  # for a scale
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
    """All agents of a table, with the same S seeds.

    Attributes:
      games: N names.
      folds: int `[N]`, -1 where no run says it.
      records: agent to record, controls first.
      control: raw scores `[S, N]` of a random policy.
      candidates: raw final scores from scratch `[A, S, N]` of all agents that learn, one of whom is
        the specialist.
      random: mean raw score `[N]` of a random policy.
      reference: raw score `[N]` of the specialist; NaN where it is not better than random.
      human: published human scores `[N]`, NaN where there is none.
    """

    games: tuple[str, ...]
    folds: np.ndarray
    records: dict[str, Record]
    control: np.ndarray
    candidates: np.ndarray
    random: np.ndarray
    reference: np.ndarray
    human: np.ndarray

    @property
    def scaled(self) -> np.ndarray:
        """Numbers of the games that have a scale."""
        return np.flatnonzero(np.isfinite(self.reference))

    def scale(self, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Random and specialist's score `[..., N]` by the runs that `keep` `[..., S, N]` keeps."""
        low = (self.control * keep).sum(-2) / keep.sum(-2)
        held = held_out_best(self.candidates, keep)
        return low, (held * keep).sum(-2) / keep.sum(-2)

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

    The seeds are those of the random control: runs of others are left out, and an agent that lacks
    one of them has not finished.

    Raises:
      ValueError: without the random control, or for rows of different tracks or games.
    """
    games = _games(rows)
    seeds = {row["seed"] for row in rows if row["agent"] == "random"}
    records = _records([row for row in rows if row["seed"] in seeds], games)
    return new(games, _folds(rows, games), records)


def new(games: tuple[str, ...], folds: np.ndarray, records: dict[str, Record]) -> Study:
    """The study of records, the random control's among them."""
    control = records["random"].multitask
    assert control is not None
    finals = [r.scratch_final for r in records.values() if r.learns and r.scratch_final is not None]
    candidates = np.array(finals) if finals else np.empty((0, *control.shape))
    reference = np.full(len(games), np.nan)
    if len(finals):
        held = held_out_best(candidates, np.ones(control.shape, bool))
        reference = np.where(has_scale(control, candidates), held.mean(0), np.nan)
    return Study(
        games=games,
        folds=folds,
        records=records,
        control=control,
        candidates=candidates,
        random=control.mean(0),
        reference=reference,
        human=human_scores(games),
    )


def held_out_best(candidates: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """For each seed and game, the score with this seed of the agent that is best with the others.

    Args:
      candidates: raw scores `[A, S, N]`.
      keep: `[..., S, N]`, the runs that count; the others choose nothing and are not chosen.

    Returns:
      `[..., S, N]`; what it holds of runs that do not count means nothing.
    """
    kept = keep[..., None, :, :] * candidates
    others = keep.sum(-2)[..., None, None, :] - keep[..., None, :, :]
    rest = (kept.sum(-2, keepdims=True) - kept) / np.maximum(others, 1)
    best = rest.argmax(-3)[..., None, :, :]
    held = np.take_along_axis(np.broadcast_to(candidates, rest.shape), best, -3)
    return held.squeeze(-3)


def has_scale(control: np.ndarray, candidates: np.ndarray, level: float = 0.04) -> np.ndarray:
    """Whether a game has a specialist measurably above a random policy, for each game `[N]`.

    An agent must be above it by Welch's one-sided t test (1947, *The generalization of 'Student's'
    problem when several different population variances are involved*, Biometrika 34) at a level
    divided by the number of agents (Bonferroni's; copies of a run are one agent), and so must the
    specialist's held-out scores, at the level itself: a specialist that depends on who chooses it
    is no scale. Variances are unbiased. False for fewer than three seeds.

    Args:
      control: raw scores `[S, N]` of a random policy.
      candidates: raw scores `[A, S, N]`.
      level: how often a game on which nobody is better than random passes, if scores are normal;
        .04 keeps it below .05 for others too.
    """
    if not len(candidates) or len(control) < MIN_SEEDS:
        return np.zeros(control.shape[1], bool)
    held = held_out_best(candidates, np.ones(control.shape, bool))
    distinct = np.array([len(np.unique(x, axis=0)) for x in np.moveaxis(candidates, -1, 0)])
    found = _above(candidates, control, level / distinct).any(0)
    return found & _above(held, control, np.full(control.shape[1], level))


def _above(scores: np.ndarray, control: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Welch's one-sided test of scores `[..., S, N]` against `[S, N]`, at levels `[N]`."""
    each = [x.var(-2, ddof=1) / x.shape[-2] for x in (scores, control)]
    error, squares = each[0] + each[1], each[0] ** 2 + each[1] ** 2
    freedom = np.where(squares > 0, error**2 / np.where(squares > 0, squares, 1.0), 1.0)
    least = intervals.t_quantile(1 - 2 * level, (len(control) - 1) * freedom) * np.sqrt(error)
    return scores.mean(-2) - control.mean(-2) > least + 1e-9


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
    seeds = {row["seed"] for row in by_agent["random"]}
    return {name: _record(name, _whole(own, seeds), games) for name, own in by_agent.items() if own}


def _whole(rows: Sequence[Row], seeds: set[int]) -> list[Row]:
    """Without the cells (on a host suite one for each seed) of which a seed is missing."""
    have: dict[tuple[Any, ...], set[int]] = {}
    for row in rows:
        have.setdefault((row["kind"], row["task"], row["fold"]), set()).add(row["seed"])
    return [row for row in rows if have[row["kind"], row["task"], row["fold"]] == seeds]


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
