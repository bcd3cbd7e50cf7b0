"""`distral_loss` on trajectories: discounting, resets, routing of gradients, tasks, devices,
bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import returns
from mtrl_jax.losses import distral
from tests.maths import mdp as exact

T, A, S, K = 8, 4, 6, 3
BETA = 5.0


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def _coefficients(name):
    return distral.coefficients(distral.ALGORITHMS[name], BETA)


def _batch(seed, dtype=np.float64):
    """Head outputs and one trajectory: terminates at row 2, row 3 is a reset row, runs on."""
    rng = np.random.default_rng(seed)
    valid_t, discount_t = np.ones(T, bool), np.full(T, 0.9)
    valid_t[2], discount_t[1] = False, 0.0
    h, g, v = rng.normal(size=(T, A)), rng.normal(size=(T, A)), rng.normal(size=T + 1)
    h, g, v, r_t, discount_t = (x.astype(dtype) for x in (h, g, v, rng.normal(size=T), discount_t))
    return h, g, v, rng.integers(A, size=T), r_t, discount_t, valid_t


@functools.partial(jax.jit, static_argnames="entropy_form")
def _value_and_grad(batch, coefs, entropy_form="reward", action_mask=None):
    def loss(h, g, v):
        return distral.distral_loss(
            distral.Columns(h, g, v),
            distral.Trajectory(*batch[3:]),
            coefs,
            entropy_form=entropy_form,
            action_mask=action_mask,
        )

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*batch[:3])


def _log_softmax(x):
    return np.log(exact.softmax(x))


def _numpy_loss(batch, coefs, value_cost=0.5):
    """The "reward" form, one step at a time; its value, and its gradients in h, g and v."""
    h, g, v, action, r_t, discount_t, valid_t = batch
    c_kl, c_ent, shared_scale, task_scale = coefs
    log_pi_i, log_pi_0 = _log_softmax(shared_scale * h + task_scale * g), _log_softmax(h)
    loss, by_h, by_g, by_v, ret = 0.0, np.zeros((T, A)), np.zeros((T, A)), np.zeros(T + 1), v[T]
    for t in reversed(range(T)):
        if not valid_t[t]:
            ret = v[t]
            continue
        a = action[t]
        reward = r_t[t] + c_kl * log_pi_0[t, a] - (c_kl + c_ent) * log_pi_i[t, a]
        ret = reward + discount_t[t] * ret
        pi, advantage = np.exp(log_pi_i[t]), ret - v[t]
        loss -= log_pi_i[t, a] * advantage + c_kl * pi @ log_pi_0[t]
        loss += value_cost * advantage**2
        score = -(np.eye(A)[a] - pi) * advantage
        by_h[t] = shared_scale * score - c_kl * (pi - np.exp(log_pi_0[t]))
        by_g[t] = task_scale * score
        by_v[t] = -2.0 * value_cost * advantage
    return loss / T, (by_h / T, by_g / T, by_v / T)


@pytest.mark.parametrize("name", distral.ALGORITHMS)
def test_loss_against_a_loop(float64, name):
    # Guards discounts built backwards, terms of different steps paired, gamma on one term only.
    batch = _batch(0)
    (loss, metrics), gradients = _value_and_grad(batch, _coefficients(name))
    want_loss, want_gradients = _numpy_loss(batch, _coefficients(name))
    np.testing.assert_allclose(loss, want_loss, rtol=1e-12)
    for x, y in zip(gradients, want_gradients, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-13)
    parts = ("policy_gradient", "distillation", "value", "bonus")
    np.testing.assert_allclose(sum(metrics[f"loss/{p}"] for p in parts), loss, rtol=1e-12)
    np.testing.assert_allclose(metrics["loss/total"], loss)
    np.testing.assert_allclose(metrics["loss/valid_fraction"], (T - 1) / T)


def test_metrics_of_the_policies(float64):
    h, g, v, *rest = _batch(1)
    coefs, valid_t = _coefficients("kl_ent_2col"), rest[-1]
    (_, metrics), _ = _value_and_grad((h, g, v, *rest), coefs)
    log_pi_i, log_pi_0 = _log_softmax(0.5 * h + g), _log_softmax(h)

    def mean(x):
        return np.sum(x[valid_t]) / T

    def entropy(log_pi):
        return -np.sum(np.exp(log_pi) * log_pi, axis=1)

    kl = np.sum(np.exp(log_pi_i) * (log_pi_i - log_pi_0), axis=1)
    np.testing.assert_allclose(metrics["loss/entropy"], mean(entropy(log_pi_i)), rtol=1e-12)
    np.testing.assert_allclose(metrics["loss/entropy_shared"], mean(entropy(log_pi_0)), rtol=1e-12)
    np.testing.assert_allclose(metrics["loss/kl_task_shared"], mean(kl), rtol=1e-12)
    np.testing.assert_allclose(metrics["loss/value_prediction"], mean(v[:-1]), rtol=1e-12)

    def total(h):
        return distral.distral_loss(distral.Columns(h, g, v), distral.Trajectory(*rest), coefs)[1]

    slopes = jax.jit(jax.grad(lambda h: sum(total(h).values())))(h)
    np.testing.assert_array_equal(slopes, 0.0)


def test_regularised_return_of_three_steps_by_hand_i15(float64):
    # Guards gamma squared in a loop, discounts reversed, a reward one step late.
    log_pi_i, log_pi_0 = np.log([0.5, 0.8, 0.1]), np.log([0.25, 0.4, 0.2])
    r_t, discount_t = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.5, 0.0])
    reward = distral.regularised_reward(r_t, log_pi_i, log_pi_0, 0.3, 0.2)
    # 1 + .3 ln .25 - .5 ln .5, 2 + .3 ln .4 - .5 ln .8, 4 + .3 ln .2 - .5 ln .1
    want = [0.9306852819, 1.8366845561, 4.6684611743]
    np.testing.assert_allclose(reward, want, atol=1e-9)
    got = returns.discounted_returns(reward, discount_t, np.full(4, 7.0), np.ones(3, bool))
    total = want[0] + 0.5 * want[1] + 0.25 * want[2]
    np.testing.assert_allclose(got[0], total, atol=1e-9)


@pytest.mark.parametrize("n", [1, 5, 20])
def test_n_step_regularised_returns_have_the_mean_q_i19(float64, n):
    # Returns are linear in rewards and values, so their mean is the return of the means.
    mdp, rng = exact.random_mdp(2), np.random.default_rng(2)
    pi, pi_0 = exact.random_policy(rng, 3, S, A), exact.random_policy(rng, S, A)
    costs = distral.costs_from_alpha_beta(0.6, BETA)
    reward = np.asarray(distral.regularised_reward(mdp.r, np.log(pi), np.log(pi_0), *costs))
    v, q = exact.evaluate(mdp, pi, exact.regularised(mdp, pi, pi_0, 0.6, BETA))
    p_pi = np.einsum("nsa,nsat->nst", pi, mdp.p)
    r_pi = np.sum(pi * reward, axis=-1)
    state, rewards, values = mdp.p, [reward], [np.zeros(q.shape)]
    for _ in range(n):
        rewards.append(np.einsum("nsat,nt->nsa", state, r_pi))
        values.append(np.einsum("nsat,nt->nsa", state, v))
        state = np.einsum("nsat,ntu->nsau", state, p_pi)
    rewards, values = np.stack(rewards[:-1]), np.stack(values)

    def one(r_t, v):
        return returns.n_step_returns(r_t, jnp.full(n, mdp.gamma), v, jnp.ones(n, bool), n)[0]

    got = jax.vmap(one)(rewards.reshape(n, -1).T, values.reshape(n + 1, -1).T)
    np.testing.assert_allclose(got.reshape(q.shape), q, atol=1e-12)


@pytest.mark.parametrize("entropy_form", distral.ENTROPY_FORMS)
@pytest.mark.parametrize("name", ["a3c", "kl_ent_2col"])
def test_reset_rows_teach_nothing_i19(name, entropy_form):
    h, g, v, action, r_t, discount_t, valid_t = _batch(3, np.float32)
    coefs = _coefficients(name)
    mask = np.array([False, True, True, True])
    action = np.where(action == 0, 1, action)
    clean = _value_and_grad((h, g, v, action, r_t, discount_t, valid_t), coefs, entropy_form, mask)
    for garbage, wrong_action in ((np.nan, 0), (np.inf, A + 3), (-1e30, -1)):
        spoilt = _value_and_grad(
            (
                h,
                g,
                v,
                np.where(valid_t, action, wrong_action),
                np.where(valid_t, r_t, garbage),
                np.where(valid_t, discount_t, garbage),
                valid_t,
            ),
            coefs,
            entropy_form,
            mask,
        )
        jax.tree.map(np.testing.assert_array_equal, spoilt, clean)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(clean))
    for gradient in clean[1]:
        np.testing.assert_array_equal(gradient[2], 0.0)  # the row whose transition is not valid
    np.testing.assert_array_equal(clean[1][2][T], 0.0)  # the bootstrap is stopped


# What task i's batch reaches of (theta_0, theta_i, V_i), and how it reaches theta_0.
_ROUTES = {
    "a3c": (False, True, "none"),
    "a3c_multitask": (True, False, "policy gradient"),
    "a3c_2col": (True, True, "policy gradient"),
    "kl_1col": (True, True, "distillation"),
    "kl_2col": (True, True, "both"),
    "kl_ent_1col": (True, True, "distillation"),
    "kl_ent_2col": (True, True, "both"),
}


@jax.jit
def _table_gradients(params, task, states, rest, coefs):
    """Gradients of one task's loss in tables h [S, A], g [K, S, A], v [K, S]."""

    def loss(params):
        h, g, v = params
        rows = states[:-1]
        columns = distral.Columns(h[rows], g[task, rows], v[task, states])
        return distral.distral_loss(columns, distral.Trajectory(*rest), coefs)[0]

    return jax.grad(loss)(params)


