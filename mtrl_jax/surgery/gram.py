"""The two passes over K task gradients that every surgery method needs, and nothing else.

`gram_matrix` reads the gradients once and gives the K x K inner products; every decision is then
taken on K x K numbers; `weighted_sum` reads the gradients a second time and gives the update.
Leaves are never concatenated, reshaped or transposed, and nothing of size K * P is copied.

This file says what the two are. What stands in `gram_cpu` and `gram_tpu` is the same arithmetic in
a form that the platform's compiler makes a good program of, and goes when it makes one of this.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mtrl_jax.surgery import gram_cpu, gram_tpu
from mtrl_jax.surgery.dtypes import accumulator

__all__ = ["gram_matrix", "weighted_sum"]


def _dot(x: jax.Array) -> jax.Array:
    """`[K, *param] -> [K, K]`. All axes but the first are contracted where they are: flattened
    first, they would be copied into other tiles on a TPU."""
    axes = tuple(range(1, x.ndim))
    return lax.dot_general(
        x,
        x,
        ((axes, axes), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=accumulator(x.dtype),
    )


def _sum(w: jax.Array, x: jax.Array) -> jax.Array:
    """`[K], [K, *param] -> [*param]` in the dtype of w.

    A dot and not products that are added: where all weights are one constant (the mean), XLA makes
    it part of the product that the gradient is, and the task gradients are never stored.
    """
    tasks = (((0,), (0,)), ((), ()))
    return lax.dot_general(w, x.astype(w.dtype), tasks, precision=lax.Precision.HIGHEST)


def gram_matrix(grads: Any) -> jax.Array:
    """Inner products of the task gradients, summed over all leaves: `G_ij = <g_i, g_j>`.

    Args:
      grads: a pytree whose leaves lead with the task axis, `[K, *param]`, of floating dtypes.

    Returns:
      `[K, K]`, symmetric: float32, accumulated in float32 also for bfloat16 and float16 leaves
      (float64 if a leaf is). A NaN or an infinity in task i shows in row and column i.
    """

    def one(leaf: jax.Array) -> jax.Array:
        on = {"cpu": gram_cpu.gram, "tpu": gram_tpu.gram if gram_tpu.takes(leaf) else _dot}
        gram: jax.Array = lax.platform_dependent(leaf, **on, default=_dot)
        return gram

    return functools.reduce(operator.add, [one(leaf) for leaf in jax.tree.leaves(grads)])


def weighted_sum(weights: jax.Array, grads: Any, like: Any = None) -> Any:
    """The update `sum_i w_i g_i`.

    Args:
      weights: `[K]`, floating.
      grads: a pytree with leaves `[K, *param]`.
      like: the same tree of anything that has the dtypes of the update, such as the parameters;
        None: those of `grads`.

    Returns:
      The same tree with leaves `[*param]`; accumulated in float32 (float64 if the leaf or what
      it is like is), and rounded once, to the dtype asked for.
    """

    def one(leaf: jax.Array, target: Any) -> jax.Array:
        out = jnp.result_type(target)
        w = weights.astype(accumulator(leaf.dtype, out))
        total: jax.Array = lax.platform_dependent(w, leaf, cpu=gram_cpu.weighted_sum, default=_sum)
        return total.astype(out)

    return jax.tree.map(one, grads, grads if like is None else like)
