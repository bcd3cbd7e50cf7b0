"""Derivatives through trajectories and through inner steps, against closed forms and finite
differences of expectations that NumPy takes over every trajectory."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.losses import dice, maml

T, A = 3, 2
RNG = np.random.default_rng(0)
REWARD = RNG.normal(size=(2, T, A, A))  # by task, time, action and the action before
DISCOUNT = 0.9
PATHS = np.array(list(itertools.product(range(A), repeat=T)))
THETA = RNG.normal(size=(T, A, A)) * 0.5  # logits by time, action before, action


def _before(paths):
    return np.concatenate([np.zeros((len(paths), 1), int), paths[:, :-1]], 1)


def _rewards(task):
    """`[P, T]`, of every path."""
    return REWARD[task][np.arange(T), PATHS, _before(PATHS)]


def _expected(theta, task):
    """The discounted return that a policy expects, by every path's probability; float64."""
    log_p = theta - np.log(np.exp(theta).sum(-1, keepdims=True))
    chosen = log_p[np.arange(T), _before(PATHS), PATHS].sum(1)
    return (np.exp(chosen) * (_rewards(task) @ DISCOUNT ** np.arange(T))).sum()


def _differences(f, x, h=1e-5):
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        out[i] = (f(x + step) - f(x - step)) / (2 * h)
    return out


def _log_probs(theta):
    """`[P, T]` of every path."""
    return jax.nn.log_softmax(theta)[np.arange(T), _before(PATHS), PATHS]


def _weights(theta):
    """The share of each path among infinitely many that were drawn; data, without gradient."""
    return jax.lax.stop_gradient(jnp.exp(_log_probs(theta).sum(1)))


def _dice(theta, task):
    discount = jnp.full((len(PATHS), T), DISCOUNT)
    each = jax.vmap(dice.dice)(_log_probs(theta), jnp.asarray(_rewards(task)), discount)
    return (_weights(theta) * each).sum()


def _to_go(task):
    rewards = _rewards(task) * DISCOUNT ** np.arange(T)
    return rewards[:, ::-1].cumsum(1)[:, ::-1]


def _loaded(theta, task, baseline=None, lambda_=1.0):
    """With baselines that know time and the action before, as a critic might."""
    values = np.zeros(PATHS.shape) if baseline is None else baseline[np.arange(T), _before(PATHS)]
    advantage = jnp.asarray(_to_go(task) - values, theta.dtype)
    each = jax.vmap(dice.loaded_dice, (0, 0, None))(_log_probs(theta), advantage, lambda_)
    return (_weights(theta) * each).sum()


def _surrogate(theta, task):
    return (_weights(theta) * (_log_probs(theta) * jnp.asarray(_to_go(task))).sum(1)).sum()


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def _hessian_vector(objective, direction):
    along = jax.grad(lambda x: (jax.grad(objective)(x, 0) * direction).sum())
    return jax.jit(along)(jnp.asarray(THETA))


@pytest.mark.parametrize("name", ["dice", "loaded", "baseline"])
def test_first_and_second_derivatives_are_those_of_the_expected_return(name):
    baseline = RNG.normal(size=(T, A)) if name == "baseline" else None
    objective = _dice if name == "dice" else lambda x, task: _loaded(x, task, baseline)
    if name == "dice":
        np.testing.assert_allclose(objective(jnp.asarray(THETA), 0), _expected(THETA, 0))
    gradient = _differences(lambda x: _expected(x, 0), THETA)
    found = jax.jit(jax.grad(objective), static_argnums=1)(jnp.asarray(THETA), 0)
    np.testing.assert_allclose(found, gradient, atol=1e-8)
    direction, h = RNG.normal(size=THETA.shape), 1e-4
    ends = [_differences(lambda x: _expected(x, 0), THETA + s * h * direction) for s in (1, -1)]
    wanted = (ends[0] - ends[1]) / (2 * h)
    np.testing.assert_allclose(_hessian_vector(objective, direction), wanted, atol=1e-5)
    wrong = _hessian_vector(_surrogate, direction)  # the right gradient, and no more
    assert np.abs(wrong - wanted).max() > 0.05


def test_a_smaller_lambda_keeps_the_gradient_alone():
    theta, direction = jnp.asarray(THETA), RNG.normal(size=THETA.shape)
    gradients = [jax.grad(_loaded)(theta, 0, None, x) for x in (1.0, 0.5)]
    np.testing.assert_allclose(*gradients, atol=1e-12)
    seconds = [
        _hessian_vector(lambda x, task, y=y: _loaded(x, task, None, y), direction)
        for y in (1.0, 0.5)
    ]
    assert np.abs(seconds[0] - seconds[1]).max() > 1e-3


def test_the_meta_gradient_is_that_of_the_return_behind_a_policy_gradient_step():
    rate = 0.7

    def after(theta):
        steps = [theta + rate * _differences(lambda x, k=k: _expected(x, k), theta) for k in (0, 1)]
        return np.mean([_expected(x, k) for k, x in enumerate(steps)])

    def meta(objective, first_order):
        def value(theta):
            each = []
            for k in (0, 1):
                data = jnp.array([k])  # one step
                adapted = maml.adapt(
                    lambda x, _, k=k: -objective(x, k), theta, data, rate, first_order=first_order
                )
                each.append(_dice(adapted, k))
            return sum(each) / 2

        return np.asarray(jax.jit(jax.grad(value))(jnp.asarray(THETA)))

    wanted = _differences(after, THETA, 1e-4)
    for objective in (_dice, _loaded):
        np.testing.assert_allclose(meta(objective, False), wanted, atol=1e-5)
    for wrong in (meta(_surrogate, False), meta(_dice, True)):
        assert np.abs(wrong - wanted).max() > 0.02


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_quadratics_have_the_meta_gradient_of_the_closed_form(first_order, steps):
    centres, theta, rate = RNG.normal(size=(4, 5)), {"x": jnp.asarray(RNG.normal(size=5))}, 0.3

    def loss(params, centre):
        return 0.5 * jnp.square(params["x"] - centre).sum()

    def meta(params):
        def one(centre):
            inner = jnp.broadcast_to(centre, (steps, 5))
            return loss(maml.adapt(loss, params, inner, rate, first_order=first_order), centre)

        return jax.vmap(one)(jnp.asarray(centres)).mean()

    power = steps if first_order else 2 * steps
    wanted = (1 - rate) ** power * (theta["x"] - centres.mean(0))
    np.testing.assert_allclose(jax.grad(meta)(theta)["x"], wanted, rtol=1e-12)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"r_t must have shape \[T\]"):
        dice.dice(jnp.zeros(3), jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"advantage must have shape \[T\]"):
        dice.loaded_dice(jnp.zeros(3), jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"lambda_ must lie in \[0.0, 1.0\], got 2"):
        dice.loaded_dice(jnp.zeros(3), jnp.zeros(3), 2.0)
    with pytest.raises(ValueError, match=r"rate must not be negative; got -1\.0"):
        maml.adapt(lambda x, y: x, jnp.zeros(()), jnp.zeros(1), -1.0)
