"""Multi-task curvature along the steps that the optimiser really took.

Yu et al. 2020 (arXiv 2001.06782), section 2.2 and its practical estimate, for the summed loss L:

    H_t = 2 [ L(theta_t) - L(theta_{t-1}) - <grad L(theta_{t-1}), theta_t - theta_{t-1}> ]
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.dtypes import accumulator
from mtrl_jax.surgery.gram import weighted_sum
from mtrl_jax.surgery.parts import Layout, blank

__all__ = ["CurvatureState", "init_curvature", "multi_task_curvature", "update_curvature"]

Array = jax.Array


class CurvatureState(NamedTuple):
    """What the next estimate needs: the last parameters, summed gradient and summed loss. Floats
    are float32, or float64 for float64 parameters.

    Attributes:
      value: `[]`, the last estimate; 0 until there has been one.
      params, grads: trees of the parameters' shapes.
      loss: `[]`.
      present: bool `[K]`, the tasks that the sums are over; none before the first step.
    """

    value: Array
    params: Any
    grads: Any
    loss: Array
    present: Array


def multi_task_curvature(loss_before: Array, loss_after: Array, grad_dot_step: Array) -> Array:
    """`2 (L(theta') - L(theta) - <grad L(theta), theta' - theta>)`; exact for a quadratic loss.

    Args:
      loss_before, loss_after: `[]`, the summed loss at theta and at theta'.
      grad_dot_step: `[]`, inner product of the gradient at theta with theta' - theta.
    """
    return 2.0 * (loss_after - loss_before - grad_dot_step)


def init_curvature(params: Any, num_tasks: int) -> CurvatureState:
    """The state before the first step; every leaf in a buffer of its own."""
    leaves = jax.tree.leaves(params)
    dtype = accumulator(*map(jnp.result_type, leaves))

    def zeros() -> Any:
        return jax.tree.map(lambda x: jnp.zeros_like(x, dtype), params)

    none = jnp.zeros((num_tasks,), bool)
    return CurvatureState(jnp.zeros((), dtype), zeros(), zeros(), jnp.zeros((), dtype), none)


def update_curvature(
    state: CurvatureState,
    params: Any,
    grads: list[Array],
    task_losses: Array,
    present: Array,
    layout: Layout,
) -> CurvatureState:
    """One more estimate. Losses of different minibatches add their noise to it.

    Two sums over different tasks say nothing of curvature: the estimate stays where the tasks that
    are present are not those of the step before. Where something is not finite all stays, and the
    next estimate is of the step from there.

    Args:
      state: of the previous step.
      params: parameters now, at which `grads` and `task_losses` were taken.
      grads: list of leaves `[K, *param]`, zero for absent tasks.
      task_losses: `[K]`.
      present: bool `[K]`.
      layout: of the leaves.
    """
    if params is None:
        raise ValueError("diagnostics='curvature' needs the parameters: tx.update(g, s, params).")
    dtype = state.loss.dtype
    leaves, treedef = jax.tree.flatten(params)
    now = [jnp.asarray(x, dtype) for x in leaves]
    before = zip(jax.tree.leaves(state.grads), jax.tree.leaves(state.params), strict=True)
    summed = weighted_sum(jnp.ones(present.shape, dtype), grads, now)
    dots = {
        i: jnp.vdot(g, new - old, precision="highest")
        for i, (new, (g, old)) in enumerate(zip(now, before, strict=True))
    }
    loss = blank(present, task_losses.astype(dtype), 0.0).sum()
    value = multi_task_curvature(state.loss, loss, layout.total(dots, dtype))
    same = (present == state.present).all() & state.present.any()
    value = jnp.where(same, value, state.value)
    odd = {i: jnp.sum(~jnp.isfinite(g), dtype=dtype) for i, g in enumerate(summed)}
    sound = jnp.isfinite(value) & jnp.isfinite(loss) & (layout.total(odd, dtype) == 0)
    now_tree, summed_tree = (jax.tree.unflatten(treedef, x) for x in (now, summed))
    new = CurvatureState(value, now_tree, summed_tree, loss, present)
    kept: CurvatureState = jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, state)
    return kept
