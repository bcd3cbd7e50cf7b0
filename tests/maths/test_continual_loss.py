"""Anchors and importances against closed forms, a loop over samples, and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from mtrl_jax import distributions
from mtrl_jax.losses import continual, importance

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 3)).astype(np.float32)


def tree(*seeds):
    drawn = (np.random.default_rng(s) for s in seeds)
    return tuple({"a": r.normal(size=(3, 2)), "b": [r.normal(size=4)]} for r in drawn)


def positive(t):
    return jax.tree.map(np.abs, t)


def flat(t):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)])


# ------------------------------------------------------------------------- anchors


def test_the_penalty_is_the_sum_of_squares_and_nothing_at_the_anchor():
    theta, held, f = tree(0, 1, 2)
    anchor = continual.Anchor(held, positive(f))
    value, grad = jax.value_and_grad(continual.penalty)(theta, anchor, 3.0)
    difference, weights = flat(theta) - flat(held), np.abs(flat(f))
    np.testing.assert_allclose(value, 1.5 * (weights * difference**2).sum(), rtol=1e-6)
    np.testing.assert_allclose(flat(grad), 3.0 * weights * difference, rtol=1e-5)
    value, grad = jax.value_and_grad(continual.penalty)(held, anchor, 3.0)
    assert value == 0 and not flat(grad).any()


def test_the_anchor_has_no_gradient_and_narrow_parameters_are_summed_wide():
    theta, held, f = tree(0, 1, 2)
    anchor = continual.Anchor(held, positive(f))
    grad = jax.grad(lambda anchor: continual.penalty(theta, anchor, 1.0))(anchor)
    assert not flat(grad).any()
    many = jnp.ones(4096, jnp.bfloat16)
    value = continual.penalty(many, continual.l2_anchor(jnp.zeros_like(many)), 2.0)
    assert value == 4096 and value.dtype == jnp.float32


def test_l2_holds_everything_alike():
    theta, held = tree(0, 1)
    value = continual.penalty(theta, continual.l2_anchor(held), 2.0)
    np.testing.assert_allclose(value, ((flat(theta) - flat(held)) ** 2).sum(), rtol=1e-6)


def test_merged_anchors_have_the_gradient_of_both():
    theta, one, two, f, g = tree(0, 1, 2, 3, 4)
    f, g = positive(f), positive(g)
    f["b"][0][:2] = g["b"][0][1:3] = 0  # one where neither matters
    first, second = continual.Anchor(one, f), continual.Anchor(two, g)
    both = jax.grad(lambda p: continual.penalty(p, first, 2.0) + continual.penalty(p, second, 2.0))(
        theta
    )
    merged = continual.merge(first, second)
    np.testing.assert_allclose(
        flat(jax.grad(continual.penalty)(theta, merged, 2.0)), flat(both), rtol=1e-5, atol=1e-6
    )
    assert merged.params["b"][0][1] == np.float32(two["b"][0][1])  # nothing matters: the newest


def test_merging_an_anchor_with_itself_does_not_move_it():
    (one,) = tree(1)
    anchor = continual.Anchor(jax.tree.map(jnp.float32, one), positive(one))
    merged = continual.merge(anchor, anchor)
    assert (flat(merged.params) == flat(anchor.params)).all()


def test_an_anchor_that_follows_fades():
    one, two, f, g = tree(1, 2, 3, 4)
    old, new = continual.Anchor(one, positive(f)), continual.Anchor(two, positive(g))
    followed = continual.follow(old, new, 0.9)
    assert followed.params is new.params
    np.testing.assert_allclose(
        flat(followed.importance), 0.9 * np.abs(flat(f)) + np.abs(flat(g)), rtol=1e-6
    )


def test_ewc_with_the_full_fisher_of_linear_regression_is_joint_least_squares():
    """The anchor is exact where the Fisher is diagonal: a design with orthogonal columns."""
    q = np.linalg.qr(RNG.normal(size=(7, 3)))[0]
    y, z, x2 = RNG.normal(size=7), RNG.normal(size=5), RNG.normal(size=(5, 3))
    first = np.linalg.lstsq(q, y, rcond=None)[0]
    anchor = continual.Anchor(first.astype(np.float32), np.diag(q.T @ q).astype(np.float32))

    def loss(theta):
        return 0.5 * jnp.sum((x2 @ theta - z) ** 2) + continual.penalty(theta, anchor, 1.0)

    joint = np.linalg.lstsq(np.vstack([q, x2]), np.concatenate([y, z]), rcond=None)[0]
    np.testing.assert_allclose(jax.grad(loss)(jnp.float32(joint)), 0, atol=2e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t, a: continual.penalty(t, a, -1.0), "strength must not be negative; got -1.0"),
        (lambda t, a: continual.penalty({"a": t["a"]}, a, 1.0), "anchor must have the shapes of"),
        (
            lambda t, a: continual.penalty(
                t, a._replace(importance={"a": t["a"].T, "b": t["b"]}), 1
            ),
            "importance must have the shapes of params",
        ),
        (lambda t, a: continual.follow(a, a, 1.5), r"decay must lie in \[0.0, 1.0\], got 1.5"),
        (lambda t, a: continual.merge(a, a._replace(params=t["a"])), "second must have the shapes"),
    ],
)
def test_wrong_anchors_are_refused(call, words):
    theta, held = tree(0, 1)
    with pytest.raises(ValueError, match=words):
        call(theta, continual.Anchor(held, positive(held)))


# ------------------------------------------------------------------------- importance


def logits(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


PARAMS = {
    "w": RNG.normal(size=(3, 4)).astype(np.float32),
    "v": RNG.normal(size=(4, 5)).astype(np.float32),
}


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_the_fisher_of_a_softmax_is_its_closed_form(chunk):
    """Of a linear softmax: E x_i^2 pi_a (1 - pi_a) for the weight from input i to action a."""
    v = PARAMS["v"][:3]

    def policy(params, x):
        return distributions.categorical(x @ params)

    found = importance.fisher(policy, v, X, chunk=chunk)
    pi = softmax(X @ v, axis=1)
    np.testing.assert_allclose(found, (X**2).T @ (pi * (1 - pi)) / 7, rtol=1e-5)


def test_the_fisher_of_a_network_is_a_loop_over_samples_and_actions():
    mask = np.array([True, True, False, True, True])

    def policy(params, x):
        return distributions.categorical(logits(params, x), mask)

    found = importance.fisher(policy, PARAMS, X, chunk=4)
    slope = jax.jit(jax.value_and_grad(lambda p, a, x: policy(p, x).log_probs[a]))
    total = np.zeros(32)
    for x in X:
        for a in np.flatnonzero(mask):
            log_pi, grad = slope(PARAMS, a, x)
            total += np.exp(log_pi) * flat(grad) ** 2
    np.testing.assert_allclose(flat(found), total / 7, rtol=1e-4, atol=1e-7)
    # The mean's square is another thing.
    mean = jax.grad(lambda p: jax.vmap(lambda x: policy(p, x).log_probs[0])(X).mean())(PARAMS)
    assert not np.allclose(flat(found), flat(mean) ** 2, rtol=0.1)


def test_the_fisher_of_a_gaussian_regression_is_that_of_least_squares():
    """F = X'X / (n sigma^2), its diagonal; and 2 for log sigma."""
    params = {"beta": np.ones(3, np.float32), "log_std": np.float32([-0.5])}

    def policy(params, x):
        return distributions.Gaussian((x @ params["beta"])[None], params["log_std"])

    found = importance.fisher(policy, params, X)
    expected = np.diag(X.T @ X) / 7 / np.exp(-1.0)
    np.testing.assert_allclose(found["beta"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["log_std"], 2.0, rtol=1e-6)


def test_a_coordinate_that_a_task_has_not_is_of_no_importance():
    def policy(params, x):
        mean = x @ params
        return distributions.Gaussian(mean, jnp.zeros_like(mean), jnp.array([True, False]))

    found = importance.fisher(policy, PARAMS["w"][:, :2], X)
    assert found[:, 0].all() and not found[:, 1].any()


def test_the_empirical_fisher_squares_single_samples():
    def loss(params, sample):
        x, y = sample
        return 0.5 * (x @ params - y) ** 2

    y, theta = RNG.normal(size=7).astype(np.float32), np.float32([1.0, 2.0, -1.0])
    found = importance.empirical_fisher(loss, theta, (X, y), chunk=2)
    each = X * (X @ theta - y)[:, None]
    np.testing.assert_allclose(found, (each**2).mean(0), rtol=1e-5)


def test_sensitivity_is_the_mean_size_of_the_gradient_of_the_squared_output():
    """Of a linear map f = x W: |2 x_i f_j|."""
    w = PARAMS["w"]
    found = importance.sensitivity(lambda p, x: x @ p, w, X, chunk=2)
    expected = np.abs(2 * X[:, :, None] * (X @ w)[:, None, :]).mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_importance_is_the_same_under_jit_and_has_no_gradient():
    def found(v):
        return importance.fisher(lambda p, x: distributions.categorical(x @ p), v, X)

    v = PARAMS["v"][:3]
    np.testing.assert_allclose(jax.jit(found)(v), found(v), rtol=1e-6)
    assert not jax.grad(lambda v: found(v).sum())(v).any()


@pytest.mark.parametrize(
    ("samples", "chunk", "words"),
    [
        (X[:0], 2, "samples must have leaves"),
        ((X, X[:3]), 2, "samples must have leaves"),
        (X, 0, "chunk must be at least 1; got 0"),
    ],
)
def test_wrong_samples_are_refused(samples, chunk, words):
    with pytest.raises(ValueError, match=words):
        importance.empirical_fisher(lambda p, x: p.sum(), PARAMS["v"], samples, chunk=chunk)


def test_a_batch_in_place_of_an_observation_is_refused():
    def policy(params, x):
        return distributions.categorical(jnp.stack([x @ params] * 2))

    with pytest.raises(ValueError, match=r"policy must have shape .* of one observation"):
        importance.fisher(policy, PARAMS["w"], X)
