"""Projected conjugate gradients: many bounded quadratic programmes that share one matrix.

    min 1/2 x'Mx + q'x    subject to x >= 0

MPRGP of Dostál & Schöberl 2005, "Minimizing quadratic functions subject to bound constraints with
the rate of convergence and finite termination" (Computational Optimization and Applications 30).
Conjugate gradients on the free variables, interrupted by two kinds of step: an expansion (up to
the first bound, then along the projected gradient) and a proportioning (variables at their bound
whose gradient says so are released). Every step goes down an exact line search inside x >= 0, so
the objective never rises, whatever rounding does to the directions: it cannot go round in circles.

A step is one product with M for all programmes together: B programmes of K variables take
O(B K^2), where a factorisation for each would take O(B K^3).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.varying import vary_like

__all__ = ["natural_residual", "projected_cg", "residual_limit", "sum_rounding"]

Array = jax.Array
Carry = tuple[Array, Array, Array, Array, Array]  # x, gradient, direction, expands, steps

_REFRESH = 50  # steps between gradients computed anew: the recursion drifts


def natural_residual(x: Array, y: Array) -> Array:
    """`max_i |min(x_i, y_i)|`: 0 exactly at the solution. `[..., K] -> [..., 1]`."""
    return jnp.max(jnp.abs(jnp.minimum(x, y)), axis=-1, keepdims=True)


def sum_rounding(num_terms: int) -> float:
    """How much less is known of a sum of K terms than of one of few: K independent roundings add up
    to sqrt(K) of them."""
    return max(1.0, math.sqrt(num_terms / 16))


def residual_limit(x: Array, q: Array, noise: Array) -> Array:
    """The residual at which x is a solution, `[..., 1]`: `noise`, by which q is not known, and the
    rounding of the solution itself.

    M has a diagonal of order 1 and entries that are themselves known to one rounding each, so that
    an x within a few roundings of |x|_1 solves the problem of a matrix that cannot be told from M.
    Of many tasks the residual itself is not known any better: see `sum_rounding`.
    """
    eps = jnp.finfo(x.dtype).eps * sum_rounding(x.shape[-1])
    push = jnp.max(jnp.maximum(-q, 0.0), axis=-1, keepdims=True)
    return noise + eps * (8 * push + 2 * jnp.sum(jnp.abs(x), axis=-1, keepdims=True))


def projected_cg(matrix: Array, q: Array, noise: Array, start: Array, most: int) -> Array:
    """Minimises all rows' programmes from `start`.

    Args:
      matrix: `[K, K]`, symmetric, positive definite up to rounding.
      q: `[B, K]`, one programme a row.
      noise: `[B, 1]`, see `residual_limit`.
      start: `[B, K]`, non-negative.
      most: steps at most.

    Returns:
      x `[B, K]`, non-negative. A row that holds a NaN is left as it is.
    """
    eps = jnp.finfo(q.dtype).eps

    def product(x: Array) -> Array:
        return jnp.dot(x, matrix, precision="highest")

    # The length of a step along the gradient. The line search makes any length sound.
    def power(_: Any, v: Array) -> Array:
        v = product(v)
        return v / jnp.maximum(jnp.max(jnp.abs(v)), jnp.finfo(q.dtype).tiny)

    v = jax.lax.fori_loop(0, 8, power, jnp.sum(jnp.abs(matrix), axis=1)[None])
    largest = jnp.sum(v * product(v)) / jnp.maximum(jnp.sum(v * v), jnp.finfo(q.dtype).tiny)
    length = 1.8 / jnp.maximum(largest, 1.0)

    def finished(x: Array, g: Array) -> Array:
        return ~(natural_residual(x, g) > residual_limit(x, q, noise))  # NaN is finished

    def step(carry: Carry) -> Carry:
        x, g, p, expands, n = carry
        free = x > 0
        phi = jnp.where(free, g, 0.0)
        beta = jnp.where(free, 0.0, jnp.minimum(g, 0.0))
        reduced = jnp.where(free, jnp.minimum(g, x / length), 0.0)
        proportional = _dot(beta, beta) <= _dot(reduced, phi)
        p = jnp.where(_dot(p, g) > 0, p, phi)
        leap = x - jnp.maximum(x - length * phi, 0.0)
        d = jnp.where(expands, leap, jnp.where(proportional, p, beta))
        d = jnp.where(finished(x, g), 0.0, d)

        md = product(d)
        curved = jnp.maximum(_dot(d, md), eps * _dot(d, d))
        some = curved > 0
        curved = jnp.where(some, curved, 1.0)
        exact = jnp.where(some, _dot(g, d) / curved, 0.0)
        bound = jnp.min(jnp.where(d > 0, x / jnp.where(d > 0, d, 1.0), jnp.inf), -1, keepdims=True)
        size = jnp.minimum(exact, jnp.where(expands, 1.0, bound))
        x = jnp.where((d > 0) & (x <= size * d), 0.0, jnp.maximum(x - size * d, 0.0))
        g = g - size * md
        phi = jnp.where(x > 0, g, 0.0)
        conjugate = phi - _dot(phi, md) / curved * p
        searched = proportional & ~expands
        p = jnp.where(searched & (exact < bound), conjugate, phi)
        return x, g, p, searched & (bound <= exact), n + 1

    def running(carry: Carry) -> Array:
        x, g, _, _, n = carry
        return (n % _REFRESH != 0) & (n < most) & ~finished(x, g).all()

    def stretch(carry: Carry) -> Carry:
        x, _, p, expands, n = carry
        begin = (x, product(x) + q, p, expands, n)
        out: Carry = jax.lax.while_loop(running, step, step(begin))
        return out

    def unfinished(carry: Carry) -> Array:
        x, g, _, _, n = carry
        # The gradient is the recursion's: it says whether to look again, not whether x is right.
        return (n < most) & (~finished(x, g).all() | ~finished(x, product(x) + q).all())

    g = product(start) + q
    none = jnp.zeros((q.shape[0], 1), bool)
    begin = vary_like((start, g, jnp.zeros_like(q), none, jnp.asarray(0)), q)
    x: Array = jax.lax.while_loop(unfinished, stretch, begin)[0]
    return x


def _dot(x: Array, y: Array) -> Array:
    return jnp.sum(x * y, axis=-1, keepdims=True)
