"""Distillation's losses against SciPy and NumPy, closed forms, limits and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mtrl_jax.losses import distillation as losses

B, A, H, F = 16, 5, 4, 3
MASK = np.array([True, False, True, True, False])
LOSSES = {
    "nll": losses.nll,
    "mse": losses.mse,
    "kl": functools.partial(losses.kl, temperature=0.3),
    "policy_regression": functools.partial(losses.policy_regression, temperature=0.7),
}
TEMPERATURE = {"kl": 0.3, "policy_regression": 0.7}


def _rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


Q, Z = _rows(B, A), 2.0 * _rows(B, A, seed=1)


@functools.cache
def _compiled(name, masked):
    """Values `[B]` and the gradients in both arguments `[B, A]` each."""
    fn = LOSSES[name]

    def one(q, z):
        return fn(q, z, action_mask=jnp.asarray(MASK) if masked else None)

    return jax.jit(jax.vmap(jax.value_and_grad(one, argnums=(0, 1))))


def _targets(name, q, mask):
    """The distribution that the student is to have, by SciPy, over the actions of the mask."""
    legal = np.where(mask, q.astype(np.float64), -np.inf)
    if name == "nll":
        return np.eye(A)[legal.argmax(-1)]
    return scipy.special.softmax(legal / TEMPERATURE[name], axis=-1)


def _reference(name, q, z, mask):
    q, z = q.astype(np.float64), z.astype(np.float64)
    if name == "mse":
        return (np.square(q - z) * mask).sum(-1)
    legal = mask.nonzero()[0]
    p = _targets(name, q, mask)[:, legal]
    log_pi = scipy.special.log_softmax(z[:, legal], axis=-1)
    if name == "kl":
        return scipy.stats.entropy(p, np.exp(log_pi), axis=-1)
    return -(p * log_pi).sum(-1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_values_are_scipys_and_gradients_the_closed_forms(name, masked):
    mask = MASK if masked else np.ones(A, bool)
    values, (to_teacher, to_student) = _compiled(name, masked)(Q, Z)
    np.testing.assert_allclose(values, _reference(name, Q, Z, mask), rtol=2e-5, atol=2e-6)
    assert not np.any(to_teacher)
    if name == "mse":
        want = 2.0 * (Z - Q) * mask
    else:
        pi = scipy.special.softmax(np.where(mask, Z.astype(np.float64), -np.inf), axis=-1)
        want = pi - _targets(name, Q, mask)
    np.testing.assert_allclose(to_student, want, rtol=1e-5, atol=2e-6)
    assert not np.any(np.asarray(to_student)[:, ~mask])
    assert np.abs(to_student).max() > 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_what_stands_at_a_masked_action_does_not_matter(name):
    garbage = np.where(MASK, 0.0, 1e6).astype(np.float32)
    values, grads = _compiled(name, True)(Q, Z)
    for q, z in ((Q + garbage, Z), (Q, Z + garbage), (Q + garbage, Z - garbage)):
        again, grads_again = _compiled(name, True)(q, z)
        np.testing.assert_array_equal(again, values)
        np.testing.assert_array_equal(grads_again[1], grads[1])


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_differences_in_float64(name):
    with jax.enable_x64(True):
        q, z = jnp.asarray(Q[0], jnp.float64), Z[0].astype(np.float64)

        def fn(z):
            return LOSSES[name](q, z, action_mask=jnp.asarray(MASK))

        grad = jax.grad(fn)(jnp.asarray(z))
        assert grad.dtype == jnp.float64
        for a in range(A):
            step = 1e-6 * np.eye(A)[a]
            slope = (fn(jnp.asarray(z + step)) - fn(jnp.asarray(z - step))) / 2e-6
            np.testing.assert_allclose(grad[a], slope, rtol=1e-6, atol=1e-9)


def test_the_divergence_is_zero_exactly_at_the_sharpened_values_and_forgets_constants():
    values, (_, grad) = _compiled("kl", False)(Q, Q / 0.3 + 7.0)
    np.testing.assert_allclose(values, 0.0, atol=2e-6)
    np.testing.assert_allclose(grad, 0.0, atol=2e-6)
    values, _ = _compiled("kl", False)(Q, Z)
    assert values.min() > 0.01
    shifted, _ = _compiled("kl", False)(Q + 3.0, Z - 5.0)
    np.testing.assert_allclose(shifted, values, rtol=2e-5)


def test_a_low_temperature_leaves_the_best_action_and_a_high_one_all_of_them():
    kl = jax.vmap(losses.kl, (0, 0, None))
    likelihood = jax.vmap(losses.nll)(Q, Z)
    np.testing.assert_allclose(kl(Q, Z, 1e-4), likelihood, rtol=1e-5)
    assert np.abs(kl(Q, Z, 1.0) - likelihood).max() > 0.1
    flat = scipy.stats.entropy(np.full((B, A), 1 / A), scipy.special.softmax(Z, axis=-1), axis=-1)
    np.testing.assert_allclose(kl(Q, Z, 1e6), flat, rtol=1e-4)
    entropy = jax.vmap(losses.target_entropy, (0, None, None))
    np.testing.assert_allclose(entropy(Q, 1e-4, MASK), 0.0, atol=1e-6)
    np.testing.assert_allclose(entropy(Q, 1e6, MASK), np.log(3.0), rtol=1e-5)


def test_actor_mimics_loss_is_the_divergence_and_the_targets_entropy():
    values = jax.vmap(losses.policy_regression, (0, 0, None, None))(Q, Z, 0.5, MASK)
    kl = jax.vmap(losses.kl, (0, 0, None, None))(Q, Z, 0.5, MASK)
    entropy = jax.vmap(losses.target_entropy, (0, None, None))(Q, 0.5, MASK)
    np.testing.assert_allclose(values, kl + entropy, rtol=1e-5)
    assert entropy.min() > 0.01
    # The defaults are those of the papers.
    np.testing.assert_array_equal(losses.kl(Q[0], Z[0]), losses.kl(Q[0], Z[0], 0.01))
    own = losses.policy_regression(Q[0], Q[0])
    np.testing.assert_allclose(own, scipy.stats.entropy(scipy.special.softmax(Q[0])), rtol=1e-5)


def test_features_are_regressed_on_by_a_linear_map():
    h, goal, w = _rows(H), _rows(F, seed=1), _rows(H, F, seed=2)
    error = h @ w - goal
    grad_fn = jax.value_and_grad(losses.feature_regression, argnums=(0, 1, 2))
    value, (to_student, to_expert, to_map) = grad_fn(h, goal, w)
    np.testing.assert_allclose(value, np.square(error).sum(), rtol=1e-5)
    np.testing.assert_allclose(to_student, 2 * w @ error, rtol=1e-5)
    np.testing.assert_allclose(to_map, 2 * np.outer(h, error), rtol=1e-5)
    assert not np.any(to_expert)
    assert losses.feature_regression(h, h, np.eye(H, dtype=np.float32)) == 0.0


V, M = np.zeros(A, np.float32), np.zeros((H, F), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.nll(V[None], V), r"has shape \(1, 5\) .*teacher must have shape \[A\]"),
        (lambda: losses.mse(V, V[:3]), r"\(3,\) but expected \(5\).*values must have shape \[A\]"),
        (lambda: losses.kl(V, V, 0.0), r"temperature must lie in \(0.0, inf\], got 0.0"),
        (lambda: losses.kl(V, V, V), r"temperature must have shape \[\]"),
        (
            lambda: losses.policy_regression(V, V, 1.0, V),
            "type float32 but expected bool.*action_mask must be bool",
        ),
        (lambda: losses.kl(V, V, 1.0, MASK[:2]), r"action_mask must have shape \[A\]"),
        (
            lambda: losses.feature_regression(V, V, M),
            r"expected \(5, 5\).*kernel must have shape \[H, F\]",
        ),
        (
            lambda: losses.feature_regression(M, V, M),
            r"expected \(None\).*features must have shape \[H\]",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


IMPOSSIBLE = {
    "teacher": ([1.0, -np.inf, 2.0], [0.1, 0.2, 0.3]),
    "both": ([1.0, -np.inf, 2.0], [0.1, -np.inf, 0.3]),
    "student, and masked": ([1.0, 5.0, 2.0], [0.1, -np.inf, 0.3]),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
@pytest.mark.parametrize("loss", [losses.kl, losses.policy_regression])
def test_impossible_actions_weigh_nothing(case, loss):
    """Minus infinity is a legal logit: 0 log 0 is 0, in the value and in the gradient."""
    teacher, logits = (np.float32(x) for x in IMPOSSIBLE[case])
    mask = np.array([True, "masked" not in case, True])
    value, grad = jax.value_and_grad(lambda z: loss(teacher, z, 1.0, mask))(jnp.asarray(logits))
    left = np.isfinite(teacher) & mask
    p = np.exp(teacher[left].astype(float))
    p /= p.sum()
    heard = np.isfinite(logits) & mask
    pi = np.where(heard, np.exp(np.where(heard, logits, 0.0).astype(float)), 0.0)
    pi /= pi.sum()
    expected = -(p * np.log(pi[left])).sum()
    if loss is losses.kl:
        expected += (p * np.log(p)).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    target = np.zeros(3)
    target[left] = p
    np.testing.assert_allclose(grad, pi - target, atol=1e-6)


def test_the_entropy_of_a_target_with_impossible_actions():
    teacher = jnp.array([1.0, -jnp.inf, 2.0])
    p = np.exp([1.0, 2.0]) / np.exp([1.0, 2.0]).sum()
    value = losses.target_entropy(teacher, 1.0)
    np.testing.assert_allclose(value, -(p * np.log(p)).sum(), rtol=1e-5)
    assert jnp.isfinite(losses.nll(teacher, jnp.array([0.1, -jnp.inf, 0.3])))
