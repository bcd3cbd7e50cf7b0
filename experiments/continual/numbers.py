"""Continual World's numbers of what a method's runs have written.

p_i(t) is the score of task i after t steps of the sequence, normalised: success as it is, a return
so that a random policy has 0 and an agent that has learnt the task from scratch, alone and as long,
has 1 (means over seeds). With T the end, and task i learnt from t_i to t_(i+1)::

    performance       P  = mean_i p_i(T)
    forgetting        F  = mean_i p_i(t_(i+1)) - p_i(T)
    forward transfer  FT = mean_i (A_i - b_i) / (1 - b_i)

A_i is the area of p_i over its own training, b_i that of learning from scratch (the mean over
seeds, at least 0). Tasks that nobody learns from scratch have no scale and are left out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.benchmark import transfer

__all__ = ["Curves", "Numbers", "Scale", "curves_of", "numbers_of", "scale_of"]


class Curves(NamedTuple):
    """Scores of one method.

    Attributes:
      steps: `[B, M]` of B blocks with M evaluations each, over the whole sequence.
      scores: `[S, B, M, N]`.
    """

    steps: np.ndarray
    scores: np.ndarray

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """`[B M]` and `[S, B M, N]`."""
        s, _, _, n = self.scores.shape
        return self.steps.reshape(-1), self.scores.reshape(s, -1, n)


class Scale(NamedTuple):
    """What is 0 and what is 1, `[N]`, and which tasks have such a scale, bool `[N]`."""

    low: np.ndarray
    high: np.ndarray
    known: np.ndarray

    def normalise(self, scores: np.ndarray) -> np.ndarray:
        """Scores `[..., N]` of the tasks that are known, `[..., N']`."""
        k = self.known
        return transfer.normalise(np.asarray(scores)[..., k], self.low[k], self.high[k])


class Numbers(NamedTuple):
    """`[S]` each; None where a method has no such number."""

    performance: np.ndarray
    forgetting: np.ndarray | None
    forward: np.ndarray | None


def curves_of(
    rows: Sequence[Sequence[dict[str, Any]]], task_names: Sequence[str], quantity: str
) -> Curves:
    """The evaluations of a method's blocks, each block behind the one before.

    Args:
      rows: of each block, from `runs.rows`.
      task_names: N.
      quantity: return or success.
    """
    keys = [f"eval/task_policy/{task}/{quantity}" for task in task_names]
    steps, scores, begin = [], [], 0
    for block in rows:
        found = [row for row in block if keys[0] in row]
        steps.append([begin + row["step"] for row in found])
        each = [[np.atleast_1d(row[key]) for key in keys] for row in found]  # [M, N, S]
        scores.append(np.moveaxis(np.asarray(each, np.float64), -1, 0))
        begin = steps[-1][-1]
    return Curves(np.asarray(steps), np.stack(scores, 1))


def scale_of(reference: Curves, random: np.ndarray, *, success: bool) -> Scale:
    """The scale of returns, of an agent that learns each task from scratch in its own block and of
    a random policy's scores `[N]`; successes are their own."""
    n = len(random)
    if success:
        return Scale(np.zeros(n), np.ones(n), np.ones(n, bool))
    high = _at_own_end(reference).mean(0)
    return Scale(random, high, high > random)


def numbers_of(curves: Curves, reference: Curves, scale: Scale) -> Numbers:
    """The numbers of one method; of one without a block for each task, performance alone."""
    final = scale.normalise(curves.scores[:, -1, -1]).mean(-1)
    if curves.scores.shape[1] != curves.scores.shape[3]:
        return Numbers(final, None, None)
    own = scale.normalise(_at_own_end(curves))
    lost = transfer.forgetting(own, scale.normalise(curves.scores[:, -1, -1])).mean(-1)
    scratch = np.maximum(_areas(reference, scale).mean(0), 0.0)
    if not (scratch < 1).all():
        return Numbers(final, lost, None)
    areas = _areas(curves, scale)
    forward = transfer.forward_transfer(areas, np.broadcast_to(scratch, areas.shape))
    return Numbers(final, lost, forward.mean(-1))


def _at_own_end(curves: Curves) -> np.ndarray:
    """`[S, N]`, each task's score when it has just been learnt."""
    i = np.arange(curves.scores.shape[3])
    return curves.scores[:, i, -1, i].reshape(len(curves.scores), -1)


def _areas(curves: Curves, scale: Scale) -> np.ndarray:
    """`[S, N']`, of each task over its own training."""
    n = curves.scores.shape[3]
    each = [
        transfer.learning_curve_area(curves.steps[i], curves.scores[:, i, :, i]) for i in range(n)
    ]
    return scale.normalise(np.stack(each, -1))
