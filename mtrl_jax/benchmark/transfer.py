"""How much better an agent learns a task for having learnt others: areas, ratios, forgetting.

The benchmark of the AI-ON project (AMTLB) compares the total score of a pre-trained agent on a task
it has not seen with that of the same agent untrained. Its text has two formulas of opposite sign;
the one here is pre-trained over untrained, above 1 for good transfer, and of scores above those of
a random policy, since a ratio of totals changes sign on games with negative scores.
"""

import numpy as np

__all__ = [
    "forgetting",
    "forward_transfer",
    "geometric_ratio",
    "learning_curve_area",
    "normalise",
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
