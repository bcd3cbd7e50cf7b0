"""Losses weighted by learned task uncertainties."""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["uncertainty_step", "uncertainty_weighting", "uncertainty_weights"]


def uncertainty_weights(log_variance: Array) -> Array:
    """`w_i = 1/2 exp(-s_i)`, s the log variances, float32 `[K]`."""
    return 0.5 * jnp.exp(-log_variance)


def uncertainty_step(
    log_variance: Array, task_losses: Array, learning_rate: Array | float
) -> Array:
    """One gradient step on s of `sum_i 1/2 (exp(-s_i) L_i + s_i)`, float32 `[K]`.

    Where a loss is not positive the sum has no minimum, and s_i stays.
    """
    step = learning_rate * 0.5 * (1.0 - jnp.exp(-log_variance) * task_losses)
    return jnp.where(task_losses <= 0, log_variance, log_variance - step)


@factory
def uncertainty_weighting(
    num_tasks: int,
    *,
    learning_rate: float = 0.01,
    **options: Unpack[Options],
) -> Transform:
    """UW, weighting by homoscedastic uncertainty.

    Kendall, Gal & Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics", arXiv 1705.07115, equation 7 with s = log sigma^2, for all losses in
    its regression form:

        sum_i 1/2 exp(-s_i) L_i + 1/2 s_i

    so that a task with a large loss gets a small weight. The s_i are learned here by plain
    gradient descent (the paper trains them with the network's optimiser) and start at 0.

    Needs `task_losses`; one that is not positive, whose s_i would fall for ever, leaves it alone.
    Gradients enter the update only.

    Args:
      num_tasks: K.
      learning_rate: of the log variances.
      options: see `Options`.
    """
    check_positive("learning_rate", learning_rate)

    def weights(inputs: Inputs, s: Array) -> tuple[Array, Any]:
        return uncertainty_weights(s), uncertainty_step(s, inputs.task_losses, learning_rate)

    def init(k: int) -> Any:
        return jnp.zeros((k,), jnp.float32)

    method = Method(
        "uncertainty_weighting", weights, init=init, uses_gram=False, uses_losses=True, sums=True
    )

    return make_transform(method, num_tasks, **options)
