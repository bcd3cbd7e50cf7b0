"""The plain sum of the task gradients: the baseline of every comparison."""

import jax.numpy as jnp
import optax

from mtrl_jax.surgery.parts import Mask
from mtrl_jax.surgery.transform import AxisName, Method, Seed, make_transform

__all__ = ["sum"]


def sum(
    num_tasks: int,
    *,
    seed: Seed = 0,
    mask: Mask = None,
    scope: str = "global",
    diagnostics: bool | str = False,
    axis_name: AxisName = None,
    replicated: Mask = False,
) -> optax.GradientTransformationExtraArgs:
    """The sum of the task gradients, `sum_i g_i`: the gradient of the summed loss.

    `mean` with a K times larger step, and the scale that PCGrad's update has by default.

    Args:
      num_tasks: K.
      seed: unused; every factory of the family accepts it.
      diagnostics: as in `make_transform`; off by default, since only they need the Gram matrix
      here.
      mask, scope, axis_name, replicated: see `make_transform`.
    """

    def weights(inputs, state):
        return jnp.full((inputs.num_tasks,), 1.0, jnp.float32), state

    return make_transform(
        Method("sum", weights, uses_gram=False, sums=True),
        num_tasks,
        seed=seed,
        mask=mask,
        scope=scope,
        diagnostics=diagnostics,
        axis_name=axis_name,
        replicated=replicated,
    )
