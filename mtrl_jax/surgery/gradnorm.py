"""GradNorm: task weights learned so that tasks train at the same rate."""

from typing import Any, NamedTuple, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["GradNormState", "gradnorm", "gradnorm_step"]


class GradNormState(NamedTuple):
    """Attributes: weights, float32 `[K]`, sum K; first_losses, float32 `[K]`, each
    task's first positive one, 0 before it."""

    weights: Array
    first_losses: Array


def gradnorm_step(
    weights: Array,
    norms: Array,
    ratios: Array,
    alpha: Array | float,
    learning_rate: Array | float,
    present: Array | None = None,
) -> Array:
    """One gradient step on w of `sum_i |w_i n_i - T_i|`, and back to sum K.

    T_i = mean_j(w_j n_j) r_i^alpha is held constant, with r_i the loss ratio over its mean.

    Args:
      weights: float32 `[K]`.
      norms: float32 `[K]`, n, norms of the unweighted task gradients. They are divided by their
        mean first, so that the learning rate means the same for any scale of the losses.
      ratios: float32 `[K]`, L_i / L_i(0).
      alpha: how strongly slow tasks are helped.
      learning_rate: of w.
      present: bool `[K]`, the tasks to balance; None: all.

    Returns:
      float32 `[K]`, positive, sum (of the tasks present) K.
    """
    here = jnp.ones(weights.shape, bool) if present is None else present
    size = norms.mean(where=here)
    norms = norms / jnp.where(size > 0, size, 1.0)
    mean_ratio = ratios.mean(where=here)
    rate = ratios / jnp.where(mean_ratio > 0, mean_ratio, 1.0)
    target = (weights * norms).mean(where=here) * rate**alpha
    weights = weights - learning_rate * jnp.sign(weights * norms - target) * norms
    weights = jnp.maximum(weights, 1e-3)  # the paper's rule alone could cross zero
    return weights * here.sum() / weights.sum(where=here)


@factory
def gradnorm(
    num_tasks: int,
    *,
    alpha: float = 1.5,
    learning_rate: float = 0.025,
    **options: Unpack[Options],
) -> Transform:
    """GradNorm, gradient normalisation.

    Chen, Badrinarayanan, Lee & Rabinovich 2018, "GradNorm: Gradient Normalization for Adaptive Loss
    Balancing in Deep Multitask Networks", arXiv 1711.02257, equation 2 and algorithm 1:

        L_grad = sum_i | w_i |g_i| - mean_j(w_j |g_j|) r_i^alpha |
        r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0))

    The weights follow its gradient and are renormalised to sum K. Departures: the norms are those
    of all shared leaves (the paper takes the last shared layer; say so with `mask`), relative to
    their mean; w follows plain gradient descent and stays above 0.001.

    Needs `task_losses`, not negative; at a negative one the weights stay. For tasks whose
    losses have different scales or speeds.

    Args:
      num_tasks: K.
      alpha: asymmetry between tasks; the paper has 1.5 and 0.12.
      learning_rate: of the weights; 0.025 in the paper.
      options: see `Options`.
    """
    check_positive("alpha", alpha, or_zero=True)
    check_positive("learning_rate", learning_rate)

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        losses = inputs.task_losses
        first = jnp.where(state.first_losses > 0, state.first_losses, losses)
        ratios = jnp.where(losses >= 0, losses / jnp.where(first > 0, first, 1.0), jnp.nan)
        norms = jnp.sqrt(jnp.maximum(jnp.diagonal(inputs.gram), 0.0))
        new = gradnorm_step(state.weights, norms, ratios, alpha, learning_rate, inputs.present)
        return state.weights, GradNormState(new, first)

    def init(k: int) -> Any:
        return GradNormState(jnp.ones((k,), jnp.float32), jnp.zeros((k,), jnp.float32))

    method = Method("gradnorm", weights, init=init, uses_losses=True, sums=True)
    return make_transform(method, num_tasks, **options)
