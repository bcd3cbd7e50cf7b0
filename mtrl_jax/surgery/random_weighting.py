"""Random loss weighting: the litmus test for weighting methods."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["random_weighting", "random_weights"]


def random_weights(key: Array, num_tasks: int, present: Array | None = None) -> Array:
    """Softmax of K independent standard normal numbers, float32 `[K]`, 0 for absent tasks."""
    return jax.nn.softmax(jax.random.normal(key, (num_tasks,), jnp.float32), where=present)


@factory
def random_weighting(num_tasks: int, **options: Unpack[Options]) -> Transform:
    """RLW, random loss weighting.

    Lin, Ye, Zhang & Tsang 2022, "Reasonable Effectiveness of Random Weighting: A Litmus Test for
    Multi-Task Learning", arXiv 2111.10603, algorithm 2: fresh weights at every update, w =
    softmax(z), z ~ N(0, I).

    Needs nothing, not even the Gram matrix. A control: what a clever method should beat.

    Args:
      num_tasks: K.
      options: see `Options`.
    """

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        return random_weights(inputs.key, inputs.num_tasks, inputs.present), state

    method = Method("random_weighting", weights, uses_gram=False, uses_key=True)
    return make_transform(method, num_tasks, **options)
