"""Gradient surgery: optax transforms that turn K task gradients into one update.

    tx = optax.chain(
        surgery.pcgrad(num_tasks=3, seed=0), optax.clip_by_global_norm(1.0), optax.adam(1e-3)
    )
    state = tx.init(params)
    losses, grads = surgery.per_task_value_and_grad(loss_fn)(params, batches)  # [K, *param]
    updates, state = tx.update(grads, state, params)  # [*param]

Needs jax and optax only. One method a file; what they share is `make_transform`.
"""

from mtrl_jax.surgery.curvature import multi_task_curvature
from mtrl_jax.surgery.diagnostics import (
    Diagnostics,
    all_diagnostics,
    cosine_similarity,
    curvature_bound,
    detrimental_interference,
    diagnostics,
    magnitude_similarity,
    num_conflicts,
    reseed,
)
from mtrl_jax.surgery.gradients import per_task_value_and_grad
from mtrl_jax.surgery.gram import gram_matrix, weighted_sum
from mtrl_jax.surgery.mean import mean
from mtrl_jax.surgery.pcgrad import fixed_orders, pcgrad, pcgrad_weights, random_orders
from mtrl_jax.surgery.sum import sum
from mtrl_jax.surgery.transform import Inputs, Method, SurgeryState, make_transform

__all__ = [
    "METHODS",
    "Diagnostics",
    "Inputs",
    "Method",
    "SurgeryState",
    "all_diagnostics",
    "cosine_similarity",
    "curvature_bound",
    "detrimental_interference",
    "diagnostics",
    "fixed_orders",
    "gram_matrix",
    "magnitude_similarity",
    "make_transform",
    "mean",
    "multi_task_curvature",
    "num_conflicts",
    "pcgrad",
    "pcgrad_weights",
    "per_task_value_and_grad",
    "random_orders",
    "reseed",
    "sum",
    "weighted_sum",
]

# Every factory is called as METHODS[name](num_tasks=K, seed=0).
METHODS = {
    "pcgrad": pcgrad,
    "mean": mean,
    "sum": sum,
}
