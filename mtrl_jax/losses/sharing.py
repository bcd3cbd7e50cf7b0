r"""Which transitions recorded for other tasks a task learns from, and how much each of them counts.

Task i has data D_i of its own. A transition (s, a, s') of task j is relabelled with task i's own
reward, or with the least that there is, and gets a weight. Every rule is one line::

    none       0
    all        1
    hipi       1 where task i has the largest score among all tasks          `hipi_weights`
    cds        sigmoid(delta / tau) or 1(delta >= 0), above a percentile of D_i     `cds_weights`
    cds_basic  the same, above the mean over D_i
    uds        1, with the least reward
    cds_uds    as cds, with the least reward

Own data has weight 1 under all of them. Q is of the *conservative* critics, the least of them, all
values compared being of one task i. Everything is of one task and `[B]`; vmap over tasks.

Sources, as recalled and not checked against the papers' text: CDS is Yu et al. 2021, *Conservative
data sharing for multi-task offline reinforcement learning*, arXiv 2109.08128; UDS is Yu et al.
2022, *How to leverage unlabeled data in offline reinforcement learning*, arXiv 2202.01741; HIPI is
Eysenbach et al. 2020, *Rewriting history with inverse RL*, arXiv 2002.11089.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax._checks import assert_bool, assert_shape, at_least_float32, check_range
from mtrl_jax.types import Array

__all__ = [
    "RULES",
    "UNLABELLED",
    "cds_weights",
    "effective_share",
    "hipi_weights",
    "log_partition",
    "own_first",
    "own_level",
]

RULES = {
    "none": "own data alone",
    "all": "everything, relabelled",
    "hipi": "what fits this task better than any other",
    "cds": "what the conservative critic values above a percentile of own data",
    "cds_basic": "what it values above the mean of own data",
    "uds": "everything, with the least reward there is",
    "cds_uds": "what cds shares, with the least reward there is",
}
UNLABELLED = ("uds", "cds_uds")  # rules that give shared data the least reward


def own_level(q_own: Array, percentile: Array | float | None) -> Array:
    """What shared data has to reach: a percentile of the values of own data, or their mean.

        P_k { Q(s', a', i) : (s', a') in D_i }

    Args:
      q_own: [N] of a sample of D_i.
      percentile: k in [0, 100], 90 for "the best tenth"; None: the mean (`cds_basic`).

    Returns:
      [], without gradient.

    Raises:
      ValueError: for a wrong shape or a percentile out of range.
    """
    assert_shape("[N]", (None,), q_own=q_own)
    q_own = jax.lax.stop_gradient(at_least_float32(q_own))
    if percentile is None:
        return q_own.mean()
    check_range("percentile", percentile, 0.0, 100.0)
    found: Array = jnp.percentile(q_own, percentile)
    return found


def cds_weights(q: Array, level: Array | float, temperature: Array | float | None) -> Array:
    """Weights of conservative data sharing.

        delta_b = Q(s_b, a_b, i) - level
        w_b = sigmoid(delta_b / tau), or 1 if delta_b >= 0 and else 0

    Args:
      q: [B] conservative values of shared samples, for task i.
      level: [] from `own_level`.
      temperature: [] tau, above 0: a running mean of |delta|. Of delta itself, as the paper is
        recalled to have it, it would turn the weights around where most of it is negative. None:
        weights of 0 and 1.

    Returns:
      [B] in [0, 1], without gradient.

    Raises:
      ValueError: for a wrong shape or a temperature that is not above 0.
    """
    assert_shape("[B]", (None,), q=q)
    assert_shape("[]", (), level=level)
    delta = jax.lax.stop_gradient(at_least_float32(q) - level)
    if temperature is None:
        return (delta >= 0).astype(delta.dtype)
    assert_shape("[]", (), temperature=temperature)
    check_range("temperature", temperature, 0.0, jnp.inf, open_low=True)
    found: Array = jax.nn.sigmoid(delta / temperature)
    return found


def log_partition(q: Array) -> Array:
    """log (1/N) sum_n exp Q(s_n, a_n, j): how large values of task j are over all data.

    Args:
      q: [N] of a sample of all tasks' data, valued for task j.

    Returns:
      [], without gradient.
    """
    assert_shape("[N]", (None,), q=q)
    q = jax.lax.stop_gradient(at_least_float32(q))
    found: Array = jax.nn.logsumexp(q) - np.log(q.shape[0])
    return found


def hipi_weights(q: Array, log_partitions: Array, task: Array | int) -> Array:
    """Weights of 0 and 1 in the manner of HIPI: 1 where no other task fits the sample better.

        score_j = Q(s_b, a_b, j) - log Z_j,    w_b = 1( i = argmax_j score_j )

    HIPI draws the task from softmax_j score_j; the largest stands for the draw here. Without log Z
    the task with the largest rewards would take everything.

    Args:
      q: [J, B] values of shared samples for each of J tasks.
      log_partitions: [J], `log_partition` of each.
      task: int [], i.

    Returns:
      float [B], without gradient.

    Raises:
      ValueError: for a wrong shape.
    """
    assert_shape("[J, B]", (None, None), q=q)
    assert_shape("[J]", jnp.shape(q)[:1], log_partitions=log_partitions)
    score = jax.lax.stop_gradient(at_least_float32(q) - log_partitions[:, None])
    return (score.argmax(0) == task).astype(score.dtype)


def own_first(weight: Array, own: Array) -> Array:
    """1 for own data, whatever a rule says of it.

    Args:
      weight: [B].
      own: bool [B].

    Returns:
      [B].

    Raises:
      ValueError: for a wrong shape, or an `own` that is not bool.
    """
    assert_shape("[B]", (None,), weight=weight)
    assert_shape("[B]", jnp.shape(weight), own=own)
    assert_bool(own=own)
    return jnp.where(own, 1.0, weight)


def effective_share(weight: Array, source: Array, num_tasks: int) -> Array:
    """How much of what a task learns from was recorded for each task.

        share_j = sum_b w_b 1(source_b = j) / sum_b w_b

    Args:
      weight: [B].
      source: int [B], the task that a sample was recorded for, in [0, J).
      num_tasks: J.

    Returns:
      [J]; sums to 1, unless all weights are 0.

    Raises:
      ValueError: for a wrong shape.
    """
    assert_shape("[B]", (None,), weight=weight)
    assert_shape("[B]", jnp.shape(weight), source=source)
    summed = jnp.zeros(num_tasks).at[source].add(weight)
    total = summed.sum()
    return summed / jnp.where(total > 0, total, 1.0)
