"""Intervals that hold with five runs, and the unit that each of them draws.

With five runs a percentile bootstrap covers far less than it says: its spread is that of the sample
(a factor sqrt((S - 1) / S) short) and it has normal tails (Hesterberg 2015, *What Teachers Should
Know About the Bootstrap*, The American Statistician 69). Here spreads come from the jackknife over
whole units and tails from Student's t, which is what holds with few clusters (MacKinnon, Nielsen
and Webb 2023, *Fast and reliable jackknife and bootstrap methods for cluster-robust inference*,
Journal of Applied Econometrics 38); of a mean it is Student's interval itself. Nothing is drawn at
random, so equal scores give equal intervals.

The unit is what the next experiment would draw anew, and a required argument of all functions::

    "agent"    a row of [S, N]: one agent plays all N tasks, so its scores stand and fall together
    "fold"     a row of all tasks of a fold, which share a pre-trained agent
    "encoder"  one entry, the mean of its policies: they share what has learnt to see
    "run"      one entry: every task has runs of its own
    "episode"  one entry: episodes of one agent, which say nothing of the next agent
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np

__all__ = [
    "Interval",
    "Unit",
    "jackknife",
    "mean",
    "ratio",
    "share",
    "t_quantile",
    "wilson",
]

Unit = Literal["agent", "fold", "encoder", "run", "episode"]
Statistic = Callable[[np.ndarray], np.ndarray]  # of `keep`, see `jackknife`


class Interval(NamedTuple):
    """A statistic and the ends of its interval; floats or arrays alike."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class _Spread(NamedTuple):
    """A statistic, and what leaving out each unit changes.

    Attributes:
      value: `[...]` of everything.
      changes: `[G, S, ...]`, for G independent groups of tasks and S units each, scaled so that the
        sum of their squares is the variance of `value`.
    """

    value: np.ndarray
    changes: np.ndarray

    def variance(self) -> np.ndarray:
        return (self.changes**2).sum((0, 1))


def t_quantile(level: float | np.ndarray, freedom: float | np.ndarray) -> np.ndarray:
    """Half width of an interval of a given coverage in standard errors, from Student's t.

    Args:
      level: coverage, in (0, 1); it and `freedom` of shapes that go together.
      freedom: degrees of freedom.

    Raises:
      ValueError: for a level out of range.
    """
    from scipy.special import stdtrit  # a dependency of jax

    level = np.asarray(level)
    if not ((level > 0.0) & (level < 1.0)).all():
        raise ValueError(f"level must be in (0, 1), got {level}")
    return np.asarray(stdtrit(freedom, 0.5 + level / 2), np.float64)


