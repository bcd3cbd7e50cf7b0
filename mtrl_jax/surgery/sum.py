"""The plain sum of the task gradients: the baseline of every comparison."""

from typing import Any, Unpack

from jax import Array

from mtrl_jax.surgery.preference import Preference, preferred
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["sum"]


@factory
def sum(num_tasks: int, *, preference: Preference = None, **options: Unpack[Options]) -> Transform:
    """The sum of the task gradients, `sum_i g_i`: the gradient of the summed loss.

    `mean` with a K times larger step, and the scale that PCGrad's update has by default. With a
    preference the weights still have sum K.

    Args:
      num_tasks: K.
      preference: `[K]`, how much each task counts, not negative; only ratios count. None: equal.
      options: see `Options`.
    """

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        return preferred(preference, inputs) * inputs.num_present, state

    return make_transform(Method("sum", weights, uses_gram=False, sums=True), num_tasks, **options)
