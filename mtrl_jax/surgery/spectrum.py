"""The principal components of the task gradients, from their Gram matrix."""

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.quadratic import unit_gram

__all__ = ["principal"]

Array = jax.Array

_MANY = 128  # tasks from which on an SVD takes most of a step
_ALIKE = 8.0  # ratio of norms up to which the Gram matrix is as good as its cosines


def principal(gram: Array) -> tuple[Array, Array, Array]:
    """Left singular vectors and singular values of the matrix of task gradients, `G = U S^2 U'`.

    G = L L' with L from the cosine matrix: the SVD of L is accurate to the square root of what the
    eigenvalues of G would be when the norms of the tasks differ. Of many tasks whose norms are
    alike the eigenvalues of G are taken all the same, in a third of the time: there they are known
    as well as those of the cosine matrix are.

    Args:
      gram: `[K, K]`.

    Returns:
      U `[K, K]`, one component a column; S `[K]`, descending, the largest norm of a task being 1;
      and bool `[K]`, which count: of the cosine matrix the eigenvalues, and of L the singular
      values, within K roundings of the largest are 0.
    """
    k, eps = gram.shape[0], jnp.finfo(gram.dtype).eps
    cosines, norms, _ = unit_gram(gram)
    largest = jnp.max(norms)
    norms = norms / jnp.where(largest > 0, largest, 1.0)

    def of_factor() -> tuple[Array, Array, Array]:
        values, vectors = jnp.linalg.eigh(cosines)
        values = jnp.where(values > values[-1] * k * eps, values, 0.0)
        left, singular, _ = jnp.linalg.svd(norms[:, None] * vectors * jnp.sqrt(values)[None])
        return left, singular, singular > singular[0] * k * eps

    def of_gram() -> tuple[Array, Array, Array]:
        values, vectors = jnp.linalg.eigh(cosines * norms[:, None] * norms[None, :])
        singular = jnp.sqrt(jnp.maximum(values, 0.0))
        return vectors[:, ::-1], singular[::-1], (values > values[-1] * k * eps)[::-1]

    if k <= _MANY:
        return of_factor()
    alike = jnp.min(jnp.where(norms > 0, norms, 1.0)) * _ALIKE >= 1.0
    found: tuple[Array, Array, Array] = jax.lax.cond(alike, of_gram, of_factor)
    return found
