"""DualProj: the mean gradient is projected onto the cone where no task gets worse."""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.preference import Preference, preferred
from mtrl_jax.surgery.quadratic import Solution, project_on_dual_cone, without_conflict
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["dual_proj", "dual_proj_weights"]


def dual_proj_weights(gram: Array, preference: Array | None = None) -> Array:
    """Weights of the projection of `sum_i p_i g_i` onto `{d : <g_i, d> >= 0 for all i}`.

    Args:
      gram: `[K, K]`.
      preference: `[K]`, p; None: 1/K each.

    Returns:
      `[K]`, each at least p.
    """
    return solve_dual_proj(gram, preference).weights


def solve_dual_proj(gram: Array, preference: Array | None = None) -> Solution:
    """`dual_proj_weights`, and whether they converged; see `without_conflict` for where not."""
    k = gram.shape[0]
    p = jnp.full((k,), 1.0 / k, gram.dtype) if preference is None else preference
    return without_conflict(gram, project_on_dual_cone(gram, p))


@factory
def dual_proj(
    num_tasks: int, *, preference: Preference = None, **options: Unpack[Options]
) -> Transform:
    """DualProj, the projection of GEM applied to the mean gradient.

    Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning", arXiv 1706.08840,
    equation 11 (there for the newest task's gradient; for the mean as in Quinton & Rey 2024, arXiv
    2406.16232):

        min |d - (1/K) sum_i g_i|^2    subject to <g_i, d> >= 0 for every task

    The smallest change of plain mean training that sets no task back (with a `preference`, of
    training by the weighted mean). Needs the gradients only; one
    quadratic programme. Cheaper than `upgrad`, but a task with a large gradient decides the mean.

    Args:
      num_tasks: K.
      preference: `[K]`, how much each task counts, not negative; only ratios count. None: equal.
      options: see `Options`.
    """

    def weights(inputs: Inputs, state: Any) -> tuple[Solution, Any]:
        return solve_dual_proj(inputs.gram, preferred(preference, inputs)), state

    return make_transform(Method("dual_proj", weights), num_tasks, **options)
