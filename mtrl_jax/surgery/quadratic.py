"""Small quadratic programmes over K tasks, solved inside jit.

All of them are

    min 1/2 x'Mx + q'x    subject to x >= 0

with M the cosine matrix of the task gradients and a ridge, solved by `projected_cg`, all at once
where there are many that share M.

What can be claimed of a solution: the cosines are themselves known to a few roundings, so each
method solves its problem for some matrix of cosines within a few roundings of the one given.
Where gradients are dependent to that precision, directions shorter than its square root (3e-4 of
float32) are noise; the ridge, at the level of rounding, decides there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.projected_cg import (
    natural_residual,
    projected_cg,
    residual_limit,
    sum_rounding,
)

__all__ = [
    "Solution",
    "dual_cone",
    "nonnegative",
    "project_on_dual_cone",
    "ridge",
    "ridged",
    "solve_psd",
    "unit_gram",
    "without_conflict",
]

Array = jax.Array


class Solution(NamedTuple):
    """What an iterative solver found.

    Attributes:
      weights: `[K]`, or `[B, K]`.
      converged: bool `[]`, or `[B]`, whether the residual of `weights` is at the level of rounding.
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


def ridge(cosines: Array) -> float:
    """What is added to the diagonal of a cosine matrix, to make dependent gradients solvable.

    Eight roundings, and more for many tasks (`sum_rounding`): K^2 independent roundings move the
    eigenvalues by about sqrt(K) of them. Relative to each task's own norm: scaling a gradient
    changes nothing.
    """
    eps = float(jnp.finfo(cosines.dtype).eps)
    return 8 * eps * sum_rounding(cosines.shape[0])


def ridged(cosines: Array) -> Array:
    """The cosine matrix with `ridge` on the diagonal."""
    return cosines + ridge(cosines) * jnp.eye(cosines.shape[0], dtype=cosines.dtype)


_CHUNK = 128  # programmes that are solved side by side


def most_steps(num_tasks: int) -> int:
    """Steps after which a programme is given up."""
    return 50 * num_tasks + 4000


def nonnegative(
    matrix: Array, q: Array, noise: Array | float = 0.0, start: Array | None = None
) -> Solution:
    """The x >= 0 that minimises `1/2 x'Mx + q'x`.

    Args:
      matrix: `[K, K]`, symmetric, positive definite up to rounding, diagonal near 1.
      q: `[K]`, or `[B, K]` for B programmes with the same matrix.
      noise: `[]`, or `[B]`: a residual up to which q is rounding.
      start: a guess of x, non-negative; 0 if not given.

    Returns:
      x and whether it converged, for each programme. Exactly 0 where q is not negative.
    """
    k = matrix.shape[0]
    rows = q.reshape(-1, k)
    begin = jnp.zeros_like(rows) if start is None else start.reshape(-1, k)
    level = jnp.broadcast_to(jnp.asarray(noise, q.dtype), q.shape[:-1]).reshape(-1, 1)
    x = _in_chunks(matrix, rows, level, begin)
    y = jnp.dot(x, matrix, precision="highest") + rows
    converged = natural_residual(x, y) <= residual_limit(x, rows, level)
    return Solution(x.reshape(q.shape), converged.reshape(q.shape[:-1]))


def _in_chunks(matrix: Array, q: Array, noise: Array, start: Array) -> Array:
    """`projected_cg` of many programmes a chunk at a time: each chunk stays in a core's cache, and
    ends when its own programmes do."""
    b, k = q.shape
    if b <= _CHUNK:
        return projected_cg(matrix, q, noise, start, most_steps(k))
    chunks = -(-b // _CHUNK)

    def split(x: Array) -> Array:  # with rows of zeros, which are solved by zeros
        return jnp.pad(x, ((0, chunks * _CHUNK - b), (0, 0))).reshape(chunks, _CHUNK, -1)

    def solve(one: tuple[Array, Array, Array]) -> Array:
        return projected_cg(matrix, *one, most_steps(k))

    x: Array = jax.lax.map(solve, (split(q), split(noise), split(start)))
    return x.reshape(-1, k)[:b]


def dual_cone(cosines: Array, plain: Array) -> Solution:
    """Corrections that project vectors onto `{d : <g_i, d> >= 0 for all i}`, in unit gradients.

    The dual of the projection of `sum_i p_i u_i`, u_i the unit gradients, onto that cone (Quinton &
    Rey 2024, arXiv 2406.16232, proposition 1):

        min |sum_i (p_i + x_i) u_i|^2    subject to x >= 0

    The ridge applies to the correction x alone: where nothing conflicts, x is exactly 0.

    Args:
      cosines: `[K, K]`.
      plain: `[K]`, or `[B, K]`: p.

    Returns:
      x in the shape of `plain`, and whether each converged.
    """
    noise = jnp.finfo(cosines.dtype).eps * jnp.sum(jnp.abs(plain), axis=-1)
    return nonnegative(ridged(cosines), jnp.dot(plain, cosines, precision="highest"), noise)


def project_on_dual_cone(gram: Array, preference: Array) -> Solution:
    """Weights v of the projection of `sum_i p_i g_i` onto `{d : <g_i, d> >= 0 for all i}`.

    Args:
      gram: `[K, K]`.
      preference: `[K]`, p.

    Returns:
      v `[K]`, at least p, and whether it converged.
    """
    cosines, norms, inverse = unit_gram(gram)
    largest = jnp.max(norms)
    x, converged = dual_cone(cosines, preference * norms / jnp.where(largest > 0, largest, 1.0))
    return Solution(preference + x * (largest * inverse), converged)


def without_conflict(gram: Array, found: Solution) -> Solution:
    """The solution; or, where it has not converged and its update conflicts, weights of zero.

    An update of zero sets no task back. An inner product is known to a few roundings of its terms;
    what is below -32 of them is a conflict.

    Args:
      gram: `[K, K]`.
      found: weights `[K]`, and whether they converged.
    """
    cosines, norms, _ = unit_gram(gram)
    terms = found.weights * norms / jnp.maximum(jnp.max(norms), jnp.finfo(gram.dtype).tiny)
    along = jnp.dot(cosines, terms, precision="highest")
    level = 32 * jnp.finfo(gram.dtype).eps * jnp.sum(jnp.abs(terms))
    sound = found.converged | (along >= -level).all()
    return found._replace(weights=jnp.where(sound, found.weights, 0.0))


def solve_psd(matrix: Array, sides: Array) -> Array:
    """`M^+ b` for a symmetric positive semi-definite M with diagonal near 1, `[K]`.

    Eigenvalues within K float32 roundings of the largest count as zero.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    kept = values > values[-1] * matrix.shape[0] * jnp.finfo(matrix.dtype).eps
    inverse = jnp.where(kept, 1.0 / jnp.where(kept, values, 1.0), 0.0)
    rotated = jnp.dot(vectors.T, sides, precision="highest")
    return jnp.dot(vectors, inverse * rotated, precision="highest")