@pytest.mark.parametrize("name", distral.ALGORITHMS)
def test_routes_of_the_gradient_i21(float64, name):
    # Guards a variant called two-column without a policy gradient into pi_0, and defaults under
    # which nothing is distilled.
    to_shared, to_task, how = _ROUTES[name]
    variant, coefs = distral.ALGORITHMS[name], _coefficients(name)
    rng = np.random.default_rng(4)
    params = (rng.normal(size=(S, A)), rng.normal(size=(K, S, A)), rng.normal(size=(K, S)))
    batch, states = _batch(4), rng.integers(S, size=T + 1)
    by_h, by_g, by_v = map(np.asarray, _table_gradients(params, 1, states, batch[3:], coefs))
    assert (np.abs(by_h).max() > 1e-4) == to_shared
    assert (np.abs(by_g[1]).max() > 1e-4) == to_task
    assert np.abs(by_v[1]).max() > 1e-4
    for untouched in (by_g[[0, 2]], by_v[[0, 2]], *([] if to_shared else [by_h])):
        np.testing.assert_array_equal(untouched, 0.0)
    if not to_task:
        np.testing.assert_array_equal(by_g, 0.0)

    # How it gets there: scaling the costs away leaves the policy gradient alone, and a reward
    # equal to what makes every advantage 0 leaves the distillation alone.
    without_costs = coefs._replace(c_kl=0.0, c_ent=0.0)
    score_only = np.abs(_table_gradients(params, 1, states, batch[3:], without_costs)[0]).max()
    silent = (batch[3], *_silent(params, states, batch, coefs))
    distillation_only = np.abs(_table_gradients(params, 1, states, silent, coefs)[0]).max()
    assert (score_only > 1e-4) == (how in ("policy gradient", "both"))
    assert (distillation_only > 1e-4) == (how in ("distillation", "both"))
    assert variant.policy_gradient_reaches_shared == (how in ("policy gradient", "both"))
    assert variant.distils == (how in ("distillation", "both"))
    assert variant.has_shared_column == to_shared
    assert variant.has_task_column == to_task


