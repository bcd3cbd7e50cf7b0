"""Aggregates of scores over runs and tasks, and intervals for them.

Agarwal et al. 2021, *Deep Reinforcement Learning at the Edge of the Statistical Precipice*,
arXiv 2108.13264, with the definitions of their published library, rliable. NumPy only. Scores are
`[R, N]`: R independent runs of each of N tasks, normalised so that they can be averaged.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "Interval",
    "interquartile_mean",
    "mean",
    "median",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
    "stratified_bootstrap",
]


class Interval(NamedTuple):
    """A statistic and the ends of its percentile bootstrap interval; floats or arrays alike."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _checked(name: str, scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"{name} must have shape [R, N], runs and tasks, got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{name} must be finite, got {np.count_nonzero(~np.isfinite(scores))} "
            "values that are not"
        )
    return scores


def mean(scores: np.ndarray) -> float:
    """Mean over tasks of the mean over runs of scores `[R, N]`. A single task can dominate it."""
    return float(_checked("scores", scores).mean())


def median(scores: np.ndarray) -> float:
    """Median over tasks of the mean over runs of scores `[R, N]`; nearly half cannot move it."""
    return float(np.median(_checked("scores", scores).mean(axis=0)))


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all R N scores (IQM).

    A quarter of the values, rounded down, is dropped at either end. On bounded scores with two
    modes (success rates) it saturates: give the mean too.

    Args:
      scores: `[R, N]`.

    Raises:
      ValueError: for another shape or values that are not finite, as all functions here.
    """
    values = np.sort(_checked("scores", scores), axis=None)
    cut = int(0.25 * values.size)
    return float(values[cut : values.size - cut].mean())


def optimality_gap(scores: np.ndarray, target: float = 1.0) -> float:
    """How far runs fall short of a target, target - mean min(score, target); 0 is best.

    Args:
      scores: `[R, N]`.
      target: the score that counts as solved.
    """
    return float(target - np.minimum(_checked("scores", scores), target).mean())


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of all runs whose score is above each threshold, tasks weighing the same.

    Args:
      scores: `[R, N]`.
      thresholds: `[M]`.

    Returns:
      `[M]`, not increasing where the thresholds increase.
    """
    scores, thresholds = _checked("scores", scores), np.asarray(thresholds, np.float64)
    if thresholds.ndim != 1:
        raise ValueError(f"thresholds must have shape [M], got {thresholds.shape}")
    return (scores[None] > thresholds[:, None, None]).mean(axis=(1, 2))


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over tasks of the chance that a run of X beats a run of Y, a tie counting a half.

    For each task it is the Mann-Whitney U statistic divided by R S.

    Args:
      x: `[R, N]`.
      y: `[S, N]`, of the same tasks.

    Raises:
      ValueError: if the tasks do not match.
    """
    x, y = _checked("x", x), _checked("y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be of the same tasks, got {x.shape[1]} and {y.shape[1]}")
    difference = x[:, None] - y[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def stratified_bootstrap(
    samples: Sequence[np.ndarray],
    statistic: Callable[..., float | np.ndarray],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval, runs being drawn anew within each task.

    The tasks are the benchmark and stay; the runs are a sample. Runs that share something (one
    pre-trained agent) are no independent sample: see `transfer.clustered_bootstrap`.

    Args:
      samples: arrays `[R, N]`, the arguments of `statistic`, resampled independently of each other.
      statistic: of arrays like `samples`, to a float or an array.
      resamples: bootstrap draws.
      level: coverage, in (0, 1).
      seed: of the draws.

    Returns:
      The statistic of the samples themselves, and its interval.

    Raises:
      ValueError: for a sample of another shape, or a level or a number of resamples out of range.
    """
    samples = [_checked(f"samples[{n}]", s) for n, s in enumerate(samples)]
    if resamples < 1 or not 0.0 < level < 1.0:
        raise ValueError(
            f"resamples must be at least 1 and level in (0, 1), got {resamples} and {level}"
        )
    rng = np.random.default_rng(seed)

    def drawn(sample: np.ndarray) -> np.ndarray:
        picks = rng.integers(len(sample), size=sample.shape)
        return np.take_along_axis(sample, picks, axis=0)

    values = [statistic(*(drawn(sample) for sample in samples)) for _ in range(resamples)]
    return interval(np.asarray(statistic(*samples)), np.asarray(values), level)


def interval(value: np.ndarray, values: np.ndarray, level: float) -> Interval:
    """The percentile interval of resampled `values` `[M, ...]` around `value`."""
    tail = (1.0 - level) / 2
    tails = [tail, 1.0 - tail]
    if np.isfinite(values).all():
        low, high = np.quantile(values, tails, axis=0)
    else:  # halfway between two infinite values lies NaN
        low, high = np.quantile(values, tails, axis=0, method="nearest")
    return Interval(value, low, high)
