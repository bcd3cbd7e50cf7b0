"""The defining equation of each method, held by its update, in float32 and in float64.

Of full rank and of less: K gradients of P parameters with P below K, where the docstrings say what
takes the equation's place. The references are NumPy's (`pinv`, `svd`) and SciPy's NNLS, in float64.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls
from surgery_reference import conflict, gauss, spread

from mtrl_jax.surgery.aligned_mtl import aligned_mtl_weights
from mtrl_jax.surgery.cagrad import solve_cagrad
from mtrl_jax.surgery.config import config_weights
from mtrl_jax.surgery.dual_proj import solve_dual_proj
from mtrl_jax.surgery.fairgrad import solve_fairgrad
from mtrl_jax.surgery.imtl_g import imtl_g_weights
from mtrl_jax.surgery.mgda import solve_mgda
from mtrl_jax.surgery.nash_mtl import solve_nash_mtl
from mtrl_jax.surgery.pivrg import solve_pivrg
from mtrl_jax.surgery.spectrum import principal
from mtrl_jax.surgery.upgrad import solve_upgrad

K = 5
P = np.array([0.5, 1.0, 1.5, 0.2, 2.0])  # a preference
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
RANKS = pytest.mark.parametrize("size", [9, 3], ids=["full", "deficient"])


def jacobians(size):
    rng = np.random.default_rng(size)
    return [kind(rng, K, size) for kind in (gauss, conflict, spread)]


def units(j):
    norms = np.linalg.norm(j, axis=1)
    return j / norms[:, None], norms


_jit = functools.cache(jax.jit)


@functools.cache
def _aligned(scale):
    """Weights `[K, K]`, row i for the preference of task i alone."""
    solve = functools.partial(aligned_mtl_weights, scale=scale)
    return lambda gram: jax.vmap(lambda p: solve(gram, preference=p))(jnp.eye(K, dtype=gram.dtype))


def weights_of(solve, j, dtype, *arguments):
    """Weights for the Gram matrix of J in this dtype, as float64; they converged and kept it."""
    with jax.enable_x64(dtype == "float64"):
        arguments = [jnp.asarray(a, dtype) for a in arguments]
        found = _jit(solve)(jnp.asarray(j @ j.T, dtype), *arguments)
        weights, converged = found if isinstance(found, tuple) else (found, True)
        assert weights.dtype == dtype and bool(converged)
        return np.asarray(weights, np.float64)


def tolerance(j, dtype):
    """A Gram matrix in this dtype knows directions to the square root of its precision, and these
    are magnified by the conditioning of what is left of the cosines."""
    singular = np.linalg.svd(units(j)[0], compute_uv=False)
    singular = singular[singular > 1e-10]
    eps = float(np.finfo(dtype).eps)
    full = len(singular) == len(j)
    return 32 * eps * (singular[0] / singular[-1]) ** 2 if full else 32 * math.sqrt(eps)


@DTYPES
@RANKS
def test_config_has_the_cosines_asked_for_and_its_length(size, dtype):
    for j in jacobians(size):
        u, _ = units(j)
        d = weights_of(config_weights, j, dtype, P) @ j
        near = tolerance(j, dtype)
        if size > K:
            cosines = u @ d / np.linalg.norm(d)
            np.testing.assert_allclose(cosines / P, (cosines / P)[0], rtol=near)
        g = np.linalg.pinv(u) @ P  # with dependent gradients the least-squares solution of U g = p
        g /= np.linalg.norm(g)
        np.testing.assert_allclose(d, (j @ g).sum() * g, rtol=0, atol=near * np.abs(j).sum())


@DTYPES
@RANKS
def test_imtl_g_has_equal_projections_and_weights_of_sum_one(size, dtype):
    for j in jacobians(size):
        u, _ = units(j)
        w = weights_of(imtl_g_weights, j, dtype)
        d, near = w @ j, tolerance(j, dtype)
        assert abs(w.sum() - 1) <= near * np.abs(w).sum()
        size_of_terms = np.abs(w) @ np.linalg.norm(j, axis=1)
        if size > K:
            along = u @ d
            np.testing.assert_allclose(along, along[0], rtol=0, atol=near * size_of_terms)
        g = np.linalg.pinv(u) @ np.ones(K)  # the direction, also of dependent gradients
        d, g = d / np.linalg.norm(d), g / np.linalg.norm(g)
        assert np.linalg.norm(d - np.sign(d @ g) * g) <= near * size_of_terms / np.linalg.norm(
            w @ j
        )


@DTYPES
@RANKS
@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
def test_aligned_mtl_makes_the_gradients_orthogonal_and_equally_long(scale, size, dtype):
    for j in jacobians(size):
        left, singular, right = np.linalg.svd(j, full_matrices=False)
        kept = singular > 1e-10
        values = singular[kept]
        sigma = {
            "min": values[-1],
            "median": values[len(values) // 2],
            "rmse": np.sqrt((values**2).mean()),
        }[scale]
        b = weights_of(_aligned(scale), j, dtype)
        aligned = b @ j
        near = tolerance(j, dtype) * values[0] / values[-1]
        # Equal non-zero singular values: aligned' aligned is sigma^2 on their space.
        want = sigma**2 * right[kept].T @ right[kept]
        np.testing.assert_allclose(aligned.T @ aligned, want, rtol=0, atol=near * sigma**2)
        np.testing.assert_allclose(aligned, sigma * left[:, kept] @ right[kept], atol=near * sigma)
        np.testing.assert_allclose(b, b.T, rtol=0, atol=near * np.abs(b).max())


@DTYPES
@RANKS
def test_projections_are_the_nearest(size, dtype):
    for j in jacobians(size):
        u, norms = units(j)

        def project(v, u=u):
            return v + u.T @ nnls(u.T, -v, maxiter=10_000)[0]

        near = tolerance(j, dtype) * norms.sum()
        d = weights_of(solve_upgrad, j, dtype, P) @ j
        want = sum(p * project(g) for p, g in zip(P, j, strict=True))
        assert np.linalg.norm(d - want) <= near * P.max()
        d = weights_of(solve_dual_proj, j, dtype, P) @ j
        assert np.linalg.norm(d - project(P @ j)) <= near * P.max()


@DTYPES
@RANKS
def test_mgda_is_the_nearest_to_the_origin(size, dtype):
    for j in jacobians(size):
        w = weights_of(solve_mgda, j, dtype)
        d = w @ j
        assert (w >= 0).all() and abs(w.sum() - 1) < 32 * np.finfo(dtype).eps
        # <g_i, d> >= |d|^2, with equality where there is weight.
        slack = (j @ d - d @ d) / np.linalg.norm(j, axis=1)
        near = tolerance(j, dtype) * (w @ np.linalg.norm(j, axis=1))
        assert slack.min() >= -near and abs(slack @ (w / w.max())) <= K * near


@DTYPES
@pytest.mark.parametrize("c", [0.3, 0.9, 3.0])
@RANKS
def test_cagrad_fulfils_the_conditions_of_its_optimum(size, c, dtype):
    for j in jacobians(size):
        w = weights_of(solve_cagrad, j, dtype, c)
        norms, mean = np.linalg.norm(j, axis=1), j.mean(0)
        radius, v = c * np.linalg.norm(mean), np.maximum(w - 1 / K, 0.0)
        e = w @ j - mean
        near = 4 * tolerance(j, dtype) * (radius + v @ norms)
        worst = (j @ (w @ j)).min()
        assert np.linalg.norm(e) <= radius + near
        # Weight only where the inner product is the worst; all of the ball, or m = 0.
        slack = (j @ (w @ j) - worst) / norms
        assert (v * norms / radius) @ slack <= K * near
        assert abs(np.linalg.norm(e) - radius) <= near or abs(worst) <= near * norms.max()


@DTYPES
def test_bargains_balance(dtype):
    for j in jacobians(9):
        gram, near = j @ j.T, 8 * tolerance(j, dtype)
        w = weights_of(solve_nash_mtl, j, dtype)
        np.testing.assert_allclose(gram @ w * w / np.linalg.norm(gram), np.ones(K), rtol=near)
        w = weights_of(solve_fairgrad, j, dtype, 2.0)
        np.testing.assert_allclose(gram @ w * np.sqrt(w), np.ones(K), rtol=near)
        w = weights_of(solve_pivrg, j, dtype, P)
        np.testing.assert_allclose(gram @ w * np.sqrt(w / P), np.ones(K), rtol=near)


@pytest.mark.parametrize("decades", [0.5, 3.0])
def test_aligned_mtl_of_many_tasks(decades):
    """Norms that are alike and norms that are not take two roads: see `principal`."""
    k = 140
    rng = np.random.default_rng(0)
    j = rng.normal(size=(k, 3 * k)) * 10.0 ** rng.uniform(0, decades, (k, 1))
    left, singular, right = np.linalg.svd(j, full_matrices=False)
    want = singular[-1] * left.mean(0) @ right
    d = weights_of(aligned_mtl_weights, j, "float32") @ j
    # Single roundings of singular values as large as the largest.
    near = 8 * np.finfo(np.float32).eps * singular[0] / singular[-1]
    assert np.linalg.norm(d - want) <= math.sqrt(k) * near * np.linalg.norm(want)
    dependent = np.vstack([j[: k // 2], j[k // 2 :] @ right[:9].T @ right[:9]])
    left, singular, right = np.linalg.svd(dependent, full_matrices=False)
    rank = int((singular > 1e-10 * singular[0]).sum())
    assert rank < k
    with jax.enable_x64(True):
        found = principal(jnp.asarray(dependent @ dependent.T))
    _, s, kept = map(np.asarray, found)
    assert int(kept.sum()) == rank
    longest = np.linalg.norm(dependent, axis=1).max()
    np.testing.assert_allclose(s[:rank] * longest, singular[:rank], rtol=1e-6)