def _silent(params, states, batch, coefs):
    """(r_t, discount_t, valid_t) under which R^reg + discount V(s_t) = V(s_tm1) at every step."""
    h, g, v = (params[0][states], params[1][1, states], params[2][1, states])
    rows, action = np.arange(T), batch[3]
    log_pi_i = _log_softmax(coefs.shared_scale * h + coefs.task_scale * g)[rows, action]
    log_pi_0 = _log_softmax(h)[rows, action]
    regulariser = coefs.c_kl * log_pi_0 - (coefs.c_kl + coefs.c_ent) * log_pi_i
    return v[:-1] - batch[5] * v[1:] - regulariser, batch[5], np.ones(T, bool)


def test_two_columns_without_costs_are_actor_critic_on_the_sum_i21(float64):
    batch = _batch(5)
    coefs = distral.coefficients(distral.ALGORITHMS["kl_ent_2col"], np.inf)
    assert coefs == (0.0, 0.0, 0.5, 1.0)
    _, (by_h, by_g, by_v) = _value_and_grad(batch, coefs)
    h, g, v, action, r_t, discount_t, valid_t = batch
    advantage = np.asarray(returns.gae(r_t, discount_t, v, valid_t, 1.0))
    score = -(np.eye(A)[action] - exact.softmax(0.5 * h + g)) * advantage[:, None] / T
    np.testing.assert_allclose(by_g, score, atol=1e-14)
    np.testing.assert_allclose(by_h, 0.5 * score, atol=1e-14)
    np.testing.assert_allclose(by_v[:-1], -advantage / T, atol=1e-14)


