"""The equation `G w = w^(-p)`, w > 0, behind Nash-MTL (p = 1) and FairGrad, solved inside jit."""

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.quadratic import Solution, ridged, unit_gram, without_conflict
from mtrl_jax.surgery.varying import vary_like

__all__ = ["solve_power_equation"]

Array = jax.Array
Carry = tuple[Array, Array, Array, Array]  # a, solved, sound, steps

_MOST = 200  # steps of Newton's method; ten are typical


def solve_power_equation(gram: Array, power: Array | float) -> Solution:
    """The w > 0 with `(G w)_i = w_i^(-power)` for every task with a non-zero gradient.

    It is the minimum of the strictly convex `1/2 w'Gw - sum_i w_i^(1-p) / (1-p)` (the logarithm at
    p = 1). With w_i = a_i / |g_i| and the cosine matrix C it reads `(C a)_i = s_i a_i^(-p)`, `s_i =
    |g_i|^(p-1)`: solved by Newton's method on a. Steps leave every a_i positive, and are halved
    until the slope along them has not turned: the objective falls, from wherever it starts. The
    end is where the equation holds to rounding,

        |(C a)_i - s_i a_i^(-p)| <= 16 eps ((|C| a)_i + s_i a_i^(-p))

    Args:
      gram: `[K, K]`.
      power: p > 0.

    Returns:
      `[K]`, 0 for a zero gradient, and whether it converged. Where the hull of the gradients holds
      0 there is no solution, and the ridge on C makes the weights large instead of infinite. What
      has not converged is positive all the same, or 0 where it would conflict: see
      `without_conflict`.
    """
    cosines, norms, inverse = unit_gram(gram)
    p = jnp.asarray(power, gram.dtype)
    alive = norms > 0
    matrix = ridged(cosines)
    # A common factor of the s_i only scales the solution, and is put back at the end: powers of
    # norms such as 1e15 would otherwise leave the range of float32.
    log_norms = jnp.log(jnp.where(alive, norms, 1.0))
    middle = jnp.sum(jnp.where(alive, log_norms, 0.0)) / jnp.maximum(alive.sum(), 1)
    s = jnp.exp((p - 1.0) * jnp.where(alive, log_norms - middle, 0.0))
    a, converged = _newton(matrix, s, p)
    scale = jnp.exp((p - 1.0) / (1.0 + p) * middle)
    w = jnp.where(alive, scale * a * inverse, 0.0)
    return without_conflict(gram, Solution(w, converged))


def _newton(matrix: Array, s: Array, p: Array) -> Solution:
    """The a > 0 with `M a = s a^(-p)`."""
    size = jnp.abs(matrix)
    tolerance = 16 * jnp.finfo(s.dtype).eps

    def residual(a: Array) -> Array:
        return jnp.dot(matrix, a, precision="highest") - s * a ** (-p)

    def terms(a: Array) -> Array:
        return jnp.dot(size, a, precision="highest") + s * a ** (-p)

    def solved(a: Array) -> Array:
        return (jnp.abs(residual(a)) <= tolerance * terms(a)).all()

    def unfinished(carry: Carry) -> Array:
        _, done, sound, step = carry
        return ~done & sound & (step < _MOST)

    def newton(carry: Carry) -> Carry:
        a, _, _, step = carry
        # In the relative change of a, rows and columns scaled to a unit diagonal.
        gradient = a * residual(a)
        curved = p * s * a ** (1.0 - p)
        root = 1.0 / jnp.sqrt(a**2 * jnp.diagonal(matrix) + curved)
        scaled = (matrix * (root * a)[:, None]) * (root * a)[None, :]
        hessian = scaled + jnp.diag(root**2 * curved)
        factor = jnp.linalg.cholesky(hessian)
        change = -root * jax.scipy.linalg.cho_solve((factor, True), root * gradient)
        slope = jnp.sum(gradient * change)

        def too_far(t: Array) -> Array:
            new = a * (1.0 + t * change)
            turned = jnp.sum(a * change * residual(new))
            # Of a slope that is rounding nothing follows: small components are found last.
            rounding = tolerance * jnp.sum(jnp.abs(a * change) * terms(new))
            return (turned > jnp.maximum(-0.1 * slope, rounding)) & (t > 1e-4)

        t = jnp.minimum(1.0, 0.9 / jnp.maximum(jnp.max(-change), 0.1))
        t = jax.lax.while_loop(too_far, lambda t: 0.5 * t, t)
        new = a * (1.0 + t * change)
        sound = jnp.isfinite(new).all()
        new = jnp.where(sound, new, a)
        return new, solved(new), sound, step + 1

    start = s ** (1.0 / (1.0 + p))
    begin = (start, solved(start), jnp.asarray(True), jnp.asarray(0))
    a, done, _, _ = jax.lax.while_loop(unfinished, newton, vary_like(begin, matrix))
    return Solution(a, done)
