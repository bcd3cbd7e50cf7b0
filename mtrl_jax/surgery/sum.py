"""The plain sum of the task gradients: the baseline of every comparison."""

from typing import Any, Unpack

from jax import Array

from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["sum"]


@factory
def sum(num_tasks: int, **options: Unpack[Options]) -> Transform:
    """The sum of the task gradients, `sum_i g_i`: the gradient of the summed loss.

    `mean` with a K times larger step, and the scale that PCGrad's update has by default.

    Args:
      num_tasks: K.
      options: see `Options`.
    """

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        return inputs.ones, state

    return make_transform(Method("sum", weights, uses_gram=False, sums=True), num_tasks, **options)
