"""The methods since 2021 that decide from K x K numbers, against NumPy written from their
equations, exhaustive search, and values of other implementations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from surgery_reference import FOUR, gauss
from test_surgery_losses import STREAM, softmax, weights_over

from mtrl_jax import surgery


def test_imtl_l_follows_its_objective():
    # s - rate * d/ds (exp(s) L - s), from 0 on; the weights are exp(s) before the step.
    got = weights_over(surgery.imtl_l(num_tasks=4, learning_rate=0.1, diagnostics=True))
    s = np.zeros(4)
    for losses, weights in zip(STREAM, got, strict=True):
        np.testing.assert_allclose(weights, np.exp(s), rtol=1e-5)
        s = s - 0.1 * (np.exp(s) * losses - 1.0)
    gradient = jax.grad(lambda s: jnp.sum(jnp.exp(s) * STREAM[0] - s))(jnp.full(4, -0.3))
    stepped = surgery.imtl_l_step(jnp.full(4, -0.3), jnp.asarray(STREAM[0], jnp.float32), 0.1)
    np.testing.assert_allclose(stepped, -0.3 - 0.1 * gradient, rtol=1e-5)


def test_imtl_l_ends_where_every_scaled_loss_is_one():
    losses, s = jnp.array([0.2, 1.0, 7.0]), jnp.zeros(3)
    for _ in range(400):
        s = surgery.imtl_l_step(s, losses, 0.1)
    np.testing.assert_allclose(np.exp(s) * losses, np.ones(3), rtol=1e-3)
    bad = jnp.array([0.0, -1.0, 1.0])
    assert surgery.imtl_l_step(jnp.ones(3), bad, 0.1).tolist()[:2] == [1.0, 1.0]


def test_imtl_is_imtl_g_of_the_scaled_gradients():
    # LibMTL (revision 4336804), IMTL.py: alpha in closed form, of exp(s) g.
    def alpha(g):
        u = g / np.linalg.norm(g, axis=1, keepdims=True)
        d, diff = g[:1] - g[1:], u[:1] - u[1:]
        rest = g[0] @ diff.T @ np.linalg.inv(d @ diff.T)
        return np.concatenate([[1 - rest.sum()], rest])

    got = weights_over(
        surgery.imtl_l(num_tasks=4, learning_rate=0.1, hybrid=True, diagnostics=True)
    )
    s = np.zeros(4)
    for losses, weights in zip(STREAM, got, strict=True):
        want = alpha(np.exp(s)[:, None] * FOUR) * np.exp(s)
        np.testing.assert_allclose(weights, want, rtol=2e-3, atol=1e-4)
        s = s - 0.1 * (np.exp(s) * losses - 1.0)


def test_stch_is_the_gradient_of_its_objective():
    losses, ideal = np.array([0.3, 2.0, 1.1, -0.7]), np.array([0.0, 0.5, -1.0, -2.0])
    lam = np.array([0.1, 0.4, 0.3, 0.2])
    mu = 0.2
    # The paper's preference has sum 1; here mean 1, which is mu / K and an update K times as long.
    tx = surgery.stch(num_tasks=4, mu=4 * mu, preference=3 * lam, ideal=ideal, diagnostics=True)
    got = weights_over(tx, losses[None])[0]

    def objective(f):
        return mu * np.log(np.sum(np.exp(lam * (f - ideal) / mu)))

    eps = 1e-6 * np.eye(4)
    want = [(objective(losses + e) - objective(losses - e)) / 2e-6 for e in eps]
    np.testing.assert_allclose(got, 4 * np.array(want), rtol=1e-4)


def test_stch_goes_from_the_mean_to_the_worst_task():
    losses = np.array([[0.3, 2.0, 1.9, 0.7]])

    def weights(mu):
        return weights_over(surgery.stch(num_tasks=4, mu=mu, diagnostics=True), losses)[0]

    np.testing.assert_allclose(weights(1e5), np.full(4, 0.25), rtol=1e-3)
    np.testing.assert_allclose(weights(1e-3), [0.0, 1.0, 0.0, 0.0], atol=1e-6)


def test_stch_with_a_warm_up():
    # LibMTL (revision 4336804), STCH.py: sum of log losses first, then mu log sum exp(log(L / n) /
    # mu) times K, n the mean loss of the warm-up; here over K.
    mu = 0.5
    got = weights_over(surgery.stch(num_tasks=4, mu=mu, warmup=2, diagnostics=True))
    nadir = STREAM[:2].mean(0)
    want = [0.25 / STREAM[n] for n in range(2)]
    want += [softmax(np.log(x / nadir) / mu) / x for x in STREAM[2:]]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_projection_onto_the_simplex():
    rng = np.random.default_rng(0)
    for v in rng.normal(scale=2.0, size=(20, 5)).astype(np.float32):
        got = surgery.project_to_simplex(jnp.asarray(v))
        np.testing.assert_allclose(got, optax.projections.projection_simplex(v), atol=1e-6)
        here = rng.random(5) < 0.6
        here[0] = True
        part = np.zeros(5)
        part[here] = optax.projections.projection_simplex(jnp.asarray(v[here]))
        masked = surgery.project_to_simplex(jnp.asarray(v), jnp.asarray(here))
        np.testing.assert_allclose(masked, part, atol=1e-6)


def sdmgrad_numpy(w, products, preference, strength, rate, iterations):
    """Gradient descent with torch's momentum, projected after each step."""
    products = products / np.sqrt(np.diag(products)).mean() ** 2
    velocity = np.zeros_like(w)
    for _ in range(iterations):
        velocity = 0.5 * velocity + products @ (w + strength * preference)
        v = np.sort(w - rate * velocity)[::-1]
        level = (np.cumsum(v) - 1) / np.arange(1, len(v) + 1)
        w = np.maximum(w - rate * velocity - level[np.flatnonzero(v > level)[-1]], 0)
    return w


