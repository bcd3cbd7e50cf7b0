"""Returns against their definitions written as loops over one step at a time, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import returns

T = 13
GAMMA = 0.9


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _trajectory(seed=0):
    """Rows of three episodes: one terminates at row 4, one is truncated at row 9, one runs on.

    Transitions 4 and 9 lead into reset rows and hold garbage.
    """
    rng = np.random.default_rng(seed)
    r_t, v = rng.normal(size=T), rng.normal(size=T + 1)
    valid_t = np.ones(T, bool)
    valid_t[[4, 9]] = False
    discount_t = np.full(T, GAMMA)
    discount_t[3] = 0.0  # true termination: the row it leads to, 4, is the final observation
    r_t[[4, 9]], discount_t[[4, 9]] = 1e6, 7.0
    return r_t, discount_t, v, valid_t


def _n_step(r_t, discount_t, v, valid_t, t, n):
    """Adds rewards until n are added, the episode ends, or the unroll does; then bootstraps."""
    total, weight, k = 0.0, 1.0, t
    while k < len(r_t) and valid_t[k] and k - t < n:
        total, weight, k = total + weight * r_t[k], weight * discount_t[k], k + 1
    return total + weight * v[k]


def _steps_left(valid_t, t):
    k = t
    while k < len(valid_t) and valid_t[k]:
        k += 1
    return k - t


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_n_step_returns_against_a_loop(n):
    # Guards the last n targets left at zero, so that the terminal reward never enters.
    args = _trajectory()
    want = [_n_step(*args, t, n) for t in range(T)]
    np.testing.assert_allclose(returns.n_step_returns(*args, n), want, rtol=1e-13)


def test_discounted_returns_by_hand():
    # Row 2 is the final observation of a truncated episode, row 5 of a terminated one.
    nan = np.nan
    r_t = np.array([1.0, 2.0, nan, 3.0, 4.0, nan, 5.0])
    discount_t = np.array([0.5, 0.5, nan, 0.5, 0.0, nan, 0.5])
    valid_t = np.array([True, True, False, True, True, False, True])
    v = np.array([9.0, 9.0, 10.0, 9.0, 9.0, 20.0, 9.0, 30.0])
    want = [
        1.0 + 0.5 * (2.0 + 0.5 * 10.0),
        2.0 + 0.5 * 10.0,
        10.0,
        3.0 + 0.5 * 4.0,
        4.0,
        20.0,
        20.0,
    ]
    got = returns.discounted_returns(r_t, discount_t, v, valid_t)
    np.testing.assert_allclose(got, want, rtol=1e-14)


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_lambda_returns_are_the_weighted_mean_of_n_step_returns(lambda_):
    args = _trajectory(1)
    want = []
    for t in range(T):
        left = max(_steps_left(args[3], t), 1)
        weights = [(1.0 - lambda_) * lambda_ ** (n - 1) for n in range(1, left)]
        weights.append(1.0 - sum(weights))
        want.append(sum(w * _n_step(*args, t, n + 1) for n, w in enumerate(weights)))
    np.testing.assert_allclose(returns.lambda_returns(*args, lambda_), want, rtol=1e-12)


def test_gae_is_the_sum_of_temporal_differences():
    r_t, discount_t, v, valid_t = args = _trajectory(2)
    lambda_, want = 0.8, np.zeros(T)
    for t in range(T):
        weight = 1.0
        for k in range(t, t + _steps_left(valid_t, t)):
            want[t] += weight * (r_t[k] + discount_t[k] * v[k + 1] - v[k])
            weight *= discount_t[k] * lambda_
    got = np.asarray(returns.gae(*args, lambda_))
    np.testing.assert_allclose(got, want, atol=1e-12)
    np.testing.assert_array_equal(got[~valid_t], 0.0)


@pytest.mark.parametrize(("lambda_", "clip_rho", "clip_pg_rho"), [(1.0, 1.0, 1.0), (0.6, 2.0, 0.5)])
def test_vtrace_against_the_sum_of_its_definition(lambda_, clip_rho, clip_pg_rho):
    r_t, discount_t, v, valid_t = args = _trajectory(3)
    log_rho = np.random.default_rng(4).normal(size=T)
    log_rho[~valid_t] = np.nan
    rho = np.exp(log_rho)
    target = v.copy()
    for t in range(T):
        weight = 1.0
        for k in range(t, t + _steps_left(valid_t, t)):
            delta = r_t[k] + discount_t[k] * v[k + 1] - v[k]
            target[t] += weight * min(clip_rho, rho[k]) * delta
            weight *= discount_t[k] * lambda_ * min(1.0, rho[k])
    advantage = np.zeros(T)
    for t in np.flatnonzero(valid_t):
        td = r_t[t] + discount_t[t] * target[t + 1] - v[t]
        advantage[t] = min(clip_pg_rho, rho[t]) * td
    got = returns.vtrace(*args, log_rho, lambda_, clip_rho, clip_pg_rho)
    np.testing.assert_allclose(got.target, target[:-1], rtol=1e-12)
    np.testing.assert_allclose(got.advantage, advantage, atol=1e-12)


def test_vtrace_on_policy_is_the_lambda_return():
    args = _trajectory(5)
    got = returns.vtrace(*args, np.zeros(T), 1.0)
    np.testing.assert_allclose(got.target, returns.discounted_returns(*args), rtol=1e-12)
    np.testing.assert_allclose(got.advantage, returns.gae(*args, 1.0), atol=1e-12)


def _all(r_t, discount_t, v, valid_t, log_rho):
    return (
        returns.n_step_returns(r_t, discount_t, v, valid_t, 5),
        returns.discounted_returns(r_t, discount_t, v, valid_t),
        returns.lambda_returns(r_t, discount_t, v, valid_t, 0.9),
        returns.gae(r_t, discount_t, v, valid_t, 0.9),
        *returns.vtrace(r_t, discount_t, v, valid_t, log_rho, 0.9),
    )


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e30])
def test_garbage_on_reset_rows_changes_nothing_nor_any_gradient(garbage):
    r_t, discount_t, v, valid_t = _trajectory(6)
    log_rho = np.random.default_rng(7).normal(size=T)

    def spoil(x):
        return np.where(valid_t, x, garbage)

    def clean(x):
        return np.where(valid_t, x, 0.0)

    @jax.jit
    def value_and_grad(r_t, discount_t, v, log_rho):
        def total(*x):
            return sum(jnp.sum(jnp.sin(y)) for y in _all(*x[:3], valid_t, x[3]))

        values = _all(r_t, discount_t, v, valid_t, log_rho)
        return values, jax.grad(total, (0, 1, 2, 3))(r_t, discount_t, v, log_rho)

    got = value_and_grad(spoil(r_t), spoil(discount_t), v, spoil(log_rho))
    want = value_and_grad(clean(r_t), clean(discount_t), v, clean(log_rho))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(got))
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(got[1]))


def test_nothing_crosses_from_one_episode_into_another():
    r_t, discount_t, v, valid_t = _trajectory(8)
    log_rho = np.zeros(T)
    before = _all(r_t, discount_t, v, valid_t, log_rho)
    r_t[5:9] += 100.0
    v[5:9] -= 50.0
    after = _all(r_t, discount_t, v, valid_t, log_rho)
    for x, y in zip(before, after, strict=True):
        np.testing.assert_array_equal(np.delete(x, np.s_[5:9]), np.delete(y, np.s_[5:9]))
        assert np.all(np.asarray(x[5:9]) != np.asarray(y[5:9]))


def test_truncation_bootstraps_and_termination_does_not():
    r_t, discount_t, v, valid_t = _trajectory(9)
    slope = jax.jacobian(lambda v: returns.discounted_returns(r_t, discount_t, v, valid_t))(v)
    np.testing.assert_allclose(slope[:4, 4], 0.0)  # terminated at row 4
    np.testing.assert_allclose(slope[5:9, 9], GAMMA ** np.arange(4, 0, -1), rtol=1e-12)


def test_float32_and_bfloat16_inputs():
    r_t, discount_t, v, valid_t = _trajectory(10)
    narrow = [jnp.asarray(x, jnp.bfloat16) for x in (r_t, discount_t, v)]
    wide = [x.astype(jnp.float32) for x in narrow]
    log_rho = jnp.zeros(T, jnp.bfloat16)
    got, want = _all(*narrow, valid_t, log_rho), _all(*wide, valid_t, log_rho)
    for x, y in zip(got, want, strict=True):
        assert x.dtype == y.dtype == jnp.float32
        np.testing.assert_array_equal(x, y)


def test_jit_and_vmap_give_the_same_numbers():
    batch = [np.stack(x) for x in zip(*(_trajectory(s) for s in range(4)), strict=True)]
    log_rho = np.random.default_rng(11).normal(size=(4, T))
    got = jax.jit(jax.vmap(_all))(*batch, log_rho)
    for i in range(4):
        want = _all(*(x[i] for x in batch), log_rho[i])
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-12), got, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(v=np.zeros(T)), rf"\({T},\) but expected \({T + 1}\).*v must have shape \[T \+ 1\]"),
        (dict(r_t=np.zeros((T, 1))), "r_t must have shape"),
        (dict(discount_t=np.zeros(T + 1)), "discount_t must have shape"),
        (dict(valid_t=np.ones(T - 1, bool)), "valid_t must have shape"),
        (dict(valid_t=np.ones(T)), "type float64 but expected bool.*valid_t must be bool"),
        (dict(lambda_=1.5), r"lambda_ must lie in \[0.0, 1.0\], got 1.5"),
    ],
)
def test_bad_arguments_are_named(change, message):
    r_t, discount_t, v, valid_t = _trajectory()
    args = dict(r_t=r_t, discount_t=discount_t, v=v, valid_t=valid_t, lambda_=1.0) | change
    for function in (returns.lambda_returns, returns.gae):
        with pytest.raises(ValueError, match=message):
            function(**args)
    with pytest.raises(ValueError, match="log_rho must have shape"):
        returns.vtrace(r_t, discount_t, v, valid_t, np.zeros(T + 1))
    with pytest.raises(ValueError, match="n must be at least 1; got 0"):
        returns.n_step_returns(r_t, discount_t, v, valid_t, 0)
