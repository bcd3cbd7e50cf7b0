"""CAGrad against its programme solved in float64 another way, with a proof of optimality for each.

    python -m pytest -m slow tests/maths/test_surgery_cagrad.py         # ten times as many

The reference takes the gradients themselves (the method sees their float32 Gram matrix), and finds
the d = g_0 + e of the largest worst inner product m by Lawson and Hanson's NNLS (SciPy's), and
Newton's method or halving over m. That it is right does not rest on how it was found: d lies in the
ball, which bounds the optimum from below, and the multipliers q bound it from above by weak
duality,

    m <= <q, b> + R |sum_i q_i g_i|,    q on the simplex,  b_i = <g_i, g_0>,  R = c |g_0|

How far the method may be from it follows from what it works with. Let n_i = |g_i|, N their mean, S
the sum of the lengths |v_i g_i| of the terms of e, and Q the sum of q_i n_i.

 1. Its cosines are off by E, |E_ij| <= gamma: both are known here. So b_i / n_i is off by gamma N
    (and K eps N of rounding), |g_0|^2 by gamma N^2, and |g_0| itself by sqrt(gamma) N at most.
 2. It adds a ridge r to the diagonal, larger than E. Then E + r I is a Gram matrix, and
    the method's problem is that of gradients (u_i, f_i) of some more coordinates f. Its optimum is
    not below ours, since (d, 0) is in its ball; and what its d gains in the extra coordinates is
    lost: by Cauchy and Schwarz at most sqrt(r + gamma) R for each unit gradient.
 3. It stops where a gain for all of less than 4 sqrt(r) R cannot be told from none.
 4. Its quadratic programmes are solved to the residual `residual_limit`, and its ball to 16 eps.
"""

import sys

import jax
import numpy as np
import pytest
from scipy.optimize import minimize, nnls
from surgery_matrices import EPS, gradients, shortest, solved, units, update_of

from mtrl_jax.surgery import quadratic
from mtrl_jax.surgery.cagrad import solve_cagrad
from tests.machinery import tiny

RADII = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0, 1.01, 2.0, 10.0)
_cagrad = jax.jit(jax.vmap(solve_cagrad, in_axes=(0, None)))


@pytest.fixture(autouse=True, scope="module")
def _optimised():
    # Here solvers run for longer than they compile.
    with tiny.quick_compiles(False):
        yield


def nearest(u, h):
    """The shortest e with `u_i e >= h_i` (problem LDP of Lawson and Hanson), and its multipliers;
    None if there is none."""
    if (h <= 0).all():
        return np.zeros(u.shape[1]), np.zeros(len(u))
    z, residual = nnls(np.vstack([u.T, h]), np.eye(u.shape[1] + 1)[-1], maxiter=100_000)
    room = 1.0 - h @ z
    if residual < 1e-13 or room <= 0 or (u @ (u.T @ z / room) < h - 1e-9).any():
        return None
    return u.T @ z / room, z / room


def reference(j, c):
    """`(d, lower, upper)`: the update for gradients `[K, P]`, none of them zero, and bounds on the
    largest worst inner product that the ball allows."""
    norms = np.linalg.norm(j, axis=1)
    u, g0 = j / norms[:, None], j.mean(0)
    b, radius = j @ g0, c * np.linalg.norm(g0)
    low, high = b.min(), (b + radius * norms).min()
    e, q = np.zeros(j.shape[1]), np.eye(len(j))[np.argmin(b)]
    # 0 first: gradients that sum to 0 with positive weights allow no more.
    ahead = [0.0, 1e-7 * high] if low < 0 < high else []
    for _ in range(100 if radius > 0 else 0):
        m = ahead.pop(0) if ahead else 0.5 * (low + high)
        found = nearest(u, (m - b) / norms / radius)
        away = np.inf if found is None else np.linalg.norm(found[0])
        if away > 1.0:
            high, ahead = m, []
        else:
            low, e, q = m, radius * found[0], found[1] / norms
        done = high - low <= 1e-10 * max(abs(low), abs(high)) or (low == 0 and high == m)
        if 1.0 < away < 1.0 + 1e-10:
            e, q, done = radius / away * found[0], found[1] / norms, True
        if done:
            break
        if 0 < away < np.inf and not ahead:  # Newton: the distance is convex in m
            newton = m - away * (away - 1.0) * radius / (found[1] / norms).sum()
            ahead = [newton] if low < newton < high else []
    multipliers = [x / x.sum() for x in (q, shortest(j[None])[0]) if x.sum() > 0]
    upper = min(x @ b + radius * np.linalg.norm(x @ j) for x in multipliers)
    return g0 + e, (b + j @ e).min(), min(upper, (b + radius * norms).min())


def optima(j, c):
    """Bounds `[N]` on the optimum of each matrix; a zero gradient gains nothing, whatever d is."""
    lower, upper = np.zeros(len(j)), np.zeros(len(j))
    for n, one in enumerate(j):
        alive = np.linalg.norm(one, axis=1) > 0
        if alive.any():  # in proportion to g_0, which is the mean over all
            lower[n], upper[n] = alive.mean() * np.asarray(reference(one[alive], c)[1:])
        if not alive.all():
            lower[n], upper[n] = min(lower[n], 0.0), min(upper[n], 0.0)
    return lower, upper