def test_coefficients_of_the_table_i21():
    units = {name: tuple(distral.coefficients(v, 1.0)) for name, v in distral.ALGORITHMS.items()}
    assert units == {
        "a3c": (0.0, 1.0, 0.0, 1.0),
        "a3c_multitask": (0.0, 1.0, 1.0, 0.0),
        "a3c_2col": (0.0, 1.0, 1.0, 1.0),
        "kl_1col": (1.0, 0.0, 0.0, 1.0),
        "kl_2col": (1.0, 0.0, 1.0, 1.0),
        "kl_ent_1col": (0.5, 0.5, 0.0, 1.0),
        "kl_ent_2col": (0.5, 0.5, 0.5, 1.0),
    }


def _tasks(seed, dtype=np.float64):
    """K tasks' batches, and tables; leaves of the batches lead with K."""
    rng = np.random.default_rng(seed)
    batches = [np.stack(x) for x in zip(*(_batch(seed + i, dtype) for i in range(K)), strict=True)]
    tables = [rng.normal(size=s).astype(dtype) for s in ((S, A), (K, S, A), (K, S))]
    return tables, rng.integers(S, size=(K, T + 1)), batches[3:]


@functools.partial(jax.jit, static_argnames="axis")
def _all_tasks(tables, states, rest, coefs, axis=None):
    """Sum over tasks: gradients of h [S, A], g [K, S, A], v [K, S]; coefs [K] where axis is 0."""

    def loss(tables):
        h, g, v = tables

        def one(g, v, states, rest, coefs):
            rows = states[:-1]
            columns = distral.Columns(h[rows], g[rows], v[states])
            return distral.distral_loss(columns, distral.Trajectory(*rest), coefs)[0]

        return jnp.sum(jax.vmap(one, (0, 0, 0, 0, axis))(g, v, states, rest, coefs))

    return jax.value_and_grad(loss)(tables)


@pytest.mark.parametrize("name", distral.ALGORITHMS)
def test_tasks_are_symmetric_and_the_shared_gradient_is_their_sum_i22(float64, name):
    # Guards a shared optimiser stepped task by task, whose result depends on their order.
    tables, states, rest = _tasks(6)
    coefs = _coefficients(name)
    loss, (by_h, by_g, by_v) = _all_tasks(tables, states, rest, coefs)
    alone = [_table_gradients(tables, k, states[k], [x[k] for x in rest], coefs) for k in range(K)]
    np.testing.assert_allclose(by_h, sum(x[0] for x in alone), atol=1e-14)
    np.testing.assert_allclose(by_g, sum(x[1] for x in alone), atol=1e-14)

    order = np.array([2, 0, 1])
    h, g, v = tables
    permuted = _all_tasks((h, g[order], v[order]), states[order], [x[order] for x in rest], coefs)
    np.testing.assert_allclose(permuted[0], loss, rtol=1e-13)
    np.testing.assert_allclose(permuted[1][0], by_h, atol=1e-14)
    np.testing.assert_array_equal(permuted[1][1], by_g[order])
    np.testing.assert_array_equal(permuted[1][2], by_v[order])

    same = np.zeros(K, int)
    _, (_, by_g, by_v) = _all_tasks(
        (h, g[same], v[same]), states[same], [x[same] for x in rest], coefs
    )
    for x in (by_g, by_v):
        np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape))


