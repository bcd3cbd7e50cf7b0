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


def batch_of(mean, variance, count=1.0):
    return normalisers.Batch(mean, variance, jnp.full(jnp.shape(mean), count))


def test_masked_moments_are_numpys():
    x, mask = _data()
    dirty = np.where(mask, x, np.nan)
    mean, variance, count = normalisers.masked_moments(dirty, mask, (1, 2))
    np.testing.assert_array_equal(count, mask.sum((1, 2)))
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
        moments = normalisers.update_moments(moments, batch_of(batch.mean(0), batch.var(0)))
    every = batches.reshape(-1, F)
    np.testing.assert_allclose(moments.mean, every.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, every.var(0), rtol=1e-5)
    assert (moments.batches == 5).all()


def test_old_batches_fade():
    moments = normalisers.init_moments(())
    want = 0.0
    for n in range(1, 30):
        moments = normalisers.update_moments(moments, batch_of(jnp.float32(n), 1.0), 0.5)
        want += max(1 / n, 0.5) * (n - want)
    np.testing.assert_allclose(moments.mean, want, rtol=1e-6)
    np.testing.assert_allclose(want, 28.0, rtol=1e-6)  # a delay of 1 / 0.5 - 1 batches


def test_a_batch_of_nothing_is_no_batch():
    """To the bit: neither the moments nor the weights of later batches know of it."""
    x, mask = _data()
    mask[1] = False
    moments = normalisers.Moments(
        jnp.array([3.0, -7.0, 0.1]), jnp.array([2.0, 0.3, 5.0]), jnp.array([4, 2, 9])
    )
    batch = normalisers.masked_moments(np.where(mask, x, np.nan), mask, (1, 2))
    moved = normalisers.update_moments(moments, batch, 0.2)
    for before, after in zip(moments, moved, strict=True):
        assert after[1] == before[1]
        assert (np.delete(after, 1) != np.delete(before, 1)).all()


def test_new_units_say_the_same():
    """Restored values before and after, against float64; nothing moves where moments do not."""
    rng = np.random.default_rng(7)
    mean, spread = rng.normal(0, 300, (2, 50)), 10.0 ** rng.uniform(-6, 5, (2, 50))
    mean[1, :10], spread[1, :10] = mean[0, :10], spread[0, :10]
    before, after = (
        normalisers.Moments(m.astype(np.float32), v.astype(np.float32), np.ones(50, np.int32))
        for m, v in zip(mean, spread, strict=True)
    )
    change = normalisers.change_of_units(before, after)
    x = rng.normal(0, 2, (9, 50)).astype(np.float32)
    renewed = np.asarray(change.scale) * x + np.asarray(change.shift)
    std = np.maximum(np.sqrt(spread), 0.01)  # the least there is
    want = mean[0] + std[0] * x
    size = np.abs(mean).max(0) + std.max(0) * 4  # what was added up
    for moments, y in ((before, x), (after, renewed)):
        got = np.asarray(normalisers.restore(jnp.asarray(y), moments), np.float64)
        assert (np.abs(got - want) / size).max() < 1e-6
    assert (change.scale[:10] == 1.0).all() and (change.shift[:10] == 0.0).all()
    assert (change.scale[10:] != 1.0).any() and (change.shift[10:] != 0.0).all()


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
    counts = np.random.default_rng(4).random((2, 5, 4)) < 0.7
    dirty = np.where(counts[..., None, None], x, np.nan)
    moments = normalisers.observe(normalisers.init_moments((2, 3)), dirty, counts, together)
    rows = [x[k][counts[k]].reshape(-1, 3) for k in range(2)]
    rows = [np.concatenate(rows)] * 2 if together else rows
    np.testing.assert_allclose(moments.mean, [r.mean(0) for r in rows], rtol=1e-5)
    np.testing.assert_allclose(moments.variance, [r.var(0) for r in rows], rtol=1e-4)


@pytest.mark.parametrize("together", [False, True])
def test_a_task_of_which_nothing_counts_moves_nothing(together):
    x = np.random.default_rng(5).normal(2.0, 3.0, (3, 5, 4, 2)).astype(np.float32)
    x[1] = np.nan
    counts = np.ones((3, 5, 4), bool)
    counts[1] = False
    start = normalisers.observe(normalisers.init_moments((3, 2)), x + 1.0, counts, together)
    moments = normalisers.observe(start, x, counts, together)
    others = [0, 2]
    alone = jax.tree.map(lambda y: y[np.array(others)], start)
    alone = normalisers.observe(alone, x[others], counts[others], together)
    for before, after, want in zip(start, moments, alone, strict=True):
        np.testing.assert_allclose(after[np.array(others)], want, rtol=1e-6)
        if together:
            np.testing.assert_array_equal(after[1], after[0])
        else:
            np.testing.assert_array_equal(after[1], before[1])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="mask must have shape"):
        normalisers.masked_moments(jnp.zeros((2, 3)), jnp.ones(3, bool), (0,))
    with pytest.raises(ValueError, match="slowest must lie"):
        normalisers.update_moments(normalisers.init_moments(()), batch_of(0.0, 1.0), 1.5)
