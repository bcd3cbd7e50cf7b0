"""UPGrad: every task gradient is projected onto the cone where no task gets worse."""

from typing import Any, Literal, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_choice
from mtrl_jax.surgery.preference import Preference, preferred
from mtrl_jax.surgery.quadratic import Solution, dual_cone, unit_gram, without_conflict
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["upgrad", "upgrad_weights"]


def upgrad_weights(gram: Array, preference: Array | None = None) -> Array:
    """Weights of the sum over i of p_i times the projection of g_i onto
    `{d : <g_j, d> >= 0 for all j}`.

    Args:
      gram: `[K, K]`.
      preference: `[K]`, p; None: ones.

    Returns:
      `[K]`, each at least p.
    """
    return solve_upgrad(gram, preference).weights


def solve_upgrad(gram: Array, preference: Array | None = None) -> Solution:
    """`upgrad_weights`, and whether all K projections converged.

    The K programmes share the cosine matrix and are solved together, one unit gradient a row.
    See `without_conflict` for where one did not converge.
    """
    cosines, norms, inverse = unit_gram(gram)
    p = jnp.ones_like(norms) if preference is None else preference
    x, converged = dual_cone(cosines, jnp.eye(gram.shape[0], dtype=gram.dtype))
    x = jnp.where(norms[:, None] > 0, x, 0.0)  # nothing of a zero gradient is left to project
    largest = jnp.max(norms)
    relative = p * norms / jnp.where(largest > 0, largest, 1.0)
    added = jnp.dot(relative, x, precision="highest") * (largest * inverse)
    return without_conflict(gram, Solution(p + added, converged.all()))


@factory
def upgrad(
    num_tasks: int,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    preference: Preference = None,
    **options: Unpack[Options],
) -> Transform:
    """UPGrad, "unconflicting projection of gradients".

    Quinton & Rey 2024, "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232,
    equation 5: the mean over i of the projection of g_i onto the dual cone of all task gradients.
    What PCGrad becomes when its visits are repeated until nothing conflicts (for two tasks they are
    equal up to K): the update conflicts with no task, is linear in scales, and needs no order.

    Needs the gradients only; solves K quadratic programmes of K variables. The default choice when
    PCGrad's update must not set any task back.

    Args:
      num_tasks: K.
      reduction: 'mean' as in the paper, or 'sum' (to stand beside PCGrad).
      preference: `[K]`, how much each task counts, not negative; only ratios count. None: equal.
      options: see `Options`.
    """
    check_choice("reduction", reduction, ("sum", "mean"))

    def weights(inputs: Inputs, state: Any) -> tuple[Solution, Any]:
        scale = 1.0 if reduction == "mean" else inputs.num_present
        return solve_upgrad(inputs.gram, preferred(preference, inputs) * scale), state

    method = Method("upgrad", weights, sums=reduction == "sum")
    return make_transform(method, num_tasks, **options)
