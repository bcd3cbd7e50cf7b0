"""Aggregates of scores over runs and tasks.

Agarwal et al. 2021, *Deep Reinforcement Learning at the Edge of the Statistical Precipice*,
arXiv 2108.13264, with the definitions of their published library, rliable. NumPy only. Scores are
`[..., R, N]`: R independent runs of each of N tasks, normalised so that they can be averaged. Every
function takes a mask `keep` of the same shape, True for the runs that count, with which each task
keeps its weight of 1 / N: that is what `intervals.jackknife` leaves units out by.
"""

import numpy as np

__all__ = [
    "interquartile_mean",
    "kept_mean",
    "mean",
    "median",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
]


def _checked(name: str, scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim < 2 or 0 in scores.shape:
        raise ValueError(f"{name} must have shape [R, N], runs and tasks, got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{name} must be finite, got {np.count_nonzero(~np.isfinite(scores))} "
            "values that are not"
        )
    return scores


def _weights(scores: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
    """Of every run within its task, `[..., R, N]`; they add up to 1 over the runs of a task."""
    counted = np.ones(scores.shape[-2:]) if keep is None else np.asarray(keep, np.float64)
    return counted / counted.sum(-2, keepdims=True)


def kept_mean(scores: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """Mean over the runs that count of scores `[..., R, N]`, to `[..., N]`."""
    return (np.asarray(scores, np.float64) * _weights(scores, keep)).sum(-2)


def mean(scores: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """Mean over tasks of the mean over runs of scores `[R, N]`. A single task can dominate it."""
    return kept_mean(_checked("scores", scores), keep).mean(-1)


def median(scores: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """Median over tasks of the mean over runs of scores `[R, N]`; nearly half cannot move it."""
    return np.median(kept_mean(_checked("scores", scores), keep), axis=-1)


def interquartile_mean(scores: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """Mean of the middle half of all R N scores (IQM).

    A quarter of the values, rounded down, is dropped at either end; where some do not count, an
    equal share of the weight. On bounded scores with two modes (success rates) it saturates: give
    the mean too.

    Args:
      scores: `[R, N]`.
      keep: the runs that count.

    Raises:
      ValueError: for another shape or values that are not finite, as all functions here.
    """
    scores = _checked("scores", scores)
    weights = _weights(scores, keep) / scores.shape[-1]
    scores, weights = np.broadcast_arrays(scores, weights)
    size = scores.shape[-2] * scores.shape[-1]
    flat = [x.reshape(*x.shape[:-2], size) for x in (scores, weights)]
    order = flat[0].argsort(-1)
    values, weights = (np.take_along_axis(x, order, -1) for x in flat)
    cut = int(0.25 * size) / size
    upper = weights.cumsum(-1)
    inside = np.minimum(upper, 1 - cut) - np.maximum(upper - weights, cut)
    inside = np.maximum(inside, 0.0)
    return (inside * values).sum(-1) / inside.sum(-1)


def optimality_gap(
    scores: np.ndarray, keep: np.ndarray | None = None, target: float = 1.0
) -> np.ndarray:
    """How far runs fall short of a target, target - mean min(score, target); 0 is best.

    Args:
      scores: `[R, N]`.
      keep: the runs that count.
      target: the score that counts as solved.
    """
    return target - mean(np.minimum(_checked("scores", scores), target), keep)


def performance_profile(
    scores: np.ndarray, thresholds: np.ndarray, keep: np.ndarray | None = None
) -> np.ndarray:
    """Share of all runs whose score is above each threshold, tasks weighing the same.

    Args:
      scores: `[R, N]`.
      thresholds: `[M]`.
      keep: the runs that count.

    Returns:
      `[M]`, not increasing where the thresholds increase.
    """
    scores, thresholds = _checked("scores", scores), np.asarray(thresholds, np.float64)
    if thresholds.ndim != 1:
        raise ValueError(f"thresholds must have shape [M], got {thresholds.shape}")
    weights = _weights(scores, keep)[..., None] / scores.shape[-1]
    return ((scores[..., None] > thresholds) * weights).sum((-3, -2))


def probability_of_improvement(
    x: np.ndarray, y: np.ndarray, keep: np.ndarray | None = None
) -> np.ndarray:
    """Mean over tasks of the chance that a run of X beats a run of Y, a tie counting a half.

    For each task it is the Mann-Whitney U statistic divided by R S.

    Args:
      x: `[R, N]`.
      y: `[S, N]`, of the same tasks.
      keep: the runs of both that count, with R = S.

    Raises:
      ValueError: if the tasks do not match.
    """
    x, y = _checked("x", x), _checked("y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be of the same tasks, got {x.shape[1]} and {y.shape[1]}")
    difference = x[:, None] - y[None]
    wins = (difference > 0) + 0.5 * (difference == 0)
    if keep is None:
        return wins.mean()
    return (
        np.einsum("...rn,rsn,...sn->...", _weights(x, keep), wins, _weights(y, keep)) / x.shape[1]
    )
