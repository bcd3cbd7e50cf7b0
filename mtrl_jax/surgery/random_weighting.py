"""Random loss weighting: the litmus test for weighting methods."""

import jax
import jax.numpy as jnp
import optax

from mtrl_jax.surgery.parts import Mask
from mtrl_jax.surgery.transform import AxisName, Method, Seed, make_transform

__all__ = ["random_weighting", "random_weights"]

Array = jax.Array


def random_weights(key: Array, num_tasks: int) -> Array:
    """Softmax of K independent standard normal numbers, float32 `[K]`."""
    return jax.nn.softmax(jax.random.normal(key, (num_tasks,), jnp.float32))


def random_weighting(
    num_tasks: int,
    *,
    seed: Seed = 0,
    mask: Mask = None,
    scope: str = "global",
    diagnostics: bool | str = False,
    axis_name: AxisName = None,
    replicated: Mask = False,
) -> optax.GradientTransformationExtraArgs:
    """RLW, random loss weighting.

    Lin, Ye, Zhang & Tsang 2022, "Reasonable Effectiveness of Random Weighting: A Litmus Test for
    Multi-Task Learning", arXiv 2111.10603, algorithm 2: fresh weights at every update, w =
    softmax(z), z ~ N(0, I).

    Needs nothing, not even the Gram matrix. A control: what a clever method should beat.

    Args:
      num_tasks: K.
      seed: integer or typed key.
      mask, scope, diagnostics, axis_name, replicated: see `make_transform`.
    """

    def weights(inputs, state):
        return (random_weights(inputs.key, inputs.num_tasks), state)

    method = Method("random_weighting", weights, uses_gram=False, uses_key=True)

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
