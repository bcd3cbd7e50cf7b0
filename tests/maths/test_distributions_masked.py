"""A Gaussian of which some coordinates are real is the Gaussian of those, to every function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import distributions as d
from mtrl_jax.distributions import Gaussian

MASK = np.array([True, False, True, False, True])
ROWS = 4


def draw(seed):
    rng = np.random.default_rng(seed)
    return Gaussian(*(jnp.asarray(rng.normal(size=(ROWS, 5)), jnp.float32) for _ in range(2)))


def narrowed(gaussian):
    return Gaussian(*(x[:, MASK] for x in (gaussian.mean, gaussian.log_std)))


P, Q, X = draw(0), draw(1), draw(2).mean
# What stands in coordinates that are not there is read by nobody.
GARBAGE = jnp.where(MASK[None], X, jnp.nan)
FUNCTIONS = {
    "log_prob": lambda p, q, x: d.log_prob(p, x),
    "entropy": lambda p, q, x: d.entropy(p),
    "kl": lambda p, q, x: d.kl(p, q),
    "cross_entropy": lambda p, q, x: d.cross_entropy(p, q),
    "product": lambda p, q, x: d.entropy(d.product([p, q], [0.5, 0.3])),
    "tanh_log_prob": lambda p, q, x: d.tanh_gaussian_log_prob(p, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_masked_equals_narrow_in_value_and_gradient(name):
    function = FUNCTIONS[name]

    def wide(p, q):
        return function(d.masked(p, MASK), d.masked(q, MASK), GARBAGE)

    def narrow(p, q):
        return function(narrowed(p), narrowed(q), X[:, MASK])

    np.testing.assert_allclose(wide(P, Q), narrow(P, Q), rtol=2e-6, atol=2e-6)
    assert not np.allclose(wide(P, Q), function(P, Q, X))  # the others would have counted
    for ours, theirs in zip(
        jax.tree.leaves(jax.grad(lambda *pq: wide(*pq).sum(), (0, 1))(P, Q)),
        jax.tree.leaves(jax.grad(lambda *pq: narrow(*pq).sum(), (0, 1))(P, Q)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)
        assert not np.any(np.asarray(ours)[:, ~MASK])  # exactly 0


def test_what_is_not_there_is_drawn_as_0():
    masked = d.masked(P, MASK)
    keys = jax.random.split(jax.random.key(0), ROWS)
    for drawn, free in (
        (d.sample(masked, keys), d.sample(P, keys)),
        (d.mode(masked), d.mode(P)),
        (d.tanh_gaussian_sample(masked, keys)[0], d.tanh_gaussian_sample(P, keys)[0]),
    ):
        np.testing.assert_array_equal(drawn[:, MASK], free[:, MASK])
        assert not np.any(np.asarray(drawn)[:, ~MASK])
    estimate = d.tanh_gaussian_entropy(masked, jax.random.key(1), 3)
    assert estimate.shape == (ROWS,) and np.isfinite(estimate).all()


def test_masks_are_checked_and_meet():
    assert d.masked(P, None) is P
    twice = d.masked(d.masked(P, MASK), jnp.broadcast_to(~MASK, P.mean.shape))
    assert not twice.real.any()
    np.testing.assert_array_equal(d.entropy(twice), 0.0)
    with pytest.raises(ValueError, match=r"mask must have shape \[N\] or \[..., N\]"):
        d.masked(P, MASK[:3])
    with pytest.raises(ValueError, match="mask must be bool"):
        d.masked(P, MASK.astype(np.float32))
