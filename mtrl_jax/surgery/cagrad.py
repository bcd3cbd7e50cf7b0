"""CAGrad: near the mean gradient, the direction that is best for the worst task."""

from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_choice, check_positive
from mtrl_jax.surgery.quadratic import RIDGE, complementarity, unit_gram
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform
from mtrl_jax.surgery.varying import vary_like

__all__ = ["cagrad", "cagrad_weights"]


def cagrad_weights(gram: Array, c: Array | float) -> Array:
    """Weights of the d that maximises `min_i <g_i, d>` in the ball `|d - g_0| <= c |g_0|`.

    With d = g_0 + sum_i v_i g_i, v >= 0, and m the worst inner product, optimality reads

        G v + b - m >= 0, complementary to v,    b_i = <g_i, g_0>,    v'Gv = c^2 |g_0|^2

    v'Gv grows with m. So m is found by solving the complementarity problem for m, and from its
    free set the m of the right length in closed form, until the set stays the same (bisecting
    where that leaves the bracket). This solves the paper's dual `min_w <g_w, g_0> + c |g_0| |g_w|`
    over the simplex, with v = w c |g_0| / |g_w|, also where g_w = 0 and that formula has no value.

    Args:
      gram: float32 `[K, K]`.
      c: radius of the ball over |g_0|, at least 0.

    Returns:
      float32 `[K]`, each at least 1/K.
    """
    k = gram.shape[0]
    largest = jnp.max(jnp.diagonal(gram))
    scaled = gram / jnp.where(largest > 0, largest, 1.0)
    cosines, norms, inverse = unit_gram(scaled)
    matrix = cosines + RIDGE * jnp.eye(k, dtype=gram.dtype)
    b = scaled.mean(1)
    radius = c * jnp.sqrt(jnp.maximum(b.mean(), 0.0))
    alive = norms > 0

    def solve(m, free):
        q = jnp.where(alive, (b - m) * inverse, 0.0)
        x, free = complementarity(matrix, q, free)
        return (
            x,
            free,
            jnp.sqrt(jnp.maximum(jnp.dot(x, jnp.dot(matrix, x, precision="highest")), 0)),
        )

    def of_set(free):
        both = free[:, None] & free[None, :]
        sides = jnp.where(free[:, None], jnp.stack([inverse, b * inverse], 1), 0.0)
        eye = jnp.eye(k, dtype=gram.dtype)
        x = jnp.linalg.solve(jnp.where(both, matrix, eye), sides)
        (pp, pr), (_, rr) = jnp.dot(x.T, sides, precision="highest")
        root = jnp.sqrt(jnp.maximum(pr**2 - pp * (rr - radius**2), 0.0))
        return (pr + root) / jnp.where(pp > 0, pp, 1.0)

    def unfinished(carry):
        _, _, _, low, high, gap, step = carry
        return (gap > 1e-6 * radius) & (high > low) & (step < 60)

    def improve(carry):
        m, free, _, low, high, _, step = carry
        x, free, length = solve(m, free)
        low, high = jnp.where(length < radius, m, low), jnp.where(length < radius, high, m)
        proposal = of_set(free)
        inside = (proposal > low) & (proposal < high) & free.any()
        m = jnp.where(inside, proposal, 0.5 * (low + high))
        return m, free, x, low, high, jnp.abs(length - radius), step + 1

    # No d of the ball can do better for any one task than its own gradient does.
    low, high = jnp.min(b) - 1e-6 * radius, jnp.min(b + radius * norms)
    nothing = jnp.zeros((k,), gram.dtype)
    start = (0.5 * (low + high), jnp.zeros((k,), bool), nothing, low, high, jnp.inf, 0)
    start = vary_like(jax.tree.map(jnp.asarray, start), gram)
    x = jax.lax.while_loop(unfinished, improve, start)[2]
    length = jnp.sqrt(jnp.maximum(jnp.dot(x, jnp.dot(cosines, x, precision="highest")), 0.0))
    x = x * jnp.where(length > 0, radius / jnp.where(length > 0, length, 1.0), 0.0)
    return 1.0 / k + x * inverse


@factory
def cagrad(
    num_tasks: int,
    *,
    c: float = 0.4,
    rescale: Literal["none", "square", "linear"] = "none",
    **options: Unpack[Options],
) -> Transform:
    """CAGrad, conflict-averse gradient descent.

    Liu, Liu, Jin, Stone & Liu 2021, "Conflict-Averse Gradient Descent for Multi-task Learning",
    arXiv 2110.14048, equation 3 and algorithm 1, with g_0 the mean gradient:

        max_d min_i <g_i, d>    subject to |d - g_0| <= c |g_0|

    c = 0 is mean training; for c < 1 it converges to a minimum of the mean loss, and towards MGDA
    as c grows. Solved exactly, with no external solver. Needs the gradients only. The authors'
    code optionally divides the update by 1 + c^2 (their supervised experiments, `rescale=1`) or 1
    + c: see `rescale`.

    Args:
      num_tasks: K.
      c: radius of the ball, relative to |g_0|.
      rescale: divide the update by 1 ('none', the paper), 1 + c^2 ('square') or 1 + c ('linear').
      options: see `Options`.
    """
    check_positive("c", c, or_zero=True)
    check_choice("rescale", rescale, ("none", "square", "linear"))
    divisor = {"none": 1.0, "square": 1.0 + c**2, "linear": 1.0 + c}[rescale]

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        # With absent tasks the solver's mean gradient is shorter than theirs, and so is its update.
        scale = inputs.num_tasks / inputs.num_present
        return cagrad_weights(inputs.gram, c) * scale / divisor, state

    return make_transform(Method("cagrad", weights), num_tasks, **options)
