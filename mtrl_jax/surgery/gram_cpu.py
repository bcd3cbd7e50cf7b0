"""The Gram matrix and the weighted sum in forms that XLA:CPU makes good programs of.

Measured with XLA:CPU of jaxlib 0.10.2 and 0.12.0. There a dot of few rows is mostly packing and
runs on one core, also beside other dots; one with a long contracted axis copies its right-hand side
without XLA's memory analysis showing it; narrow floats are widened as a whole in front of a dot.
`tests/maths/test_gram_platforms.py` asks the compiler of the day whether it still copies and
widens, and fails when it does not: then this can go, and `gram.py` is all there is.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtrl_jax.surgery.dtypes import accumulator

__all__ = ["gram", "weighted_sum"]

_MOST = 50  # tasks up to which the Gram matrix is made by pairs; from there on tiles are as fast
_FUSED = 16  # tasks up to which narrow floats are summed in one loop
_ROWS = 32  # rows of one tile of the Gram matrix: tiles below the diagonal are not computed
# Columns of one block of tiles: rows that fit into a cache, and few enough terms for a dot that
# adds them in order, as it does on some processors: squares of bfloat16 are off by 4e-6 after
# 4096 terms, by 1.5e-6 after 1024.
_COLUMNS = 1024
# Products by pairs: the lanes of an accumulator are whole cache lines, and multiples of them do not
# meet in one cache set; XLA fuses a gather into at most 15 slices.
_LANES, _SLICES = 160, 8
_IN_CACHE = 1100  # accumulators of a block, of 160 lanes each: with the rest about a megabyte


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """`[M, n], [N, n] -> [M, N]`."""
    return lax.dot_general(
        x,
        y,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=accumulator(x.dtype),
    )


def _plain(x: jax.Array) -> jax.Array:
    return _dot(x, x)


def _mirror(tiles: list[list[jax.Array]]) -> jax.Array:
    """Whole symmetric matrix; `tiles[a][c - a]` is tile (a, c), on or above the diagonal."""
    n = len(tiles)
    rows = [[tiles[c][a - c].T if c < a else tiles[a][c - a] for c in range(n)] for a in range(n)]
    return jnp.concatenate([jnp.concatenate(row, axis=1) for row in rows])


def _block(x: jax.Array, starts: tuple[Any, Any], sizes: tuple[int, int]) -> jax.Array:
    """A piece of x, in its dtype; in a loop, of a narrow x too, without a copy of x.

    XLA:CPU of jax 0.10 widens every operation on bfloat16 but not on integers of its width, and
    would do either to all of x in front of the loop, were x not tied to what changes in it.
    """
    narrow = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize)
    if narrow is None:
        return lax.dynamic_slice(x, starts, sizes)
    held, starts = lax.optimization_barrier((x, starts))
    bits = lax.dynamic_slice(lax.bitcast_convert_type(held, narrow), starts, sizes)
    return lax.bitcast_convert_type(bits, x.dtype)


def _zeros(shape: tuple[int, ...], x: jax.Array) -> jax.Array:
    """Accumulators of zeros that vary over devices as x does, which `shard_map` asks of a carry."""
    like = x[0, 0].astype(accumulator(x.dtype))
    return jnp.where(jnp.zeros(shape, bool), like, 0)


def _by_tiles(x: jax.Array) -> jax.Array:
    """Blocks of columns that stay in the cache, tiles of rows on and above the diagonal."""
    k, n = x.shape
    width = _COLUMNS

    def tiles(start: Any, size: int) -> list[list[jax.Array]]:
        sizes = [(r, min(_ROWS, k - r)) for r in range(0, k, _ROWS)]
        # Widened here, in the cache: products of bfloat16 instructions are summed less exactly.
        rows = [_block(x, (r, start), (m, size)).astype(accumulator(x.dtype)) for r, m in sizes]
        return [[_dot(a, c) for c in rows[i:]] for i, a in enumerate(rows)]

    if n < 2 * width:
        return _mirror(tiles(0, n))
    total = jax.tree.map(lambda t: _zeros(t.shape, x), jax.eval_shape(lambda: tiles(0, width)))

    def add(b: jax.Array, total: Any) -> Any:
        return jax.tree.map(operator.add, total, tiles(b * width, width))

    total = lax.fori_loop(0, n // width, add, total)
    if n % width:
        total = jax.tree.map(operator.add, total, tiles(n - n % width, n % width))
    return _mirror(total)


def _by_pairs(x: jax.Array) -> jax.Array:
    """Every pair of rows multiplied lane by lane, in one fused loop that all cores share.

    A block is V chunks of columns; its accumulators are [V, pairs, lanes]. XLA:CPU vectorises this
    loop over lanes, divides it among cores over V, and reads x in place: the rows of a pair are
    gathered from flat x by where they start. The starts are carried by the loop: computed inside,
    they would be computed again for every lane.
    """
    k, n = x.shape
    width = _SLICES * _LANES
    chunks = n // width
    if chunks < 2:
        return _plain(x)
    # Chunks of a block: as many as leave its accumulators in the cache; of the numbers near that,
    # the one with the smallest rest, which a dot then takes.
    most = max(1, min(64, _IN_CACHE // (k * (k + 1) // 2), chunks // 2))
    v = min(range(most, most // 2, -1), key=lambda v: chunks % v)
    rows, columns = np.triu_indices(k)
    near = np.lexsort((columns, rows, columns // 4, rows // 4))  # few rows in the cache at a time
    pairs = np.stack([rows[near], columns[near]])
    first = pairs[:, None] * n + np.arange(v)[:, None] * width
    flat = x.reshape(-1)
    dims = lax.GatherDimensionNumbers((2,), collapsed_slice_dims=(), start_index_map=(0,))

    def block(_: Any, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        total, starts, stride = carry
        a, b = (
            lax.gather(flat, s[..., None], dims, (width,), mode="promise_in_bounds") for s in starts
        )
        for i in range(0, width, _LANES):
            total = total + a[..., i : i + _LANES] * b[..., i : i + _LANES]
        # The scatter is there for jax 0.12.0.1, which runs any loop of elementwise operations on
        # one core; it only counts in entry 1.
        return total, [s + stride[0] for s in starts], stride.at[np.array([1, 1])].add(1)

    total = _zeros((v, len(near), _LANES), x)
    starts, stride = list(jnp.asarray(first, jnp.int32)), jnp.asarray([v * width, 0], jnp.int32)
    total, *_ = lax.fori_loop(0, chunks // v, block, (total, starts, stride))
    entry = np.zeros((k, k), int)
    entry[tuple(pairs)] = entry[tuple(pairs[::-1])] = np.arange(len(near))
    g: jax.Array = total.sum((0, 2))[entry]
    done = chunks // v * v * width
    return g + _plain(x[:, done:]) if done < n else g


def gram(leaf: jax.Array) -> jax.Array:
    """`[K, *param] -> [K, K]`, as `gram_matrix` of one leaf."""
    x = leaf.reshape(leaf.shape[0], -1)
    wide = leaf.dtype.itemsize >= 4 and leaf.size <= np.iinfo(np.int32).max
    return (_by_pairs if 1 < leaf.shape[0] <= _MOST and wide else _by_tiles)(x)


def weighted_sum(w: jax.Array, leaf: jax.Array) -> jax.Array:
    """`[K], [K, *param] -> [*param]` in the dtype of w, as `weighted_sum` of one leaf.

    A dot and not a sum over axis 0, which XLA:CPU of jax 0.10 does many times more slowly.
    """
    x = leaf.reshape(leaf.shape[0], -1)
    if leaf.dtype.itemsize < 4 and leaf.shape[0] <= _FUSED:
        # One loop that widens as it reads, where a dot would first widen all of x.
        rows = [w[i] * x[i].astype(w.dtype) for i in range(x.shape[0])]
        total = functools.reduce(operator.add, rows)
    elif leaf.dtype == jnp.bfloat16 and w.dtype == jnp.float32:
        total = _split(w, x)
    else:
        total = lax.dot(w, x.astype(w.dtype), precision=lax.Precision.HIGHEST)
    return total.reshape(leaf.shape[1:])


def _split(w: jax.Array, x: jax.Array) -> jax.Array:
    """Three bfloat16 numbers hold every bit of a float32, so that x is not widened."""
    parts = []
    for _ in range(3):
        parts.append(w.astype(jnp.bfloat16))
        w = w - parts[-1].astype(w.dtype)
    y = lax.dot(jnp.stack(parts), x, preferred_element_type=w.dtype)
    return y[0] + (y[1] + y[2])
