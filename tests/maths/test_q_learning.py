"""Q-learning errors and transitions of several steps against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import returns
from mtrl_jax.losses import q_learning

A, B = 4, 6


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sample(rng, n=B):
    q_tm1, q_t, selector = rng.normal(size=(3, n, A)).astype(np.float32)
    mask = rng.random((n, A)) < 0.6
    mask[:, 1] = True
    r_t, discount_t = rng.normal(size=(2, n)).astype(np.float32)
    return q_tm1, rng.integers(0, A, n).astype(np.int32), r_t, discount_t, q_t, selector, mask


def test_errors_equal_a_loop(rng):
    q_tm1, a_tm1, r_t, discount_t, q_t, selector, mask = sample(rng)
    single = jax.vmap(q_learning.q_learning)(q_tm1, a_tm1, r_t, discount_t, q_t, mask)
    double = jax.vmap(q_learning.double_q_learning)(
        q_tm1, a_tm1, r_t, discount_t, q_t, selector, mask
    )
    assert not np.allclose(single, double)
    for i in range(B):
        legal = [a for a in range(A) if mask[i, a]]
        best = max(q_t[i, a] for a in legal)
        chosen = q_t[i, max(legal, key=lambda a: selector[i, a])]
        for got, value in ((single, best), (double, chosen)):
            expected = r_t[i] + discount_t[i] * value - q_tm1[i, a_tm1[i]]
            np.testing.assert_allclose(got[i], expected, rtol=1e-5)


def test_double_is_single_where_both_networks_are_one(rng):
    q_tm1, a_tm1, r_t, discount_t, q_t, _, mask = sample(rng)
    single = jax.vmap(q_learning.q_learning)(q_tm1, a_tm1, r_t, discount_t, q_t, mask)
    double = jax.vmap(q_learning.double_q_learning)(
        q_tm1, a_tm1, r_t, discount_t, q_t, 3.0 * q_t + 1.0, mask
    )
    np.testing.assert_array_equal(single, double)
    everything = jax.vmap(q_learning.q_learning)(q_tm1, a_tm1, r_t, discount_t, q_t)
    all_legal = np.ones_like(mask)
    same = jax.vmap(q_learning.q_learning)(q_tm1, a_tm1, r_t, discount_t, q_t, all_legal)
    np.testing.assert_array_equal(everything, same)


def test_a_maximum_over_noise_is_too_high_and_double_learning_is_not():
    """Values are 0 and estimates noisy: E max is above 0, E of a draw chosen by others is 0."""
    q_t, selector = np.random.default_rng(1).normal(size=(2, 20_000, A)).astype(np.float32)
    zero = np.zeros((20_000, A), np.float32)
    one = np.ones(20_000, np.float32)
    action = np.zeros(20_000, np.int32)
    single = jax.vmap(q_learning.q_learning)(zero, action, 0 * one, one, q_t)
    double = jax.vmap(q_learning.double_q_learning)(zero, action, 0 * one, one, q_t, selector)
    np.testing.assert_allclose(single.mean(), 1.0294, atol=0.03)  # E max of four normal draws
    np.testing.assert_allclose(double.mean(), 0.0, atol=0.03)


def test_gradients_reach_the_value_that_was_acted_on_only(rng):
    q_tm1, a_tm1, r_t, discount_t, q_t, selector, mask = (x[0] for x in sample(rng))

    def error(q_tm1, r_t, q_t, selector):
        return q_learning.double_q_learning(q_tm1, a_tm1, r_t, discount_t, q_t, selector, mask)

    grads = jax.grad(error, (0, 1, 2, 3))(q_tm1, r_t, q_t, selector)
    np.testing.assert_array_equal(grads[0], -np.eye(A, dtype=np.float32)[a_tm1])
    for grad in grads[1:]:
        np.testing.assert_array_equal(grad, np.zeros_like(grad))


def test_huber_has_the_clipped_error_as_its_gradient():
    delta = np.linspace(-3, 3, 49).astype(np.float32)
    for limit in (0.5, 2.0):
        value, grad = jax.vmap(jax.value_and_grad(lambda d: q_learning.huber(d, limit)))(delta)  # noqa: B023
        np.testing.assert_allclose(grad, np.clip(delta, -limit, limit), atol=1e-6)
        inside = np.abs(delta) <= limit
        np.testing.assert_allclose(value[inside], 0.5 * delta[inside] ** 2, rtol=1e-6)
        outside = limit * (np.abs(delta[~inside]) - 0.5 * limit)
        np.testing.assert_allclose(value[~inside], outside, rtol=1e-6)
    np.testing.assert_allclose(q_learning.huber(delta, np.inf), 0.5 * delta**2, rtol=1e-6)


# ---------------------------------------------------------------------------------- several steps


def plain_transitions(r_t, discount_t, valid_t, n):
    """Reward, discount, steps of each valid transition, walked forwards."""
    found = []
    for t in range(len(r_t)):
        if not valid_t[t]:
            found.append(None)
            continue
        reward, discount, steps = 0.0, 1.0, 0
        while steps < n and t + steps < len(r_t) and valid_t[t + steps]:
            reward += discount * r_t[t + steps]
            discount *= discount_t[t + steps]
            steps += 1
        found.append((reward, discount, steps))
    return found


@pytest.mark.parametrize("n", [1, 3, 50])
def test_transitions_equal_a_loop_and_the_returns(rng, n):
    t = 14
    r_t = rng.normal(size=t).astype(np.float32)
    valid_t = rng.random(t) < 0.75
    valid_t[[3, t - 1]] = False, True
    # An end (0) or a time limit (gamma) stands before a transition into a reset row.
    ends = np.append(~valid_t[1:], False) & (rng.random(t) < 0.5)
    discount_t = np.where(ends, 0.0, 0.9).astype(np.float32)
    assert ends.any() and (np.append(~valid_t[1:], False) & ~ends & valid_t).any()
    got = returns.n_step_transitions(r_t, discount_t, jnp.asarray(valid_t), n)
    for i, expected in enumerate(plain_transitions(r_t, discount_t, valid_t, n)):
        if expected is None:
            assert (got.reward[i], got.discount[i], got.steps[i]) == (0, 0, 1)
        else:
            np.testing.assert_allclose(got.reward[i], expected[0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(got.discount[i], expected[1], rtol=1e-5)
            assert got.steps[i] == expected[2]
    v = rng.normal(size=t + 1).astype(np.float32)
    bootstrapped = got.reward + got.discount * v[np.arange(t) + np.asarray(got.steps)]
    full = returns.n_step_returns(r_t, discount_t, v, jnp.asarray(valid_t), n)
    np.testing.assert_allclose(bootstrapped[valid_t], full[valid_t], rtol=1e-4, atol=1e-5)


def test_garbage_where_not_valid_changes_nothing(rng):
    valid_t = np.array([True, True, False, True, False, True])
    r_t, discount_t = rng.normal(size=(2, 6)).astype(np.float32)
    clean = returns.n_step_transitions(r_t, discount_t, jnp.asarray(valid_t), 3)
    r_t, discount_t = (np.where(valid_t, x, np.nan) for x in (r_t, discount_t))
    dirty = returns.n_step_transitions(r_t, discount_t, jnp.asarray(valid_t), 3)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


ZERO, ROW = jnp.float32(0), jnp.zeros(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: q_learning.q_learning(ROW[None], 0, ZERO, ZERO, ROW), r"q_tm1 must have shape"),
        (lambda: q_learning.q_learning(ROW, 0, ZERO, ZERO, ROW[:2]), r"q_t must have shape \[A\]"),
        (lambda: q_learning.q_learning(ROW, 0, ROW, ZERO, ROW), r"r_t must have shape \[\]"),
        (lambda: q_learning.q_learning(ROW, 0, ZERO, ZERO, ROW, ROW), "must be bool"),
        (lambda: q_learning.huber(ROW, 0.0), r"limit must lie in \(0"),
        (lambda: returns.n_step_transitions(ROW, ROW, ROW > 0, 0), "n must be at least 1"),
        (lambda: returns.n_step_transitions(ROW, ROW, ROW, 1), "valid_t must be bool"),
        (lambda: returns.n_step_transitions(ROW, ROW[:2], ROW > 0, 1), "discount_t must have"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
