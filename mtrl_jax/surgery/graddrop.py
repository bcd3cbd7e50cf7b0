"""GradDrop: each coordinate of the update takes its gradients of one sign."""

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.dtypes import accumulator
from mtrl_jax.surgery.transform import Method, Options, Transform, factory, make_transform

__all__ = ["graddrop", "graddrop_leaf"]


def graddrop_leaf(key: Array, grads: Array, leak: Array | float = 0.0) -> Array:
    """The update of one leaf.

    Args:
      key: typed key; one uniform number is drawn for each coordinate.
      grads: `[K, *param]`, of any floating dtype.
      leak: `[]` or `[K]` in [0, 1], the share of each task's gradient that passes unmasked.

    Returns:
      `[*param]`, float32 (float64 for float64 gradients). NaN where a task's gradient is.
    """
    grads = grads.astype(accumulator(grads.dtype))
    total, size = grads.sum(0), jnp.abs(grads).sum(0)
    purity = 0.5 * (1.0 + total / jnp.where(size > 0, size, 1.0))
    positive = purity > jax.random.uniform(key, purity.shape)
    kept = jnp.where(jnp.where(positive[None], grads > 0, grads < 0), grads, 0.0)
    leak = jnp.broadcast_to(jnp.asarray(leak, grads.dtype), grads.shape[:1])
    leak = leak.reshape(-1, *(1,) * (grads.ndim - 1))
    update = (leak * grads + (1.0 - leak) * kept).sum(0)
    return jnp.where(jnp.isfinite(total), update, jnp.nan)


@factory
def graddrop(
    num_tasks: int,
    *,
    leak: float | Sequence[float] = 0.0,
    **options: Unpack[Options],
) -> Transform:
    """GradDrop, gradient sign dropout.

    Chen, Ngiam, Huang, Luong, Kretzschmar, Chai & Anguelov 2020, "Just Pick a Sign: Optimizing Deep
    Multitask Models with Gradient Sign Dropout", arXiv 2010.06808, algorithm 1, on the gradients
    of the parameters. For each coordinate, with U uniform in [0, 1] and the positive sign purity

        P = 1/2 (1 + (sum_i g_i) / (sum_i |g_i|))

    the positive gradients are summed if P > U, else the negative ones. Its expectation agrees in
    sign with the sum. (The paper acts on the gradients of a layer's activations, with signs taken
    after a product with them; on parameters, as in other libraries, that product is absent.)

    Needs the gradients only, coordinate by coordinate: there are no task weights, `scope` makes no
    difference, and the Gram matrix is computed for the diagnostics alone.

    Args:
      num_tasks: K.
      leak: share of the gradient that passes unmasked, one number or one a task.
      options: see `Options`.
    """
    weights = jnp.asarray(leak, jnp.float32)

    def combine(key: Array, grads: Array) -> Array:
        return graddrop_leaf(key, grads, weights)

    method = Method("graddrop", None, combine=combine, uses_gram=False, uses_key=True, sums=True)
    return make_transform(method, num_tasks, **options)
