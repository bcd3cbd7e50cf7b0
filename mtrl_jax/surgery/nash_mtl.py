"""Nash-MTL: the update is the bargain that the tasks would strike."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.powers import solve_power_equation
from mtrl_jax.surgery.quadratic import Solution
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform
from mtrl_jax.surgery.varying import vary_like

__all__ = ["clip_weights", "nash_mtl", "nash_mtl_weights"]


def nash_mtl_weights(gram: Array) -> Array:
    """The w > 0 with `G w = 1 / w`, for G divided by its Frobenius norm.

    Args:
      gram: `[K, K]`.

    Returns:
      `[K]`; 0 for a zero gradient, which can gain nothing. See `solve_power_equation` for gradients
      that have no solution.
    """
    return solve_nash_mtl(gram).weights


def solve_nash_mtl(gram: Array) -> Solution:
    """`nash_mtl_weights`, and whether they converged."""
    w, converged = solve_power_equation(gram, 1.0)
    return Solution(w * _by_norm(gram)[1], converged)


def _by_norm(gram: Array) -> tuple[Array, Array]:
    """G over its Frobenius norm, and the square root of that norm; no square leaves float32's
    range."""
    largest = jnp.max(jnp.abs(gram))
    scaled = gram / jnp.where(largest > 0, largest, 1.0)
    size = jnp.sqrt(jnp.sum(scaled**2))
    return scaled / jnp.where(size > 0, size, 1.0), jnp.sqrt(size) * jnp.sqrt(largest)


def clip_weights(weights: Array, gram: Array, max_norm: Array | float) -> Array:
    """The weights, made smaller if need be so that the update is no longer than `max_norm`."""
    scaled, root = _by_norm(gram)
    quadratic = jnp.dot(weights, jnp.dot(scaled, weights, precision="highest"))
    length = root * jnp.sqrt(jnp.maximum(quadratic, 0.0))
    too_long = length > max_norm
    return weights * jnp.where(too_long, max_norm / jnp.where(too_long, length, 1.0), 1.0)


@factory
def nash_mtl(
    num_tasks: int,
    *,
    max_norm: float | None = 1.0,
    update_every: int = 1,
    **options: Unpack[Options],
) -> Transform:
    """Nash-MTL, multi-task learning as a bargaining game.

    Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik & Fetaya 2022, arXiv 2202.01017, equation
    4: the Nash bargaining solution of the game whose players are the tasks and whose utilities are
    <g_i, d> is d = sum_i w_i g_i with

        G w = 1 / w,    w > 0

    It does not depend on the scales of the task gradients. Here the equation is solved by Newton's
    method to float32 precision (the authors approximate it by a sequence of convex programmes). As
    in their code G is divided by its norm first, and the update is clipped to `max_norm`. Needs
    the gradients only.

    Args:
      num_tasks: K.
      max_norm: longest update, 1 as in the authors' code; None for no limit.
      update_every: weights are solved for at every so many updates, and kept between (the paper's
        way to save backward passes; the gradients are still needed here, for the clipping).
      options: see `Options`.
    """
    limit = jnp.inf if max_norm is None else max_norm
    if max_norm is not None:
        check_positive("max_norm", max_norm)
    check_positive("update_every", update_every)

    def weights(inputs: Inputs, kept: Solution) -> tuple[Solution, Solution]:
        solved = jax.lax.cond(
            inputs.step % update_every == 0,
            lambda: solve_nash_mtl(inputs.gram),
            lambda: vary_like(kept, inputs.gram),
        )
        return solved._replace(weights=clip_weights(solved.weights, inputs.gram, limit)), solved

    def init(k: int) -> Solution:
        return Solution(jnp.ones((k,), jnp.float32), jnp.ones((), bool))

    method = Method("nash_mtl", weights, init=init)
    return make_transform(method, num_tasks, **options)