def test_costs_per_task(float64):
    tables, states, rest = _tasks(7)
    betas = np.array([1.0, 5.0, 25.0])
    variant = distral.ALGORITHMS["kl_ent_2col"]
    coefs = distral.coefficients(variant, betas)
    per_task = distral.Coefficients(*(jnp.broadcast_to(jnp.asarray(c), (K,)) for c in coefs))
    loss, (by_h, by_g, _) = _all_tasks(tables, states, rest, per_task, axis=0)
    alone = [
        _table_gradients(
            tables, k, states[k], [x[k] for x in rest], distral.coefficients(variant, betas[k])
        )
        for k in range(K)
    ]
    np.testing.assert_allclose(by_h, sum(x[0] for x in alone), atol=1e-14)
    np.testing.assert_allclose(by_g, sum(x[1] for x in alone), atol=1e-14)
    assert np.isfinite(loss)


def _mean(tree):
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)


def _over_environments(batches, coefs):
    return jax.vmap(_value_and_grad.__wrapped__, (0, None))(batches, coefs)


def test_the_same_numbers_under_jit_vmap_and_pmap():
    # 16 environments: in a loop, vmapped, and dealt to 8 devices (a mean of means, as learners do).
    # rtol 2e-5: float32, where compilers reorder sums.
    batches = tuple(
        np.stack(x) for x in zip(*(_batch(i, np.float32) for i in range(16)), strict=True)
    )
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
    vmapped_over = jax.jit(_over_environments)
    on_devices_over = jax.pmap(
        lambda batches, coefs: jax.lax.pmean(_mean(_over_environments(batches, coefs)), "devices"),
        axis_name="devices",
        in_axes=(0, None),
    )
    for name in ("a3c", "kl_ent_1col", "kl_ent_2col"):
        coefs = _coefficients(name)
        loop = [_value_and_grad(tuple(x[i] for x in batches), coefs) for i in range(16)]
        vmapped = vmapped_over(batches, coefs)
        jax.tree.map(close, vmapped, jax.tree.map(lambda *x: np.stack(x), *loop))

        sharded = tuple(x.reshape(8, 2, *x.shape[1:]) for x in batches)
        on_devices = jax.block_until_ready(on_devices_over(sharded, coefs))
        want = _mean(vmapped)
        jax.tree.map(lambda x, y: close(x, np.broadcast_to(y, x.shape)), on_devices, want)
    eager = _value_and_grad.__wrapped__(tuple(x[0] for x in batches), coefs)
    jax.tree.map(close, eager, loop[0])


@pytest.mark.parametrize("entropy_form", distral.ENTROPY_FORMS)
def test_bfloat16_head_outputs(entropy_form):
    # The arithmetic is float32: given bfloat16 inputs, the loss equals that of the same numbers in
    # float32 to the bit. Against inputs never rounded (8 bits of mantissa, 0.4 %) it holds to 2 %.
    coefs = _coefficients("kl_ent_2col")
    batch = _batch(9, np.float32)
    narrow = (*(jnp.asarray(x, jnp.bfloat16) for x in batch[:3]), *batch[3:])
    widened = (*(x.astype(jnp.float32) for x in narrow[:3]), *batch[3:])
    (loss, metrics), gradients = _value_and_grad(narrow, coefs, entropy_form)
    (same, _), same_gradients = _value_and_grad(widened, coefs, entropy_form)
    (want, _), want_gradients = _value_and_grad(batch, coefs, entropy_form)
    assert loss.dtype == jnp.float32 and all(x.dtype == jnp.float32 for x in metrics.values())
    np.testing.assert_array_equal(loss, same)
    np.testing.assert_allclose(loss, want, rtol=0.02)
    for x, y, z in zip(gradients, same_gradients, want_gradients, strict=True):
        assert x.dtype == jnp.bfloat16
        np.testing.assert_array_equal(x, y.astype(jnp.bfloat16))
        np.testing.assert_allclose(x.astype(np.float32), z, atol=0.02 * np.abs(z).max())


