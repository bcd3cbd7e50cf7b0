"""The gradient of `distral_loss` in the mean over trajectories is that of the exact objective,
float64.

A random problem is solved exactly, every trajectory of one or two steps is enumerated with its
probability, and the weighted sum of the loss's gradients is compared with finite differences of J
= sum of the tasks' exact values. No sampling, so nothing but rounding separates the two sides.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.distributions import categorical
from mtrl_jax.losses import distral
from tests.maths import mdp as exact

ALPHA, BETA = 0.6, 5.0
S, A = 6, 4


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _coefficients(name, alpha=None):
    variant = distral.ALGORITHMS[name]
    if alpha is not None:
        variant = variant._replace(alpha=alpha)
    return distral.coefficients(variant, BETA)


def _setting(seed, n=3):
    rng = np.random.default_rng(seed + 50)
    return exact.random_mdp(seed, n), rng.normal(size=(S, A)), rng.normal(size=(n, S, A))


def _policies(h, g, coefs):
    return exact.softmax(coefs.shared_scale * h + coefs.task_scale * g), exact.softmax(h)


def _temperature(coefs):
    beta = 1.0 / (coefs.c_kl + coefs.c_ent)
    return coefs.c_kl * beta, beta


def _objective(mdp, h, g, coefs):
    return exact.objective(mdp, *_policies(h, g, coefs), *_temperature(coefs))


def _finite_differences(mdp, h, g, coefs, step=1e-5):
    """Central differences of the exact objective in every element of h and g."""
    h, g = h.copy(), g.copy()  # a dispatched computation may still be reading the caller's arrays
    gradients = []
    for x in (h, g):
        gradient = np.zeros(x.shape)
        for index in np.ndindex(x.shape):
            kept = x[index]
            x[index] = kept + step
            above = _objective(mdp, h, g, coefs)
            x[index] = kept - step
            below = _objective(mdp, h, g, coefs)
            x[index] = kept
            gradient[index] = (above - below) / (2.0 * step)
        gradients.append(gradient)
    return gradients


def _closed_forms(mdp, h, g, coefs, visits=None):
    """dJ/dh and dJ/dg in closed form, with d_i(s), or `visits` [n, S], as weights of the states."""
    pi, pi_0 = _policies(h, g, coefs)
    reward = exact.regularised(mdp, pi, pi_0, *_temperature(coefs))
    v, q = exact.evaluate(mdp, pi, reward)
    d = (exact.occupancy(mdp, pi) if visits is None else visits)[..., None]
    score = d * pi * (q - v[..., None])
    dh = np.sum(coefs.shared_scale * score + coefs.c_kl * d * (pi - pi_0), axis=0)
    return dh, coefs.task_scale * score


@functools.partial(jax.jit, static_argnames=("entropy_form", "lambda_"))
def _loss_gradient(h, g, weight, task, states, action, r_t, v, gamma, coefs, entropy_form, lambda_):
    """Gradient in (h, g) of the weighted sum of losses over N trajectories: states [N, T + 1],
    ..."""

    def one(h, g, task, states, action, r_t, v):
        ones = jnp.ones(action.shape)
        loss, _ = distral.distral_loss(
            distral.Columns(h[states[:-1]], g[task, states[:-1]], v),
            distral.Trajectory(action, r_t, gamma * ones, ones > 0),
            coefs,
            value_cost=0.0,
            lambda_=lambda_,
            entropy_form=entropy_form,
        )
        return loss

    def total(h, g):
        losses = jax.vmap(one, (None, None, 0, 0, 0, 0, 0))(h, g, task, states, action, r_t, v)
        return jnp.sum(weight * losses)

    return jax.grad(total, (0, 1))(h, g)


def _one_step(mdp, h, g, coefs, entropy_form, raw=False):
    """Loss gradient over all (task, s, a, s') with exact values as baseline and bootstrap."""
    pi, pi_0 = _policies(h, g, coefs)
    reward = exact.regularised(mdp, pi, pi_0, *_temperature(coefs))
    values, _ = exact.evaluate(mdp, pi, mdp.r if raw else reward)
    task, s, a, s_t = (x.ravel() for x in np.indices((len(g), S, A, S)))
    weight = exact.occupancy(mdp, pi)[task, s] * pi[task, s, a] * mdp.p[task, s, a, s_t]
    states = np.stack([s, s_t], axis=1)
    return _loss_gradient(
        h,
        g,
        weight,
        task,
        states,
        a[:, None],
        mdp.r[task, s, a][:, None],
        values[task[:, None], states],
        mdp.gamma,
        coefs,
        entropy_form,
        1.0,
    )


@pytest.mark.parametrize("name", distral.ALGORITHMS)
def test_closed_forms_agree_with_finite_differences_i11(name):
    mdp, h, g = _setting(0)
    coefs = _coefficients(name)
    want = _finite_differences(mdp, h, g, coefs)
    for x, y in zip(_closed_forms(mdp, h, g, coefs), want, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-8)


@pytest.mark.parametrize("entropy_form", ["reward", "analytic"])
@pytest.mark.parametrize("name", distral.ALGORITHMS)
def test_loss_has_the_gradient_of_the_objective_i11(name, entropy_form):
    # Guards rewards that are constants in the loss with no score function; the missing
    # -(alpha/beta) log pi_0 in the policy's term; a distillation of (pi_i - pi_0) h with pi_0 not
    # stopped; the divergence turned round; and sigmoids taken for probabilities.
    mdp, h, g = _setting(1)
    coefs = _coefficients(name)
    got = _one_step(mdp, h, g, coefs, entropy_form)
    for x, y in zip(got, _finite_differences(mdp, h, g, coefs), strict=True):
        np.testing.assert_allclose(x, -y, atol=1e-8)


@pytest.mark.parametrize("entropy_form", ["reward", "analytic"])
@pytest.mark.parametrize("name", ["kl_ent_1col", "kl_ent_2col"])
def test_two_steps_with_any_baseline_have_the_same_mean_i11(name, entropy_form):
    # Discount and bootstrap stand at the right step, and a baseline changes nothing in the mean.
    # The states of step 1 are not distributed as d, so both sides weight the states of both steps.
    mdp, h, g = _setting(2, n=2)
    coefs = _coefficients(name, alpha=ALPHA)
    pi, pi_0 = _policies(h, g, coefs)
    reward = exact.regularised(mdp, pi, pi_0, *_temperature(coefs))
    values, _ = exact.evaluate(mdp, pi, reward)
    task, s_0, a_0, s_1, a_1, s_2 = (x.ravel() for x in np.indices((2, S, A, S, A, S)))
    d = exact.occupancy(mdp, pi)
    first = d[task, s_0] * pi[task, s_0, a_0] * mdp.p[task, s_0, a_0, s_1]
    weight = first * pi[task, s_1, a_1] * mdp.p[task, s_1, a_1, s_2]
    baseline = np.random.default_rng(3).normal(size=values.shape)
    v = np.stack([baseline[task, s_0], baseline[task, s_1], values[task, s_2]], axis=1)
    r_t = np.stack([mdp.r[task, s_0, a_0], mdp.r[task, s_1, a_1]], axis=1)
    states, action = np.stack([s_0, s_1, s_2], axis=1), np.stack([a_0, a_1], axis=1)
    got = _loss_gradient(
        h, g, weight, task, states, action, r_t, v, mdp.gamma, coefs, entropy_form, 1.0
    )
    later = np.einsum("ns,nsa,nsat->nt", d, pi, mdp.p)
    want = _closed_forms(mdp, h, g, coefs, visits=(d + later) / 2.0)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, -y, atol=1e-10)


