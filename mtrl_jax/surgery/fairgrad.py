"""FairGrad: the update that is alpha-fair to the tasks."""

from typing import Any, Unpack

from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.powers import solve_power_equation
from mtrl_jax.surgery.quadratic import Solution
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["fairgrad", "fairgrad_weights"]


def fairgrad_weights(gram: Array, alpha: Array | float) -> Array:
    """The w > 0 with `G w = w^(-1/alpha)`.

    Args:
      gram: `[K, K]`.
      alpha: fairness, positive.

    Returns:
      `[K]`; 0 for a zero gradient. See `solve_power_equation` for gradients that have no solution.
    """
    return solve_fairgrad(gram, alpha).weights


def solve_fairgrad(gram: Array, alpha: Array | float) -> Solution:
    """`fairgrad_weights`, and whether they converged."""
    return solve_power_equation(gram, 1.0 / alpha)


@factory
def fairgrad(
    num_tasks: int,
    *,
    alpha: float = 2.0,
    **options: Unpack[Options],
) -> Transform:
    """FairGrad, alpha-fair resource allocation between tasks.

    Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning", arXiv 2402.15638, equation 4:
    with utilities <g_i, d> and the alpha-fair objective sum_i <g_i, d>^(1 - alpha) / (1 - alpha),

        G w = w^(-1/alpha),    w > 0

    alpha = 1 is proportional fairness (the bargain of `nash_mtl`, without its normalisation);
    larger alpha favours the task that gains least; towards 0 it is plain mean training. Solved by
    Newton's method to float32 precision (the authors use a least-squares solver). Needs the
    gradients only. The length of the update depends on alpha and on the scale of the gradients:
    clip, or use a scale-free optimiser.
    For alpha < 1 and task norms that are many decades apart float32 limits the accuracy.

    Args:
      num_tasks: K.
      alpha: fairness; the paper reports 1, 2, 5 and 10 and mostly uses 2.
      options: see `Options`.
    """
    check_positive("alpha", alpha)

    def weights(inputs: Inputs, state: Any) -> tuple[Solution, Any]:
        return solve_fairgrad(inputs.gram, alpha), state

    return make_transform(Method("fairgrad", weights), num_tasks, **options)
