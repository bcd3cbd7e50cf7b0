"""What each solver claims, over thousands of random matrices, in float64 and against SciPy.

K gradients of P parameters, K from 2 to 64 and P from 1 to 2 K: normal, rank-deficient, on one
line and nearly so, opposite, duplicated, stationary, zero, with scales over 12 decades. A claim is
stated in units that the cosines of a float32 Gram matrix can hold: each of them is known to a few
roundings (eps), so that an inner product <g_i, d> is known to a few eps |g_i| sum_j |w_j g_j|, and
the length of a difference of gradients to sqrt(eps) of theirs.

    python -m pytest -m slow tests/maths/test_surgery_soundness.py      # ten times as many
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from mtrl_jax.surgery import quadratic
from mtrl_jax.surgery.cagrad import solve_cagrad
from mtrl_jax.surgery.dual_proj import solve_dual_proj
from mtrl_jax.surgery.mgda import solve_mgda
from mtrl_jax.surgery.powers import solve_power_equation
from mtrl_jax.surgery.upgrad import solve_upgrad
from tests.machinery import tiny

EPS = float(np.finfo(np.float32).eps)
DRAWS = {2: 24, 3: 12, 5: 8, 8: 6, 16: 3, 64: 1}  # of every kind and every P
SIZES = pytest.mark.parametrize("k", DRAWS)
slow = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _optimised():
    # Here solvers run for longer than they compile.
    with tiny.quick_compiles(False):
        yield


# The ridge of 8 eps (16 for 64 tasks), and roundings of the Gram matrix and of the solver.
BACKWARD = 32 * EPS


def kinds(rng, k, p):
    base = rng.normal(size=(k, p))
    sign = np.where(rng.random(k) < 0.5, 1.0, -1.0)[:, None]
    scales = 10.0 ** rng.uniform(-6, 6, (k, 1))
    line = sign * rng.normal(size=p)
    rank = max(1, min(k, p) // 2)
    twice = base[rng.integers(0, max(1, k // 2), k)]
    yield base
    yield base * scales
    yield rng.normal(size=(k, rank)) @ rng.normal(size=(rank, p))
    yield line + 0.5 * base
    yield line * scales
    yield line + 10.0 ** rng.uniform(-6, -1) * base
    yield twice * scales
    yield twice * sign
    yield np.vstack([base[:-1], -base[:-1].sum(0)])
    yield base * (rng.random((k, 1)) < 0.7)
    yield 2 * rng.normal(size=p) + base


@functools.cache
def gradients(k, times=1):
    """Jacobians `[N, K, 2K]` in float64, of float32 numbers, and their float32 Gram matrices."""
    rng = np.random.default_rng(k)
    out = []
    for p in sorted({1, 2, max(1, k // 2), k - 1, k, k + 1, 2 * k}):
        for _ in range(DRAWS[k] * times):
            out += [np.pad(x, ((0, 0), (0, 2 * k - p))) for x in kinds(rng, k, p)]
    jacobians = np.stack(out).astype(np.float32)
    grams = np.einsum("nip,njp->nij", jacobians, jacobians)
    assert grams.dtype == np.float32
    return jacobians.astype(np.float64), jnp.asarray(grams)


def units(j):
    """Unit gradients `[N, K, P]` (0 for a zero one) and norms `[N, K]`."""
    norms = np.linalg.norm(j, axis=2)
    return j / np.where(norms > 0, norms, 1.0)[..., None], norms


def solved(solve, grams, *arguments):
    weights, converged = solve(grams, *arguments)
    assert converged.all()
    return np.asarray(weights, np.float64)


def update_of(j, w):
    """The update, its inner products with the unit gradients, and the length of its terms."""
    u, norms = units(j)
    d = np.einsum("nk,nkp->np", w, j)
    return d, np.einsum("nkp,np->nk", u, d), (np.abs(w) * norms).sum(1, keepdims=True)


_upgrad = jax.jit(jax.vmap(solve_upgrad))
_dual_proj = jax.jit(jax.vmap(solve_dual_proj))
_mgda = jax.jit(jax.vmap(solve_mgda))
_cagrad = jax.jit(jax.vmap(solve_cagrad, in_axes=(0, None)))
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


def shortest(j):
    """Weights of the shortest vector in the hull of the non-zero gradients, by NNLS."""
    u, norms = units(j)
    out = np.zeros(norms.shape)
    for n in range(len(j)):
        alive = norms[n] > 0
        if alive.any():
            r = np.where(alive, norms[n][alive].min() / np.where(alive, norms[n], 1.0), 0.0)
            side = np.zeros(j.shape[2] + 1)
            side[-1] = 1.0
            z, _ = nnls(np.vstack([u[n].T, r]), side, maxiter=100_000)
            out[n] = z * r / (z @ r)
    return out


def check_cagrad(j, grams, radii):
    k = j.shape[1]
    _, norms = units(j)
    alive = norms > 0
    mean, stationary = j.mean(1), shortest(j)
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    b = np.einsum("nkp,np->nk", j, mean)
    for c in radii:
        w = solved(_cagrad, grams, c)
        d, along, _ = update_of(j, w)
        # The mean may be a small difference of large gradients: its length squared is known to eps
        # of theirs.
        unit = (1 + c) * length
        unknown = 2 * (1 + c) * EPS**0.5 * norms.mean(1, keepdims=True)
        away = np.linalg.norm(d - mean, axis=1, keepdims=True)
        assert (away <= c * length + 2e-5 * unit + unknown).all()
        # Weak duality: any weights on the simplex bound what a d in the ball can do for the task
        # that gains least.
        v = np.where(alive, w - 1 / k, 0.0)
        total = v.sum(1, keepdims=True)
        bound = np.where(alive, b + c * length * norms, np.inf).min(1, keepdims=True)
        for q in (v / np.where(total > 0, total, 1.0), stationary):
            inside = (q.sum(1, keepdims=True) > 0.5) & (q >= 0).all(1, keepdims=True)
            hull = np.linalg.norm(np.einsum("nk,nkp->np", q, j), axis=1, keepdims=True)
            value = (q * b).sum(1, keepdims=True) + c * length * hull
            bound = np.where(inside, np.minimum(bound, value), bound)
        # A zero gradient gains nothing, whatever d is.
        bound = np.where(alive.all(1, keepdims=True), bound, np.minimum(bound, 0.0))
        # 4 sqrt(ridge), below which a gain for all cannot be told from none.
        reach = np.where(alive, bound / np.where(alive, norms, 1.0) - along, 0.0)
        assert (reach <= 8e-3 * unit + unknown).all()


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


RADII = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0, 1.01, 2.0, 10.0)
POWERS = (1.0, 0.5, 0.2, 2.0)


@SIZES
def test_projections_never_conflict(k):
    check_projections(*gradients(k))


@SIZES
def test_mgda_is_shortest(k):
    check_mgda(*gradients(k))


@pytest.mark.parametrize("k", [2, 3, 5, 8, 16])
def test_cagrad_does_what_the_ball_allows(k):
    check_cagrad(*gradients(k), RADII if k < 8 else (0.5, 1.01))


@SIZES
def test_bargains_solve_their_equation(k):
    check_power(*gradients(k), POWERS)


@slow
@pytest.mark.parametrize("k", [2, 3, 5, 8, 16])
def test_ten_times_as_many(k):
    j, grams = gradients(k, 10)
    check_projections(j, grams)
    check_mgda(j, grams)
    check_cagrad(j, grams, RADII)
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


@pytest.mark.parametrize("steps", [1, 2, 3])
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


def test_what_cannot_be_solved_is_said():
    # Weights that span 48 decades are no float32 numbers.
    gram = np.outer(np.logspace(-6, 6, 4), np.logspace(-6, 6, 4))
    assert not solve_power_equation(jnp.asarray(gram, jnp.float32), 0.2).converged