@pytest.mark.parametrize("name", ["a3c", "kl_ent_1col", "kl_ent_2col"])
def test_local_form_is_the_bonus_of_a3c(name):
    # Its gradient is the unregularised policy gradient plus that of -c_kl KL + c_ent H at each
    # state.
    mdp, h, g = _setting(4)
    coefs = _coefficients(name)
    pi, pi_0 = _policies(h, g, coefs)
    v, q = exact.evaluate(mdp, pi, mdp.r)
    bonus = coefs.c_kl * np.log(pi_0) - (coefs.c_kl + coefs.c_ent) * np.log(pi)
    bonus = bonus - np.sum(pi * bonus, axis=-1, keepdims=True)
    d = exact.occupancy(mdp, pi)[..., None]
    score = d * pi * (q - v[..., None] + bonus)
    dh = np.sum(coefs.shared_scale * score + coefs.c_kl * d * (pi - pi_0), axis=0)
    got = _one_step(mdp, h, g, coefs, "local", raw=True)
    np.testing.assert_allclose(got[0], -dh, atol=1e-10)
    np.testing.assert_allclose(got[1], -score, atol=1e-10)
    exact_form = _closed_forms(mdp, h, g, coefs)[1]
    assert np.linalg.norm(score - exact_form) > 1e-3 * np.linalg.norm(exact_form)


