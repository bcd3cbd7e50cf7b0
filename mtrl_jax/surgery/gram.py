"""The two passes over K task gradients that every surgery method needs, and nothing else.

`gram_matrix` reads the gradients once and gives the K x K inner products; every decision is then taken
on K x K numbers; `weighted_sum` reads the gradients a second time and gives the update. Nothing of size
K * P is ever copied.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["gram_matrix", "weighted_sum"]

# Columns of one block on CPU: small enough for K rows of it to stay in the L2 cache.
_BLOCK = 4096


def _dot(x: jax.Array) -> jax.Array:
    """`[K, n] -> [K, K]` float32, whatever the dtype of x."""
    return lax.dot_general(
        x,
        x,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _dot_by_blocks(x: jax.Array) -> jax.Array:
    """`_dot` as a loop over blocks of columns that fit the cache, for XLA:CPU."""
    k, n = x.shape
    blocks = n // _BLOCK
    if blocks < 2:
        return _dot(x)

    def add(g, b):
        return g + _dot(lax.dynamic_slice(x, (0, b * _BLOCK), (k, _BLOCK))), None

    g, _ = lax.scan(add, jnp.zeros((k, k), jnp.float32), jnp.arange(blocks), unroll=4)
    return g + _dot(x[:, blocks * _BLOCK :])


def gram_matrix(grads: Any) -> jax.Array:
    """Inner products of the task gradients, summed over all leaves: `G_ij = <g_i, g_j>`.

    Args:
      grads: a pytree whose leaves lead with the task axis, `[K, *param]`, of any floating dtype.

    Returns:
      float32 `[K, K]`, symmetric. Products are accumulated in float32 also for bfloat16 leaves.
    """

    def one(leaf):
        flat = leaf.reshape(leaf.shape[0], -1)
        return lax.platform_dependent(flat, cpu=_dot_by_blocks, default=_dot)

    first, *rest = [one(leaf) for leaf in jax.tree.leaves(grads)]
    for g in rest:
        first = first + g
    return first


def weighted_sum(weights: jax.Array, grads: Any) -> Any:
    """The update `sum_i w_i g_i`, a dot over the task axis of every leaf.

    A dot and not a sum over axis 0: XLA:CPU of jax 0.10 reduces over a leading axis many times more
    slowly.

    Args:
      weights: float32 `[K]`.
      grads: a pytree with leaves `[K, *param]`.

    Returns:
      The same tree with leaves `[*param]`, each in the dtype of its leaf; accumulated in float32.
    """

    def one(leaf):
        flat = leaf.reshape(leaf.shape[0], -1)
        out = lax.dot_general(
            weights.astype(jnp.float32),
            flat.astype(jnp.float32),
            (((0,), (0,)), ((), ())),
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        return out.astype(leaf.dtype).reshape(leaf.shape[1:])

    return jax.tree.map(one, grads)
