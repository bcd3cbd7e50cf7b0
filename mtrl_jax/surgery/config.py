"""ConFIG: the conflict-free direction, with a length that follows the agreement."""

import jax
import jax.numpy as jnp
import optax

from mtrl_jax.surgery.parts import Mask
from mtrl_jax.surgery.quadratic import solve_psd, unit_gram
from mtrl_jax.surgery.transform import AxisName, Method, Seed, make_transform

__all__ = ["config", "config_weights"]

Array = jax.Array


def config_weights(gram: Array) -> Array:
    """Weights of `(sum_i <g_i, u>) u`, u the unit vector along `sum_i v_i g_i / |g_i|`, `v = C^+
    1`.

    Args:
      gram: float32 `[K, K]`.

    Returns:
      float32 `[K]`; 0 for a zero gradient.
    """
    cosines, norms, inverse = unit_gram(gram)
    alive = norms > 0
    v = solve_psd(cosines, alive.astype(gram.dtype))
    projected = jnp.dot(cosines, v, precision="highest")  # <g_i / |g_i|, sum_j v_j g_j / |g_j|>
    square = jnp.dot(v, projected, precision="highest")
    length = jnp.dot(norms, projected, precision="highest")
    return jnp.where(square > 0, length / jnp.where(square > 0, square, 1.0), 0.0) * v * inverse


def config(
    num_tasks: int,
    *,
    seed: Seed = 0,
    mask: Mask = None,
    scope: str = "global",
    diagnostics: bool | str = True,
    axis_name: AxisName = None,
    replicated: Mask = False,
) -> optax.GradientTransformationExtraArgs:
    """ConFIG, the conflict-free inverse gradient.

    Liu, Chu & Thuerey 2024, "ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks", arXiv 2408.11104, equation 2. With u_i the unit task gradients and U their matrix,

        d = (sum_i <g_i, g>) g,    g = U^+ 1 / |U^+ 1|

    so that the update has the same cosine with every task gradient, and is short where they
    conflict. Published with the pseudo-inverse of the K x P matrix; only its Gram matrix is
    needed.

    Needs the gradients only. For losses of very different scales, such as the terms of a physical
    equation. Where more tasks than directions exist, no such g need exist and the least-squares
    one is taken.

    Args:
      num_tasks: K.
      seed: unused; every factory of the family accepts it.
      mask, scope, diagnostics, axis_name, replicated: see `make_transform`.
    """
    method = Method("config", lambda inputs, state: (config_weights(inputs.gram), state), sums=True)

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
