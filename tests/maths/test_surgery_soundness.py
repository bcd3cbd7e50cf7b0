"""What each solver claims, over thousands of random matrices, in float64 and against SciPy.

The matrices are those of `surgery_matrices`; `cagrad` has a file of its own. A claim is stated in
units that the cosines of a float32 Gram matrix can hold: each of them is known to a few roundings
(eps), so that an inner product <g_i, d> is known to a few eps |g_i| sum_j |w_j g_j|, and the length
of a difference of gradients to sqrt(eps) of theirs.

    python -m pytest -m slow tests/maths/test_surgery_soundness.py      # ten times as many
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls
from surgery_matrices import DRAWS, EPS, gradients, shortest, solved, units, update_of
from surgery_reference import FOUR

from mtrl_jax import surgery
from mtrl_jax.surgery import powers, quadratic
from mtrl_jax.surgery.dual_proj import solve_dual_proj
from mtrl_jax.surgery.mgda import solve_mgda
from mtrl_jax.surgery.powers import solve_power_equation
from mtrl_jax.surgery.upgrad import solve_upgrad
from tests.machinery import tiny

slow = pytest.mark.slow
SIZES = pytest.mark.parametrize(
    "k", [k if k in (2, 5, 8) else pytest.param(k, marks=slow) for k in DRAWS]
)


@pytest.fixture(autouse=True, scope="module")
def _optimised():
    # Here solvers run for longer than they compile.
    with tiny.quick_compiles(False):
        yield


# The ridge of 8 eps (16 for 64 tasks), and roundings of the Gram matrix and of the solver.
BACKWARD = 32 * EPS

_upgrad = jax.jit(jax.vmap(solve_upgrad))
_dual_proj = jax.jit(jax.vmap(solve_dual_proj))
_mgda = jax.jit(jax.vmap(solve_mgda))
_power = jax.jit(jax.vmap(solve_power_equation, in_axes=(0, None)))


def check_projections(j, grams):
    for solve, least in ((_upgrad, 1.0), (_dual_proj, 1.0 / j.shape[1])):
        w = solved(solve, grams)
        assert (w >= least * (1 - EPS)).all()
        _, along, size = update_of(j, w)
        assert (along >= -BACKWARD * size).all()


def check_mgda(j, grams):
    w = solved(_mgda, grams)
    assert (w >= 0).all() and np.abs(w.sum(1) - 1).max() < 1e-5
    d, along, size = update_of(j, w)
    # Wolfe's criterion of the shortest vector: <g_i, d> >= |d|^2 for every i.
    _, norms = units(j)
    alive = norms > 0
    short = (d**2).sum(1, keepdims=True) / np.where(alive, norms, 1.0) - along
    assert (np.where(alive, short, 0.0) <= BACKWARD * size).all()
    assert (np.where(alive.all(1), 0.0, np.linalg.norm(d, axis=1)) == 0).all()


def check_power(j, grams, powers):
    u, norms = units(j)
    for power in powers:
        # At power 1/5 the weights span the fifth power of the scales: more than float32 holds.
        kept = np.ones(len(j), bool)
        if power < 0.5:
            least = np.where(norms > 0, norms, np.inf).min(1)
            kept = norms.max(1) < 1e3 * np.where(np.isfinite(least), least, 1.0)
        w = solved(_power, grams, power)[kept] if kept.all() else None
        if w is None:
            w, converged = _power(grams, power)
            assert np.asarray(converged)[kept].all()
            w = np.asarray(w, np.float64)[kept]
        cosines = np.einsum("nip,njp->nij", u[kept], u[kept])
        a = w * norms[kept]
        alive = norms[kept] > 0
        have = np.einsum("nij,nj->ni", cosines, a)
        size = np.einsum("nij,nj->ni", np.abs(cosines), a)
        want = np.where(alive, w, 1.0) ** -power / np.where(alive, norms[kept], 1.0)
        assert (w[alive] > 0).all() and (w[~alive] == 0).all()
        assert (np.abs(have - want)[alive] <= 2 * BACKWARD * np.maximum(size, want)[alive]).all()


POWERS = (1.0, 0.5, 0.2, 2.0)


@SIZES
def test_projections_never_conflict(k):
    check_projections(*gradients(k))


@SIZES
def test_mgda_is_shortest(k):
    check_mgda(*gradients(k))


@SIZES
def test_bargains_solve_their_equation(k):
    check_power(*gradients(k), POWERS)


@slow
@pytest.mark.parametrize("k", [2, 3, 5, 8, 16])
def test_ten_times_as_many(k):
    j, grams = gradients(k, 10)
    check_projections(j, grams)
    check_mgda(j, grams)
    check_power(j, grams, POWERS)


@pytest.mark.parametrize("k", [3, 8])
def test_upgrad_and_mgda_by_scipy(k):
    j, grams = (x[::7] for x in gradients(k))
    u, norms = units(j)
    d, _, _ = update_of(j, solved(_upgrad, grams))
    for n in range(len(j)):
        x = [nnls(u[n].T, -row, maxiter=100_000)[0] for row in u[n]]
        want = norms[n] @ (u[n] + np.stack(x) @ u[n])
        # sqrt(eps): see above.
        assert np.linalg.norm(d[n] - want) <= 5 * EPS**0.5 * norms[n].sum()
    d, _, size = update_of(j, solved(_mgda, grams))
    want = np.linalg.norm(np.einsum("nk,nkp->np", shortest(j), j), axis=1)
    whole = (norms > 0).all(1)
    assert (np.linalg.norm(d, axis=1) <= want + 5 * EPS**0.5 * size[:, 0])[whole].all()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_what_is_given_up_early_is_sound(steps, monkeypatch):
    j, grams = (x[::5] for x in gradients(8))
    _, norms = units(j)
    monkeypatch.setattr(quadratic, "most_steps", {8: steps}.get)
    for solve in (solve_upgrad, solve_dual_proj):
        w, converged = jax.jit(jax.vmap(lambda g, solve=solve: solve(g)))(grams)
        assert not converged.all() and np.isfinite(w).all()
        _, along, size = update_of(j, np.asarray(w, np.float64))
        assert (along >= -2 * BACKWARD * size).all()
    w, converged = jax.jit(jax.vmap(lambda g: solve_mgda(g)))(grams)
    assert not converged.all() and np.isfinite(w).all()
    d, _, size = update_of(j, np.asarray(w, np.float64))
    longest = norms.min(1) + 5 * EPS**0.5 * size[:, 0]
    assert (np.linalg.norm(d, axis=1) <= longest).all()


@pytest.mark.parametrize("steps", [0, 2])
def test_bargains_that_are_given_up_early_conflict_with_nobody(steps, monkeypatch):
    j, grams = (x[::5] for x in gradients(8))
    monkeypatch.setattr(powers, "_MOST", steps)
    for power in (1.0, 0.5):
        w, converged = jax.jit(jax.vmap(lambda g, p=power: solve_power_equation(g, p)))(grams)
        w, converged = np.asarray(w, np.float64), np.asarray(converged)
        assert not converged.all() and np.isfinite(w).all() and (w >= 0).all()
        assert (w[~converged] > 0).any()  # not every one is given up altogether
        _, along, size = update_of(j, w)
        assert (along >= -2 * BACKWARD * size)[~converged].all()


ITERATIVE = ("cagrad", "dual_proj", "fairgrad", "mgda", "nash_mtl", "pivrg", "upgrad")


@pytest.mark.slow
@pytest.mark.parametrize("name", ITERATIVE)
def test_a_cap_on_the_iterations_shows_in_the_diagnostics(name, monkeypatch):
    """And the update is sound: see each method's fallback."""
    j = jnp.asarray(FOUR * np.array([[1.0], [6.0], [1.0], [1.0]]), jnp.float32)
    tx = surgery.METHODS[name](num_tasks=4)
    _, state = jax.jit(tx.update)(j, tx.init(j[0]))
    assert surgery.diagnostics(state).converged.all()
    monkeypatch.setattr(sys.modules["mtrl_jax.surgery.cagrad"], "_MOST", 1)
    monkeypatch.setattr(powers, "_MOST", 1)
    monkeypatch.setattr(quadratic, "most_steps", lambda k: 0)
    tx = surgery.METHODS[name](num_tasks=4)
    update, state = jax.jit(tx.update)(j, tx.init(j[0]))
    assert not surgery.diagnostics(state).converged.any()
    size = np.linalg.norm(update)
    if name == "cagrad":
        assert np.linalg.norm(update - j.mean(0)) <= 0.401 * np.linalg.norm(j.mean(0))
    elif name == "mgda":
        assert size <= 1.001 * np.linalg.norm(j, axis=1).min()
    else:
        assert (j @ update >= -1e-4 * np.linalg.norm(j, axis=1) * size).all()


def test_what_cannot_be_solved_is_said():
    # Weights that span 48 decades are no float32 numbers.
    gram = np.outer(np.logspace(-6, 6, 4), np.logspace(-6, 6, 4))
    assert not solve_power_equation(jnp.asarray(gram, jnp.float32), 0.2).converged
