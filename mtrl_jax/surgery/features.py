"""Surgery at the features that all tasks share, and one backward pass for all of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

__all__ = ["FeatureGradients", "feature_value_and_grad"]


class FeatureGradients(NamedTuple):
    """What `feature_value_and_grad` returns.

    Attributes:
      losses: `[K]`.
      features: `[*feature]`, a pytree, of the shared inputs.
      by_features: leaves `[K, *feature]`, for surgery; `features` stands where a transform wants
        parameters.
      by_task: leaves `[K, *param]`, of each task's own parameters, for an optimiser of their own.
      backward: from an update `[*feature]` to leaves `[*param]` of the torso.
    """

    losses: jax.Array
    features: Any
    by_features: Any
    by_task: Any
    backward: Callable[[Any], Any]


def feature_value_and_grad(
    torso: Callable[[Any, Any], Any], loss_fn: Callable[[Any, Any, Any], jax.Array]
) -> Callable[[Any, Any, Any, Any], FeatureGradients]:
    """Per-task gradients of the features that all tasks are computed from.

    Sener & Koltun 2018, "Multi-Task Learning as Multi-Objective Optimization", arXiv 1810.04650,
    section 3.3: with z = torso(shared, x) and the loss of task i a function of z and of its own
    parameters, the chain rule gives

        grad_shared L_i = (d z/d shared)' grad_z L_i

    so K small gradients at z are combined first, and one backward pass through the torso follows
    in place of K. It is another question than surgery on the parameters: two tasks may conflict at
    z and not behind it, or the other way round. For `surgery.sum` and `surgery.mean`, which are
    linear, both are the same. It has a meaning only where all tasks read the same features of the
    same inputs: with a batch a task, the rows of z belong to one task each and never conflict::

        out = surgery.feature_value_and_grad(torso, loss_fn)(shared, heads, x, targets)
        z_update, state = tx.update(out.by_features, state, out.features)
        shared_grads = out.backward(z_update)          # into optax.adam, with out.by_task

    where `tx.init` takes an array of the features' shape.

    Args:
      torso: `(shared, inputs) -> features`, a pytree of floating arrays.
      loss_fn: `(task_params, features, batch) -> scalar`, of one task.

    Returns:
      `(shared, task_params, inputs, batches) -> FeatureGradients`; leaves of `task_params` and
      `batches` lead with K, `shared` and `inputs` are those of all. Call it inside jit; `backward`
      belongs to that call.
    """
    one_task = jax.value_and_grad(loss_fn, argnums=(0, 1))

    def call(shared: Any, task_params: Any, inputs: Any, batches: Any) -> FeatureGradients:
        features, pull = jax.vjp(lambda shared: torso(shared, inputs), shared)
        losses, (by_task, by_features) = jax.vmap(one_task, in_axes=(0, None, 0))(
            task_params, features, batches
        )
        return FeatureGradients(losses, features, by_features, by_task, lambda z: pull(z)[0])

    return call
