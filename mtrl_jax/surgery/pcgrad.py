"""PCGrad: each task gradient is projected off the gradients that it conflicts with."""

from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_choice, check_task, static_int
from mtrl_jax.surgery.orders import fixed_orders, random_orders
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform
from mtrl_jax.surgery.varying import vary_like

__all__ = ["pcgrad", "pcgrad_main_weights", "pcgrad_weights"]


def pcgrad_weights(gram: Array, orders: Array) -> Array:
    """Weights of the *sum* of the projected gradients.

    With p_i = sum_j C_ij g_j and S_ij = <p_i, g_j>, starting from C = I and S = G, row i visits j:

        a = max(0, -S_ij) / G_jj;    C_ij += a;    S_i += a G_j

    and in the end w_j = sum_i C_ij. All rows advance together. A zero g_j is never visited
    (S_ij = 0), and no epsilon enters: small gradients stay exact.

    Args:
      gram: float32 `[K, K]`.
      orders: int `[K, K - 1]`, row i the tasks other than i in the order in which i visits them.

    Returns:
      float32 `[K]`, each at least 1.
    """
    k = gram.shape[0]
    d = jnp.diagonal(gram)
    inverse = jnp.where(d > 0, 1.0 / jnp.where(d > 0, d, 1.0), 0.0)
    rows = jnp.arange(k)

    def visit(carry: tuple[Array, Array], j: Array) -> tuple[Any, None]:
        c, s = carry
        a = jnp.maximum(-s[rows, j], 0.0) * inverse[j]
        return (c.at[rows, j].add(a), s + a[:, None] * gram[j]), None

    start = (vary_like(jnp.eye(k, dtype=gram.dtype), gram), gram)
    c: Array = jax.lax.scan(visit, start, orders.T)[0][0]
    return c.sum(0)


def pcgrad_main_weights(gram: Array, main: Array | int = 0) -> Array:
    """Weights of the sum of gradients of which all but the main one are projected off that one.

    `w_main = 1 + sum_i max(0, -G_i,main) / G_main,main` over the others, whose weights are 1.

    Args:
      gram: float32 `[K, K]`.
      main: index of the main task. Where its gradient is 0 all weights are 1.

    Returns:
      float32 `[K]`, each at least 1.
    """
    length = gram[main, main]
    inverse = jnp.where(length > 0, 1.0 / jnp.where(length > 0, length, 1.0), 0.0)
    added = jnp.maximum(-gram[main], 0.0).sum() * inverse
    return jnp.where(jnp.arange(gram.shape[0]) == main, 1.0 + added, 1.0)


@factory
def pcgrad(
    num_tasks: int,
    *,
    reduction: Literal["sum", "mean"] = "sum",
    order: Literal["independent", "shared", "fixed"] = "independent",
    num_orders: int | None = None,
    main: int | None = None,
    **options: Unpack[Options],
) -> Transform:
    """PCGrad, "project conflicting gradients".

    Yu, Kumar, Gupta, Levine, Hausman & Finn 2020, "Gradient Surgery for Multi-Task Learning", arXiv
    2001.06782, algorithm 1. For every task i, p_i := g_i; then for every other task j in random
    order

        if <p_i, g_j> < 0:    p_i := p_i - (<p_i, g_j> / |g_j|^2) g_j

    and the update is sum_i p_i. The paper's algorithm is followed: an order of its own for every
    task, oneself not visited, the sum. (The authors' TensorFlow code always visits 0 to K - 1,
    because the result of its shuffle is not used: `order='fixed'`.)

    Needs the gradients only; no hyperparameter. The place to start when tasks conflict. Under Adam
    it is scale-free up to the weights; under SGD or clipping note the sum: `reduction='mean'`
    keeps the learning rate of plain mean training. For K > 2 the update may still conflict with
    some task; see `upgrad` for one that does not.

    With a `main` task and auxiliary ones, only the main gradient is protected:

        d = g_main + sum_i [ g_i - (min(0, <g_i, g_main>) / |g_main|^2) g_main ]

    so that <d, g_main> is at least |g_main|^2, and nothing is drawn.

    Args:
      num_tasks: K.
      reduction: 'sum' as in the paper, or 'mean' (the sum over K).
      order: 'independent'; 'shared', one order for all tasks (other ports; more variance); 'fixed'.
      num_orders: weights are averaged over this many draws (K x K work each), which divides the
        variance that comes from the orders.
      main: index of the one task that the others are projected off; then `order` and `num_orders`
        mean nothing, and while it is absent nothing moves. None: all are projected off all others.
      options: see `Options`.
    """
    check_choice("reduction", reduction, ("sum", "mean"))
    check_choice("order", order, ("independent", "shared", "fixed"))
    if main is not None:
        check_task("main", main, num_tasks)

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        k = inputs.gram.shape[0]
        if main is not None:
            there = inputs.present & inputs.present[main]
            w = jnp.where(there, pcgrad_main_weights(inputs.gram, main), 0.0)
            return (w / inputs.num_present if reduction == "mean" else w), state

        def draw(key: Array) -> Array:
            if order == "fixed":
                return pcgrad_weights(inputs.gram, fixed_orders(k))
            orders = random_orders(key, k, shared=order == "shared")
            return pcgrad_weights(inputs.gram, orders)

        n = 1 if num_orders is None else static_int("num_orders", num_orders)
        if n == 1 or order == "fixed":
            w = draw(inputs.key)
        else:
            w = jax.vmap(draw)(jax.random.split(inputs.key, n)).mean(0)
        return (w / inputs.num_present if reduction == "mean" else w), state

    draws = main is None and order != "fixed"
    method = Method("pcgrad", weights, uses_key=draws, sums=reduction == "sum")
    return make_transform(method, num_tasks, **options)
