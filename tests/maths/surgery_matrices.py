"""Random Jacobians on which solvers may err, thousands of them, and what an update does there.

K gradients of P parameters, K from 2 to 64 and P from 1 to 2 K: normal, rank-deficient, on one
line and nearly so, opposite, duplicated, stationary, zero, with scales over 12 decades.
"""

import functools

import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

EPS = float(np.finfo(np.float32).eps)
DRAWS = {2: 24, 3: 12, 5: 8, 8: 6, 16: 3, 64: 1}  # of every kind and every P


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