def test_gradient_of_the_distilled_policy_is_the_sum_of_two_parts_i11():
    mdp, h, g = _setting(5)
    coefs = _coefficients("kl_ent_2col", alpha=ALPHA)
    dh, dg = _closed_forms(mdp, h, g, coefs)
    pi, pi_0 = _policies(h, g, coefs)
    distillation = np.einsum("ns,nsa->sa", exact.occupancy(mdp, pi), pi - pi_0)
    df = BETA * dg  # g = beta f
    want = ALPHA / BETA * df.sum(0) + ALPHA / BETA * distillation
    np.testing.assert_allclose(dh, want, atol=1e-12)
    np.testing.assert_allclose(_one_step(mdp, h, g, coefs, "reward")[0], -want, atol=1e-10)


def test_two_columns_are_the_optimal_policy_of_their_advantage_i10():
    rng = np.random.default_rng(6)
    h, f = rng.normal(size=(2, A))
    log_pi = jax.nn.log_softmax(distral.two_column_logits(h, f, ALPHA, BETA))
    advantage = distral.two_column_advantage(h, f, ALPHA, BETA)
    log_pi_0 = np.log(exact.softmax(h))
    np.testing.assert_allclose(log_pi, ALPHA * log_pi_0 + BETA * advantage, atol=1e-13)
    np.testing.assert_allclose(
        log_pi, distral.optimal_log_policy(f, log_pi_0, ALPHA, BETA), atol=1e-13
    )
    coefs = _coefficients("kl_ent_2col", alpha=ALPHA)
    emitted = distral.task_policy(h, BETA * f, coefs)
    np.testing.assert_allclose(jax.nn.log_softmax(emitted), log_pi, atol=1e-13)


def test_two_column_scores_i10():
    rng = np.random.default_rng(7)
    h, f = rng.normal(size=(2, A))

    def log_pi(h, f):
        return jax.nn.log_softmax(distral.two_column_logits(h, f, ALPHA, BETA))

    pi = np.exp(log_pi(h, f))
    by_h, by_f = jax.jacobian(log_pi, (0, 1))(h, f)
    np.testing.assert_allclose(by_h, ALPHA * (np.eye(A) - pi), atol=1e-13)
    np.testing.assert_allclose(by_f, BETA * (np.eye(A) - pi), atol=1e-13)
    np.testing.assert_allclose(pi @ by_f, np.zeros(A), atol=1e-13)
    np.testing.assert_allclose(log_pi(h + 2.0, f - 3.0), log_pi(h, f), atol=1e-12)


def test_distillation_is_the_forward_divergence_with_the_task_policy_stopped_i11():
    # Guards a mean square between logits of different rows: state s of one meets state s of the
    # other.
    rng = np.random.default_rng(8)
    h, z = rng.normal(size=(2, 3, A))
    valid = np.array([True, False, True])

    def loss(h, z):
        return distral.distillation_loss(categorical(z), categorical(h), 0.3, valid)

    by_h, by_z = jax.grad(loss, (0, 1))(h, z)
    want = -0.3 / 3.0 * (exact.softmax(z) - exact.softmax(h)) * valid[:, None]
    np.testing.assert_allclose(by_h, want, atol=1e-14)
    np.testing.assert_array_equal(by_z, 0.0)


