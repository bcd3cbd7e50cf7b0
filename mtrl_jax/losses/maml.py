"""Model-agnostic meta-learning: what a few gradient steps on a task make of parameters.

Finn, Abbeel and Levine 2017, *Model-agnostic meta-learning for fast adaptation of deep networks*,
arXiv 1703.03400. For losses and parameters of any structure::

    def meta_loss(theta):
        def one_task(inner, outer):
            return loss(adapt(loss, theta, inner, rate), outer)
        return jax.vmap(one_task)(inner_data, outer_data).mean()

Where data were drawn by the policy that learns, the inner loss should be made of `losses.dice`: a
plain surrogate has the wrong second derivative.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtrl_jax.ranges import NotNegative, check_value
from mtrl_jax.types import Array, ArrayTree

__all__ = ["adapt", "step"]

Loss = Callable[[ArrayTree, ArrayTree], Array]  # of parameters and data, a scalar


def step(
    loss: Loss,
    params: ArrayTree,
    data: ArrayTree,
    rate: Array | float,
    *,
    first_order: bool = False,
) -> ArrayTree:
    """One gradient step on a task.

    1703.03400, equation 1:

        theta' = theta - rate dL(theta; data) / dtheta

    Args:
      loss: of the task, `(params, data) -> []`.
      params: theta, any tree of float arrays.
      data: what the loss is of.
      rate: [], at least 0 and finite.
      first_order: the gradient counts as a constant, so that dtheta' / dtheta = 1 and no second
        derivative is taken (the paper's section 5.2).

    Returns:
      theta', of the same structure. Carries gradient to `params` (and to `rate`).

    Raises:
      ValueError: for a rate that is negative or not finite.
    """
    check_value("rate", rate, NotNegative)
    gradient = jax.grad(loss)(params, data)
    if first_order:
        gradient = jax.lax.stop_gradient(gradient)
    return jax.tree.map(lambda x, g: x - jnp.asarray(rate, x.dtype) * g, params, gradient)


def adapt(
    loss: Loss,
    params: ArrayTree,
    data: ArrayTree,
    rate: Array | float,
    *,
    first_order: bool = False,
) -> ArrayTree:
    """`step` after `step`, each on data of its own.

    Args:
      loss: as of `step`.
      params: theta.
      data: leaves `[N, ...]`, one entry a step; N = 0 leaves theta as it is.
      rate, first_order: as of `step`.

    Returns:
      Parameters after N steps. Carries gradient to `params` through all of them.

    Raises:
      ValueError: as of `step`.
    """
    check_value("rate", rate, NotNegative)

    def body(params: ArrayTree, one: ArrayTree) -> tuple[ArrayTree, None]:
        return step(loss, params, one, rate, first_order=first_order), None

    return jax.lax.scan(body, params, data)[0]
