"""Distral with tables in float64: soft values, optimal task policy, distilled policy.

Random problems of `mdp.py` (3 tasks, 6 states, 4 actions), whose linear systems NumPy solves
exactly. The numbers I1, I2, ... name the invariants of the paper's equations, here one test each.
The comments "guards" name faults that public implementations have and the test would catch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.distributions import Categorical
from mtrl_jax.losses import distral
from tests.maths import mdp as exact

ALPHA, BETA = 0.6, 5.0


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@functools.partial(jax.jit, static_argnames="num_backups")
def _solve(p, r, gamma, log_pi_0, alpha, beta, num_backups=600):
    """V [n, S], Q and log pi [n, S, A] from repeated backups (2), (3), and (4)."""
    value = jax.vmap(jax.vmap(distral.soft_value, (0, 0, None, None)), (0, None, None, None))
    log_policy = jax.vmap(
        jax.vmap(distral.optimal_log_policy, (0, 0, None, None)), (0, None, None, None)
    )

    def q_of(v):
        return distral.soft_q(r, gamma, jnp.einsum("nsat,nt->nsa", p, v))

    def backup(_, v):
        return value(q_of(v), log_pi_0, alpha, beta)

    v = jax.lax.fori_loop(0, num_backups, backup, jnp.zeros(r.shape[:2]))
    return v, q_of(v), log_policy(q_of(v), log_pi_0, alpha, beta)


def _solve_mdp(mdp, pi_0, alpha=ALPHA, beta=BETA, **kwargs):
    solution = _solve(mdp.p, mdp.r, mdp.gamma, jnp.log(pi_0), alpha, beta, **kwargs)
    return jax.tree.map(np.asarray, solution)


def _setting(seed):
    rng = np.random.default_rng(seed + 100)
    return exact.random_mdp(seed), exact.random_policy(rng, 6, 4), rng


def _policy(p):
    return Categorical(jnp.log(p))


def _kl(p, q):
    return np.sum(p * (np.log(p) - np.log(q)), axis=-1)


def _entropy(p):
    return -np.sum(p * np.log(p), axis=-1)


def test_costs_and_temperature_are_inverse_maps_i1():
    # Guards the option called alpha that is really c_kl, and drifts with a tuned temperature.
    costs = distral.costs_from_alpha_beta(ALPHA, BETA)
    np.testing.assert_allclose(costs, (0.12, 0.08), rtol=1e-12)
    np.testing.assert_allclose(distral.alpha_beta_from_costs(*costs), (ALPHA, BETA), rtol=1e-12)
    assert distral.costs_from_alpha_beta(1.0, float("inf")) == (0.0, 0.0)
    per_task = distral.costs_from_alpha_beta(np.array([0.0, 0.5, 1.0]), np.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(per_task.c_kl, [0.0, 0.25, 0.25])
    np.testing.assert_allclose(per_task.c_ent, [1.0, 0.25, 0.0])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: distral.costs_from_alpha_beta(1.1, 1.0), "alpha"),
        (lambda: distral.costs_from_alpha_beta(np.array([0.5, -0.1]), 1.0), "alpha"),
        (lambda: distral.costs_from_alpha_beta(float("nan"), 1.0), "alpha"),
        (lambda: distral.costs_from_alpha_beta(0.5, 0.0), "beta"),
        (lambda: distral.alpha_beta_from_costs(-0.1, 1.0), "c_kl"),
        (lambda: distral.alpha_beta_from_costs(0.0, 0.0), r"c_kl \+ c_ent"),
        (lambda: distral.soft_value(jnp.ones(3), jnp.ones(4), 0.5, 1.0), "log_pi_0"),
        (lambda: distral.soft_value(jnp.ones(3), jnp.ones(3), 0.5, -1.0), "beta"),
        (
            lambda: distral.soft_q_td_error(
                *[jnp.ones(3)], 0, 0.0, 1.0, jnp.ones(2), jnp.ones(2), 0.5, 1.0
            ),
            "q_t",
        ),
        (lambda: distral.pseudocount_policy(jnp.ones(3), 0.0), "pseudocount"),
        (lambda: distral.centroid(jnp.ones(3), jnp.ones((2, 4))), "weights"),
    ],
)
def test_bad_values_are_named_before_compilation(call, name):
    with pytest.raises(ValueError, match=rf"(^|\[){name} must"):
        call()
    with pytest.raises(ValueError, match=rf"(^|\[){name} must"):
        jax.jit(call)()


def test_regularised_reward_has_the_mean_of_equation_1_i1():
    rng = np.random.default_rng(0)
    pi, pi_0 = exact.random_policy(rng, 7, 4), exact.random_policy(rng, 7, 4)
    c_kl, c_ent = distral.costs_from_alpha_beta(ALPHA, BETA)
    reward = distral.regularised_reward(0.0, np.log(pi), np.log(pi_0), c_kl, c_ent)
    want = -c_kl * _kl(pi, pi_0) + c_ent * _entropy(pi)
    np.testing.assert_allclose(np.sum(pi * reward, axis=1), want, atol=1e-14)
    np.testing.assert_allclose(
        distral.expected_regulariser(_policy(pi), _policy(pi_0), c_kl, c_ent), want, atol=1e-14
    )


def test_optimal_policy_needs_no_normalising_and_closes_the_gap_i2():
    # Guards a prior raised to another power in V than in pi, hidden by renormalising; and an actor
    # without the same-step shaping, whose gap would not be a divergence from pi*.
    mdp, pi_0, rng = _setting(0)
    v, q, log_pi = _solve_mdp(mdp, pi_0)
    np.testing.assert_allclose(np.exp(log_pi).sum(-1), 1.0, atol=1e-12)
    np.testing.assert_allclose(np.exp(log_pi), pi_0**ALPHA * np.exp(BETA * (q - v[..., None])))
    pi = exact.random_policy(rng, 3, 6, 4)
    objective = q + ALPHA / BETA * np.log(pi_0) - np.log(pi) / BETA
    gap = v - np.sum(pi * objective, axis=-1)
    np.testing.assert_allclose(gap, _kl(pi, np.exp(log_pi)) / BETA, atol=1e-12)


def test_fixed_point_is_the_value_of_the_optimal_policy_i3():
    # Guards bootstraps with pi_0 in place of pi_0^alpha, and hard-max targets.
    mdp, pi_0, rng = _setting(1)
    v, _, log_pi = _solve_mdp(mdp, pi_0)
    reward = exact.regularised(mdp, np.exp(log_pi), pi_0, ALPHA, BETA)
    np.testing.assert_allclose(v, exact.evaluate(mdp, np.exp(log_pi), reward)[0], atol=1e-10)
    for _ in range(20):
        pi = exact.random_policy(rng, 3, 6, 4)
        below, _ = exact.evaluate(mdp, pi, exact.regularised(mdp, pi, pi_0, ALPHA, BETA))
        assert np.all(v > below)


def test_backup_contracts_i3():
    mdp, pi_0, rng = _setting(2)
    value = jax.vmap(jax.vmap(distral.soft_value, (0, 0, None, None)), (0, None, None, None))

    def backup(v):
        q = distral.soft_q(mdp.r, mdp.gamma, np.einsum("nsat,nt->nsa", mdp.p, v))
        return value(q, jnp.log(pi_0), ALPHA, BETA)

    u, w = rng.normal(size=(2, 3, 6))
    shrunk = np.abs(backup(u) - backup(w)).max()
    assert 0.0 < shrunk <= mdp.gamma * np.abs(u - w).max()
    np.testing.assert_allclose(backup(u + 1.0), backup(u) + mdp.gamma, atol=1e-12)


def test_optimum_is_indifferent_between_actions_i4():
    mdp, pi_0, _ = _setting(3)
    v, q, log_pi = _solve_mdp(mdp, pi_0)
    reward = exact.regularised(mdp, np.exp(log_pi), pi_0, ALPHA, BETA)
    total = reward + mdp.gamma * np.einsum("nsat,nt->nsa", mdp.p, v)
    np.testing.assert_allclose(total, np.broadcast_to(v[..., None], total.shape), atol=1e-10)
    np.testing.assert_allclose(reward, mdp.r - (q - v[..., None]), atol=1e-10)


def test_values_are_consistent_along_any_path_i4():
    mdp = exact.random_mdp(4, deterministic=True)
    rng = np.random.default_rng(4)
    pi_0 = exact.random_policy(rng, 6, 4)
    v, _, log_pi = _solve_mdp(mdp, pi_0)
    reward = exact.regularised(mdp, np.exp(log_pi), pi_0, ALPHA, BETA)
    state, total = 2, 0.0
    for k in range(12):
        action = rng.integers(4)
        total += mdp.gamma**k * reward[1, state, action]
        state = int(np.argmax(mdp.p[1, state, action]))
        np.testing.assert_allclose(total + mdp.gamma ** (k + 1) * v[1, state], v[1, 2], atol=1e-10)


def test_soft_value_bounds_i5():
    rng = np.random.default_rng(5)
    for beta in (0.1, 5.0, 500.0):
        q, pi_0 = 3.0 * rng.normal(size=4), exact.random_policy(rng, 4)
        above = distral.soft_value(q, jnp.log(pi_0), ALPHA, beta) - q.max()
        low = ALPHA / beta * np.log(pi_0[np.argmax(q)])
        assert low - 1e-12 <= above <= (1.0 - ALPHA) * np.log(4) / beta + 1e-12
    np.testing.assert_allclose(distral.soft_value(q, jnp.log(pi_0), ALPHA, 1e9), q.max(), atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_soft_value_does_not_overflow_i5(dtype):
    # Guards a log-sum-exp without the maximum, or with the maximum not added back.
    q = np.array([1e4, 1e4 - 1.0, -1e4], dtype)
    value = distral.soft_value(q, jnp.log(jnp.full(3, 1.0 / 3.0, dtype)), ALPHA, BETA)
    want = 1e4 + np.log((1.0 + np.exp(-BETA)) * 3.0**-ALPHA) / BETA
    np.testing.assert_allclose(value, want, rtol=1e-7)
    assert np.isfinite(jax.grad(distral.soft_value)(q, jnp.zeros(3, dtype), ALPHA, BETA)).all()


def test_uniform_prior_and_alpha_zero_i6():
    mdp, pi_0, _ = _setting(6)
    uniform = np.full((6, 4), 0.25)
    v_0, _, log_pi = _solve_mdp(mdp, uniform, alpha=0.0)
    v_alpha, _, log_pi_alpha = _solve_mdp(mdp, uniform)
    np.testing.assert_allclose(log_pi, log_pi_alpha, atol=1e-10)
    shift = ALPHA * np.log(4) / (BETA * (1.0 - mdp.gamma))
    np.testing.assert_allclose(v_alpha, v_0 - shift, atol=1e-10)
    v_other, _, log_pi_other = _solve_mdp(mdp, pi_0, alpha=0.0)
    np.testing.assert_array_equal(v_other, v_0)
    np.testing.assert_array_equal(log_pi_other, log_pi)


def test_alpha_one_i6():
    rng = np.random.default_rng(7)
    q, pi_0 = rng.normal(size=4), exact.random_policy(rng, 4)
    value = distral.soft_value(q, jnp.log(pi_0), 1.0, BETA)
    assert pi_0 @ q <= value <= q.max()

    def divergence(beta):
        log_pi = distral.optimal_log_policy(q, jnp.log(pi_0), 1.0, beta)
        return jnp.sum(jnp.exp(log_pi) * (log_pi - jnp.log(pi_0)))

    pi = np.exp(distral.optimal_log_policy(q, jnp.log(pi_0), 1.0, BETA))
    variance = pi @ q**2 - (pi @ q) ** 2
    np.testing.assert_allclose(jax.grad(divergence)(BETA), BETA * variance, rtol=1e-10)
    cold = np.exp(distral.optimal_log_policy(q, jnp.log(pi_0), 1.0, 1e-9))
    np.testing.assert_allclose(cold, pi_0, atol=1e-8)


def test_centroid_minimises_the_forward_divergence_i7():
    # Guards KL(pi_0 || pi_i), whose optimum is the geometric mean.
    rng = np.random.default_rng(8)
    weights, policies = np.array([0.2, 1.0, 4.0]), exact.random_policy(rng, 3, 4) ** 3
    policies /= policies.sum(-1, keepdims=True)
    centre = np.asarray(distral.centroid(weights, policies))
    np.testing.assert_allclose(centre, np.average(policies, axis=0, weights=weights), atol=1e-14)
    q = exact.random_policy(rng, 4)

    def cost(q):
        return weights @ _kl(policies, q)

    np.testing.assert_allclose(cost(q), cost(centre) + weights.sum() * _kl(centre, q), atol=1e-12)
    geometric = exact.softmax(weights @ np.log(policies) / weights.sum())
    assert np.abs(centre - geometric).max() > 0.02
    assert np.abs(centre - policies.mean(0)).max() > 0.02  # unequal visits must matter
    np.testing.assert_allclose(distral.centroid(np.zeros(3), policies), policies.mean(0))


def _alternate(mdp, alpha, num_rounds, num_backups=400):
    """Exact E and M steps; yields (pi, pi_0) after each E step."""
    pi_0 = np.full(mdp.r.shape[1:], 1.0 / mdp.r.shape[-1])
    centroid = jax.jit(jax.vmap(distral.centroid, in_axes=1))
    for _ in range(num_rounds):
        _, _, log_pi = _solve_mdp(mdp, pi_0, alpha=alpha, num_backups=num_backups)
        pi = np.exp(log_pi)
        yield pi, pi_0
        pi_0 = np.asarray(centroid(exact.occupancy(mdp, pi), pi))


@pytest.mark.parametrize("alpha", [0.6, 1.0])
def test_alternation_never_lowers_the_objective_i8(alpha):
    mdp = exact.random_mdp(9)
    values = [
        exact.objective(mdp, *policies, alpha, BETA) for policies in _alternate(mdp, alpha, 15)
    ]
    assert np.all(np.diff(values) >= -1e-10)
    assert values[-1] - values[0] > 0.1


def test_one_task_alternation_ends_at_maximum_entropy_i9():
    mdp = exact.random_mdp(10, n=1)
    *_, (pi, pi_0) = _alternate(mdp, ALPHA, 60)
    _, _, log_pi = _solve_mdp(mdp, pi_0, alpha=0.0, beta=BETA / (1.0 - ALPHA))
    np.testing.assert_allclose(pi, np.exp(log_pi), atol=1e-9)
    np.testing.assert_allclose(pi_0, pi[0], atol=1e-9)


def test_one_task_alternation_without_entropy_ends_greedy_i9():
    mdp = exact.random_mdp(11, n=1)
    *_, (pi, _) = _alternate(mdp, 1.0, 300)
    value, _ = exact.evaluate(mdp, pi, mdp.r)
    np.testing.assert_allclose(value, exact.optimal_value(mdp), atol=1e-9)


def test_regulariser_vanishes_where_the_policies_meet_i14():
    rng = np.random.default_rng(12)
    pi, r = exact.random_policy(rng, 3, 6, 4), rng.normal(size=(3, 6, 4))
    for beta in (0.1, 5.0):
        c_kl, c_ent = distral.costs_from_alpha_beta(1.0, beta)
        reward = distral.regularised_reward(r, np.log(pi), np.log(pi), c_kl, c_ent)
        np.testing.assert_allclose(reward, r, atol=1e-13)


def test_backup_takes_the_raw_reward_i16():
    # Guards the regularised reward inside the soft backup, which gives beta / 2 below.
    mdp, pi_0, _ = _setting(13)
    v, _, log_pi = _solve_mdp(mdp, pi_0)
    advantage = mdp.r + mdp.gamma * np.einsum("nsat,nt->nsa", mdp.p, v) - v[..., None]
    np.testing.assert_allclose(log_pi - ALPHA * np.log(pi_0), BETA * advantage, atol=1e-9)


def test_tabular_td_reaches_the_fixed_point_i17():
    mdp = exact.random_mdp(14, n=1, deterministic=True)
    pi_0 = exact.random_policy(np.random.default_rng(14), 6, 4)
    _, want, _ = _solve_mdp(mdp, pi_0)
    log_pi_0, reward = jnp.log(pi_0), jnp.asarray(mdp.r[0])
    successor = jnp.argmax(mdp.p[0], axis=-1)
    state, action = (x.ravel() for x in np.meshgrid(np.arange(6), np.arange(4), indexing="ij"))

    def visit(q, sa):
        s, a = sa
        error = distral.soft_q_td_error(
            q[s],
            a,
            reward[s, a],
            mdp.gamma,
            q[successor[s, a]],
            log_pi_0[successor[s, a]],
            ALPHA,
            BETA,
        )
        return q.at[s, a].add(0.5 * error), error

    def sweep(_, q):
        return jax.lax.scan(visit, q, (state, action))[0]

    q = jax.jit(lambda: jax.lax.fori_loop(0, 700, sweep, jnp.zeros((6, 4))))()
    np.testing.assert_allclose(q, want[0], atol=1e-10)


def test_td_error_at_the_end_of_an_episode_is_exactly_the_reward_i17():
    q_t = jnp.array([3.0, 5.0])
    error = distral.soft_q_td_error(
        jnp.array([0.25, 0.0]), 0, 1.0, 0.0, q_t, jnp.log(jnp.array([0.5, 0.5])), ALPHA, BETA
    )
    assert error == 0.75


def test_td_error_moves_only_the_value_where_the_action_was_taken():
    args = (jnp.arange(3.0), 1, 0.5, 0.9, jnp.ones(3), jnp.log(jnp.full(3, 1.0 / 3.0)))
    gradient = jax.grad(distral.soft_q_td_error, argnums=(0, 4, 5))(*args, ALPHA, BETA)
    np.testing.assert_array_equal(gradient[0], [0.0, -1.0, 0.0])
    np.testing.assert_array_equal(gradient[1], np.zeros(3))
    np.testing.assert_array_equal(gradient[2], np.zeros(3))


def test_pseudocounts_i20():
    counts = np.array([[0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 1.0, 0.5]])
    policy = np.asarray(distral.pseudocount_policy(counts))
    np.testing.assert_allclose(policy[0], 0.25)
    np.testing.assert_allclose(policy[1], np.array([4.0, 1.0, 2.0, 1.5]) / 8.5)
    np.testing.assert_allclose(distral.pseudocount_policy(counts[1], 0.5).sum(), 1.0)
