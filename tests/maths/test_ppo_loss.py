"""The PPO loss against NumPy, closed forms and SciPy; what must not leak into it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mtrl_jax import distributions
from mtrl_jax.losses import ppo

B = 64
COSTS = {"epsilon": 0.2, "entropy_cost": 0.01, "value_cost": 0.7}


def _arguments(seed=0):
    rng = np.random.default_rng(seed)
    x = {name: rng.normal(size=B) for name in ("entropy", "v", "advantage", "v_target")}
    x["log_prob"] = rng.normal(-2.0, 0.5, B)
    x["proximal_log_prob"] = x["log_prob"] + rng.normal(0.0, 0.3, B)  # many outside the clip
    x["weight"] = np.where(rng.random(B) < 0.3, 0.0, 1.4)
    x["importance"] = rng.uniform(0.5, 2.0, B)
    return {name: value.astype(np.float32) for name, value in x.items()}


def _loss(x, **costs):
    """`ppo_loss` of arguments by name."""
    predictions = ppo.Predictions(**{name: x[name] for name in ppo.Predictions._fields})
    data = ppo.Data(**{name: x[name] for name in ppo.Data._fields})
    return ppo.ppo_loss(predictions, data, **costs)


def _reference(x, *, epsilon, entropy_cost, value_cost):
    """One sample at a time, the objective written out by cases."""
    total, outside = 0.0, 0.0
    for b in range(B):
        r = np.exp(float(x["log_prob"][b]) - float(x["proximal_log_prob"][b]))
        a = float(x["advantage"][b])
        gain = min(r, 1 + epsilon) * a if a >= 0 else max(r, 1 - epsilon) * a
        error = (float(x["v"][b]) - float(x["v_target"][b])) ** 2
        one = -x["importance"][b] * gain - entropy_cost * x["entropy"][b] + value_cost * error
        total += x["weight"][b] * one / B
        outside += x["weight"][b] * (abs(r - 1) > epsilon) / B
    return total, outside


def test_loss_is_that_of_numpy():
    x = _arguments()
    total, metrics = jax.jit(lambda x: _loss(x, **COSTS))(x)
    want, outside = _reference(x, **COSTS)
    assert 0.2 < outside < 0.8  # the case means something
    np.testing.assert_allclose(total, want, rtol=2e-6)
    np.testing.assert_allclose(metrics["policy/clipped"], outside, rtol=1e-5)
    parts = metrics["loss/policy"] + 0.7 * metrics["loss/value"] - 0.01 * metrics["policy/entropy"]
    np.testing.assert_allclose(parts, want, rtol=2e-6)


def test_gradients_are_those_of_differences():
    """In float64 by hand: the only kinks are at the edges of the clip, which no sample is near."""
    x = _arguments(1)
    names = ("log_prob", "entropy", "v")

    def loss(y):
        return _loss({**x, **y}, **COSTS)[0]

    grads = jax.grad(loss)({n: x[n] for n in names})
    edge = np.exp(x["log_prob"] - x["proximal_log_prob"])
    assert np.min(np.abs(np.abs(edge - 1) - 0.2)) > 1e-4
    for name in names:
        for b in range(0, B, 7):
            up, down = ({n: v.astype(np.float64) for n, v in x.items()} for _ in range(2))
            up[name][b] += 1e-5
            down[name][b] -= 1e-5
            slope = (_reference(up, **COSTS)[0] - _reference(down, **COSTS)[0]) / 2e-5
            np.testing.assert_allclose(grads[name][b], slope, rtol=1e-3, atol=1e-7)


def test_a_clipped_sample_has_no_gradient_and_data_has_none():
    log_ratio = jnp.array([0.5, 0.5, -0.5, -0.5])
    advantage = jnp.array([1.0, -1.0, 1.0, -1.0])
    slope = jax.grad(lambda r: ppo.clipped_surrogate(r, advantage, 0.2).sum())(log_ratio)
    want = np.array([0.0, -np.exp(0.5), np.exp(-0.5), 0.0])
    np.testing.assert_allclose(slope, want, rtol=1e-6)
    x = _arguments()
    data = ("proximal_log_prob", "advantage", "v_target", "importance")
    grads = jax.grad(lambda y: _loss({**x, **y}, **COSTS)[0])({n: x[n] for n in data})
    for name in data:
        assert not grads[name].any(), name


def test_rows_of_weight_0_may_hold_anything():
    x = _arguments()
    dead = x["weight"] == 0
    assert dead.sum() > 5
    garbage = {n: np.where(dead & (n != "weight"), np.nan, v) for n, v in x.items()}
    names = ("log_prob", "entropy", "v")

    def fn(x):
        return jax.value_and_grad(lambda y: _loss({**x, **y}, **COSTS), has_aux=True)(
            {n: x[n] for n in names}
        )

    (total, metrics), grads = fn(x)
    (other, other_metrics), other_grads = fn(garbage)
    assert np.isfinite(total) and total == other
    assert metrics == other_metrics
    for name in names:
        np.testing.assert_array_equal(grads[name], other_grads[name])


def test_kl_estimate_has_the_divergence_as_its_mean():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2, 5)).astype(np.float32)
    log_old, log_new = jax.nn.log_softmax(old), jax.nn.log_softmax(new)
    exact = (jnp.exp(log_old) * ppo.kl_estimate(log_new - log_old)).sum()
    np.testing.assert_allclose(
        exact, distributions.kl(*map(distributions.categorical, (old, new))), rtol=1e-6
    )
    assert (ppo.kl_estimate(jnp.linspace(-3, 3, 41)) >= 0).all()


def test_importance_weights():
    near, far = jnp.array([-1.0, -1.0, -1.0]), jnp.array([-1.0, -0.5, -3.0])
    np.testing.assert_allclose(
        ppo.importance_weights(near, far, 2.0), [1.0, np.exp(-0.5), 2.0], rtol=1e-6
    )
    assert not jax.grad(lambda x: ppo.importance_weights(x, far).sum())(near).any()


def test_gaussian_is_that_of_scipy():
    rng = np.random.default_rng(0)
    mean, log_std, x = rng.normal(size=(3, 7, 4)).astype(np.float32)
    normal = scipy.stats.norm(mean, np.exp(log_std))
    policy = distributions.Gaussian(mean, log_std)
    np.testing.assert_allclose(
        distributions.log_prob(policy, x), normal.logpdf(x).sum(-1), rtol=1e-5
    )
    np.testing.assert_allclose(distributions.entropy(policy), normal.entropy().sum(-1), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"v": np.zeros(3, np.float32)},
            r"has shape \(3,\) but expected \(64\).*\[v must have shape \[B\]",
        ),
        ({"weight": np.zeros((B, 1), np.float32)}, "weight must have shape"),
        ({"epsilon": 0.0}, "epsilon must lie in"),
        ({"entropy_cost": -1.0}, "entropy_cost must lie in"),
        ({"value_cost": float("nan")}, "value_cost must lie in"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        _loss(_arguments() | change, **{name: change.get(name, COSTS[name]) for name in COSTS})
    with pytest.raises(ValueError, match="limit"):
        ppo.importance_weights(jnp.zeros(2), jnp.zeros(2), 0.5)
