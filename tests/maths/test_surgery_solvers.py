"""The quadratic programmes and the power equation against SciPy, and NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls
from surgery_reference import conflict, gauss, hard, spread

from mtrl_jax.surgery import quadratic
from mtrl_jax.surgery.dual_proj import solve_dual_proj
from mtrl_jax.surgery.mgda import solve_mgda
from mtrl_jax.surgery.powers import solve_power_equation
from mtrl_jax.surgery.quadratic import nonnegative, project_on_dual_cone
from mtrl_jax.surgery.upgrad import solve_upgrad

project = jax.jit(project_on_dual_cone)


def cases(k, size):
    rng = np.random.default_rng(k)
    yield from (kind(rng, k, size) for kind in (gauss, conflict, spread))


@pytest.mark.parametrize("k", [3, 12])
def test_projection_onto_the_dual_cone(k):
    preference = np.linspace(0.5, 1.5, k)
    for jacobian in [*cases(k, k + 3), *cases(k, 2 * k // 3)]:  # full rank, and deficient
        # The correction is sum_i x_i g_i with x >= 0, as short as possible: a non-negative least
        # square.
        norms = np.linalg.norm(jacobian, axis=1, keepdims=True)
        plain = jacobian.T @ preference
        x, _ = nnls((jacobian / norms).T, -plain)
        want = plain + (jacobian / norms).T @ x
        gram = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
        v, converged = project(gram, jnp.asarray(preference, jnp.float32))
        assert converged
        v = np.asarray(v, np.float64)
        assert (v >= preference - 1e-5).all()
        size = np.linalg.norm(plain)
        np.testing.assert_allclose(jacobian.T @ v, want, rtol=0, atol=1e-3 * size)
        assert ((jacobian / norms) @ (jacobian.T @ v)).min() > -2e-5 * size


def test_nothing_is_changed_where_nothing_conflicts():
    jacobian = np.abs(np.random.default_rng(0).normal(size=(5, 8)))
    preference = jnp.linspace(0.1, 0.9, 5)
    got, _ = project(jnp.asarray(jacobian @ jacobian.T, jnp.float32), preference)
    np.testing.assert_array_equal(got, preference)


def test_nonnegative_from_any_start_and_on_anything():
    rng = np.random.default_rng(1)
    solve = jax.jit(nonnegative)
    for _ in range(20):
        factor = rng.normal(size=(6, 6))
        matrix = factor @ factor.T + 0.1 * np.eye(6)
        matrix /= np.sqrt(np.diag(matrix))[:, None] * np.sqrt(np.diag(matrix))[None]
        q = rng.normal(size=6)
        for start in (np.zeros(6), np.ones(6), 1e6 * rng.random(6)):
            arguments = (jnp.asarray(a, jnp.float32) for a in (matrix, q, 0.0, start))
            x, converged = solve(*arguments)
            assert converged
            x = np.asarray(x, np.float64)
            slack = matrix @ x + q
            assert (x >= 0).all() and (slack > -1e-4).all() and abs(x * slack).max() < 1e-4
    # A rank-one matrix, NaN and a wrong sign on the diagonal still end, and what has no solution
    # is not said to be solved.
    q = -jnp.ones(6)
    for matrix, want in ((np.ones((6, 6)), True), (np.full((6, 6), np.nan), False)):
        assert bool(solve(jnp.asarray(matrix, jnp.float32), q, 0.0, jnp.zeros(6)).converged) is want
    assert not solve(-jnp.eye(6), q, 0.0, jnp.zeros(6)).converged


@pytest.mark.parametrize("power", [1.0, 0.5, 0.2, 2.0])
def test_power_equation(power):
    solve = jax.jit(solve_power_equation)
    for jacobian in cases(5, 9):
        gram = jacobian @ jacobian.T
        w, converged = solve(jnp.asarray(gram, jnp.float32), power)
        assert converged
        w = np.asarray(w, np.float64)
        np.testing.assert_allclose(gram @ w * w**power, np.ones(5), rtol=3e-3)
    for jacobian in hard(5, 9).values():
        w, _ = solve(jnp.asarray(jacobian @ jacobian.T, jnp.float32), power)
        assert np.isfinite(w).all() and (np.asarray(w) >= 0).all()


def test_many_programmes_are_solved_chunk_by_chunk(monkeypatch):
    j = np.random.default_rng(0).normal(size=(150, 200))
    gram = jnp.asarray(j @ j.T, jnp.float32)
    assert quadratic._CHUNK < 150
    w, converged = jax.jit(solve_upgrad)(gram)
    monkeypatch.setattr(quadratic, "_CHUNK", 150)
    want, _ = jax.jit(lambda g: solve_upgrad(g))(gram)
    assert converged and (w > 1).any()
    np.testing.assert_allclose(w, want, rtol=1e-4)


def test_a_thousand_tasks_converge():
    """The rounding of a sum grows with the number of its terms, and so does what is asked for."""
    rng = np.random.default_rng(0)
    for p in (2000, 500):
        j = rng.normal(size=(1000, p)).astype(np.float32)
        gram = jnp.asarray(j @ j.T)
        for solve in (solve_mgda, solve_dual_proj):
            assert jax.jit(solve)(gram).converged
        w = np.asarray(jax.jit(solve_mgda)(gram).weights, np.float64)
        d = w @ j
        slack = (j @ d - d @ d) / np.linalg.norm(j, axis=1)
        assert slack.min() >= -1e-4 * (w @ np.linalg.norm(j, axis=1))
