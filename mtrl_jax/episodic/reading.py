"""Reading tables: the nearest keys, and what MFEC and NEC make of their values."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax._checks import assert_bool, assert_shape, check_range
from mtrl_jax.episodic import tables
from mtrl_jax.episodic.tables import Table
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, Key

__all__ = ["Neighbours", "kernel_value", "mean_value", "nearest", "random_projection"]


class Neighbours(NamedTuple):
    """The k nearest keys of B queries, nearest first.

    Attributes:
      slot: int32 `[B, k]`, where they are.
      distance: float32 `[B, k]`, squared; infinity where there are fewer than k keys.
      valid: bool `[B, k]`, False there.
      exact: bool `[B]`, the query itself is in the table: it is the first.
    """

    slot: Array
    distance: Array
    valid: Array
    exact: Array


def nearest(table: Table, query: Array, k: int, recall: float = 1.0) -> Neighbours:
    """The k keys that are nearest to each query.

    Args:
      table: one.
      query: float `[B, D]`.
      k: at most N.
      recall: below 1, `jax.lax.approx_max_k` with that target chooses, which is faster on a TPU; on
        CPUs and GPUs it is exact.

    Returns:
      `Neighbours`, of equal distances in no particular order. No gradient: indices have none; read
      with `kernel_value` for one.

    Raises:
      ValueError: for a query of another shape, a k that is no integer from 1 to N, or a recall
        outside (0, 1].
    """
    n, dim = table.keys.shape
    assert_shape("[B, D]", (None, dim), query=query)
    check_value("k", k, Count)
    if k > n:
        raise ValueError(f"k must be at most the table's capacity {n}; got {k}")
    check_range("recall", recall, 0.0, 1.0, open_low=True)
    query = jax.lax.stop_gradient(tables.plain(query))
    keys = jax.lax.stop_gradient(table.keys)
    # Keys on the left: of few queries under a vmap over tables XLA:CPU takes a third of the time.
    score = jnp.matmul(keys, query.T, precision=jax.lax.Precision.HIGHEST).T
    score -= table.half_norms[None]
    score = jnp.where(tables.same_bits(table, query), jnp.inf, score)
    # Twice as many as asked for, since the order of scores is that of distances up to rounding.
    count = min(n, 2 * k)
    if recall < 1.0:
        index = jax.lax.approx_max_k(score, count, recall_target=recall)[1]
    else:
        index = jax.lax.top_k(score, count)[1]
    valid = tables.filled(table)[index]
    apart = keys[index] - query[:, None]
    equal = valid & (keys[index] == jnp.broadcast_to(query[:, None], apart.shape)).all(-1)
    distance = jnp.where(valid, jnp.square(apart).sum(-1), jnp.inf)
    # Of equal distances, 0 by underflow among them, the first stays first: the key itself.
    order = jax.lax.top_k(-distance, k)[1]
    index, distance, valid = (
        jnp.take_along_axis(x, order, axis=1) for x in (index, distance, valid)
    )
    return Neighbours(index, distance, valid, equal.any(1))


def mean_value(table: Table, query: Array, found: Neighbours, empty: float = 0.0) -> Array:
    """MFEC's estimate: the stored value of a key that is there, else the neighbours' mean.

    Blundell et al. 2016, section 3, of as many neighbours as there are:

        Q(s, a) = Q_EC(s, a) if (s, a) in Q_EC
        Q(s, a) = 1/k sum_i Q_EC(s_i, a)

    Args:
      table: one.
      query: `[B, D]`.
      found: of `query`.
      empty: what an empty table says; infinity asks for every action once, as public code does for
        fewer than k keys.

    Returns:
      float32 `[B]`, without gradient; NaN for a query that is not finite.
    """
    assert_shape("[B, D]", (found.slot.shape[0], table.keys.shape[1]), query=query)
    values = table.values[found.slot]
    count = found.valid.sum(1)
    mean = jnp.where(found.valid, values, 0.0).sum(1) / jnp.maximum(count, 1)
    value = jnp.where(found.exact, values[:, 0], jnp.where(count > 0, mean, empty))
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(query).all(1), value, jnp.nan))


def kernel_value(
    query: Array, keys: Array, values: Array, valid: Array, delta: float = 1e-3, empty: float = 0.0
) -> Array:
    """NEC's estimate, of one query and its neighbours.

    Pritzel et al. 2017, section 3; the distance in the kernel is squared:

        Q = sum_i w_i v_i,   w_i = k(h, h_i) / sum_j k(h, h_j)
        k(h, h_i) = 1 / (|h - h_i|^2 + delta)

    Args:
      query: [D], h.
      keys: [k, D], `table.keys[found.slot]`.
      values: [k], `table.values[found.slot]`.
      valid: bool [k], from `Neighbours`.
      delta: above 0.
      empty: the value where none is valid.

    Returns:
      [] between the least and the largest of the values. Carries gradient to `query`, `keys` and
      `values`: none to what is not valid.

    Raises:
      ValueError: for a wrong shape, a `valid` that is not bool, or a delta that is not above 0.
    """
    assert_shape("[D]", (None,), query=query)
    assert_shape("[k, D]", (None, *jnp.shape(query)), keys=keys)
    assert_shape("[k]", jnp.shape(keys)[:1], values=values, valid=valid)
    assert_bool(valid=valid)
    check_range("delta", delta, 0.0, float(np.finfo(np.float32).max), open_low=True)
    query = query.astype(jnp.float32)
    keys = jnp.where(valid[:, None], keys, jnp.broadcast_to(query, keys.shape))
    kernel = jnp.where(valid, 1.0 / (jnp.square(query[None] - keys).sum(1) + delta), 0.0)
    total = kernel.sum()
    mean = (kernel * values).sum() / jnp.where(total > 0, total, 1.0)
    return jnp.where(valid.any(), mean, empty)


def random_projection(key: Key, num_inputs: int, dim: int) -> Array:
    """float32 `[num_inputs, dim]`, by which MFEC makes keys of flattened frames in [0, 1].

    Squared distances are kept in the mean, with a relative standard deviation of sqrt(2 / dim). The
    paper's entries have variance 1 and its frames bytes; that is a scale, which no neighbour sees
    but float32 does.
    """
    check_value("num_inputs", num_inputs, Count)
    check_value("dim", dim, Count)
    return jax.random.normal(key, (num_inputs, dim)) / np.sqrt(dim)