def mean(
    values: np.ndarray,
    *,
    unit: Unit,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Student's interval of the mean over the last axis, mean -+ t_(S-1) s / sqrt(S).

    Student 1908, *The probable error of a mean*, Biometrika 6.

    Args:
      values: `[..., S]`, one value a unit; what a unit does on several tasks is averaged before.
      unit: what the last axis counts.
      level: coverage.
      bounds: of what a value can be, where the ends are cut.

    Returns:
      Arrays `[...]`. The ends are NaN for a single value, which says nothing of its spread.

    Raises:
      ValueError: for an unknown unit or a level out of range.
    """
    _check_unit(unit)
    values = np.asarray(values, np.float64)
    count = values.shape[-1]
    value = values.mean(-1)
    if count < 2:
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    half = t_quantile(level, count - 1) * values.std(-1, ddof=1) / count**0.5
    ends = Interval(value, value - half, value + half)
    return ends if bounds is None else Interval(value, *np.clip(ends[1:], *bounds))


def wilson(
    successes: np.ndarray,
    trials: float | np.ndarray,
    *,
    unit: Unit,
    z: float | np.ndarray = 1.959964,
) -> Interval:
    """Interval of a probability from counts; unlike others, not empty at 0 or all successes.

    Wilson 1927, *Probable inference, the law of succession, and statistical inference*, JASA 22.
    With p = successes / trials:

        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Args:
      successes: counts `[...]`.
      trials: n, independent ones.
      unit: what was tried.
      z: quantile of the normal distribution; 1.96 covers 95 %.

    Raises:
      ValueError: for an unknown unit.
    """
    _check_unit(unit)
    p = np.asarray(successes) / trials
    centre = p + z**2 / (2 * trials)
    half = z * np.sqrt(p * (1 - p) / trials + z**2 / (4 * np.square(trials)))
    return Interval(p, (centre - half) / (1 + z**2 / trials), (centre + half) / (1 + z**2 / trials))


def jackknife(
    statistic: Statistic,
    shape: tuple[int, int],
    *,
    unit: Unit,
    folds: np.ndarray | None = None,
    logarithmic: bool = False,
    least_freedom: bool = False,
    level: float = 0.95,
) -> Interval:
    """Interval of any statistic that is smooth in the units' scores.

    Each unit is left out once, from everything that is known of it. With theta_gs the statistic
    without unit s of the g-th group of tasks ("agent": one group; "run": a group a task):

        v_g = (S - 1) / S sum_s (theta_gs - mean_s theta_gs)^2
        theta -+ t_d sqrt(sum_g v_g),     d = (sum_g v_g)^2 / sum_g (v_g^2 / (S - 1))

    Tukey 1958; d is Satterthwaite's (1946, *An approximate distribution of estimates of variance
    components*, Biometrics Bulletin 2), S - 1 for a single group.

    Args:
      statistic: of a mask `keep` `[..., S, N]`, True for what counts, to `[...]` or `[..., M]`.
        Whatever else has a row s of task n (a scale, another agent of the same seeds) must leave it
        out too: then what they share is drawn once.
      shape: S and N.
      unit: what is drawn; see the head of this file.
      folds: int `[N]`, the fold of each task, for the unit "fold".
      logarithmic: the interval is made of the logarithm, for ratios above 0.
      least_freedom: d = S - 1 whatever the groups, for a statistic that hangs on few of them, and
        chance says on which (a median over tasks).
      level: coverage.

    The ends are NaN for a single unit.

    Raises:
      ValueError: for an unknown unit, folds of another shape, or a level out
        of range.
    """

    def scaled(keep: np.ndarray) -> np.ndarray:
        return np.log(statistic(keep)) if logarithmic else np.asarray(statistic(keep))

    found = _left_out(scaled, shape, unit, folds)
    if shape[0] < 2:
        return _endless(np.exp(found.value) if logarithmic else found.value)
    freedom = shape[0] - 1 if least_freedom else _freedom(found.changes)
    half = t_quantile(level, freedom) * np.sqrt(found.variance())
    ends = Interval(found.value, found.value - half, found.value + half)
    return Interval(*map(np.exp, ends)) if logarithmic else ends


def share(
    statistic: Statistic,
    shape: tuple[int, int],
    *,
    unit: Unit,
    folds: np.ndarray | None = None,
    level: float = 0.95,
) -> Interval:
    """Interval of a statistic in [0, 1] that is a share of S N scores: `wilson` of as many
    independent ones as would have its jackknife variance v, n = p (1 - p) / v, with t for z.

    Korn and Graubard 1998, *Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data*, Survey Methodology 24, with Wilson's interval.
    Where all units agree, as at 0 and 1, v says nothing: then n = S N, and the interval is not
    empty. It is too wide there rather than too narrow.

    Args and errors as of `jackknife`.
    """
    found = _left_out(statistic, shape, unit, folds)
    if shape[0] < 2:
        return _endless(found.value)
    p, variance = found.value, found.variance()
    agree = variance <= 1e-12
    count = np.maximum(p * (1 - p), 1e-9) / np.where(agree, 1.0, variance)
    count = np.where(agree, float(shape[0] * shape[1]), count)
    freedom = np.where(agree, shape[0] - 1, _freedom(found.changes))
    _, low, high = wilson(p * count, count, unit=unit, z=t_quantile(level, freedom))
    return Interval(p, np.where(p < 1e-9, 0.0, low), np.where(p > 1 - 1e-9, 1.0, high))


def ratio(
    statistic: Statistic,
    shape: tuple[int, int],
    *,
    unit: Unit,
    folds: np.ndarray | None = None,
    level: float = 0.95,
) -> Interval:
    """Fieller's interval of a ratio a / b of two statistics, b being above 0 in truth.

    All r for which a - r b is not measurably different from 0:

        (a - r b)^2 <= t^2 (v_aa - 2 r v_ab + r^2 v_bb)

    Fieller 1954, *Some problems in interval estimation*, JRSS B 16, with jackknife variances. Where
    b is not measurably above 0 the set has no end on one side, or none on both: then an end is
    infinite. Of a set in two pieces the one that holds a / b is given.

    Args:
      statistic: of `keep`, to `[..., 2]`, a and b.
      shape, unit, folds, level: as of `jackknife`.

    Raises:
      ValueError: if b is not above 0, or as `jackknife`.
    """
    found = _left_out(statistic, shape, unit, folds)
    a, b = map(float, found.value)
    if not b > 0:
        raise ValueError(f"the denominator of a ratio must be above 0, got {b}")
    if abs(a) < 1e-12 * b and (abs(found.changes[..., 0]) < 1e-12 * b).all():
        return Interval(*np.zeros(3))  # nothing, whatever b is
    value = a / b
    if shape[0] < 2:
        return _endless(np.asarray(value))
    over, under = found.changes[..., 0], found.changes[..., 1]
    t = float(t_quantile(level, _freedom(over - value * under)))
    aa, ab, bb = (float((x * y).sum()) for x, y in ((over, over), (over, under), (under, under)))
    g = t**2 * bb / b**2
    inner = aa - 2 * value * ab + value**2 * bb - t**2 / b**2 * (aa * bb - ab**2)
    if g == 1.0 or (g > 1 and inner < 0):
        return Interval(np.asarray(value), np.asarray(-np.inf), np.asarray(np.inf))
    centre = (value - t**2 / b**2 * ab) / (1 - g)
    half = t / b * max(inner, 0.0) ** 0.5 / abs(1 - g)
    low, high = centre - half, centre + half
    if g > 1:  # outside the two
        low, high = (high, np.inf) if value >= high else (-np.inf, low)
    return Interval(np.asarray(value), np.asarray(low), np.asarray(high))


def _left_out(
    statistic: Statistic, shape: tuple[int, int], unit: Unit, folds: np.ndarray | None
) -> _Spread:
    s, n = shape
    groups = _groups(unit, n, folds)
    labels = np.unique(groups)
    keep = np.ones((len(labels), s, s, n), bool)
    for g, label in enumerate(labels if s > 1 else ()):
        keep[g, range(s), range(s)] = groups != label
    keep = np.concatenate([np.ones((1, s, n), bool), keep.reshape(-1, s, n)])
    values = np.asarray(statistic(keep), np.float64)
    if s < 2:  # nothing can be left out
        return _Spread(values[0], np.zeros((len(labels), s, *values.shape[1:])))
    without = values[1:].reshape(len(labels), s, *values.shape[1:])
    changes = without - without.mean(1, keepdims=True)
    return _Spread(values[0], changes * ((s - 1) / s) ** 0.5)


def _endless(value: np.ndarray) -> Interval:
    """Of a single unit, which says nothing of its spread."""
    return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))


def _freedom(changes: np.ndarray) -> np.ndarray:
    """Satterthwaite's degrees of freedom of the sum of squares of changes `[G, S, ...]`."""
    each = (changes**2).sum(1)
    total, squares = each.sum(0), (each**2).sum(0)
    least = changes.shape[1] - 1
    return np.where(squares > 0, least * total**2 / np.where(squares > 0, squares, 1.0), least)


def _groups(unit: Unit, num_tasks: int, folds: np.ndarray | None) -> np.ndarray:
    """Label `[N]` of each task: tasks of one label share what is drawn."""
    _check_unit(unit)
    if (unit == "fold") != (folds is not None):
        raise ValueError(f"folds must be given for the unit 'fold', and for no other; got {unit!r}")
    if folds is None:
        return np.zeros(num_tasks, int) if unit == "agent" else np.arange(num_tasks)
    folds = np.asarray(folds)
    if folds.shape != (num_tasks,):
        raise ValueError(f"folds must have shape [N] = ({num_tasks},), got {folds.shape}")
    return folds


def _check_unit(unit: Unit) -> None:
    if unit not in get_args(Unit):
        raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}; got {unit!r}")