def test_sdmgrad_follows_its_iterations():
    rng = np.random.default_rng(1)
    other = FOUR + rng.normal(size=FOUR.shape)  # the gradients of a second batch
    for products in (FOUR @ FOUR.T, FOUR @ other.T):
        for rate in (0.1, 10.0):
            w, p = np.array([0.4, 0.1, 0.3, 0.2]), np.array([0.1, 0.2, 0.3, 0.4])
            got = surgery.sdmgrad_step(
                *(jnp.asarray(x, jnp.float32) for x in (w, products, p)), 0.3, rate, 7
            )
            want = sdmgrad_numpy(w, products, p, 0.3, rate, 7)
            np.testing.assert_allclose(got, want, atol=1e-4)


def test_sdmgrad_between_mgda_and_the_preference():
    gram = jnp.asarray(FOUR @ FOUR.T, jnp.float32)
    mgda = surgery.mgda_weights(gram)
    w = surgery.sdmgrad_step(jnp.full(4, 0.25), gram, jnp.full(4, 0.25), 0.0, 0.1, 2000)
    np.testing.assert_allclose(w, mgda, atol=1e-3)
    tx = surgery.sdmgrad(num_tasks=4, strength=1e5, preference=[1.0, 0.0, 2.0, 1.0])
    update, _ = jax.jit(tx.update)(jnp.asarray(FOUR, jnp.float32), tx.init(jnp.zeros(6)))
    np.testing.assert_allclose(update, FOUR.T @ [0.25, 0.0, 0.5, 0.25], atol=1e-3)


def test_sdmgrad_goes_on_from_where_it_was():
    tx = surgery.sdmgrad(num_tasks=4, learning_rate=0.1, iterations=3, diagnostics=True)
    state, w = tx.init(jnp.zeros(6)), np.full(4, 0.25)
    for _ in range(3):
        _, state = jax.jit(tx.update)(jnp.asarray(FOUR, jnp.float32), state)
        w = sdmgrad_numpy(w, FOUR @ FOUR.T, np.full(4, 0.25), 0.3, 0.1, 3)
        got = surgery.diagnostics(state).weights
        np.testing.assert_allclose(got, (w + 0.3 * 0.25) / 1.3, atol=1e-5)


