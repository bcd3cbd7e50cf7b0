"""Distral for continuous actions: products of Gaussians and `distral_loss` on them, against numbers
from grids of actions, where everything is a sum over cells and no closed form is used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from mtrl_jax import distributions
from mtrl_jax.algorithms import actor_critic
from mtrl_jax.distributions import Gaussian
from mtrl_jax.losses import distral

BETA = 5.0
T, A, K = 6, 2, 2


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _coefficients(name):
    return distral.coefficients(distral.ALGORITHMS[name], BETA)


def _gaussian(rng, *shape):
    """Standard deviations between .4 and 1, means within about 2."""
    return Gaussian(0.7 * rng.normal(size=shape), np.log(rng.uniform(0.4, 1.0, size=shape)))


def _log_density(policy, x):
    return scipy.stats.norm.logpdf(x, policy.mean, np.exp(policy.log_std))


def _assert_equal(x, value):
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, value), x)


# ------------------------------------------------------------------------------- products and terms


@pytest.mark.parametrize("name", distral.ALGORITHMS)
def test_product_against_integration(name):
    # Guards a mean of means, a product of standard deviations, and a scale on the wrong factor.
    rng, coefs = np.random.default_rng(0), _coefficients(name)
    h, g = _gaussian(rng, 3, A), _gaussian(rng, 3, A)
    got = distral.task_policy(h, g, coefs)
    x = np.linspace(-9.0, 9.0, 3001)[:, None, None]
    density = np.exp(
        coefs.shared_scale * _log_density(h, x) + coefs.task_scale * _log_density(g, x)
    )
    integral = functools.partial(scipy.integrate.simpson, x=x[:, 0, 0], axis=0)
    density = density / integral(density)
    mean = integral(density * x)
    np.testing.assert_allclose(got.mean, mean, atol=1e-9)
    std = np.sqrt(integral(density * (x - mean) ** 2))
    np.testing.assert_allclose(np.exp(got.log_std), std, rtol=1e-9)


def test_columns_that_do_not_exist_count_as_scale_0():
    rng = np.random.default_rng(1)
    h, g = _gaussian(rng, 3, A), _gaussian(rng, 3, A)
    for coefs, present, alone in (
        (_coefficients("kl_1col"), (h, g), g),
        (_coefficients("a3c"), (None, g), g),
        (_coefficients("a3c_multitask"), (h, None), h),
        (_coefficients("a3c_multitask"), (h, g), h),
    ):
        got = distral.task_policy(*present, coefs)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-13), got, alone)


def test_terms_against_scipy():
    rng = np.random.default_rng(2)
    p, q, x = _gaussian(rng, 4, A), _gaussian(rng, 4, A), rng.normal(size=(4, A))
    np.testing.assert_allclose(distributions.log_prob(p, x), _log_density(p, x).sum(1), rtol=1e-12)
    grid = np.linspace(-9.0, 9.0, 3001)[:, None, None]
    log_p, log_q = _log_density(p, grid), _log_density(q, grid)

    def mean(y):
        return scipy.integrate.simpson(np.exp(log_p) * y, x=grid[:, 0, 0], axis=0).sum(1)

    np.testing.assert_allclose(distributions.entropy(p), -mean(log_p), rtol=1e-9)
    np.testing.assert_allclose(distributions.cross_entropy(p, q), -mean(log_q), rtol=1e-9)
    np.testing.assert_allclose(distributions.kl(p, q), mean(log_p - log_q), rtol=1e-9)
    regulariser = distral.expected_regulariser(p, q, 0.3, 0.2)
    np.testing.assert_allclose(regulariser, mean(0.3 * log_q - 0.5 * log_p), rtol=1e-9)


def test_distillation_moves_the_shared_column_to_the_moments_of_the_tasks():
    # Forward divergence: over several tasks its minimum has the mixture's mean and variance.
    pi_i = Gaussian(jnp.array([[0.5], [-0.1]]), jnp.log(jnp.array([[0.3], [0.4]])))
    mean, variance = 0.2, (0.3**2 + 0.4**2 + 0.5**2 + 0.1**2) / 2 - 0.2**2

    def loss(pi_i, mean, log_std):
        pi_0 = Gaussian(jnp.full((2, 1), mean), jnp.full((2, 1), log_std))
        return distral.distillation_loss(pi_i, pi_0, 0.3, jnp.ones(2, bool))

    by_pi_i, *by_pi_0 = jax.grad(loss, (0, 1, 2))(pi_i, mean, 0.5 * np.log(variance))
    np.testing.assert_allclose(by_pi_0, 0.0, atol=1e-14)
    _assert_equal(by_pi_i, 0.0)
    assert np.abs(jax.grad(loss, (1, 2))(pi_i, 0.0, np.log(0.9))).min() > 0.01


# ------------------------------------------------------------------- the objective of one decision

_AXIS = np.linspace(-9.0, 9.0, 121)
_CELL = (_AXIS[1] - _AXIS[0]) ** A
_GRID = np.stack(np.meshgrid(_AXIS, _AXIS, indexing="ij"), -1).reshape(-1, A)


def _reward(k):
    """Of task k at the grid's actions: curved, skewed, and no function of one coordinate."""
    x, y = _GRID.T
    return np.sin(x + 2.0 * k) - 0.3 * (y - k) ** 2 + 0.2 * x * y


