"""Losses of CQL and IQL, and weights of data sharing, against NumPy loops, SciPy and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

from mtrl_jax.losses import iql, offline, sharing

B, C, A = 12, 2, 3


def _rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WEIGHT = np.random.default_rng(9).uniform(size=B).astype(np.float32)


def test_cql_loss_of_discrete_actions_is_the_loop():
    q, y = 2.0 * _rows(C, B, A), _rows(B, seed=1)
    action = np.arange(B) % A
    mask = np.array([True, True, False])
    action = np.where(action == 2, 0, action)

    @jax.jit
    def both(q, weight, strength):
        def loss(q):
            chosen = jnp.take_along_axis(q, jnp.asarray(action)[None, :, None], -1)[..., 0]
            everything = offline.log_sum_exp(q, jnp.asarray(mask))
            return offline.cql_loss(chosen, everything, y, strength, weight)

        return jax.value_and_grad(loss, has_aux=True)(q)

    for weight in (WEIGHT, np.ones(B, np.float32)):
        (loss, metrics), slope = both(q, weight, 3.0)
        want, gap, grad = 0.0, 0.0, np.zeros_like(q)
        for c in range(C):
            for b in range(B):
                w, a = weight[b] / weight.sum(), action[b]
                exps = np.exp(q[c, b]) * mask
                error = q[c, b, a] - y[b]
                want += w * (0.5 * error**2 + 3.0 * (np.log(exps.sum()) - q[c, b, a]))
                gap += w * (np.log(exps.sum()) - q[c, b, a]) / C
                grad[c, b] += w * 3.0 * exps / exps.sum()
                grad[c, b, a] += w * (error - 3.0)
        np.testing.assert_allclose(loss, want, rtol=1e-5)
        np.testing.assert_allclose(metrics["loss/conservative"], gap, rtol=1e-5)
        np.testing.assert_allclose(slope, grad, rtol=1e-4, atol=1e-6)
    # Without weights all samples count alike, and a sample of weight 0 is not there.
    np.testing.assert_allclose(loss, both(q, np.full(B, 0.3, np.float32), 3.0)[0][0], rtol=1e-5)
    first = np.where(np.arange(B) < 4, 1.0, 0.0).astype(np.float32)
    alone = offline.cql_loss(q[:, :4, 0], q[:, :4, 1], y[:4], 3.0)[0]
    np.testing.assert_allclose(
        offline.cql_loss(q[..., 0], q[..., 1], y, 3.0, first)[0], alone, rtol=1e-5
    )


def test_sampled_log_sum_exp_meets_quadrature():
    """Q(a) = sin 3a - a^2 on [-1, 1]: draws of the uniform density, and of a squashed Gaussian."""

    def q(a):
        return np.sin(3.0 * a) - a**2

    want = np.log(scipy.integrate.quad(lambda a: np.exp(q(a)), -1.0, 1.0)[0])
    random, n = np.random.default_rng(0), 200_000
    uniform = random.uniform(-1.0, 1.0, n)
    u = 0.3 + 0.8 * random.normal(size=n)
    squashed = np.tanh(u)
    log_p = scipy.stats.norm(0.3, 0.8).logpdf(u) - np.log1p(-(squashed**2))
    draws = np.concatenate([uniform, squashed])
    density = np.concatenate([np.full(n, -np.log(2.0)), log_p])
    for part in (slice(0, n), slice(n, None), slice(None)):
        found = offline.sampled_log_sum_exp(q(draws[part]), density[part])
        np.testing.assert_allclose(found, want, atol=0.01)
    # One draw for each of A actions, each as likely as the others, is the discrete sum.
    values = _rows(A, B)
    found = offline.sampled_log_sum_exp(values, np.full((A, 1), -np.log(A), np.float32))
    np.testing.assert_allclose(found, offline.log_sum_exp(values.T), rtol=1e-5)


def test_iql_losses_are_the_loops():
    q, v, log_prob = _rows(B), _rows(B, seed=1), _rows(B, seed=2) - 1.0

    @jax.jit
    def losses(q, v, log_prob, expectile, sharpness, limit, weight):
        both = jax.value_and_grad(iql.expectile_loss)(v, q, expectile, weight)
        policy = jax.value_and_grad(iql.advantage_weighted_loss)
        return *both, *policy(log_prob, q - v, sharpness, limit, weight)

    found = losses(q, v, log_prob, 0.8, 3.0, 5.0, WEIGHT)
    value, slope, imitation, log_slope = 0.0, np.zeros(B), 0.0, np.zeros(B)
    for b in range(B):
        w, u = WEIGHT[b] / WEIGHT.sum(), q[b] - v[b]
        side = 0.2 if u < 0 else 0.8
        value += w * side * u**2
        slope[b] = -2.0 * w * side * u
        factor = min(np.exp(3.0 * u), 5.0)
        imitation -= w * factor * log_prob[b]
        log_slope[b] = -w * factor
    for have, want in zip(found, (value, slope, imitation, log_slope), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-6)
    # The minimum is the expectile, as SciPy finds it of the same sample; of 0.5 it is the mean.
    want = scipy.stats.expectile(q.astype(np.float64), 0.8)
    numbers = np.linspace(want - 0.5, want + 0.5, 1001)
    costs = np.where(q < numbers[:, None], 0.2, 0.8) * (q - numbers[:, None]) ** 2
    assert abs(numbers[costs.mean(1).argmin()] - want) < 1e-3
    flat = jax.grad(lambda v: iql.expectile_loss(jnp.full(B, v), q, 0.8))(jnp.float32(want))
    np.testing.assert_allclose(flat, 0.0, atol=1e-5)
    # An untrained critic that is far off does not overflow.
    assert np.isfinite(iql.advantage_weighted_loss(log_prob, q + 1e4, 3.0))


def test_critic_loss_is_half_the_squares_and_the_target_carries_no_gradient():
    q, y = _rows(C, B), _rows(B, seed=1)
    loss, metrics = offline.critic_loss(q, y, WEIGHT)
    want = sum(np.average(0.5 * (q[c] - y) ** 2, weights=WEIGHT) for c in range(C))
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(metrics["q/target"], np.average(y, weights=WEIGHT), rtol=1e-5)
    slope = jax.grad(lambda y: offline.critic_loss(q, y, WEIGHT)[0])(y)
    np.testing.assert_array_equal(slope, 0.0)


def _cds_by_hand(q_own, q_shared, percentile, temperature):
    ordered = sorted(float(x) for x in q_own)
    if percentile is None:
        level = sum(ordered) / len(ordered)
    else:  # linear between the two nearest
        place = percentile / 100 * (len(ordered) - 1)
        low = int(place)
        level = ordered[low] + (place - low) * (
            ordered[min(low + 1, len(q_own) - 1)] - ordered[low]
        )
    found = []
    for q in q_shared:
        delta = q - level
        if temperature is None:
            found.append(1.0 if delta >= 0 else 0.0)
        else:
            found.append(1.0 / (1.0 + np.exp(-delta / temperature)))
    return np.array(found)


@pytest.mark.parametrize("percentile", [None, 50.0, 90.0])
@pytest.mark.parametrize("temperature", [None, 0.5])
def test_weights_of_cds_are_the_loop(percentile, temperature):
    own, shared = _rows(33), _rows(B, seed=1) + 0.5
    level = sharing.own_level(own, percentile)
    found = sharing.cds_weights(shared, level, temperature)
    want = _cds_by_hand(own, shared, percentile, temperature)
    assert 0 < want.mean() < 1
    np.testing.assert_allclose(found, want, rtol=1e-4)
    is_own = np.arange(B) % 2 == 0
    found = np.asarray(sharing.own_first(found, is_own))
    np.testing.assert_array_equal(found[is_own], 1.0)  # whatever its value
    np.testing.assert_allclose(found[~is_own], want[~is_own], rtol=1e-4)


def test_hipi_gives_each_sample_to_one_task_and_no_task_has_all_by_its_scale():
    q = _rows(4, B)
    log_z = np.array([np.log(np.mean(np.exp(x))) for x in q])
    np.testing.assert_allclose(jax.vmap(sharing.log_partition)(q), log_z, rtol=1e-4)
    found = np.stack([sharing.hipi_weights(q, log_z, k) for k in range(4)])
    for b in range(B):
        scores = [q[k, b] - log_z[k] for k in range(4)]
        np.testing.assert_array_equal(found[:, b], np.eye(4)[int(np.argmax(scores))])
    shifted = q + np.array([0.0, 100.0, 0.0, 0.0], np.float32)[:, None]
    log_z = jax.vmap(sharing.log_partition)(shifted)
    again = np.stack([sharing.hipi_weights(shifted, log_z, k) for k in range(4)])
    np.testing.assert_array_equal(again, found)


def test_effective_share_counts_weights_by_where_samples_come_from():
    source = np.arange(B) % 3
    share = sharing.effective_share(WEIGHT, source, 4)
    want = [WEIGHT[source == j].sum() / WEIGHT.sum() for j in range(4)]
    np.testing.assert_allclose(share, want, rtol=1e-5)
    assert share[3] == 0
    np.testing.assert_array_equal(sharing.effective_share(np.zeros(B), source, 4), 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: offline.cql_loss(_rows(C, B), _rows(C, B), _rows(B), -1.0), "strength must lie"),
        (lambda: offline.cql_loss(_rows(C, B), _rows(B), _rows(B), 1.0), "log_sum_exp_q must"),
        (lambda: offline.critic_loss(_rows(B), _rows(B)), "q_tm1 must have shape"),
        (lambda: offline.critic_loss(_rows(C, B), _rows(B), WEIGHT - 1.0), "weight must lie"),
        (lambda: offline.critic_loss(_rows(C, B), _rows(B), WEIGHT[1:]), "weight must have shape"),
        (lambda: iql.expectile_loss(_rows(B), _rows(B), 1.5), "expectile must lie"),
        (lambda: iql.expectile_loss(_rows(B), _rows(B + 1), 0.5), "q_tm1 must have shape"),
        (lambda: iql.advantage_weighted_loss(_rows(B), _rows(B), -1.0), "sharpness must lie"),
        (lambda: offline.sampled_log_sum_exp(_rows(B, 2), _rows(3)), "log_density must broadcast"),
        (lambda: offline.log_sum_exp(_rows(B, A), np.ones(A)), "action_mask must be bool"),
        (lambda: sharing.own_level(_rows(B), 101.0), "percentile must lie"),
        (lambda: sharing.cds_weights(_rows(B), 0.0, 0.0), "temperature must lie"),
        (lambda: sharing.hipi_weights(_rows(3, B), _rows(2), 0), "log_partitions must have shape"),
        (lambda: sharing.own_first(WEIGHT, WEIGHT), "own must be bool"),
        (lambda: sharing.effective_share(WEIGHT, np.arange(3), 3), "source must have shape"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
