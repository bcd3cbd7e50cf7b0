"""The two passes over K task gradients that every surgery method needs, and nothing else.

`gram_matrix` reads the gradients once and gives the K x K inner products; every decision is then
taken on K x K numbers; `weighted_sum` reads the gradients a second time and gives the update.
Leaves are never concatenated, and nothing of size K * P is copied: on CPU the temporaries are a few
blocks of columns.

The CPU paths exist because XLA:CPU (jax 0.10.2 and 0.12.0.1) transposes the whole right-hand side
of a dot that contracts a long minor axis, runs independent operations one after the other, and
vectorises an elementwise loop only where it is one-dimensional. An accelerator gets the plain dot.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["gram_matrix", "weighted_sum"]

_ROWS = 32  # rows of one tile of the Gram matrix: tiles below the diagonal are not computed
_FEW = 3  # up to this many tasks a dot is mostly packing; products by pairs are 2-3 times faster
_LANES, _UNROLL = (
    1024,
    8,
)  # the products by pairs: accumulators of one pair, slices added per iteration


def _block_columns(k: int) -> int:
    """Columns of one block: K rows of it are 40 to 200 KB, a fraction of an L2 cache."""
    return 4096 if k <= 16 else 1024


def _accumulator(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)  # float32, or float64 for float64 gradients


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """`[M, n], [N, n] -> [M, N]`."""
    return lax.dot_general(
        x,
        y,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=_accumulator(x.dtype),
    )


def _plain(x: jax.Array) -> jax.Array:
    return _dot(x, x)


def _mirror(tiles: list[list[jax.Array]]) -> jax.Array:
    """Whole symmetric matrix; `tiles[a][c - a]` is tile (a, c), on or above the diagonal."""
    n = len(tiles)
    rows = [[tiles[c][a - c].T if c < a else tiles[a][c - a] for c in range(n)] for a in range(n)]
    return jnp.concatenate([jnp.concatenate(row, axis=1) for row in rows])


def _bits(x: jax.Array) -> jax.Array:
    """Narrow floats as integers of their width; float32 and float64 as they are.

    XLA:CPU widens every operation on bfloat16, also slices, and moves the widening of all of x out
    of the loop over its blocks: a copy of twice its size. Integers it leaves alone.
    """
    narrow = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize)
    return x if narrow is None else lax.bitcast_convert_type(x, narrow)


def _slice(bits: jax.Array, starts: tuple, sizes: tuple[int, ...], dtype: Any) -> jax.Array:
    """A block of the array behind `bits`, in its floating dtype."""
    block = lax.dynamic_slice(bits, starts, sizes)
    return block if bits.dtype == dtype else lax.bitcast_convert_type(block, dtype)


def _sum_over_blocks(block: Any, count: int, x: jax.Array) -> Any:
    """Sum of the pytrees `block(0) .. block(count - 1)`, which are made of pieces of x."""

    def zeros(like):
        # A select and not `jnp.zeros`: under `shard_map` a carry must vary over devices as x does.
        return jnp.where(jnp.zeros(like.shape, bool), x[0, 0].astype(like.dtype), 0)

    def add(b, total):
        return jax.tree.map(operator.add, total, block(b))

    return lax.fori_loop(0, count, add, jax.tree.map(zeros, jax.eval_shape(block, 0)))


def _by_tiles(x: jax.Array) -> jax.Array:
    """Blocks of columns that stay in the cache, tiles of rows on and above the diagonal."""
    k, n = x.shape
    width = _block_columns(k)

    def tiles(start, size):
        sizes = [(r, min(_ROWS, k - r)) for r in range(0, k, _ROWS)]
        rows = [lax.dynamic_slice(x, (r, start), (m, size)) for r, m in sizes]
        return [[_dot(a, c) for c in rows[i:]] for i, a in enumerate(rows)]

    if n < 2 * width:
        return _mirror(tiles(0, n))
    total = _sum_over_blocks(lambda b: tiles(b * width, width), n // width, x)
    if n % width:
        total = jax.tree.map(operator.add, total, tiles(n - n % width, n % width))
    return _mirror(total)


def _by_pairs(x: jax.Array) -> jax.Array:
    """For few tasks: one fused loop a pair, with `_LANES` accumulators, straight from x."""
    k, n = x.shape
    width = _LANES * _UNROLL
    if n < width:
        return _plain(x)
    bits = _bits(x)

    def products(b):
        def piece(i, u):
            row = _slice(bits, (i, b * width + u * _LANES), (1, _LANES), x.dtype)
            return row[0].astype(_accumulator(x.dtype))

        rows = [[piece(i, u) for u in range(_UNROLL)] for i in range(k)]
        pairs = [(rows[i], rows[j]) for i in range(k) for j in range(i, k)]
        return [functools.reduce(operator.add, map(operator.mul, a, c)) for a, c in pairs]

    # A dot with ones: a reduction of a long minor axis is not vectorised by XLA:CPU.
    lanes = jnp.stack(_sum_over_blocks(products, n // width, x))
    upper = iter(lax.dot(lanes, jnp.ones(_LANES, lanes.dtype), precision=lax.Precision.HIGHEST))
    entries = {(i, j): next(upper) for i in range(k) for j in range(i, k)}
    g = jnp.stack([jnp.stack([entries[min(i, j), max(i, j)] for j in range(k)]) for i in range(k)])
    return g + _plain(x[:, n - n % width :]) if n % width else g


def gram_matrix(grads: Any) -> jax.Array:
    """Inner products of the task gradients, summed over all leaves: `G_ij = <g_i, g_j>`.

    Args:
      grads: a pytree whose leaves lead with the task axis, `[K, *param]`, of floating dtypes.

    Returns:
      `[K, K]`, symmetric: float32, accumulated in float32 also for bfloat16 and float16 leaves
      (float64 if a leaf is). A NaN or an infinity in task i shows in row and column i.
    """

    def one(leaf):
        x = leaf.reshape(leaf.shape[0], -1)
        if leaf.shape[0] <= _FEW:
            return lax.platform_dependent(x, cpu=_by_pairs, default=_plain)
        if leaf.dtype.itemsize < 4:  # the dot of XLA:CPU takes bfloat16 as it is, without a copy
            return _plain(x)
        return lax.platform_dependent(x, cpu=_by_tiles, default=_plain)

    return functools.reduce(operator.add, [one(leaf) for leaf in jax.tree.leaves(grads)])


def weighted_sum(weights: jax.Array, grads: Any) -> Any:
    """The update `sum_i w_i g_i`, a dot over the task axis of every leaf.

    A dot and not a sum over axis 0: XLA:CPU of jax 0.10 reduces over a leading axis many times more
    slowly.

    Args:
      weights: `[K]`, float32.
      grads: a pytree with leaves `[K, *param]`.

    Returns:
      The same tree with leaves `[*param]`, each in the dtype of its leaf; accumulated in float32
      (float64 for float64 leaves).
    """

    def dot(w, x):
        y = x.astype(w.dtype)
        return lax.dot(w, y, precision=lax.Precision.HIGHEST).astype(x.dtype)

    def fused(
        w, x
    ):  # one loop that widens as it reads; XLA:CPU would first widen all of x for a dot
        rows = [w[i] * x[i].astype(w.dtype) for i in range(x.shape[0])]
        return functools.reduce(operator.add, rows).astype(x.dtype)

    def split(w, x):  # three bfloat16 numbers hold every bit of a float32, so nothing is widened
        parts = []
        for _ in range(3):
            parts.append(w.astype(jnp.bfloat16))
            w = w - parts[-1].astype(w.dtype)
        y = lax.dot(jnp.stack(parts), x, preferred_element_type=w.dtype)
        return (y[0] + (y[1] + y[2])).astype(x.dtype)

    def one(leaf):
        x = leaf.reshape(leaf.shape[0], -1)
        w = weights.astype(_accumulator(leaf.dtype))
        on_cpu = dot
        if leaf.dtype.itemsize < 4 and leaf.shape[0] <= 16:
            on_cpu = fused
        elif leaf.dtype == jnp.bfloat16:
            on_cpu = split
        return lax.platform_dependent(w, x, cpu=on_cpu, default=dot).reshape(leaf.shape[1:])

    return jax.tree.map(one, grads)
