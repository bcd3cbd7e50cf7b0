"""UPGrad: every task gradient is projected onto the cone where no task gets worse."""

from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_choice
from mtrl_jax.surgery.quadratic import dual_cone_weights
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["upgrad", "upgrad_weights"]


def upgrad_weights(gram: Array) -> Array:
    """Weights of the sum over i of the projections of g_i onto `{d : <g_j, d> >= 0 for all j}`.

    Args:
      gram: float32 `[K, K]`.

    Returns:
      float32 `[K]`, each at least 1.
    """
    each = jnp.eye(gram.shape[0], dtype=gram.dtype)
    return jax.vmap(dual_cone_weights, in_axes=(None, 0))(gram, each).sum(0)


@factory
def upgrad(
    num_tasks: int,
    *,
    reduction: Literal["mean", "sum"] = "mean",
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
      options: see `Options`.
    """
    check_choice("reduction", reduction, ("sum", "mean"))

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        w = upgrad_weights(inputs.gram)
        return (w / inputs.num_present if reduction == "mean" else w), state

    method = Method("upgrad", weights, sums=reduction == "sum")
    return make_transform(method, num_tasks, **options)
