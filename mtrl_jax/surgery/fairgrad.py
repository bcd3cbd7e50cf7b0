"""FairGrad: the update that is alpha-fair to the tasks."""

import jax
import optax

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.parts import Mask
from mtrl_jax.surgery.powers import solve_power_equation
from mtrl_jax.surgery.transform import AxisName, Method, Seed, make_transform

__all__ = ["fairgrad", "fairgrad_weights"]

Array = jax.Array


def fairgrad_weights(gram: Array, alpha: Array | float) -> Array:
    """The w > 0 with `G w = w^(-1/alpha)`.

    Args:
      gram: float32 `[K, K]`.
      alpha: fairness, positive.

    Returns:
      float32 `[K]`; 0 for a zero gradient.
    """
    return solve_power_equation(gram, 1.0 / alpha)


def fairgrad(
    num_tasks: int,
    *,
    alpha: float = 2.0,
    seed: Seed = 0,
    mask: Mask = None,
    scope: str = "global",
    diagnostics: bool | str = True,
    axis_name: AxisName = None,
    replicated: Mask = False,
) -> optax.GradientTransformationExtraArgs:
    """FairGrad, alpha-fair resource allocation between tasks.

    Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning", arXiv 2402.15638, equation 4:
    with utilities <g_i, d> and the alpha-fair objective sum_i <g_i, d>^(1 - alpha) / (1 - alpha),

        G w = w^(-1/alpha),    w > 0

    alpha = 1 is proportional fairness (the bargain of `nash_mtl`, without its normalisation);
    larger alpha favours the task that gains least; towards 0 it is plain mean training. Solved by
    Newton's method to float32 precision (the authors use a least-squares solver). Needs the
    gradients only. The length of the
    update depends on alpha and on the scale of the gradients: clip, or use a scale-free optimiser.
    For alpha < 1 and task norms that are many decades apart float32 limits the accuracy.

    Args:
      num_tasks: K.
      alpha: fairness; the paper reports 1, 2, 5 and 10 and mostly uses 2.
      seed: unused; every factory of the family accepts it.
      mask, scope, diagnostics, axis_name, replicated: see `make_transform`.
    """
    check_positive("alpha", alpha)
    method = Method("fairgrad", lambda inputs, state: (fairgrad_weights(inputs.gram, alpha), state))

    return make_transform(
        method,
        num_tasks,
        seed=seed,
        mask=mask,
        scope=scope,
        diagnostics=diagnostics,
        axis_name=axis_name,
        replicated=replicated,
    )
