"""Multi-task curvature along the steps that the optimiser really took.

Yu et al. 2020 (arXiv 2001.06782), section 2.2 and its practical estimate, for the summed loss L:

    H_t = 2 [ L(theta_t) - L(theta_{t-1}) - <grad L(theta_{t-1}), theta_t - theta_{t-1}> ]
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["CurvatureState", "init_curvature", "multi_task_curvature", "update_curvature"]

Array = jax.Array


class CurvatureState(NamedTuple):
    """What the next estimate needs: the last parameters, summed gradient and summed loss.

    Attributes:
      value: float32 `[]`, the estimate of the last step; 0 until there has been one.
      params, grads: float32 trees of the parameters' shapes.
      loss: float32 `[]`.
    """

    value: Array
    params: Any
    grads: Any
    loss: Array


def multi_task_curvature(loss_before: Array, loss_after: Array, grad_dot_step: Array) -> Array:
    """`2 (L(theta') - L(theta) - <grad L(theta), theta' - theta>)`; exact for a quadratic loss.

    Args:
      loss_before, loss_after: `[]`, the summed loss at theta and at theta'.
      grad_dot_step: `[]`, inner product of the gradient at theta with theta' - theta.
    """
    return 2.0 * (loss_after - loss_before - grad_dot_step)


def init_curvature(params: Any) -> CurvatureState:
    """The state before the first step; every leaf in a buffer of its own."""

    def zeros():
        return [jnp.zeros(jnp.shape(x), jnp.float32) for x in jax.tree.leaves(params)]

    return CurvatureState(jnp.zeros((), jnp.float32), zeros(), zeros(), jnp.zeros((), jnp.float32))


def update_curvature(
    state: CurvatureState,
    step: Array,
    params: Any,
    grads: list[Array],
    task_losses: Array,
    axis_name: Any,
    replicated: list[bool],
) -> CurvatureState:
    """One more estimate. Losses of different minibatches add their noise to it.

    Args:
      state: of the previous step.
      step: int32 `[]`, 0 at the first step, for which there is nothing to estimate.
      params: parameters now, at which `grads` and `task_losses` were taken.
      grads: list of leaves `[*param]`, of the summed loss.
      task_losses: float32 `[K]`.
      axis_name, replicated: of sharded parameters, see `make_transform`.
    """
    if params is None:
        raise ValueError("diagnostics='curvature' needs the parameters: tx.update(g, s, params).")
    now = [jnp.asarray(x, jnp.float32) for x in jax.tree.leaves(params)]
    dots = [
        jnp.vdot(g, new - old, precision="highest")
        for g, new, old in zip(state.grads, now, state.params, strict=True)
    ]
    zero = jnp.zeros((), jnp.float32)
    sharded = [d for d, r in zip(dots, replicated, strict=True) if not r or axis_name is None]
    own = sum(sharded, zero)
    if axis_name is not None:
        own = jax.lax.psum(own, axis_name)
        own += sum((d for d, r in zip(dots, replicated, strict=True) if r), zero)
    loss = task_losses.sum()
    value = jnp.where(step > 0, multi_task_curvature(state.loss, loss, own), 0.0)
    return CurvatureState(value, now, [jnp.asarray(g, jnp.float32) for g in grads], loss)