@pytest.mark.parametrize("scores", [[0.0, 5.0, -3.0, 1.0], [0.0, 40.0, -30.0, 10.0]])
def test_pivrg_solves_its_equation(scores):
    temperature = max((max(scores) - min(scores)) / np.log(2.0), 10.0)
    c = 4 * softmax(np.array(scores) / temperature)
    assert c.max() / c.min() < 2.0 + 1e-6
    tx = surgery.pivrg(num_tasks=4, scores=scores, diagnostics=True)
    _, state = jax.jit(tx.update)(jnp.asarray(FOUR, jnp.float32), tx.init(jnp.zeros(6)))
    w = np.asarray(surgery.diagnostics(state).weights, np.float64)
    assert (w > 0).all()
    np.testing.assert_allclose(FOUR @ FOUR.T @ w, np.sqrt(c / w), rtol=1e-4)


def test_pivrg_without_scores_is_fairgrad():
    gram = jnp.asarray(FOUR @ FOUR.T, jnp.float32)
    np.testing.assert_allclose(
        surgery.pivrg_weights(gram, jnp.ones(4)), surgery.fairgrad_weights(gram, 2.0), rtol=1e-5
    )


def test_scores_of_pivrg_are_written_while_it_trains():
    make = optax.inject_hyperparams(surgery.pivrg, static_args=("num_tasks",))
    tx = make(num_tasks=4, scores=jnp.zeros(4))
    state, step = tx.init(jnp.zeros(6)), jax.jit(tx.update)
    grads = jnp.asarray(FOUR, jnp.float32)
    even, state = step(grads, state)
    state.hyperparams["scores"] = jnp.array([0.0, 0.0, 0.0, 50.0])
    update, state = step(grads, state)
    assert step._cache_size() == 1
    gain = FOUR @ np.asarray(update) / (FOUR @ np.asarray(even))
    assert gain[3] == gain.max() > 1.0


def best_partition(values, groups):
    """Of all assignments to groups, the one with the smallest squared distances to the means."""
    best, found = np.inf, None
    for assignment in itertools.product(range(groups), repeat=len(values)):
        labels = np.array(assignment)
        means = np.array([values[labels == g].mean() for g in labels])
        if ((values - means) ** 2).sum() < best - 1e-12:
            best, found = ((values - means) ** 2).sum(), means
    return found


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_clusters_are_the_best_of_all_partitions(groups):
    rng = np.random.default_rng(2)
    cluster = jax.jit(surgery.cluster_means, static_argnums=1)
    for scale in (1.0, 1e-6, 1e6):
        for _ in range(5):
            values = scale * (1.0 + gauss(rng, 1, 6)[0])
            got = cluster(jnp.asarray(values, jnp.float32), groups)
            np.testing.assert_allclose(got / scale, best_partition(values / scale, groups), 1e-4)
    same = surgery.cluster_means(jnp.full(6, 0.3), groups)
    np.testing.assert_allclose(same, np.full(6, 0.3), rtol=1e-6)
    np.testing.assert_allclose(surgery.cluster_means(jnp.arange(3.0), 5), np.arange(3.0), atol=1e-6)


def test_go4align_follows_its_equations():
    beta, groups = 0.3, 2
    tx = surgery.go4align(num_tasks=4, num_groups=groups, beta=beta, diagnostics=True)
    got, q = weights_over(tx), np.full(4, 0.25)
    for losses, weights in zip(STREAM, got, strict=True):
        q = q * np.exp(-beta * losses)
        q = q / q.sum()  # equation 6
        p = losses.mean() / losses  # equation 5
        np.testing.assert_allclose(weights, best_partition(p * q, groups), rtol=1e-4)
        assert len(set(np.round(weights, 5).tolist())) == groups


def test_one_group_of_go4align_weighs_all_tasks_alike():
    got = weights_over(surgery.go4align(num_tasks=4, num_groups=1, diagnostics=True))
    np.testing.assert_allclose(got, np.repeat(got[:, :1], 4, axis=1), rtol=1e-6)
