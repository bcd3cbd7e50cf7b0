"""The losses of soft actor-critic against NumPy, SciPy and closed forms; what carries gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from mtrl_jax import distributions
from mtrl_jax.losses import sac

B, C, A = 32, 2, 3


def _rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_target_is_the_soft_bellman_one():
    r, log_prob, q = _rows(B), _rows(B, seed=1) - 2.0, 10.0 * _rows(C, B, seed=2)
    discount = np.where(np.arange(B) % 3 == 0, 0.0, 0.9).astype(np.float32)
    y = sac.soft_target(r, discount, q, log_prob, 0.3)
    for b in range(B):
        want = r[b] + discount[b] * (min(q[0, b], q[1, b]) - 0.3 * log_prob[b])
        np.testing.assert_allclose(y[b], want, rtol=2e-6, atol=2e-6)
    ended = discount == 0
    np.testing.assert_array_equal(np.asarray(y)[ended], r[ended])  # at a true end nothing follows
    # The mean over actions of Q - alpha log pi is alpha log-sum-exp for pi = softmax(Q / alpha).
    logits = _rows(5, seed=3)
    soft_v = 0.3 * np.log(np.exp(logits / 0.3).sum())
    log_pi = jax.nn.log_softmax(logits / 0.3)
    y = sac.soft_target(np.zeros(5, np.float32), np.ones(5, np.float32), logits[None], log_pi, 0.3)
    np.testing.assert_allclose(y, np.full(5, soft_v), rtol=1e-5)


def test_critic_loss_is_half_the_squares_summed_over_critics():
    q, y = _rows(C, B), _rows(B, seed=1)
    loss, metrics = sac.critic_loss(q, y)
    want = sum(0.5 * ((q[c] - y) ** 2).mean() for c in range(C))
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(metrics["q/apart"], np.abs(q[0] - q[1]).mean(), rtol=1e-5)
    grad = jax.grad(lambda q: sac.critic_loss(q, y)[0])(q)
    np.testing.assert_allclose(grad, (q - y) / B, rtol=1e-5, atol=1e-8)  # each as if alone


def test_splitting_a_batch_by_task_leaves_the_critic_loss_as_it_is():
    k = 4
    q, r, log_prob = _rows(k, C, B), _rows(k, B, seed=1), _rows(k, B, seed=2)
    q_t, alpha = _rows(k, C, B, seed=3), np.array([0.1, 0.5, 1.0, 2.0], np.float32)
    discount = np.full((k, B), 0.99, np.float32)

    def one_task(q, r, discount, q_t, log_prob, alpha):
        return sac.critic_loss(q, sac.soft_target(r, discount, q_t, log_prob, alpha))[0]

    split = jax.vmap(one_task)(q, r, discount, q_t, log_prob, alpha)
    # One batch of all samples, each with the temperature of its task.
    total = 0.0
    for i in range(k):
        for b in range(B):
            y = r[i, b] + 0.99 * (q_t[i, :, b].min() - alpha[i] * log_prob[i, b])
            total += 0.5 * ((q[i, :, b] - y) ** 2).sum() / (k * B)
    np.testing.assert_allclose(split.mean(), total, rtol=1e-5)
    assert split.std() > 1e-2


def _density(mean, std, a):
    """log pi of an action by SciPy: the change of variables written out."""
    normal = scipy.stats.norm(mean, std).logpdf(np.arctanh(a))
    return (normal - np.log1p(-(a**2))).sum(-1)


def test_actor_loss_and_its_gradient_are_those_of_scipy_and_differences():
    mean, log_std = _rows(B, A), 0.3 * _rows(B, A, seed=1) - 0.5
    noise, goal = _rows(B, A, seed=2), 0.5 * _rows(C, A, seed=3)

    def loss(mean, log_std):
        u = mean + jnp.exp(log_std) * noise
        log_prob = distributions.tanh_gaussian_log_prob(distributions.Gaussian(mean, log_std), u)
        a = jnp.broadcast_to(jnp.tanh(u), (C, B, A))
        q = -jnp.square(a - jnp.broadcast_to(goal[:, None], a.shape)).sum(-1)
        return sac.actor_loss(log_prob, q, 0.2)[0]

    def reference(mean, log_std):
        a = np.tanh(mean + np.exp(log_std) * noise.astype(np.float64))
        q = -((a[None] - goal[:, None]) ** 2).sum(-1)
        return np.mean(0.2 * _density(mean, np.exp(log_std), a) - q.min(0))

    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(mean, log_std)
    np.testing.assert_allclose(value, reference(mean, log_std), rtol=1e-5)
    point = [mean.astype(np.float64), log_std.astype(np.float64)]
    for which, grad in enumerate(grads):
        for index in ((0, 0), (5, 2), (17, 1)):
            up, down = ([x.copy() for x in point] for _ in range(2))
            up[which][index] += 1e-5
            down[which][index] -= 1e-5
            slope = (reference(*up) - reference(*down)) / 2e-5
            np.testing.assert_allclose(grad[index], slope, rtol=1e-3, atol=1e-6)


def test_the_best_gaussian_has_the_width_that_the_temperature_asks_for():
    """Q(u) = -c u^2 / 2 before a squash that is left out: the minimum is at variance alpha / c."""
    alpha, c = 0.4, 5.0
    noise = np.asarray(scipy.stats.norm.ppf((np.arange(4000) + 0.5) / 4000), np.float32)

    def loss(log_std):
        u = np.exp(log_std) * noise
        log_prob = scipy.stats.norm(0, np.exp(log_std)).logpdf(u)
        q = np.broadcast_to(-0.5 * c * u**2, (C, u.size)).astype(np.float32)
        return float(sac.actor_loss(log_prob.astype(np.float32), q, alpha)[0])

    best = scipy.optimize.minimize_scalar(loss, bounds=(-4, 1), method="bounded").x
    np.testing.assert_allclose(np.exp(2 * best), alpha / c, rtol=0.02)


def test_temperature_grows_exactly_where_the_entropy_is_too_small():
    log_alpha = jnp.array([0.0, -1.0, 2.0])
    log_prob = jnp.stack([jnp.full(B, x) + _rows(B) - _rows(B).mean() for x in (5.0, 4.0, 1.0)])
    target_entropy = -4.0
    slope = jax.vmap(jax.grad(sac.temperature_loss), (0, 0, None))(
        log_alpha, log_prob, target_entropy
    )
    np.testing.assert_allclose(slope, [-1.0, 0.0, 3.0], atol=1e-5)  # descent: up, still, down
    value = sac.temperature_loss(log_alpha[2], log_prob[2], target_entropy)
    np.testing.assert_allclose(value, -2.0 * (1.0 - 4.0), rtol=1e-5)


def test_data_and_other_networks_get_no_gradient():
    q, x, log_prob = _rows(C, B), _rows(B, seed=1), _rows(B, seed=2)
    ones = np.ones(B, np.float32)

    def target(q, log_prob, alpha):
        return sac.soft_target(x, ones, q, log_prob, alpha).sum()

    for grad in jax.grad(target, (0, 1, 2))(q, log_prob, 0.5):
        assert not np.any(grad)
    assert not np.any(jax.grad(lambda y: sac.critic_loss(q, y)[0])(x))
    assert jax.grad(lambda alpha: sac.actor_loss(log_prob, q, alpha)[0])(0.5) == 0
    assert not np.any(jax.grad(sac.temperature_loss, 1)(jnp.float32(1.0), log_prob, -1.0))
    smallest = np.asarray(jax.grad(lambda q: sac.actor_loss(log_prob, q, 0.5)[0])(q))
    np.testing.assert_allclose(smallest, np.where(q == q.min(0), -1.0 / B, 0.0), rtol=1e-6)


V = np.zeros(B, np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: sac.soft_target(V, V[:3], V[None], V, 0.1),
            r"\(3,\) .* expected \(32\).*discount_t must .* \[B\]",
        ),
        (
            lambda: sac.soft_target(V, V, V, V, 0.1),
            r"\(32,\) .* expected \(None, 32\).*q_t must have shape \[C, B\]",
        ),
        (lambda: sac.soft_target(V, V, V[None], V, V), r"temperature must have shape \[\]"),
        (lambda: sac.soft_target(V, V, V[None], V, -0.1), "temperature must lie in"),
        (lambda: sac.critic_loss(V[None, :3], V), "q_tm1 must have shape"),
        (lambda: sac.actor_loss(V, V[None, :3], 0.1), "q must have shape"),
        (lambda: sac.temperature_loss(V, V, -1.0), "log_temperature must have shape"),
        (lambda: sac.temperature_loss(np.float32(0), np.float32(0), -1.0), "log_prob must have"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
