"""The numbers of the report, each with a 95 % bootstrap interval, as plain rows for tables.

Intervals over seeds within each game (`stats.stratified_bootstrap`), except where games share a
pre-trained agent: there whole agents are drawn (`transfer.paired_bootstrap`).
"""

from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.benchmark import stats, transfer
from mtrl_jax.benchmark.stats import Interval
from mtrl_jax.benchmark.study import Record, Study, areas

__all__ = [
    "AGGREGATES",
    "TransferNumbers",
    "aggregates",
    "forgetting",
    "improvement",
    "transfer_numbers",
]

AGGREGATES = {
    "IQM": stats.interquartile_mean,
    "mean": stats.mean,
    "median": stats.median,
    "optimality gap": stats.optimality_gap,
}
RESAMPLES = 2000


class TransferNumbers(NamedTuple):
    """Of one agent, normalised; None where it cannot be computed.

    Attributes:
      ratio: sum of areas after pre-training over that from scratch; above 1 is good.
      geometric: the same as a geometric mean over games, each of the same weight.
      per_task: game to its own ratio, None where scratch is not above random.
      jump_start: score before any training on the new game, pre-trained minus fresh.
      final: score at the end, pre-trained minus fresh.
      forward: (A_pre - A_scratch) / (1 - A_scratch), mean over the games where it is defined.
      forward_games: how many those are.
    """

    ratio: Interval | None
    geometric: Interval
    per_task: dict[str, Interval | None]
    jump_start: Interval
    final: Interval
    forward: Interval | None
    forward_games: int


def transfer_numbers(study: Study, record: Record) -> TransferNumbers | None:
    """Transfer of one agent; None for a control, or where runs are missing."""
    if record.scratch is None or record.transfer is None or not len(study.scaled):
        return None
    assert record.steps is not None
    games = [study.games[i] for i in study.scaled]
    folds = study.folds[study.scaled]
    pre, fresh = (areas(study, x, record.steps) for x in (record.transfer, record.scratch))
    ratio = _ratio(pre, fresh, folds)
    per_task = {
        game: _ratio(pre[:, i : i + 1], fresh[:, i : i + 1], folds[i : i + 1])
        for i, game in enumerate(games)
    }
    z = [study.normalise(x) for x in (record.transfer, record.scratch)]
    defined = ((fresh >= 0) & (fresh < 1)).all(0)
    forward = None
    if defined.any():
        gain = transfer.forward_transfer(pre[:, defined], fresh[:, defined])
        forward = _clustered_mean(gain, folds[defined])
    return TransferNumbers(
        ratio,
        transfer.paired_geometric(pre, fresh, folds, resamples=RESAMPLES),
        per_task,
        _clustered_mean(z[0][:, :, 0] - z[1][:, :, 0], folds),
        _clustered_mean(z[0][:, :, -1] - z[1][:, :, -1], folds),
        forward,
        int(defined.sum()),
    )


def _ratio(pre: np.ndarray, fresh: np.ndarray, folds: np.ndarray) -> Interval | None:
    if not fresh.mean() > 0:
        return None
    return transfer.paired_bootstrap(pre, fresh, folds, resamples=RESAMPLES)


def _clustered_mean(values: np.ndarray, folds: np.ndarray) -> Interval:
    """Mean of `[S, N]`, the seeds being drawn anew for each fold with all of its games."""
    rng = np.random.default_rng(0)
    total = np.zeros(RESAMPLES)
    for fold in np.unique(folds):
        mine = values[:, folds == fold].sum(1)
        total += mine[rng.integers(len(mine), size=(RESAMPLES, len(mine)))].mean(1)
    return stats.interval(np.asarray(values.mean()), total / values.shape[1], 0.95)


def aggregates(scores: np.ndarray) -> dict[str, Interval]:
    """Every aggregate of normalised scores `[S, N]`."""
    return {
        name: stats.stratified_bootstrap([scores], fn, resamples=RESAMPLES)
        for name, fn in AGGREGATES.items()
    }


def improvement(x: np.ndarray, y: np.ndarray) -> Interval:
    """Probability that X beats Y, scores `[S, N]` each."""
    fn: Any = stats.probability_of_improvement
    return stats.stratified_bootstrap([x, y], fn, resamples=RESAMPLES)


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
    known = np.array([game for _, game in pairs])
    has_scale = np.isin(known, study.scaled)
    if not has_scale.any():
        return None
    span = (study.reference - study.random)[known][has_scale]
    lost = transfer.forgetting(record.before, record.after)[:, has_scale] / span
    held = np.array([study.folds[task] for task, _ in pairs])[has_scale]
    return _clustered_mean(lost, held)


def pairs_of(study: Study) -> list[tuple[int, int]]:
    """(held-out game, known game) in the order of `Record.before`."""
    n = range(len(study.games))
    return [(t, g) for t in n for g in n if study.folds[g] != study.folds[t]]