def _densities(h, g, coefs):
    """pi_i and pi_0 at the grid's actions, the first normalised by its sum over cells."""
    log_pi_0, log_expert = _log_density(h, _GRID).sum(1), _log_density(g, _GRID).sum(1)
    pi_i = np.exp(coefs.shared_scale * log_pi_0 + coefs.task_scale * log_expert)
    return pi_i / (pi_i.sum() * _CELL), np.exp(log_pi_0)


def _objective(h, g, coefs):
    total = 0.0
    for k in range(K):
        pi_i, pi_0 = _densities(h, jax.tree.map(lambda x, k=k: x[k], g), coefs)
        cost = coefs.c_kl * np.log(pi_0) - (coefs.c_kl + coefs.c_ent) * np.log(pi_i)
        total += np.sum(pi_i * (_reward(k) + cost)) * _CELL
    return total


def _finite_differences(h, g, coefs, step=1e-5):
    leaves, tree = jax.tree.flatten((h, g))
    leaves = [x.copy() for x in leaves]
    gradients = []
    for x in leaves:
        gradient = np.zeros(x.shape)
        for index in np.ndindex(x.shape):
            kept, value = x[index], {}
            for sign in (1.0, -1.0):
                x[index] = kept + sign * step
                value[sign] = _objective(*jax.tree.unflatten(tree, leaves), coefs)
            x[index] = kept
            gradient[index] = (value[1.0] - value[-1.0]) / (2.0 * step)
        gradients.append(gradient)
    return jax.tree.unflatten(tree, gradients)


@functools.partial(jax.jit, static_argnames="entropy_form")
def _mean_gradient(h, g, weight, reward, coefs, entropy_form):
    """Gradient of the loss of one decision that ends the episode, in the mean over the grid."""

    def one(h, g, action, reward):
        def row(x):
            return jax.tree.map(lambda leaf: leaf[None], x)

        ones = jnp.ones(1)
        return distral.distral_loss(
            distral.Columns(row(h), row(g), jnp.array([0.7, 0.0])),
            distral.Trajectory(action[None], reward[None], 0.0 * ones, ones > 0),
            coefs,
            value_cost=0.0,
            entropy_form=entropy_form,
        )[0]

    def total(h, g):
        over_tasks = jax.vmap(lambda g, weight, reward: weight @ over_actions(h, g, reward))

        def over_actions(h, g, reward):
            return jax.vmap(one, (None, None, 0, 0))(h, g, _GRID, reward)

        return over_tasks(g, weight, reward).sum()

    return jax.grad(total, (0, 1))(h, g)


@pytest.mark.parametrize("name", distral.ALGORITHMS)
def test_loss_has_the_gradient_of_the_objective_i11(name):
    # In one decision all three forms of the regulariser have the same mean gradient.
    rng, coefs = np.random.default_rng(3), _coefficients(name)
    h, g = _gaussian(rng, A), _gaussian(rng, K, A)
    want = _finite_differences(h, g, coefs)
    weight = np.stack(
        [_densities(h, jax.tree.map(lambda x, k=k: x[k], g), coefs)[0] * _CELL for k in range(K)]
    )
    reward = np.stack([_reward(k) for k in range(K)])
    for entropy_form in distral.ENTROPY_FORMS:
        got = _mean_gradient(h, g, weight, reward, coefs, entropy_form)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(x, -y, atol=1e-7, err_msg=entropy_form)
    assert max(np.abs(x).max() for x in jax.tree.leaves(want)) > 0.1


# ------------------------------------------------------------------------------------ trajectories


def _batch(seed, size=A):
    """Columns and one trajectory: terminates at row 2, row 3 is a reset row, runs on."""
    rng = np.random.default_rng(seed)
    valid_t, discount_t = np.ones(T, bool), np.full(T, 0.9)
    valid_t[2], discount_t[1] = False, 0.0
    return (
        _gaussian(rng, T, size),
        _gaussian(rng, T, size),
        rng.normal(size=T + 1),
        rng.normal(size=(T, size)),
        rng.normal(size=T),
        discount_t,
        valid_t,
    )


