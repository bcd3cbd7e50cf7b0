"""Aligned-MTL: the principal components of the task gradients are made equally long."""

from typing import Any, Literal, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_choice
from mtrl_jax.surgery.preference import Preference, preferred
from mtrl_jax.surgery.spectrum import principal
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["aligned_mtl", "aligned_mtl_weights"]


def aligned_mtl_weights(
    gram: Array,
    scale: Literal["min", "median", "rmse"] = "min",
    preference: Array | None = None,
) -> Array:
    """`w = sqrt(sigma) V diag(1 / sqrt(lambda)) V' p` over the non-zero eigenvalues of G.

    Args:
      gram: float32 `[K, K]`.
      scale: which eigenvalue sigma is: 'min' (the paper), 'median' or 'rmse' (their mean).
      preference: float32 `[K]`, p; None: 1/K each.

    Returns:
      float32 `[K]`; p if all eigenvalues count as 0, see `principal`.
    """
    k = gram.shape[0]
    p = jnp.full((k,), 1.0 / k, gram.dtype) if preference is None else preference
    left, singular, kept = principal(gram)
    rank = kept.sum()
    if scale == "min":
        sigma = singular[jnp.maximum(rank - 1, 0)]
    elif scale == "median":
        sigma = singular[rank // 2]  # of an even number the lower one
    else:
        mean = jnp.where(kept, singular**2, 0.0).sum() / jnp.maximum(rank, 1)
        sigma = jnp.sqrt(mean)
    factors = jnp.where(kept, sigma / jnp.where(kept, singular, 1.0), 0.0)
    w = jnp.dot(left, factors * jnp.dot(p, left, precision="highest"), precision="highest")
    return jnp.where(rank > 0, w, p)


@factory
def aligned_mtl(
    num_tasks: int,
    *,
    scale: Literal["min", "median", "rmse"] = "min",
    preference: Preference = None,
    **options: Unpack[Options],
) -> Transform:
    """Aligned-MTL, independent component alignment.

    Senushkin, Patakin, Kuznetsov & Konushin 2023, "Independent Component Alignment for Multi-Task
    Learning", CVPR (arXiv 2305.19000), algorithm 1: the singular values of the matrix of task
    gradients are replaced by the smallest one, which makes its condition number 1, and the mean of
    the rows is taken, or the combination by the `preference`.

    Needs the gradients only. Removes both conflict and dominance, at the price of a short update
    where the gradients are nearly dependent; of dependent ones only the singular values that are
    not 0 are replaced, by the smallest of these. ('rmse' is the scale of the authors' code.)

    Args:
      num_tasks: K.
      scale: the common singular value: 'min', 'median' or 'rmse'.
      preference: `[K]`, how much each task counts, not negative; only ratios count. None: equal.
      options: see `Options`.
    """
    check_choice("scale", scale, ("min", "median", "rmse"))

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        return aligned_mtl_weights(inputs.gram, scale, preferred(preference, inputs)), state

    return make_transform(Method("aligned_mtl", weights), num_tasks, **options)
