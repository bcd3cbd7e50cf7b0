"""Preferences, and normalised MGDA, against NumPy, SciPy and the same method on other gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from surgery_reference import FOUR

from mtrl_jax import surgery

P = np.array([0.4, 0.1, 0.2, 0.3])
GRAM = FOUR @ FOUR.T


def update_of(name, num_tasks=4, grads=FOUR, present=None, losses=None, **arguments):
    tx = surgery.METHODS[name](num_tasks=num_tasks, **arguments)
    extra = {} if present is None else {"present": jnp.asarray(present)}
    losses = None if losses is None else jnp.asarray(losses, jnp.float32)
    update, _ = jax.jit(tx.update)(
        jnp.asarray(grads, jnp.float32), tx.init(jnp.zeros(6)), task_losses=losses, **extra
    )
    return np.asarray(update)


def project(direction):
    """The nearest direction that sets no task back: SciPy's, by its dual."""
    root = np.linalg.cholesky(GRAM)  # min_x>=0 |L'x + L^-1 J d|
    x, _ = scipy.optimize.nnls(root.T, -np.linalg.solve(root, FOUR @ direction))
    return direction + FOUR.T @ x


def by_config():
    u = np.linalg.pinv(FOUR / np.linalg.norm(FOUR, axis=1, keepdims=True)) @ P
    u = u / np.linalg.norm(u)
    return (FOUR @ u).sum() * u


def by_aligned_mtl():
    # Algorithm 1 on the matrix itself: singular values all the smallest one, then p' of the rows.
    left, singular, right = np.linalg.svd(FOUR, full_matrices=False)
    return P @ (singular.min() * left @ right)


WANTED = {
    "mean": lambda: P @ FOUR,
    "sum": lambda: 4 * P @ FOUR,
    "dual_proj": lambda: project(P @ FOUR),
    "upgrad": lambda: sum(p * project(g) for p, g in zip(P, FOUR, strict=True)),
    "config": by_config,
    "aligned_mtl": by_aligned_mtl,
}


@pytest.mark.parametrize("name", WANTED)
def test_preferences(name):
    want = WANTED[name]()
    np.testing.assert_allclose(update_of(name, preference=P), want, rtol=0, atol=2e-4)
    # Only ratios count, and equal ones are the method without.
    np.testing.assert_allclose(update_of(name, preference=7 * P), want, rtol=0, atol=2e-4)
    plain = update_of(name)
    np.testing.assert_allclose(update_of(name, preference=[2.0] * 4), plain, rtol=1e-5, atol=1e-6)
    assert np.abs(plain - want).max() > 0.05


@pytest.mark.parametrize("name", [*WANTED, "sdmgrad", "stch"])
def test_preferences_among_those_present(name):
    keep, here, losses = [0, 2, 3], [True, False, True, True], np.array([1.0, 3.0, 0.5, 2.0])
    bad = FOUR.copy()
    bad[1] = np.nan
    got = update_of(name, grads=bad, present=here, losses=losses, preference=P)
    want = update_of(name, 3, FOUR[keep], losses=losses[keep], preference=P[keep])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_preference_for_one_task_in_upgrad_is_its_projection():
    got = update_of("upgrad", preference=[0.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(got, project(FOUR[1]), atol=2e-4)


@pytest.mark.parametrize("name", WANTED)
def test_wrong_preferences(name):
    with pytest.raises(ValueError, match="preference must be 4 numbers"):
        update_of(name, preference=[1.0, 2.0])
    with pytest.raises(ValueError, match="must not be negative"):
        update_of(name, preference=[1.0, 2.0, -1.0, 1.0])


@pytest.mark.parametrize("normalisation", ["l2", "loss", "loss+"])
def test_normalised_mgda(normalisation):
    """The weights of MGDA for the scaled gradients, of the gradients as they are."""
    losses = np.array([1.0, 3.0, 0.5, 2.0])
    norms = np.linalg.norm(FOUR, axis=1)
    by = {"l2": norms, "loss": losses, "loss+": norms * losses}[normalisation]
    scaled = FOUR / by[:, None]
    # The shortest vector by SciPy: w >= 0, with the sum held at 1 by a heavy row.
    rows = np.vstack([scaled.T, np.full((1, 4), 1e4)])
    w, _ = scipy.optimize.nnls(rows, np.r_[np.zeros(6), 1e4])
    got = update_of("mgda", losses=losses, normalisation=normalisation)
    np.testing.assert_allclose(got, w @ FOUR, atol=1e-3)
    assert np.abs(got - update_of("mgda")).max() > 0.05


def test_normalised_mgda_asks_for_losses():
    with pytest.raises(ValueError, match="task_losses=losses"):
        update_of("mgda", normalisation="loss+")
    with pytest.raises(ValueError, match="normalisation must be one of"):
        surgery.mgda(num_tasks=2, normalisation="l1")
