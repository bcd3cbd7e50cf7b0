"""What a Transporter network learns from one demonstrated action, and how tasks share the samples.

Each function is of one sample, or of K tasks; the caller takes means. `networks/transporter.py` has
the logits.
"""

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_bool, assert_shape, at_least_float32, check_range
from mtrl_jax.types import Array

__all__ = ["pick_loss", "place_loss", "running_loss", "task_shares"]


def pick_loss(logits: Array, index: Array) -> Array:
    """Cross-entropy of the demonstrated pixel, or of picking nothing.

    Zeng et al. 2020, *Transporter Networks*, arXiv 2010.14406, section III (one softmax over all
    pixels):

        L = -log softmax(logits)[index]

    Args:
      logits: [P], one a pixel and one of picking nothing.
      index: int [].

    Returns:
      []. Carries gradient to `logits`.

    Raises:
      ValueError: for a wrong shape.
    """
    assert_shape("[P]", (None,), logits=logits)
    assert_shape("[]", (), index=index)
    logits = at_least_float32(logits)
    return jax.nn.logsumexp(logits) - logits[index]


def place_loss(logits: Array, place: Array, right: Array) -> Array:
    """Cross-entropy of the demonstrated place with any turn after which the thing looks the same.

    Zeng et al. 2020, arXiv 2010.14406, section III (one softmax over turns and pixels), where one
    turn is right; a square has four:

        L = -log sum_{t in right} softmax(logits)[t, place]

    Args:
      logits: [R, H, W].
      place: int [2], row and column.
      right: bool [R], turns that are right, one at least.

    Returns:
      []. Carries gradient to `logits`.

    Raises:
      ValueError: for a wrong shape or type.
    """
    assert_shape("[R, H, W]", (None, None, None), logits=logits)
    assert_shape("[2]", (2,), place=place)
    assert_shape("[R]", jnp.shape(logits)[:1], right=right)
    assert_bool(right=right)
    logits = at_least_float32(logits)
    of_place = jnp.where(right, logits[:, place[0], place[1]], -jnp.inf)
    return jax.nn.logsumexp(logits) - jax.nn.logsumexp(of_place)


def running_loss(running: Array, losses: Array, tasks: Array, rate: float | Array) -> Array:
    """Each task's loss, averaged over the samples so far, the latest counting most.

    With n_k samples of task k in a batch and m_k their mean loss,

        l_k <- l_k + (1 - (1 - r)^n_k) (m_k - l_k)

    Args:
      running: [K], l.
      losses: [B].
      tasks: int [B], of each sample.
      rate: r, of one sample, in [0, 1].

    Returns:
      [K], as it was where a task has no sample. Without gradient.

    Raises:
      ValueError: for a wrong shape or a rate out of range.
    """
    assert_shape("[K]", (None,), running=running)
    assert_shape("[B]", jnp.shape(tasks), losses=losses)
    check_range("rate", rate, 0.0, 1.0)
    one_hot = jax.nn.one_hot(tasks, jnp.shape(running)[0])
    count = one_hot.sum(0)
    mean = losses @ one_hot / jnp.maximum(count, 1.0)
    moved = running + (1.0 - (1.0 - rate) ** count) * (mean - running)
    return jax.lax.stop_gradient(moved)


def task_shares(running: Array, floor: float | Array) -> Array:
    """How often each task is drawn: the more, the higher its loss is.

    Lim et al. 2021, *Multi-Task Learning with Sequence-Conditioned Transporter Networks*, arXiv
    2109.07578, draw tasks with weights; this rule for them is ours, a mixture with equal shares:

        p_k = f / K + (1 - f) l_k / sum_j l_j

    Args:
      running: [K], l, not negative; equal shares where all are 0.
      floor: f, in [0, 1]; 1 draws all tasks alike.

    Returns:
      [K], which sum to 1. Without gradient.

    Raises:
      ValueError: for a wrong shape or a floor out of range.
    """
    assert_shape("[K]", (None,), running=running)
    check_range("floor", floor, 0.0, 1.0)
    total, count = running.sum(), jnp.shape(running)[0]
    share = jnp.where(total > 0, running / jnp.where(total > 0, total, 1.0), 1.0 / count)
    return jax.lax.stop_gradient(floor / count + (1.0 - floor) * share)
