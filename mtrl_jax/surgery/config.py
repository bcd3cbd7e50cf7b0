"""ConFIG: the conflict-free direction, with a length that follows the agreement."""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.preference import Preference, preferred
from mtrl_jax.surgery.quadratic import solve_psd, unit_gram
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["config", "config_weights"]


def config_weights(gram: Array, preference: Array | None = None) -> Array:
    """Weights of `(sum_i <g_i, u>) u`, u the unit vector along `U'v`, `v = C^+ p` (below).

    Args:
      gram: float32 `[K, K]`.
      preference: float32 `[K]`, p; None: ones.

    Returns:
      float32 `[K]`; 0 for a zero gradient.
    """
    cosines, norms, inverse = unit_gram(gram)
    alive = norms > 0
    wanted = jnp.ones_like(norms) if preference is None else preference
    v = solve_psd(cosines, jnp.where(alive, wanted, 0.0))
    projected = jnp.dot(cosines, v, precision="highest")  # <g_i / |g_i|, sum_j v_j g_j / |g_j|>
    square = jnp.dot(v, projected, precision="highest")
    length = jnp.dot(norms, projected, precision="highest")
    return jnp.where(square > 0, length / jnp.where(square > 0, square, 1.0), 0.0) * v * inverse


@factory
def config(
    num_tasks: int, *, preference: Preference = None, **options: Unpack[Options]
) -> Transform:
    """ConFIG, the conflict-free inverse gradient.

    Liu, Chu & Thuerey 2024, "ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks", arXiv 2408.11104, equation 2. With u_i the unit task gradients and U their matrix,

        d = (sum_i <g_i, g>) g,    g = U^+ p / |U^+ p|

    so that the cosines of the update with the task gradients are in the ratio of p, all equal by
    default, and it is short where they conflict (p = 1 in the equation; the "direction weights" of
    the authors' page of theory). The pseudo-inverse of the K x P matrix needs its Gram matrix C
    only.

    Needs the gradients only. For losses of very different scales, such as the terms of a physical
    equation. Where gradients are dependent (more tasks than directions) no such g need exist: then
    U^+ p is the shortest least-squares solution of U g = p.

    Args:
      num_tasks: K.
      preference: `[K]`, how much each task counts, not negative; only ratios count. None: equal.
      options: see `Options`.
    """

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        p = preferred(preference, inputs) * inputs.num_present
        return config_weights(inputs.gram, p), state

    return make_transform(Method("config", weights, sums=True), num_tasks, **options)
