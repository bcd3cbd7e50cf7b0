"""How much better an agent learns a task for having learnt others: areas, ratios, forgetting.

The benchmark of the AI-ON project (AMTLB) compares the total score of a pre-trained agent on a task
it has not seen with that of the same agent untrained. Its text has two formulas of opposite sign;
the one here is pre-trained over untrained, above 1 for good transfer, and of scores above those of
a random policy, since a ratio of totals changes sign on games with negative scores.
"""

import numpy as np

from mtrl_jax.benchmark.stats import Interval, interval

__all__ = [
    "clustered_bootstrap",
    "forgetting",
    "forward_transfer",
    "geometric_ratio",
    "learning_curve_area",
    "normalise",
    "paired_bootstrap",
    "paired_geometric",
    "transfer_ratio",
]


def normalise(scores: np.ndarray, random: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Scores on a scale where a random policy is 0 and the reference is 1.

    Args:
      scores: `[..., N]`.
      random: `[N]` or a scalar.
      reference: `[N]` or a scalar, a human's or a specialist's score, above `random`.

    Raises:
      ValueError: if a reference is not above the random score.
    """
    span = np.asarray(reference, np.float64) - random
    if not np.all(span > 0):
        raise ValueError(f"reference must be above random for every task, got spans {span}")
    return (np.asarray(scores, np.float64) - random) / span


def learning_curve_area(steps: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Mean height of a learning curve: jump-start, speed and final level in one number.

        A = 1 / (t_M - t_1) integral z(t) d t        "by the trapezoid rule"

    Args:
      steps: `[M]`, increasing; environment steps, not episodes.
      scores: `[..., M]` at those steps.

    Returns:
      `[...]`.

    Raises:
      ValueError: for steps that do not increase or do not match the scores.
    """
    steps, scores = np.asarray(steps, np.float64), np.asarray(scores, np.float64)
    if steps.ndim != 1 or len(steps) < 2 or not (np.diff(steps) > 0).all():
        raise ValueError(f"steps must be [M], at least two and increasing, got {steps}")
    if scores.shape[-1:] != steps.shape:
        raise ValueError(f"scores must end with M = {len(steps)}, got shape {scores.shape}")
    return np.trapezoid(scores, steps, axis=-1) / (steps[-1] - steps[0])


def transfer_ratio(pretrained: np.ndarray, scratch: np.ndarray) -> float:
    """Sum of areas after pre-training over the sum of areas from scratch; above 1 is good.

    A ratio of sums and not a mean of ratios, which one task with an area near 0 would decide.

    Args:
      pretrained, scratch: areas of scores normalised so that a random policy has 0, any shapes;
        both are averaged.

    Raises:
      ValueError: if learning from scratch is not above random, so that there is nothing to compare.
    """
    below = float(np.mean(scratch))
    if not below > 0:
        raise ValueError(f"scratch must have a mean area above 0, got {below}")
    return float(np.mean(pretrained)) / below


def geometric_ratio(pretrained: np.ndarray, scratch: np.ndarray, delta: float = 0.01) -> np.ndarray:
    """Geometric mean over tasks of the ratio of areas, in which every task has the same weight.

        exp(1/N sum_i log((max(A_pre_i, 0) + delta) / (max(A_scratch_i, 0) + delta)))

    The ratio of sums is decided by the tasks with the largest areas, good or bad: one on which the
    specialist is hardly better than random can have an area of -3.

    Args:
      pretrained, scratch: areas `[..., N]`, of scores normalised so that a random policy has 0.
      delta: what a task without any learning counts for.

    Returns:
      `[...]`.
    """
    logs = [
        np.log(np.maximum(np.asarray(x, np.float64), 0.0) + delta) for x in (pretrained, scratch)
    ]
    return np.exp((logs[0] - logs[1]).mean(-1))


def forward_transfer(pretrained: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """Share of the possible gain, (A_pre - A_scratch) / (1 - A_scratch), elementwise.

    The form of Continual World (Wolczyk et al. 2021, arXiv 2105.10919), for areas of scores in
    [0, 1].

    Args:
      pretrained, scratch: areas of one shape.

    Raises:
      ValueError: for an area from scratch outside [0, 1).
    """
    scratch = np.asarray(scratch, np.float64)
    if not ((scratch >= 0) & (scratch < 1)).all():
        raise ValueError(f"scratch must lie in [0, 1), got {scratch.min()} to {scratch.max()}")
    return (np.asarray(pretrained, np.float64) - scratch) / (1.0 - scratch)


def forgetting(after_own: np.ndarray, at_end: np.ndarray) -> np.ndarray:
    """What was lost of each task, p(end of its own last training) - p(end of all), elementwise.

    Not the best probe minus the last one: a maximum over noisy probes is biased upwards.
    """
    return np.asarray(after_own, np.float64) - np.asarray(at_end, np.float64)


def clustered_bootstrap(
    pretrained: np.ndarray,
    scratch: np.ndarray,
    folds: np.ndarray,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the transfer ratio in cross-validation.

    All test tasks of a fold share the agent pre-trained for it, so these agents are drawn anew, and
    within each the test seeds, the same for the paired runs from scratch. Runs taken one by one
    would give intervals that are too narrow.

    Args:
      pretrained: areas `[M, E, N]`: M pre-training seeds, E test seeds, N tasks.
      scratch: areas `[E, N]`.
      folds: int `[N]`, the fold that holds each task out.
      resamples, level, seed: as in `stats.stratified_bootstrap`.

    Returns:
      The ratio and its interval.

    Raises:
      ValueError: for shapes that do not match, or as `transfer_ratio`.
    """
    pretrained, scratch = np.asarray(pretrained, np.float64), np.asarray(scratch, np.float64)
    folds = np.asarray(folds)
    if pretrained.ndim != 3 or pretrained.shape[1:] != scratch.shape:
        raise ValueError(
            "pretrained must be [M, E, N] and scratch [E, N], got "
            f"{pretrained.shape} and {scratch.shape}"
        )
    if folds.shape != scratch.shape[1:]:
        raise ValueError(f"folds must have shape [N] = {scratch.shape[1:]}, got {folds.shape}")
    rng = np.random.default_rng(seed)
    m, e, _ = pretrained.shape
    values = []
    for _ in range(resamples):
        sums = np.zeros(2)
        for fold in np.unique(folds):
            agents = rng.integers(m, size=(m, 1))
            tests = rng.integers(e, size=(m, e))
            tasks = folds == fold
            sums += pretrained[agents, tests][..., tasks].sum(), scratch[tests][..., tasks].sum()
        values.append(sums[0] / sums[1])
    return interval(np.asarray(transfer_ratio(pretrained, scratch)), np.asarray(values), level)


def paired_bootstrap(
    pretrained: np.ndarray,
    scratch: np.ndarray,
    folds: np.ndarray,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """`clustered_bootstrap` where each pre-trained agent is tested once, with its own seed.

    Run s of a task goes on from the agent that was pre-trained with seed s, and is paired with run
    s from scratch. For each fold the seeds are drawn anew, with all tasks of the fold: what they
    share, the agent, is one draw and not several.

    Args:
      pretrained, scratch: areas `[S, N]`.
      folds: int `[N]`, the fold that holds each task out.
      resamples, level, seed: as in `stats.stratified_bootstrap`.

    Returns:
      The ratio and its interval; draws in which the areas from scratch do not add up to more than 0
      count as an infinite ratio.

    Raises:
      ValueError: for shapes that do not match, or as `transfer_ratio`.
    """
    pre, fresh = _paired_means(pretrained, scratch, folds, resamples, seed)
    sums = pre.sum(-1), fresh.sum(-1)
    above = sums[1] > 0
    values = np.where(above, sums[0] / np.where(above, sums[1], 1.0), np.inf)
    return interval(np.asarray(transfer_ratio(pretrained, scratch)), values, level)


def paired_geometric(
    pretrained: np.ndarray,
    scratch: np.ndarray,
    folds: np.ndarray,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """`geometric_ratio` of means over seeds; arguments, draws, errors as in `paired_bootstrap`."""
    draws = _paired_means(pretrained, scratch, folds, resamples, seed)
    value = geometric_ratio(np.mean(pretrained, 0), np.mean(scratch, 0))
    return interval(value, geometric_ratio(*draws), level)


def _paired_means(
    pretrained: np.ndarray, scratch: np.ndarray, folds: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Means over seeds drawn anew for each fold, `[R, N]` of both."""
    pretrained, scratch = np.asarray(pretrained, np.float64), np.asarray(scratch, np.float64)
    folds = np.asarray(folds)
    if pretrained.ndim != 2 or pretrained.shape != scratch.shape:
        raise ValueError(
            f"pretrained and scratch must have one shape [S, N], got {pretrained.shape} and "
            f"{scratch.shape}"
        )
    if folds.shape != scratch.shape[1:]:
        raise ValueError(f"folds must have shape [N] = {scratch.shape[1:]}, got {folds.shape}")
    rng = np.random.default_rng(seed)
    means = np.zeros((2, resamples, len(folds)))
    for fold in np.unique(folds):
        mine = folds == fold
        picks = rng.integers(len(scratch), size=(resamples, len(scratch)))
        means[:, :, mine] = [x[:, mine][picks].mean(1) for x in (pretrained, scratch)]
    return means[0], means[1]