@functools.partial(jax.jit, static_argnames="entropy_form")
def _expected_one_step_loss(logits, h, coefs, entropy_form):
    """Mean over a ~ pi of a step with no reward that ends the episode, and the metrics' means."""

    def one(action):
        return distral.distral_loss(
            distral.Columns(h[None], logits[None], jnp.zeros(2)),
            distral.Trajectory(action[None], jnp.zeros(1), jnp.zeros(1), jnp.ones(1, bool)),
            coefs,
            value_cost=0.0,
            entropy_form=entropy_form,
        )

    losses, metrics = jax.vmap(one)(jnp.arange(logits.shape[0]))
    weight = jax.lax.stop_gradient(jax.nn.softmax(logits))
    return weight @ losses, jax.tree.map(lambda x: weight @ x, metrics)


@pytest.mark.parametrize("entropy_form", ["reward", "analytic", "local"])
def test_entropy_of_the_same_step_counts_once_i13(entropy_form):
    # Guards the regularised return plus an entropy bonus (twice), and the direct derivative of
    # log pi(a), whose mean is zero.
    logits = np.random.default_rng(9).normal(size=A)
    coefs = _coefficients("a3c")
    gradient, _ = jax.grad(_expected_one_step_loss, has_aux=True)(
        logits, np.zeros(A), coefs, entropy_form
    )
    pi = exact.softmax(logits)
    entropy = -np.sum(pi * np.log(pi))
    np.testing.assert_allclose(gradient, pi * (np.log(pi) + entropy) / BETA, atol=1e-14)


def test_sampled_divergence_takes_both_logarithms_at_the_task_policys_action_i18():
    # Guards log pi_0 at a fresh action of pi_0's own, which gives 0 here.
    pi, pi_0 = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.2, 0.7])
    coefs = distral.coefficients(distral.ALGORITHMS["kl_1col"], 1.0)
    _, metrics = _expected_one_step_loss(np.log(pi), np.log(pi_0), coefs, "reward")
    np.testing.assert_allclose(metrics["loss/regulariser"], -1.16754609, atol=1e-8)  # 0.6 log 7
    np.testing.assert_allclose(metrics["loss/kl_task_shared"], 1.16754609, atol=1e-8)
    np.testing.assert_allclose(metrics["loss/return"], -1.16754609, atol=1e-8)


@pytest.mark.parametrize("entropy_form", distral.ENTROPY_FORMS)
def test_without_divergence_cost_the_prior_does_not_exist_i12(entropy_form):
    # To the bit: alpha = 0 in one column is maximum-entropy actor-critic for each task by itself.
    rng = np.random.default_rng(10)
    g, v, r_t = rng.normal(size=(5, A)), rng.normal(size=6), rng.normal(size=5)
    action, ones = rng.integers(A, size=5), np.ones(5)
    coefs = _coefficients("kl_ent_1col", alpha=0.0)

    @jax.jit
    def gradients(h):
        def loss(h, g, v):
            steps = distral.Trajectory(action, r_t, 0.9 * ones, ones > 0)
            columns = distral.Columns(h, g, v)
            return distral.distral_loss(columns, steps, coefs, entropy_form=entropy_form)[0]

        return jax.grad(loss, (0, 1, 2))(h, g, v)

    by_h, by_g, by_v = gradients(rng.normal(size=(5, A)))
    other_h, other_g, other_v = gradients(10.0 * rng.normal(size=(5, A)))
    np.testing.assert_array_equal(by_g, other_g)
    np.testing.assert_array_equal(by_v, other_v)
    np.testing.assert_array_equal(by_h, 0.0)
    np.testing.assert_array_equal(other_h, 0.0)
    assert np.abs(by_g).max() > 0 and np.abs(by_v).max() > 0
