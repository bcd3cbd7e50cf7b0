"""The numbers of the report, each with its 95 % interval and the unit that the interval draws.

Every interval leaves out one unit at a time from all that is known of it (`intervals.jackknife`):
the runs of all agents with this seed, those that the scale is made of too. So what agents share (a
scale, a run that was copied from another agent) is drawn once. The units:

    multitask, controls   the agent: one set of weights plays all games
    after pre-training    the pre-trained agent, that is all games of a fold with one seed
    from scratch          the run: each game has agents of its own
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mtrl_jax import intervals
from mtrl_jax.benchmark import stats, transfer
from mtrl_jax.benchmark.study import Record, Study
from mtrl_jax.intervals import Interval, Unit

__all__ = [
    "AGGREGATES",
    "KINDS",
    "TransferNumbers",
    "aggregates",
    "band",
    "forgetting",
    "game_scores",
    "improvement",
    "pairs_of",
    "profile",
    "transfer_numbers",
    "unit_of",
]

AGGREGATES = {
    "IQM": stats.interquartile_mean,
    "mean": stats.mean,
    "median": stats.median,
    "optimality gap": stats.optimality_gap,
}
# Runs of a table, and the field of `Record` that holds their final scores.
KINDS = {
    "all games at once": "multitask",
    "after pre-training": "transfer_final",
    "from scratch": "scratch_final",
}
Scores = Callable[[np.ndarray], np.ndarray]  # of `keep` [..., S, N], to [..., S, scaled N]


class TransferNumbers(NamedTuple):
    """Of one agent, normalised; None where it cannot be computed.

    Attributes:
      ratio: sum of areas after pre-training over that from scratch; above 1 is good.
      geometric: the same as a geometric mean over games, each of the same weight.
      per_task: game to its own ratio, None where scratch is not above random.
      jump_start: score before any training on the new game, pre-trained minus fresh.
      final: score at the end, pre-trained minus fresh.
      forward: (A_pre - A_scratch) / (1 - A_scratch) of means over seeds, mean over the games where
        it is defined.
      forward_games: how many those are.
    """

    ratio: Interval | None
    geometric: Interval
    per_task: dict[str, Interval | None]
    jump_start: Interval
    final: Interval
    forward: Interval | None
    forward_games: int


def unit_of(record: Record, field: str) -> Unit:
    """What the scores in a field of a record are a sample of; see the head of this file."""
    if not record.learns or field == "multitask":
        return "agent"
    return "run" if field.startswith("scratch") else "fold"


def _folds(study: Study, unit: Unit) -> np.ndarray | None:
    return study.folds if unit == "fold" else None


def _normalised(study: Study, raw: np.ndarray) -> Scores:
    """Raw scores or areas `[S, N]` on the scale that the runs that count have."""
    own = raw[:, study.scaled]

    def scores(keep: np.ndarray) -> np.ndarray:
        low, high = (x[..., None, study.scaled] for x in study.scale(keep))
        return (own - low) / (high - low)

    return scores


def transfer_numbers(study: Study, record: Record) -> TransferNumbers | None:
    """Transfer of one agent; None for a control, or where runs are missing."""
    if record.scratch is None or record.transfer is None or not len(study.scaled):
        return None
    assert record.steps is not None
    raw = [transfer.learning_curve_area(record.steps, x) for x in (record.transfer, record.scratch)]
    fresh = _normalised(study, raw[1])(_all(study)).mean(0)
    per_task = {
        study.games[i]: _ratio(study, raw, [n]) if fresh[n] > 0 else None
        for n, i in enumerate(study.scaled)
    }
    defined = np.flatnonzero((fresh >= 0) & (fresh < 1))
    every = np.arange(len(study.scaled))
    return TransferNumbers(
        ratio=_ratio(study, raw, every) if fresh.sum() > 0 else None,
        geometric=_paired(study, raw, every, transfer.geometric_ratio, logarithmic=True),
        per_task=per_task,
        jump_start=_difference(study, record.transfer[:, :, 0], record.scratch[:, :, 0]),
        final=_difference(study, record.transfer[:, :, -1], record.scratch[:, :, -1]),
        forward=_paired(study, raw, defined, _forward) if len(defined) else None,
        forward_games=len(defined),
    )


def _all(study: Study) -> np.ndarray:
    return np.ones(study.control.shape, bool)


def _means(study: Study, raw: list[np.ndarray], games: np.ndarray) -> Callable[..., np.ndarray]:
    """Of `keep`, means over seeds `[2, ..., n]`: after pre-training, and from scratch."""
    scores = [_normalised(study, x) for x in raw]

    def means(keep: np.ndarray) -> np.ndarray:
        counted = keep[..., study.scaled]
        return np.stack([stats.kept_mean(x(keep), counted)[..., games] for x in scores])

    return means


def _ratio(study: Study, raw: list[np.ndarray], games: np.ndarray | list[int]) -> Interval:
    """`transfer.transfer_ratio` of some games with Fieller's interval."""
    means = _means(study, raw, np.asarray(games))

    def sums(keep: np.ndarray) -> np.ndarray:
        return np.moveaxis(means(keep).sum(-1), 0, -1)

    return intervals.ratio(sums, study.control.shape, unit="fold", folds=study.folds)


