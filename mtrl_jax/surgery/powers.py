"""The equation `G w = w^(-p)`, w > 0, behind Nash-MTL (p = 1) and FairGrad, solved inside jit."""

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.quadratic import RIDGE, unit_gram
from mtrl_jax.surgery.varying import vary_like

__all__ = ["solve_power_equation"]

Array = jax.Array


def solve_power_equation(gram: Array, power: Array | float) -> Array:
    """The w > 0 with `(G w)_i = w_i^(-power)` for every task with a non-zero gradient.

    It is the minimum of the strictly convex `1/2 w'Gw - sum_i w_i^(1-p) / (1-p)` (the logarithm at
    p = 1). With w_i = a_i / |g_i| and the cosine matrix C it reads `(C a)_i = s_i a_i^(-p)`, `s_i =
    |g_i|^(p-1)`: solved by Newton's method on a, with steps that leave every a_i positive, until
    the relative residual is at the precision of float32.

    Args:
      gram: float32 `[K, K]`.
      power: p > 0.

    Returns:
      float32 `[K]`; 0 for a zero gradient. Where gradients oppose each other exactly there is no
      solution, and the ridge on C makes the weights large instead of infinite.
    """
    cosines, norms, inverse = unit_gram(gram)
    k = gram.shape[0]
    p = jnp.asarray(power, gram.dtype)
    alive = norms > 0
    matrix = cosines + RIDGE * jnp.eye(k, dtype=gram.dtype)
    # A common factor of the s_i only scales the solution, and is put back at the end: powers of
    # norms such as 1e15 would otherwise leave the range of float32.
    log_norms = jnp.log(jnp.where(alive, norms, 1.0))
    middle = jnp.sum(jnp.where(alive, log_norms, 0.0)) / jnp.maximum(alive.sum(), 1)
    s = jnp.exp((p - 1.0) * jnp.where(alive, log_norms - middle, 0.0))

    def residual(a):
        return jnp.dot(matrix, a, precision="highest") - s * a ** (-p)

    def unfinished(carry):
        _, size, step = carry
        return (size > 1e-6) & (step < 100)

    def newton(carry):
        a, _, step = carry
        hessian = matrix + jnp.diag(p * s * a ** (-p - 1.0))
        change = jnp.linalg.solve(hessian, -residual(a)[:, None])[:, 0] / a
        change = change / jnp.maximum(1.0, jnp.max(-change) / 0.9)
        return a * (1.0 + change), jnp.max(jnp.abs(change)), step + 1

    start = s ** (1.0 / (1.0 + p))
    begin = vary_like((start, jnp.asarray(jnp.inf), jnp.asarray(0)), gram)
    a, _, _ = jax.lax.while_loop(unfinished, newton, begin)
    scale = jnp.exp((p - 1.0) / (1.0 + p) * middle)
    return jnp.where(alive, scale * a * inverse, 0.0)