def check(k, times, radii):
    j, grams = gradients(k, times)
    u, norms = units(j)
    alive, mean, n_mean = norms > 0, j.mean(1), norms.mean(1)
    length = np.linalg.norm(mean, axis=1)
    size = np.sqrt(np.einsum("nii->ni", np.asarray(grams, np.float64)))
    size = np.where(alive, size, 1.0)
    cosines = np.asarray(grams, np.float64) / size[:, :, None] / size[:, None, :]
    exact = np.einsum("nip,njp->nij", u, u)
    off = cosines - exact
    ridge = 8 * EPS * max(1.0, k / 16) ** 0.5
    # See 2. Of gradients that are alike E has one sign, and is a relative change of them.
    assert np.linalg.eigvalsh(off + 4 * EPS * exact).min() > -ridge
    gamma = np.abs(off).max((1, 2)) + 4 * EPS  # the method rounds its cosines once more
    mean_off = np.sqrt(gamma + 2 * k * EPS) * n_mean  # of |g_0|; see 1
    mean_off = np.minimum(mean_off, mean_off**2 / np.maximum(length, 1e-300))
    b_off = (gamma + k * EPS) * n_mean
    least = np.where(alive, norms, np.inf).min(1)
    least = np.where(np.isfinite(least), least, 0.0)
    for c in radii:
        w = solved(_cagrad, grams, c)
        d, along, _ = update_of(j, w)
        v = np.where(alive, np.maximum(w - 1 / k, 0.0), 0.0)
        terms = (v * norms).sum(1)
        radius = c * (length + mean_off)
        away = np.linalg.norm(d - mean, axis=1)
        assert (away <= (1 + 32 * EPS) * radius + EPS * (n_mean + terms)).all()

        lower, upper = optima(j, c)
        assert (upper - lower <= 1e-6 * (1 + c) * length * norms.max(1)).all()
        # Without multipliers d = g_0, and q is the task that gains least.
        total, worst = v.sum(1), np.where(alive, along * norms, np.inf).argmin(1)
        q = np.where(
            total > k * EPS, terms / np.maximum(total, EPS), norms[np.arange(len(j)), worst]
        )
        residual = EPS * ((1 + k) * n_mean + 8 * radius + (2 + k) * terms)
        each = np.sqrt(ridge + gamma) * radius + b_off + residual  # for unit gradients
        common = q * (b_off + c * mean_off) + 4 * np.sqrt(ridge) * radius * least
        loss = np.where(alive, upper[:, None] - norms * along - norms * each[:, None], 0.0)
        assert (loss.max(1) <= common).all()


@pytest.mark.parametrize("k", [2, 3, 5, pytest.param(8, marks=pytest.mark.slow)])
def test_cagrad_does_what_the_ball_allows(k):
    check(k, 1, (0.5, 1.0, 2.0) if k < 8 else (0.5, 1.01))


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3, 5, 8, 16, 64])
def test_ten_times_as_many_matrices_and_more_radii(k):
    check(k, 10 if k < 64 else 2, RADII)


def test_the_reference_is_that_of_a_plain_optimiser():
    """SciPy's SLSQP on the dual, whose minimum over the simplex is the worst inner product."""
    rng = np.random.default_rng(0)
    for k in (2, 3, 6):
        for c in (0.2, 0.9):
            j = rng.normal(size=(k, 2 * k))
            b, radius = j @ j.mean(0), c * np.linalg.norm(j.mean(0))
            found = minimize(
                lambda q, j=j, b=b, r=radius: q @ b + r * np.linalg.norm(q @ j),
                np.full(k, 1 / k),
                method="SLSQP",
                bounds=[(0, 1)] * k,
                constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
                options={"ftol": 1e-14, "maxiter": 1000},
            )
            _, lower, upper = reference(j, c)
            np.testing.assert_allclose([lower, upper], found.fun, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("tried", [0, 2])
def test_what_is_given_up_early_is_in_the_ball_and_no_worse_than_the_mean(tried, monkeypatch):
    """Whether too few m are tried, or the programme of each is given up."""
    j, grams = (x[::5] for x in gradients(8))
    _, norms = units(j)
    mean = j.mean(1)
    least = np.einsum("nkp,np->nk", j, mean).min(1)
    length = np.linalg.norm(mean, axis=1)
    unknown = np.sqrt(32 * EPS) * norms.mean(1)
    for module, name, value in (
        (sys.modules["mtrl_jax.surgery.cagrad"], "_MOST", tried),
        (quadratic, "most_steps", {8: tried}.get),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            solve = jax.jit(jax.vmap(lambda g: solve_cagrad(g, 0.7)))
            w, converged = solve(grams)
        assert not converged.all() and np.isfinite(w).all()
        d = np.einsum("nk,nkp->np", np.asarray(w, np.float64), j)
        away = np.linalg.norm(d - mean, axis=1)
        assert (away <= 0.7 * length + unknown).all()
        worst = np.einsum("nkp,np->nk", j, d).min(1)
        assert (worst >= least - norms.max(1) * (1e-3 * length + unknown)).all()
        # What says that it converged has: the same as without a limit.
        said = np.asarray(converged)
        np.testing.assert_allclose(
            np.asarray(w)[said], solved(_cagrad, grams, 0.7)[said], rtol=1e-3, atol=1e-3
        )
