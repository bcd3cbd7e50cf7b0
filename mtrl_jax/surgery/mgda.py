"""MGDA: the shortest vector in the convex hull of the task gradients."""

from typing import Any, Literal, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_choice
from mtrl_jax.surgery.quadratic import Solution, nonnegative, ridged, unit_gram
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["mgda", "mgda_weights"]


def mgda_weights(gram: Array, present: Array | None = None) -> Array:
    """The w on the simplex that minimises `w'Gw`.

    A zero gradient is itself the shortest vector: it takes all the weight.

    Args:
      gram: `[K, K]`.
      present: bool `[K]`, the tasks that the hull is of; None: all.

    Returns:
      `[K]`, non-negative, sum 1.
    """
    return solve_mgda(gram, present).weights


def solve_mgda(gram: Array, present: Array | None = None) -> Solution:
    """`mgda_weights`, and whether they converged.

    With r_i = min_j |g_j| / |g_i| and unit gradients u_i, the minimum of

        |sum_i z_i u_i|^2 + (sum_i r_i z_i - 1)^2    over z >= 0

    is the shortest vector up to length, w_i ~ z_i r_i (Lawson & Hanson 1974, "Solving Least Squares
    Problems", chapter 23, problem LDP): bounded also where the hull contains 0, and of order 1
    whatever the scales of the tasks are. Where that did not converge, and the update is longer than
    the shortest gradient, that gradient takes all the weight.
    """
    cosines, norms, inverse = unit_gram(gram)
    dead = norms == 0
    smallest = jnp.min(jnp.where(dead, jnp.inf, norms))
    relative = jnp.where(dead, 0.0, smallest * inverse)
    matrix = ridged(cosines) + relative[:, None] * relative[None, :]
    z, converged = nonnegative(matrix, -relative)
    shortest = dead if present is None else dead & present
    w = jnp.where(shortest.any(), shortest.astype(gram.dtype), z * relative)
    w = w / w.sum()
    terms = w * jnp.where(dead, 0.0, norms / jnp.where(dead, 1.0, smallest))
    square = jnp.dot(terms, jnp.dot(cosines, terms, precision="highest"), precision="highest")
    first = jnp.arange(len(w)) == jnp.argmin(jnp.where(dead, jnp.inf, norms))
    shorter = converged | shortest.any() | (square <= 1.0)
    return Solution(jnp.where(shorter, w, first.astype(gram.dtype)), converged)


@factory
def mgda(
    num_tasks: int,
    *,
    normalisation: Literal["none", "l2", "loss", "loss+"] = "none",
    **options: Unpack[Options],
) -> Transform:
    """MGDA, the multiple-gradient descent algorithm.

    Désidéri 2012 and, for deep learning, Sener & Koltun 2018, "Multi-Task Learning as
    Multi-Objective Optimization", arXiv 1810.04650, equation 3:

        min |sum_i w_i g_i|^2    over w >= 0, sum_i w_i = 1

    The update has the same inner product with every task gradient that has weight, and is zero
    exactly at Pareto-stationary points. Solved exactly (the paper iterates Frank-Wolfe). Needs the
    gradients only. The smallest gradient decides the direction and the length.

    With a `normalisation` the weights are found for g_i over |g_i|, L_i or their product, and used
    for the g_i as they are. That is not in the paper; it is an option of the authors' code. (LibMTL
    has it too, and combines the normalised gradients.) 'loss' and 'loss+' need positive
    `task_losses`.

    Args:
      num_tasks: K.
      normalisation: 'none', 'l2' (the norm), 'loss', or 'loss+' (norm times loss).
      options: see `Options`.
    """

    check_choice("normalisation", normalisation, ("none", "l2", "loss", "loss+"))
    by_loss = normalisation in ("loss", "loss+")

    def weights(inputs: Inputs, state: Any) -> tuple[Solution, Any]:
        scales = inputs.ones
        if normalisation in ("l2", "loss+"):
            scales = unit_gram(inputs.gram)[2]
        if by_loss:
            scales = scales / jnp.where(inputs.task_losses > 0, inputs.task_losses, jnp.nan)
        gram = inputs.gram * scales[:, None] * scales[None, :]
        return solve_mgda(inputs.gram if normalisation == "none" else gram, inputs.present), state

    return make_transform(Method("mgda", weights, uses_losses=by_loss), num_tasks, **options)
