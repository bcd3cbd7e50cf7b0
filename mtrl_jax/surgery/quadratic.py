"""Small quadratic programmes over K tasks, solved inside jit.

All of them are one linear complementarity problem, for a positive definite M:

    find x >= 0    with y = M x + q >= 0    and x_i y_i = 0 for every i

which is that of min 1/2 x'Mx + q'x over x >= 0, and whose solution is a choice of the free set {i :
x_i > 0} and one linear solve. Block principal pivoting (Judice & Pires 1994; Kim & Park 2011)
exchanges all indices of the wrong sign at once, and a single one when that does not help, which
makes it finite; a handful of solves is typical. The solution is exact for its free set, in float32,
where first-order or interior methods are left with the square root of the precision.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.varying import vary_like

__all__ = [
    "RIDGE",
    "Solution",
    "complementarity",
    "dual_cone_weights",
    "solve_psd",
    "unit_gram",
]

Array = jax.Array

# Added to the unit diagonal of the cosine matrix: what makes dependent gradients solvable. Relative
# to each task's own norm, so that scaling a task's gradient changes nothing.
RIDGE = 1e-6


class Solution(NamedTuple):
    """What an iterative solver hands to `make_transform`.

    Attributes:
      weights: `[K]`.
      converged: bool `[]`, whether they solve the problem to the precision that is claimed.
    """

    weights: Array
    converged: Array


def unit_gram(gram: Array) -> tuple[Array, Array, Array]:
    """Cosines, norms and inverse norms: `G = diag(norms) C diag(norms)`.

    Solvers work on C, whose conditioning does not depend on the scales of the tasks.

    Returns:
      C `[K, K]` (a zero gradient has a zero row, with 1 on the diagonal), norms `[K]`, and inverse
      norms `[K]` (0 for a zero gradient).
    """
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0.0))
    inverse = jnp.where(norms > 0, 1.0 / jnp.where(norms > 0, norms, 1.0), 0.0)
    cosines = gram * inverse[:, None] * inverse[None, :]
    eye = jnp.eye(gram.shape[0], dtype=bool)
    return jnp.where(eye, 1.0, cosines), norms, inverse


def complementarity(matrix: Array, q: Array, free: Array | None = None) -> tuple[Array, Array]:
    """Solves the linear complementarity problem above.

    Args:
      matrix: float32 `[K, K]`, symmetric positive definite, diagonal near 1.
      q: float32 `[K]`.
      free: bool `[K]`, a guess of the free set to start from.

    Returns:
      x `[K]` and the free set `[K]`. Ends after at most `5 K + 20` exchanges, whatever comes in.
    """
    k = q.shape[0]
    eye = jnp.eye(k, dtype=matrix.dtype)
    tolerance = 1e-6 * jnp.max(jnp.abs(q))

    def solve(free):
        both = free[:, None] & free[None, :]
        x = jnp.linalg.solve(jnp.where(both, matrix, eye), jnp.where(free, -q, 0.0)[:, None])[:, 0]
        y = jnp.dot(matrix, x, precision="highest") + q
        return x, jnp.where(free, x, y) < -tolerance

    def unfinished(carry):
        _, _, wrong, _, _, step = carry
        return wrong.any() & (step < 5 * k + 20)

    def exchange(carry):
        free, _, wrong, best, patience, step = carry
        count = wrong.sum()
        better = count < best
        patience = jnp.where(better, 3, patience - 1)
        last = jnp.arange(k) == k - 1 - jnp.argmax(wrong[::-1])
        free = free ^ jnp.where(patience >= 0, wrong, last)
        x, wrong = solve(free)
        return free, x, wrong, jnp.minimum(best, count), patience, step + 1

    free = jnp.zeros((k,), bool) if free is None else free
    free = vary_like(free, q)
    x, wrong = solve(free)
    start = (free, x, wrong, jnp.asarray(k + 1), jnp.asarray(3), jnp.asarray(0))
    free, x, *_ = jax.lax.while_loop(unfinished, exchange, vary_like(start, q))
    return jnp.maximum(x, 0.0), free


def dual_cone_weights(gram: Array, preference: Array) -> Array:
    """Weights v of the projection of `sum_i u_i g_i` onto `{d : <g_i, d> >= 0 for all i}`.

    Its dual: min v'Gv subject to v >= u (Quinton & Rey 2024, arXiv 2406.16232, proposition 1).
    Solved for the correction x = v - u, to which alone the ridge applies: where nothing conflicts,
    v is u.

    Args:
      gram: float32 `[K, K]`.
      preference: float32 `[K]`, u.

    Returns:
      float32 `[K]`, at least u.
    """
    cosines, _, inverse = unit_gram(gram)
    matrix = cosines + RIDGE * jnp.eye(gram.shape[0], dtype=gram.dtype)
    q = jnp.dot(gram, preference, precision="highest") * inverse
    x, _ = complementarity(matrix, q)
    return preference + x * inverse


def solve_psd(matrix: Array, sides: Array) -> Array:
    """`M^+ b` for a symmetric positive semi-definite M with diagonal near 1, `[K]`.

    Eigenvalues within K float32 roundings of the largest count as zero.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    kept = values > values[-1] * matrix.shape[0] * jnp.finfo(matrix.dtype).eps
    inverse = jnp.where(kept, 1.0 / jnp.where(kept, values, 1.0), 0.0)
    rotated = jnp.dot(vectors.T, sides, precision="highest")
    return jnp.dot(vectors, inverse * rotated, precision="highest")