@functools.partial(jax.jit, static_argnames="entropy_form")
def _value_and_grad(batch, coefs, entropy_form="reward"):
    def loss(*x):
        columns, steps = distral.Columns(*x), distral.Trajectory(*batch[3:])
        return distral.distral_loss(columns, steps, coefs, entropy_form=entropy_form)

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*batch[:3])


@functools.partial(jax.jit, static_argnames="entropy_form")
def _binned(batch, bins, coefs, entropy_form):
    """The discrete loss where an action is a bin, and its gradient in the Gaussians' numbers."""
    h, g, v, action, r_t, discount_t, valid_t = batch
    width = bins[1] - bins[0]
    if entropy_form != "local":  # a bin's log-probability is log density + log width
        r_t = r_t + coefs.c_ent * jnp.log(width)
    index = jnp.argmin(jnp.abs(action - bins[None]), axis=1)

    def loss(h, g, v):
        logits = (
            jax.scipy.stats.norm.logpdf(bins[None], x.mean, jnp.exp(x.log_std)) for x in (h, g)
        )
        steps = distral.Trajectory(index, r_t, discount_t, valid_t)
        return distral.distral_loss(
            distral.Columns(*logits, v), steps, coefs, entropy_form=entropy_form
        )

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(h, g, v)


@pytest.mark.parametrize("entropy_form", distral.ENTROPY_FORMS)
@pytest.mark.parametrize("name", ["a3c_2col", "kl_ent_1col", "kl_ent_2col"])
def test_narrow_bins_make_it_the_discrete_loss(name, entropy_form):
    coefs = _coefficients(name)
    error = {}
    for width in (1.5, 0.125):
        batch = list(_batch(4, size=1))
        batch[3] = np.round(batch[3] / width) * width
        bins = np.arange(-72, 73) * 0.125 if width < 1 else np.arange(-6, 7) * width
        (loss, metrics), got = _value_and_grad(tuple(batch), coefs, entropy_form)
        (_, binned), want = _binned(tuple(batch), bins, coefs, entropy_form)
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
        error[width] = max(np.abs(x - y).max() for x, y in pairs)
    assert error[1.5] > 1e-3 and error[0.125] < 1e-10
    # What the width of a bin adds, by quantity; one of T rows is no transition.
    share = np.log(width) * (T - 1) / T
    for key, constant in (
        ("entropy", -share),
        ("entropy_shared", -share),
        ("kl_task_shared", 0.0),
        ("distillation", -coefs.c_kl * share),
        ("value", 0.0),
        ("advantage", 0.0),
        ("regulariser", -coefs.c_ent * share),
        ("bonus", 0.0 if entropy_form == "reward" else coefs.c_ent * share),
    ):
        difference = binned[f"loss/{key}"] - metrics[f"loss/{key}"]
        np.testing.assert_allclose(difference, constant, atol=1e-9, err_msg=key)
    parts = ("policy_gradient", "distillation", "value", "bonus")
    np.testing.assert_allclose(sum(metrics[f"loss/{p}"] for p in parts), loss, rtol=1e-12)


@pytest.mark.parametrize("name", distral.ALGORITHMS)
def test_routes_of_the_gradient_i21(name):
    variant, coefs = distral.ALGORITHMS[name], _coefficients(name)

    def size(x):
        return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(x))

    batch = _batch(5)
    _, (by_h, by_g, by_v) = _value_and_grad(batch, coefs)
    assert size(by_v) > 1e-4
    for gradient, reached in ((by_h, variant.has_shared_column), (by_g, variant.has_task_column)):
        assert size(gradient) > 1e-4 if reached else size(gradient) == 0.0

    # Without costs the policy gradient is left; with every advantage 0, the distillation.
    by_score = _value_and_grad(batch, coefs._replace(c_kl=0.0, c_ent=0.0))[1][0]
    h, g, v, action, _, _, valid_t = batch
    pi_i = distral.task_policy(h, g, coefs)
    log_pi_i, log_pi_0 = distributions.log_prob(pi_i, action), distributions.log_prob(h, action)
    silent = v[:-1] - coefs.c_kl * log_pi_0 + (coefs.c_kl + coefs.c_ent) * log_pi_i
    quiet = (h, g, v, action, silent, np.zeros(T), valid_t)
    by_distillation, by_g, _ = _value_and_grad(quiet, coefs)[1]
    assert (size(by_score) > 1e-4) == variant.policy_gradient_reaches_shared
    assert (size(by_distillation) > 1e-4) == variant.distils
    assert size(by_g) < 1e-12


