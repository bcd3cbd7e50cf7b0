"""Distributions against SciPy and numerical integration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from mtrl_jax import distributions
from mtrl_jax.distributions import Gaussian, categorical

MASK = np.array([True, False, True, True, False])


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def _logits(seed, *shape):
    return 3.0 * np.random.default_rng(seed).normal(size=shape)


def _probabilities(logits, mask=None):
    """Softmax of the allowed logits alone, put back where they were."""
    mask = np.ones(logits.shape[-1], bool) if mask is None else mask
    p = np.zeros(logits.shape)
    p[..., mask] = np.exp(logits[..., mask]) / np.exp(logits[..., mask]).sum(-1, keepdims=True)
    return p


@pytest.mark.parametrize("mask", [None, MASK])
def test_categorical_against_scipy(float64, mask):
    logits_p, logits_q = _logits(0, 7, 5), _logits(1, 7, 5)
    p, q = _probabilities(logits_p, mask), _probabilities(logits_q, mask)
    log_p, log_q = categorical(logits_p, mask), categorical(logits_q, mask)
    entropy = distributions.entropy(log_p)
    np.testing.assert_allclose(entropy, scipy.stats.entropy(p, axis=-1), rtol=1e-12)
    kl = distributions.kl(log_p, log_q)
    allowed = np.arange(5) if mask is None else np.flatnonzero(mask)
    want = scipy.stats.entropy(p[:, allowed], q[:, allowed], axis=-1)
    np.testing.assert_allclose(kl, want, rtol=1e-11)
    action = np.array([0, 2, 3, 0, 2, 3, 0])
    log_prob = distributions.log_prob(log_p, action)
    np.testing.assert_allclose(log_prob, np.log(p[np.arange(7), action]), rtol=1e-12)
    np.testing.assert_allclose(np.exp(log_p.log_probs), p, rtol=1e-12)
    np.testing.assert_array_equal(distributions.mode(log_p), p.argmax(-1))
    np.testing.assert_allclose(distributions.cross_entropy(log_p, log_q), entropy + kl, rtol=1e-12)


@pytest.mark.parametrize("mask", [None, MASK])
def test_categorical_sample_frequencies(mask):
    logits = _logits(2, 5) / 3.0
    draws = jax.vmap(lambda k: distributions.sample(categorical(logits, mask), k))(
        jax.random.split(jax.random.key(0), 20000)
    )
    assert draws.dtype == jnp.int32
    p = _probabilities(logits, mask)
    counts = np.bincount(np.asarray(draws), minlength=5)
    assert np.all(counts[p == 0] == 0)
    assert scipy.stats.chisquare(counts[p > 0], 20000 * p[p > 0]).pvalue > 1e-3


def test_masked_actions_touch_neither_values_nor_gradients():
    # The garbage includes what would overflow, were it not for the mask.
    logits_p, logits_q = _logits(3, 5).astype(np.float32), _logits(4, 5).astype(np.float32)

    def everything(logits_p, logits_q):
        return (
            distributions.entropy(categorical(logits_p, MASK))
            + 2.0 * distributions.kl(categorical(logits_p, MASK), categorical(logits_q, MASK))
            + 3.0 * distributions.log_prob(categorical(logits_q, MASK), jnp.int32(2))
        )

    value_and_grad = jax.jit(jax.value_and_grad(everything, (0, 1)))
    want = value_and_grad(logits_p, logits_q)
    for garbage in (0.0, 1e30, -np.inf, np.nan):
        spoilt = [np.where(MASK, x, np.float32(garbage)) for x in (logits_p, logits_q)]
        got = value_and_grad(*spoilt)
        jax.tree.map(np.testing.assert_array_equal, got, want)
    assert np.isfinite(want[0])
    for gradient in want[1]:
        np.testing.assert_array_equal(gradient[~MASK], 0.0)
        assert np.all(gradient[MASK] != 0)


def test_large_logits_stay_finite():
    logits = jnp.array([1e4, -1e4, 0.0])

    def entropy(logits):
        return distributions.entropy(categorical(logits))

    assert entropy(logits) == 0.0
    np.testing.assert_allclose(distributions.kl(categorical(logits), categorical(-logits)), 2e4)
    assert np.isfinite(jax.grad(entropy)(logits)).all()


def test_bfloat16_logits_are_widened():
    logits = jnp.asarray(_logits(5, 3, 5), jnp.bfloat16)
    got = distributions.entropy(categorical(logits))
    assert got.dtype == jnp.float32
    want = distributions.entropy(categorical(logits.astype(jnp.float32)))
    np.testing.assert_array_equal(got, want)


def _normal(*sizes):
    return Gaussian(*(jnp.zeros(n) for n in sizes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        # Guards log_pi[:, actions], a B x B table, where a gather along the diagonal is meant.
        (lambda: distributions.log_prob(categorical(jnp.zeros((4, 5))), jnp.zeros(3)), "action"),
        (lambda: distributions.kl(categorical(jnp.zeros((4, 5))), categorical(jnp.zeros(5))), "q"),
        (lambda: categorical(jnp.zeros(5), jnp.ones(4, bool)), "action_mask"),
        (lambda: distributions.kl(_normal(2, 2), _normal(2, 3)), r"q\.log_std"),
        (lambda: distributions.kl(_normal(2, 2), _normal(3, 3)), "q"),
        (
            lambda: distributions.product([_normal(2, 2), _normal(3, 3)], [1.0, 1.0]),
            r"factors\[1\]",
        ),
        (lambda: distributions.tanh_gaussian_log_prob(_normal(2, 2), jnp.zeros(1)), "u"),
        (lambda: distributions.log_prob(_normal(2, 2), jnp.zeros(1)), "x"),
        (
            lambda: distributions.tanh_gaussian_sample(
                Gaussian(jnp.zeros(2), jnp.zeros(())), jax.random.key(0)
            ),
            "log_std",
        ),
        (lambda: distributions.sample(_normal(2, 2), jax.random.split(jax.random.key(0))), "keys"),
    ],
)
def test_bad_shapes_are_named(call, message):
    with pytest.raises(
        ValueError, match=rf"has shape .* but expected .*\[{message} must have shape"
    ):
        call()


def test_two_kinds_have_no_divergence():
    for p, q in itertools.permutations((categorical(jnp.zeros(2)), _normal(2, 2))):
        for of_both in (distributions.kl, distributions.cross_entropy):
            with pytest.raises(ValueError, match="p and q must be of one kind"):
                of_both(p, q)


def _density(a, mean, log_std):
    """Density of tanh of a Gaussian by change of variables."""
    u = np.arctanh(a)
    return scipy.stats.norm.pdf(u, mean, np.exp(log_std)) / (1.0 - a**2)


def test_tanh_gaussian_log_prob_against_scipy(float64):
    rng = np.random.default_rng(6)
    mean, log_std, u = rng.normal(size=(3, 9, 2))
    want = np.log(_density(np.tanh(u), mean, log_std)).sum(-1)
    got = distributions.tanh_gaussian_log_prob(Gaussian(mean, log_std), u)
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_tanh_gaussian_log_prob_where_tanh_is_saturated():
    # tanh(20) is 1 in float32, so log(1 - tanh(u)^2) would be minus infinity; the slope of u is
    # that of log N(u) - log(4 exp(-2u)).
    u = jnp.array([20.0])

    def log_prob(u):
        return distributions.tanh_gaussian_log_prob(_normal(1, 1), u)

    want = scipy.stats.norm.logpdf(20.0) - np.log(4.0) + 40.0
    np.testing.assert_allclose(log_prob(u), want, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(log_prob)(u), [2.0 - 20.0], rtol=1e-6)


def test_tanh_gaussian_sample_distribution():
    mean, log_std = jnp.array([0.3]), jnp.array([-0.2])
    policy = Gaussian(*(jnp.broadcast_to(x, (5000, 1)) for x in (mean, log_std)))
    keys = jax.random.split(jax.random.key(1), 5000)
    action, u = distributions.tanh_gaussian_sample(policy, keys)
    np.testing.assert_array_equal(action, jnp.tanh(u))
    gaussian = scipy.stats.norm(0.3, np.exp(-0.2))
    assert scipy.stats.kstest(np.asarray(u)[:, 0], gaussian.cdf).pvalue > 1e-3


def test_tanh_gaussian_entropy_estimate():
    mean, log_std = 0.4, -0.3

    def integrand(a):
        return -_density(a, mean, log_std) * np.log(_density(a, mean, log_std))

    want, _ = scipy.integrate.quad(integrand, -1 + 1e-9, 1 - 1e-9)
    estimate = jax.jit(distributions.tanh_gaussian_entropy, static_argnums=2)
    policy = Gaussian(jnp.full((2, 1), mean), jnp.full((2, 1), log_std))
    got = estimate(policy, jax.random.key(2), 20000)
    np.testing.assert_allclose(got, [want, want], atol=0.02)
    assert got[0] != got[1]  # every element has draws of its own


def test_gaussian_kl_against_integration(float64):
    (m_p, s_p), (m_q, s_q) = (0.3, 0.5), (-0.4, 0.8)
    p, q = scipy.stats.norm(m_p, s_p), scipy.stats.norm(m_q, s_q)
    want, _ = scipy.integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -8, 8)
    ones = np.ones(2)
    got = distributions.kl(
        Gaussian(m_p * ones, np.log(s_p) * ones), Gaussian(m_q * ones, np.log(s_q) * ones)
    )
    np.testing.assert_allclose(got, 2.0 * want, rtol=1e-8)


def test_gaussian_kl_is_that_of_the_squashed_gaussians(float64):
    (m_p, s_p), (m_q, s_q) = (0.3, -0.7), (-0.4, -0.2)

    def integrand(a):
        p, q = _density(a, m_p, s_p), _density(a, m_q, s_q)
        return p * (np.log(p) - np.log(q))

    want, _ = scipy.integrate.quad(integrand, -1 + 1e-9, 1 - 1e-9)

    def one(x):
        return np.array([x])

    got = distributions.kl(Gaussian(one(m_p), one(s_p)), Gaussian(one(m_q), one(s_q)))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_log_std_within_bounds_and_what_it_is_made_of(float64):
    low, high = np.log(0.03), np.log(2.0)
    raw = jnp.linspace(-4.0, 4.0, 33)
    log_std = distributions.bounded_log_std(raw, low, high)
    assert low < log_std.min() < low + 0.01 and high - 0.01 < log_std.max() < high
    slope = jax.vmap(jax.grad(lambda x: distributions.bounded_log_std(x, low, high)))(raw)
    assert slope.min() > 0.0
    for x, y in zip(raw, log_std, strict=True):
        np.testing.assert_allclose(distributions.unbounded_log_std(float(y), low, high), x)