@pytest.mark.parametrize("entropy_form", ["reward", "analytic"])
def test_masked_actions_are_as_if_absent(float64, entropy_form):
    coefs = _coefficients("kl_ent_2col")
    h, g, v, action, *rest = _batch(10)
    keep = np.array([0, 1, 3])
    wide = [np.insert(x, 2, 1e3, axis=1)[:, : A + 1] for x in (h[:, keep], g[:, keep])]
    action = action % 3
    mask = np.array([True, True, False, True])
    got = _value_and_grad((*wide, v, keep[action], *rest), coefs, entropy_form, mask)
    want = _value_and_grad((h[:, keep], g[:, keep], v, action, *rest), coefs, entropy_form)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), got[0], want[0])
    for x, y in zip(got[1][:2], want[1][:2], strict=True):
        np.testing.assert_allclose(x[:, keep], y, atol=1e-14)
        np.testing.assert_array_equal(x[:, 2], 0.0)


def test_absent_columns_equal_columns_of_zeros(float64):
    h, g, v, *rest = _batch(11)
    zeros = np.zeros((T, A))
    for name, absent, present in (
        ("a3c", (None, g), (zeros, g)),
        ("a3c_multitask", (h, None), (h, zeros)),
    ):
        coefs = _coefficients(name)
        (got, metrics), got_gradients = _value_and_grad((*absent, v, *rest), coefs)
        (want, _), want_gradients = _value_and_grad((*present, v, *rest), coefs)
        np.testing.assert_allclose(got, want, rtol=1e-13)
        for x, y in zip(got_gradients, want_gradients, strict=True):
            if x is None:
                np.testing.assert_array_equal(y, 0.0)
            else:
                np.testing.assert_allclose(x, y, atol=1e-14)
        # Without h there is no pi_0 to diverge from.
        assert ("loss/kl_task_shared" in metrics) == (absent[0] is not None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(h=None), "c_kl must be 0 where h is None"),
        (dict(h=None, g=None), "one of h and g must be an array"),
        (dict(g=np.zeros((T, A + 1))), r"\(8, 5\) but expected \(8, 4\).*g must have shape"),
        (dict(h=np.zeros((1, T, A)), g=np.zeros((1, T, A))), r"h and g must have shape \[T, A\]"),
        (dict(v=np.zeros(T)), r"v must have shape \[T \+ 1\]"),
        (dict(action=np.zeros(T + 1, int)), "action must have shape"),
        (dict(r_t=np.zeros(T + 1)), "r_t must have shape"),
        (dict(discount_t=np.zeros(T + 1)), "discount_t must have shape"),
        (dict(valid_t=np.ones(T)), "valid_t must be bool"),
        (dict(action_mask=np.ones(A + 1, bool)), "action_mask must have shape"),
        (dict(entropy_form="bonus"), "entropy_form must be one of reward, analytic, local, got"),
    ],
)
def test_bad_arguments_are_named(change, message):
    columns, steps = distral.Columns(*_batch(12)[:3]), distral.Trajectory(*_batch(12)[3:])
    columns = columns._replace(**{n: x for n, x in change.items() if n in columns._fields})
    steps = steps._replace(**{n: x for n, x in change.items() if n in steps._fields})
    rest = {n: x for n, x in change.items() if n in ("action_mask", "entropy_form")}
    with pytest.raises(ValueError, match=message):
        distral.distral_loss(columns, steps, _coefficients("kl_ent_2col"), **rest)


@pytest.mark.parametrize(
    ("variant", "beta", "message"),
    [
        (distral.Variant(1.5, "own"), 1.0, "alpha must lie in"),
        (distral.Variant(0.5, "own"), 0.0, "beta must lie in"),
        (distral.Variant(0.5, "own"), np.array([1.0, -1.0]), "beta must lie in"),
        (
            distral.Variant(0.5, "three_column"),
            1.0,
            "task_policy must be one of own, shared, two_co",
        ),
    ],
)
def test_bad_variants_are_named(variant, beta, message):
    with pytest.raises(ValueError, match=message):
        distral.coefficients(variant, beta)


def test_targets_and_advantages_are_constants_of_their_terms():
    ones, valid = jnp.ones(3), jnp.ones(3, bool)
    by_v, by_target = jax.grad(distral.value_loss, (0, 1))(2.0 * ones, ones, 0.5, valid)
    np.testing.assert_allclose(by_v, 1.0 / 3.0)
    np.testing.assert_array_equal(by_target, 0.0)
    by_log_pi, by_advantage = jax.grad(distral.policy_gradient_loss, (0, 1))(ones, ones, valid)
    np.testing.assert_allclose(by_log_pi, -1.0 / 3.0)
    np.testing.assert_array_equal(by_advantage, 0.0)
