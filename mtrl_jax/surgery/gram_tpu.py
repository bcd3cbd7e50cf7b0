"""The Gram matrix of few tasks in a form that XLA:TPU makes a good program of.

Compiled, not run: libtpu 0.0.42 (jaxlib 0.10.2), for v5e and v6e. A dot of float32 numbers at the
highest precision is six passes of the matrix unit over rows of which it could hold 128, and its
program is unrolled over the contracted axes: 13 s of compilation for one leaf `[10, 400, 400]`,
where the sums below take 1, and 2.7 times their cycles by the compiler's estimate. Both read the
leaf once. `tests/machinery/test_surgery_tpu.py` holds the bytes, and fails once the dot is as good.
"""

import jax
import jax.numpy as jnp
from jax import lax

from mtrl_jax.surgery.dtypes import accumulator

__all__ = ["gram", "takes"]

_MOST = 14  # tasks: two passes of sums have two thirds of the dot's cycles
_SUMS = 55  # of one pass, those of ten tasks' pairs; more than 64 are not fused


def takes(leaf: jax.Array) -> bool:
    """Whether `gram` is for such a leaf; rows of a matrix are not whole tiles: a dot is better."""
    return 1 < leaf.shape[0] <= _MOST and leaf.ndim > 2


@jax.jit  # traced once a shape
def gram(leaf: jax.Array) -> jax.Array:
    """`[K, *param] -> [K, K]`: the products of all pairs, summed in one pass over the leaf; with
    more than ten tasks in two, of half the pairs each."""
    k, dtype = leaf.shape[0], accumulator(leaf.dtype)
    pairs = [(i, j) for i in range(k) for j in range(i, k)]
    rows = [leaf[i].astype(dtype) for i in range(k)]

    def add(a: list[jax.Array], b: list[jax.Array]) -> list[jax.Array]:
        return [x + y for x, y in zip(a, b, strict=True)]

    found: dict[tuple[int, int], jax.Array] = {}
    size = -(-len(pairs) // -(-len(pairs) // _SUMS))
    for first in range(0, len(pairs), size):
        part = pairs[first : first + size]
        zeros = [jnp.zeros((), dtype)] * len(part)
        products = [rows[i] * rows[j] for i, j in part]
        sums = lax.reduce(products, zeros, add, tuple(range(leaf.ndim - 1)))
        found |= dict(zip(part, sums, strict=True))
    return jnp.stack([found[min(i, j), max(i, j)] for i in range(k) for j in range(k)]).reshape(
        k, k
    )
