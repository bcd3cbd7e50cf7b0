"""DualProj: the mean gradient is projected onto the cone where no task gets worse."""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.quadratic import dual_cone_weights
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["dual_proj", "dual_proj_weights"]


def dual_proj_weights(gram: Array) -> Array:
    """Weights of the projection of the mean gradient onto `{d : <g_i, d> >= 0 for all i}`.

    Args:
      gram: float32 `[K, K]`.

    Returns:
      float32 `[K]`, each at least 1/K.
    """
    k = gram.shape[0]
    return dual_cone_weights(gram, jnp.full((k,), 1.0 / k, gram.dtype))


@factory
def dual_proj(num_tasks: int, **options: Unpack[Options]) -> Transform:
    """DualProj, the projection of GEM applied to the mean gradient.

    Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning", arXiv 1706.08840,
    equation 11 (there for the newest task's gradient; for the mean as in Quinton & Rey 2024, arXiv
    2406.16232):

        min |d - (1/K) sum_i g_i|^2    subject to <g_i, d> >= 0 for every task

    The smallest change of plain mean training that sets no task back. Needs the gradients only; one
    quadratic programme. Cheaper than `upgrad`, but a task with a large gradient decides the mean.

    Args:
      num_tasks: K.
      options: see `Options`.
    """

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        # The projection of a shorter mean, where tasks are absent, is shorter.
        return dual_proj_weights(inputs.gram) * (inputs.num_tasks / inputs.num_present), state

    return make_transform(Method("dual_proj", weights), num_tasks, **options)
