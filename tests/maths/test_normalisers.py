"""Running moments against NumPy on all the data at once; one device and four."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import normalisers

K, T, E, F = 3, 7, 8, 2


def _data(seed=0):
    rng = np.random.default_rng(seed)
    x = 100.0 + rng.normal(size=(K, T, E)) * np.array([1.0, 5.0, 0.1])[:, None, None]
    return x.astype(np.float32), rng.random((K, T, E)) < 0.8


def test_masked_moments_are_numpys():
    x, mask = _data()
    dirty = np.where(mask, x, np.nan)
    mean, variance = normalisers.masked_moments(dirty, mask, (1, 2))
    for k in range(K):
        kept = x[k][mask[k]].astype(np.float64)
        np.testing.assert_allclose(mean[k], kept.mean(), rtol=1e-6)
        np.testing.assert_allclose(variance[k], kept.var(), rtol=1e-4)
    assert not any(m.any() for m in normalisers.masked_moments(dirty, mask & False, (1, 2)))


def test_batches_add_up_to_the_whole():
    rng = np.random.default_rng(1)
    batches = rng.normal(3.0, 2.0, (5, 40, F)) + np.arange(5)[:, None, None]
    moments = normalisers.init_moments((F,))
    for batch in batches.astype(np.float32):
        moments = normalisers.update_moments(moments, batch.mean(0), batch.var(0))
    every = batches.reshape(-1, F)
    np.testing.assert_allclose(moments.mean, every.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, every.var(0), rtol=1e-5)
    assert (moments.batches == 5).all()


def test_old_batches_fade():
    moments = normalisers.init_moments(())
    want = 0.0
    for n in range(1, 30):
        moments = normalisers.update_moments(moments, jnp.float32(n), jnp.float32(1.0), 0.5)
        want += max(1 / n, 0.5) * (n - want)
    np.testing.assert_allclose(moments.mean, want, rtol=1e-6)
    np.testing.assert_allclose(want, 28.0, rtol=1e-6)  # a delay of 1 / 0.5 - 1 batches


def test_normalise_and_restore():
    moments = normalisers.Moments(jnp.array([1.0, 5.0]), jnp.array([4.0, 0.0]), jnp.int32(9))
    x = jnp.array([[3.0, 5.0], [-99.0, 5.005]])
    y = normalisers.normalise(x, moments, 10.0)
    np.testing.assert_allclose(y, [[1.0, 0.0], [-10.0, 0.5]], atol=1e-4)  # least std is 0.01
    back = normalisers.restore(normalisers.normalise(x, moments), moments)
    np.testing.assert_allclose(back, x, rtol=1e-5)
    fresh = normalisers.init_moments((2,))
    np.testing.assert_array_equal(normalisers.normalise(x, fresh), x)


def test_each_task_is_standardised_by_itself_over_the_whole_rollout_and_all_devices():
    x, mask = _data()
    one = normalisers.standardise(jnp.where(mask, x, jnp.nan), mask)
    assert not one[~mask].any()
    for k in range(K):
        kept = x[k][mask[k]].astype(np.float64)
        np.testing.assert_allclose(
            one[k][mask[k]], (kept - kept.mean()) / kept.std(), rtol=1e-3, atol=1e-4
        )

    def deal(y):
        return np.moveaxis(y.reshape(K, T, 4, E // 4), 2, 0)

    four = jax.pmap(
        lambda x, m: normalisers.standardise(x, m, lambda y: jax.lax.psum(y, "d")),
        "d",
        devices=jax.local_devices()[:4],
    )(deal(x), deal(mask))
    four = np.moveaxis(np.asarray(four), 0, 2).reshape(K, T, E)
    np.testing.assert_allclose(four, one, atol=1e-4)


@pytest.mark.parametrize("together", [False, True])
def test_observations_are_seen_by_task_or_together(together):
    x = np.random.default_rng(3).normal(2.0, 3.0, (2, 5, 4, 1, 3)).astype(np.float32)  # [K, T, E,..
    x[1] += 10.0
    moments = normalisers.observe(normalisers.init_moments((2, 3)), x, together)
    flat = x.reshape(2, 20, 3)
    rows = [flat.reshape(40, 3)] * 2 if together else flat
    np.testing.assert_allclose(moments.mean, [r.mean(0) for r in rows], rtol=1e-5)
    np.testing.assert_allclose(moments.variance, [r.var(0) for r in rows], rtol=1e-4)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="mask must have shape"):
        normalisers.masked_moments(jnp.zeros((2, 3)), jnp.ones(3, bool), (0,))
    with pytest.raises(ValueError, match="slowest must lie"):
        normalisers.update_moments(normalisers.init_moments(()), jnp.zeros(()), jnp.zeros(()), 1.5)
