"""UNREAL's auxiliary tasks against loops in NumPy, and its invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from mtrl_jax.losses import auxiliary, reward_prediction

T, A, N = 6, 3, 2
RNG = np.random.default_rng(0)
VALID = np.array([True, True, False, True, True, True])


@pytest.mark.parametrize(("margin", "cell", "shape"), [(0, 4, (3, 2)), (1, 3, (3, 2))])
def test_pixel_changes_are_means_over_cells(margin, cell, shape):
    frames = RNG.integers(0, 256, (T + 1, 3, 13, 10), np.uint8)
    got = auxiliary.pixel_changes(jnp.asarray(frames), jnp.asarray(VALID), cell, margin)
    want = np.zeros((T, *shape))
    top, left = ((n - m * cell) // 2 for n, m in zip((13, 10), shape, strict=True))
    for t in range(T):
        for i in range(shape[0]):
            for j in range(shape[1]):
                y, x = top + i * cell, left + j * cell
                a, b = (frames[s, :, y : y + cell, x : x + cell].astype(float) for s in (t, t + 1))
                want[t, i, j] = np.abs(a - b).mean() / 255 if VALID[t] else 0
    assert got.shape == want.shape and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_static_images_are_worth_nothing_and_no_change_crosses_a_reset():
    still = jnp.full((3, 3, 8, 8), 77, jnp.uint8)
    assert not auxiliary.pixel_changes(still, jnp.ones(2, bool)).any()
    # The reset row looks different, or is no number at all.
    frames = jnp.zeros((3, 1, 8, 8)).at[2].set(jnp.nan)
    assert not auxiliary.pixel_changes(frames, jnp.array([True, False])).any()
    assert np.isnan(auxiliary.pixel_changes(frames, jnp.array([True, True]))).any()


def test_the_papers_image_has_twenty_cells_a_side():
    assert auxiliary.num_cells(84, 4, 2) == 20
    with pytest.raises(ValueError, match="cell must fit into 8 pixels"):
        auxiliary.num_cells(8, 9)


def test_dueling_values_are_their_mean_plus_advantages():
    value, advantage = RNG.normal(size=(5, 4, 4)), RNG.normal(size=(5, A, 4, 4))
    q = auxiliary.dueling(jnp.asarray(value, jnp.float32), jnp.asarray(advantage, jnp.float32))
    np.testing.assert_allclose((q - value[:, None]).mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(q[:, 1] - q[:, 0], advantage[:, 1] - advantage[:, 0], atol=1e-5)


def control():
    q = RNG.normal(size=(T + 1, A, N, N)).astype(np.float32)
    change = RNG.uniform(size=(T, N, N)).astype(np.float32)
    discount = np.where(np.arange(T) == 4, 0.0, 0.9).astype(np.float32)
    return q, RNG.integers(0, A, T), change, discount


def targets(reward, discount, v):
    """By walking forward from every row until an end."""
    want = np.zeros(T)
    for t in range(T):
        factor, s = 1.0, t
        while s < T and VALID[s]:
            want[t] += factor * reward[s]
            factor *= discount[s]
            s += 1
        want[t] += factor * v[s]
    return want


def test_pixel_control_is_q_learning_of_every_cell():
    q, action, change, discount = control()
    loss, grad = jax.jit(jax.value_and_grad(auxiliary.pixel_control_loss))(
        q, action, change, discount, VALID
    )
    want, want_grad = 0.0, np.zeros_like(q)
    for i in range(N):
        for j in range(N):
            goal = targets(change[:, i, j], discount, q[:, :, i, j].max(1))
            for t in range(T):
                if VALID[t]:
                    error = q[t, action[t], i, j] - goal[t]
                    want += error**2 / T
                    want_grad[t, action[t], i, j] = 2 * error / T
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(grad, want_grad, atol=1e-5)


def test_nothing_that_is_not_valid_enters_pixel_control():
    q, action, change, discount = control()
    loss = jax.jit(auxiliary.pixel_control_loss)
    bad = ~VALID
    change2, discount2 = (
        np.where(bad.reshape(-1, *(1,) * (x.ndim - 1)), np.nan, x) for x in (change, discount)
    )
    action2 = np.where(bad, 99, action)
    assert loss(q, action, change, discount, VALID) == loss(q, action2, change2, discount2, VALID)


def test_value_replay_regresses_on_the_return_of_the_stretch():
    v = RNG.normal(size=T + 1).astype(np.float32)
    reward, discount = RNG.normal(size=T).astype(np.float32), control()[3]
    loss, grad = jax.jit(jax.value_and_grad(auxiliary.value_replay_loss))(
        v, reward, discount, VALID
    )
    error = np.where(VALID, v[:-1] - targets(reward, discount, v), 0)
    np.testing.assert_allclose(loss, (error**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(grad, np.append(2 * error / T, 0), atol=1e-5)


# ------------------------------------------------------------------------- reward prediction

draw = jax.jit(reward_prediction.balanced_samples, static_argnums=(3, 4))


def test_half_of_the_samples_have_a_reward_and_all_are_of_one_episode():
    rows, envs, history, n = 12, 5, 3, 400
    reward = np.where(RNG.uniform(size=(rows, envs)) < 0.15, RNG.choice([-1, 1], (rows, envs)), 0)
    valid = RNG.uniform(size=(rows, envs)) < 0.9
    valid[:, 4] = False  # this one rests
    got = draw(jax.random.key(0), reward.astype(np.float32), valid, n, history)
    t, e = np.asarray(got.t), np.asarray(got.env)
    allowed = {
        (i, j)
        for i in range(history - 1, rows)
        for j in range(envs)
        if all(valid[i - s, j] for s in range(history))
    }
    rare = {pair for pair in allowed if reward[pair]}
    assert rare and allowed - rare
    assert np.count_nonzero(reward[t, e]) == n // 2 and (np.asarray(got.weight) == 1).all()
    assert set(zip(t.tolist(), e.tolist(), strict=True)) == allowed  # each of them, and no other


@pytest.mark.parametrize(("reward", "some"), [(0.0, 0), (1.0, 8)])
def test_where_one_kind_is_missing_all_are_of_the_other(reward, some):
    rewards = np.full((4, 2), reward, np.float32)
    got = draw(jax.random.key(1), rewards, np.ones((4, 2), bool), 8, 3)
    assert np.count_nonzero(rewards[got.t, got.env]) == some and (got.weight == 1).all()
    assert (np.asarray(got.t) >= 2).all()


def test_without_a_whole_window_there_is_nothing_to_predict():
    got = draw(jax.random.key(1), np.ones((4, 2), np.float32), np.zeros((4, 2), bool), 8, 3)
    assert not got.weight.any()
    assert reward_prediction.reward_prediction_loss(jnp.ones((8, 3)), jnp.ones(8), got.weight) == 0


def test_reward_prediction_is_the_cross_entropy_of_the_sign():
    logits, reward = RNG.normal(size=(5, 3)), np.array([0.0, 2.5, -0.1, 0.0, 1.0])
    weight = np.array([1, 1, 1, 0, 1], np.float32)
    got = reward_prediction.reward_prediction_loss(jnp.asarray(logits, jnp.float32), reward, weight)
    rows = log_softmax(logits, 1)[np.arange(5), [0, 1, 2, 0, 1]]
    np.testing.assert_allclose(got, -(weight * rows).mean(), rtol=1e-5)


def test_wrong_arguments_are_named():
    q, action, change, discount = control()
    with pytest.raises(ValueError, match="change_t must have shape"):
        auxiliary.pixel_control_loss(q, action, change[:, :1], discount, VALID)
    with pytest.raises(ValueError, match="valid_t must be bool"):
        auxiliary.pixel_changes(jnp.zeros((2, 3, 8, 8)), jnp.ones(1))
    with pytest.raises(ValueError, match="history must be at most T = 2; got 3"):
        reward_prediction.balanced_samples(
            jax.random.key(0), jnp.zeros((2, 1)), jnp.ones((2, 1), bool), 4
        )
    with pytest.raises(ValueError, match="num_samples must be at least 1; got 0"):
        reward_prediction.balanced_samples(
            jax.random.key(0), jnp.zeros((3, 1)), jnp.ones((3, 1), bool), 0
        )