@pytest.mark.parametrize("entropy_form", distral.ENTROPY_FORMS)
def test_reset_rows_teach_nothing_i19(entropy_form):
    h, g, v, action, r_t, discount_t, valid_t = _batch(6)
    coefs = _coefficients("kl_ent_2col")
    clean = _value_and_grad((h, g, v, action, r_t, discount_t, valid_t), coefs, entropy_form)
    for garbage in (np.nan, np.inf, -1e30):
        spoilt = (np.where(valid_t, x, garbage) for x in (r_t, discount_t))
        rest = (np.where(valid_t[:, None], action, garbage), *spoilt, valid_t)
        got = _value_and_grad((h, g, v, *rest), coefs, entropy_form)
        jax.tree.map(np.testing.assert_array_equal, got, clean)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(clean))
    _assert_equal(jax.tree.map(lambda x: x[2], clean[1]), 0.0)


def test_many_trajectories_at_once_are_each_by_itself():
    coefs = _coefficients("kl_ent_2col")
    batches = [_batch(7 + n) for n in range(3)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    (loss, metrics), gradients = jax.jit(jax.vmap(_value_and_grad, (0, None)))(stacked, coefs)
    assert loss.shape == (3,) and {x.shape for x in metrics.values()} == {(3,)}
    for n, batch in enumerate(batches):
        one = (
            (loss[n], {k: x[n] for k, x in metrics.items()}),
            jax.tree.map(lambda x, n=n: x[n], gradients),
        )
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-12),
            one,
            _value_and_grad(batch, coefs),
        )


def test_outputs_of_any_size_give_finite_float32_losses_and_gradients():
    # What a column may emit is a mean and a standard deviation within bounds.
    coefs = _coefficients("kl_ent_2col")
    rest = [np.asarray(x, x.dtype if x.dtype == bool else np.float32) for x in _batch(10)[2:]]

    def loss(out_h, out_g):
        h, g = actor_critic.gaussian(out_h, 1.0), actor_critic.gaussian(out_g, 1.0)
        pi_i = distral.task_policy(h, g, coefs)
        columns = distral.Columns(h, g, rest[0])
        return distral.distral_loss(columns, distral.Trajectory(*rest[1:]), coefs)[0], pi_i

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    low, high = actor_critic.STD_RANGE
    signs = np.array([1.0, 1.0, 1.0, -1.0])
    for size in (0.0, 3.0, 1e4):
        for dtype in (jnp.float32, jnp.bfloat16):
            out = jnp.asarray(np.broadcast_to(size * signs, (T, 2 * A)), dtype)
            (value, pi_i), gradients = run(out, -out)
            std = np.exp(pi_i.log_std)
            assert value.dtype == jnp.float32 and np.isfinite(value)
            assert all(np.isfinite(x).all() and x.dtype == dtype for x in gradients)
            assert low / np.sqrt(1.5) * 0.99 < std.min() and std.max() < high
            assert np.abs(pi_i.mean).max() <= 1.0
    at_first = run(0.0 * out, 0.0 * out)[0][1]
    np.testing.assert_allclose(np.exp(at_first.log_std), np.sqrt(1.0 / 1.5), rtol=1e-2)


def _changed(leaf, shape):
    return _batch(11)[0]._replace(**{leaf: np.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(h=None), "c_kl must be 0 where h is None"),
        (dict(h=np.zeros((T, A))), "h must be a Gaussian, as the other column"),
        (dict(g=np.zeros((T, A))), "g must be a Gaussian, as the other column"),
        (
            dict(g=_changed("mean", (T, A + 1))),
            r"\(6, 3\) but expected \(6, 2\).*\[g.mean must have",
        ),
        (dict(h=_changed("log_std", (T,))), r"\(6,\) but expected \(6, 2\).*\[h.log_std must have"),
        (dict(h=Gaussian(np.zeros(A), np.zeros(A)), g=None), r"h and g must have shape \[T, A\]"),
        (dict(action=np.zeros(T, int)), r"action must have shape \[T, A\]"),
        (dict(r_t=np.zeros(T + 1)), "r_t must have shape"),
        (dict(valid_t=np.ones((T, 1), bool)), "valid_t must have shape"),
        (dict(action_mask=np.ones(A + 1, bool)), r"mask must have shape \[N\] or \[..., N\]"),
    ],
)
def test_bad_arguments_are_named(change, message):
    columns, steps = distral.Columns(*_batch(11)[:3]), distral.Trajectory(*_batch(11)[3:])
    columns = columns._replace(**{n: x for n, x in change.items() if n in columns._fields})
    steps = steps._replace(**{n: x for n, x in change.items() if n in steps._fields})
    mask = change.get("action_mask")
    with pytest.raises(ValueError, match=message):
        distral.distral_loss(columns, steps, _coefficients("kl_ent_2col"), action_mask=mask)


def test_scales_that_leave_nothing_are_refused():
    h = _batch(12)[0]
    with pytest.raises(ValueError, match="sum of scales of h and g must lie in"):
        distral.task_policy(h, None, _coefficients("a3c"))
