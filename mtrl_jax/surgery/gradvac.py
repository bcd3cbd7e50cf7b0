"""Gradient Vaccine: task gradients are turned until their cosines reach a running target."""

from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_choice
from mtrl_jax.surgery.orders import random_orders
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform
from mtrl_jax.surgery.varying import vary_like

__all__ = ["gradvac", "gradvac_weights"]


def gradvac_weights(
    gram: Array, target: Array, orders: Array, beta: Array | float
) -> tuple[Array, Array]:
    """Weights of the sum of the corrected gradients, and the new targets.

    As `pcgrad_weights`, with p_i = sum_j C_ij g_j. Row i visits j with phi = cos(p_i, g_j) and the
    target t = target_ij:

        if phi < t:    p_i += a g_j
        a = |p_i| (t sqrt(1 - phi^2) - phi sqrt(1 - t^2)) / (|g_j| sqrt(1 - t^2))
        target_ij := (1 - beta) t + beta phi

    Args:
      gram: float32 `[K, K]`.
      target: float32 `[K, K]`, running means of the cosines; zeros at first, and then the
        correction is PCGrad's projection.
      orders: int `[K, K - 1]`, see `random_orders`.
      beta: weight of the newest cosine.

    Returns:
      float32 `[K]` and `[K, K]`. A zero gradient corrects nothing and leaves its targets alone.
    """
    k = gram.shape[0]
    rows = jnp.arange(k)
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0.0))

    def visit(carry: tuple[Array, Array, Array], j: Array) -> tuple[Any, None]:
        c, s, target = carry
        own = jnp.sqrt(jnp.maximum(jnp.sum(c * s, axis=1), 0.0))
        alive = (own > 0) & (norms[j] > 0)
        phi = jnp.where(alive, s[rows, j] / jnp.where(alive, own, 1.0), 0.0)
        phi = jnp.clip(phi / jnp.where(alive, norms[j], 1.0), -1.0, 1.0)
        t = target[rows, j]
        sin_phi, sin_t = jnp.sqrt(1.0 - phi**2), jnp.sqrt(jnp.maximum(1.0 - t**2, 0.0))
        act = alive & (phi < t) & (sin_t > 0)
        below = jnp.where(act, norms[j] * sin_t, 1.0)
        a = jnp.where(act, own * (t * sin_phi - phi * sin_t) / below, 0.0)
        new = jnp.where(alive, (1.0 - beta) * t + beta * phi, t)
        return (c.at[rows, j].add(a), s + a[:, None] * gram[j], target.at[rows, j].set(new)), None

    start = vary_like((jnp.eye(k, dtype=gram.dtype), gram, target), gram)
    (c, _, target), _ = jax.lax.scan(visit, start, orders.T)
    return c.sum(0), target


@factory
def gradvac(
    num_tasks: int,
    *,
    beta: float = 0.01,
    reduction: Literal["sum", "mean"] = "sum",
    **options: Unpack[Options],
) -> Transform:
    """GradVac, "gradient vaccine".

    Wang, Tsvetkov, Firat & Cao 2021, "Gradient Vaccine: Investigating and Improving Multi-task
    Optimization in Massively Multilingual Models", arXiv 2010.05874, algorithm 1 and equation 3.
    PCGrad acts on negative cosines only; here every pair has a target, the running mean of its
    cosine, and a gradient below its target is moved towards it. The update is the sum of the
    corrected gradients.

    Needs the gradients only. For tasks whose gradients mostly agree, where PCGrad does nothing. The
    paper's targets are kept for each layer: `scope='leaf'` or `'module'`.

    Args:
      num_tasks: K.
      beta: of the running mean; the paper has 0.01, other ports 0.5.
      reduction: 'sum' as in the paper, or 'mean' (the sum over K).
      options: see `Options`.
    """
    check_choice("reduction", reduction, ("sum", "mean"))

    def weights(inputs: Inputs, target: Array) -> tuple[Array, Any]:
        k = inputs.num_tasks
        w, target = gradvac_weights(inputs.gram, target, random_orders(inputs.key, k), beta)
        return (w / inputs.num_present if reduction == "mean" else w), target

    def init(k: int) -> Any:
        return jnp.zeros((k, k), jnp.float32)

    method = Method("gradvac", weights, init=init, uses_key=True, sums=reduction == "sum")
    return make_transform(method, num_tasks, **options)