def _paired(
    study: Study,
    raw: list[np.ndarray],
    games: np.ndarray,
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    logarithmic: bool = False,
) -> Interval:
    """A measure of means over seeds of some games."""
    means = _means(study, raw, games)
    return intervals.jackknife(
        lambda keep: measure(*means(keep)),
        study.control.shape,
        unit="fold",
        folds=study.folds,
        logarithmic=logarithmic,
    )


def _forward(pretrained: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    return ((pretrained - scratch) / (1.0 - scratch)).mean(-1)


def _difference(study: Study, x: np.ndarray, y: np.ndarray) -> Interval:
    every = np.arange(len(study.scaled))
    return _paired(study, [x, y], every, lambda pre, fresh: (pre - fresh).mean(-1))


def aggregates(study: Study, raw: np.ndarray, *, unit: Unit) -> dict[str, Interval]:
    """Every aggregate of raw scores `[S, N]`, normalised."""
    scores = _normalised(study, raw)
    found = {}
    for name, fn in AGGREGATES.items():

        def statistic(keep: np.ndarray, fn: Callable[..., np.ndarray] = fn) -> np.ndarray:
            return fn(scores(keep), keep[..., study.scaled])

        found[name] = intervals.jackknife(
            statistic,
            raw.shape,
            unit=unit,
            folds=_folds(study, unit),
            least_freedom=fn is stats.median and unit == "run",
        )
    return found


def profile(study: Study, raw: np.ndarray, thresholds: np.ndarray, *, unit: Unit) -> Interval:
    """Share of runs above each threshold of the normalised score, of raw scores `[S, N]`."""
    scores = _normalised(study, raw)

    def statistic(keep: np.ndarray) -> np.ndarray:
        return stats.performance_profile(scores(keep), thresholds, keep[..., study.scaled])

    return intervals.share(statistic, raw.shape, unit=unit, folds=_folds(study, unit))


def improvement(study: Study, x: np.ndarray, y: np.ndarray, *, unit: Unit) -> Interval:
    """Probability that X beats Y on games with a scale, raw scores `[S, N]` each.

    Runs of one are copies of the other's: one half, and nothing is uncertain.
    """
    x, y = (raw[:, study.scaled] for raw in (x, y))
    if np.array_equal(x, y):
        return Interval(*np.full(3, 0.5))

    def statistic(keep: np.ndarray) -> np.ndarray:
        return stats.probability_of_improvement(x, y, keep[..., study.scaled])

    return intervals.share(statistic, study.control.shape, unit=unit, folds=_folds(study, unit))


def forgetting(study: Study, record: Record, pairs: list[tuple[int, int]]) -> Interval | None:
    """What learning one more game costs on the games known before, mean over `pairs`.

    Both scores are of the same agent, before and after, so no maximum over noisy probes is in it.

    Args:
      study: for the scale.
      record: of the agent.
      pairs: (held-out game, known game) for each column of `record.before`.
    """
    if record.before is None or record.after is None:
        return None
    has_scale = np.isin([game for _, game in pairs], study.scaled)
    if not has_scale.any():
        return None
    held, known = np.array(pairs)[has_scale].T
    lost = transfer.forgetting(record.before, record.after)[:, has_scale]

    def statistic(keep: np.ndarray) -> np.ndarray:
        low, high = study.scale(keep)
        return (stats.kept_mean(lost, keep[..., held]) / (high - low)[..., known]).mean(-1)

    return intervals.jackknife(statistic, study.control.shape, unit="fold", folds=study.folds)


def game_scores(study: Study, raw: np.ndarray, game: int) -> dict[str, Interval | None]:
    """Score of one set of weights `[S, N]` on one game, on every scale that the game has.

    The unit is the agent, which on one game is the run.
    """
    own, chance = raw[:, game], study.control[:, game]

    def over_random(keep: np.ndarray) -> np.ndarray:
        return ((own - chance) * keep[..., game]).sum(-1) / keep[..., game].sum(-1)

    def of_specialist(keep: np.ndarray) -> np.ndarray:
        low, high = (x[..., game] for x in study.scale(keep))
        return np.stack([over_random(keep), high - low], -1)

    def of_human(keep: np.ndarray) -> np.ndarray:
        low = study.scale(keep)[0][..., game]
        return np.stack([over_random(keep), study.human[game] - low], -1)

    has_scale, has_human = game in study.scaled, np.isfinite(study.human[game])
    return {
        "raw": intervals.mean(own, unit="agent"),
        "over random": intervals.jackknife(over_random, raw.shape, unit="agent"),
        "of specialist": (
            intervals.ratio(of_specialist, raw.shape, unit="agent") if has_scale else None
        ),
        "of human": intervals.ratio(of_human, raw.shape, unit="agent") if has_human else None,
    }


def band(study: Study, curves: np.ndarray, games: np.ndarray) -> Interval:
    """Mean normalised score of some games along curves of one agent, raw scores `[S, N, M]`."""

    def statistic(keep: np.ndarray) -> np.ndarray:
        low, high = (x[..., games, None] for x in study.scale(keep))
        weights = (keep / keep.sum(-2, keepdims=True))[..., games]
        means = np.einsum("...sn,snm->...nm", weights, curves[:, games])
        return ((means - low) / (high - low)).mean(-2)

    return intervals.jackknife(statistic, study.control.shape, unit="agent")


def pairs_of(study: Study) -> list[tuple[int, int]]:
    """(held-out game, known game) in the order of `Record.before`."""
    n = range(len(study.games))
    return [(t, g) for t in n for g in n if study.folds[g] != study.folds[t]]
