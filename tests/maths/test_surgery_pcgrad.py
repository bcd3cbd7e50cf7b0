"""PCGrad against the literal algorithm of the paper, and the invariants of its weights."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from surgery_reference import FOUR, all_orders, conflict, gauss, pcgrad_literal, spread

from mtrl_jax import surgery

weights_of = jax.jit(surgery.pcgrad_weights)


def update_of(jacobian, orders):
    """Through the Gram matrix in float32, in float64 where NumPy can."""
    jacobian = np.asarray(jacobian, np.float32)
    gram = surgery.gram_matrix(jnp.asarray(jacobian))
    return np.asarray(weights_of(gram, jnp.asarray(orders, jnp.int32)), np.float64) @ jacobian


def drawn_orders(tx_seed, step, k):
    return surgery.random_orders(jax.random.fold_in(jax.random.key(tx_seed), step), k)


@pytest.mark.parametrize("k", [2, 3, 5, 10])
@pytest.mark.parametrize("kind", [gauss, conflict, spread])
def test_equals_the_literal_algorithm_under_the_same_orders(k, kind):
    rng = np.random.default_rng(k)
    for draw in range(3):
        jacobian = kind(rng, k, 60).astype(np.float32)
        orders = np.asarray(surgery.random_orders(jax.random.key(draw), k))
        want = pcgrad_literal(jacobian, orders).sum(0)
        np.testing.assert_allclose(
            update_of(jacobian, orders), want, rtol=0, atol=3e-6 * np.linalg.norm(want)
        )


def test_every_order_of_three_and_four_tasks_gives_the_literal_update():
    # Agreement order by order, with orders drawn uniformly (below), is agreement in distribution.
    for jacobian in (FOUR[:3], FOUR):
        combinations = list(all_orders(len(jacobian)))
        gram = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
        got = jax.jit(jax.vmap(surgery.pcgrad_weights, (None, 0)))(gram, jnp.asarray(combinations))
        want = np.stack([pcgrad_literal(jacobian, orders).sum(0) for orders in combinations])
        assert len(np.unique(want.round(6), axis=0)) > 1  # the order matters here
        np.testing.assert_allclose(np.asarray(got) @ jacobian, want, rtol=0, atol=1e-5)


def test_orders_are_uniform_independent_and_without_oneself():
    k, draws = 5, 20_000
    orders = jax.jit(jax.vmap(lambda key: surgery.random_orders(key, k)))(
        jax.random.split(jax.random.key(0), draws)
    )
    orders = np.asarray(orders)
    sigma = np.sqrt(0.25 * 0.75 / draws)
    for i in range(k):
        others = [j for j in range(k) if j != i]
        assert (np.sort(orders[:, i], axis=1) == others).all()
        for position, j in itertools.product(range(k - 1), others):
            assert abs((orders[:, i, position] == j).mean() - 0.25) < 5 * sigma
    # Rows 0 and 1 both may start with task 4: independent means a quarter of a quarter.
    both = ((orders[:, 0, 0] == 4) & (orders[:, 1, 0] == 4)).mean()
    assert abs(both - 1 / 16) < 5 * np.sqrt(1 / 16 * 15 / 16 / draws)
    # All 24 orders of one task, not only its first places.
    _, counts = np.unique(orders[:, 2], axis=0, return_counts=True)
    assert len(counts) == 24 and abs(counts / draws - 1 / 24).max() < 6 * np.sqrt(1 / 24 / draws)


def test_the_mean_over_draws_is_the_mean_over_all_orders():
    tx = surgery.pcgrad(num_tasks=3, num_orders=4000, diagnostics=False)
    got, _ = tx.update(jnp.asarray(FOUR[:3]), tx.init(jnp.zeros(6)))
    each = np.stack([pcgrad_literal(FOUR[:3], o).sum(0) for o in all_orders(3)])
    standard_error = each.std(0) / np.sqrt(4000)
    assert (np.abs(np.asarray(got) - each.mean(0)) <= 5 * standard_error + 1e-5).all()
    assert np.abs(each - each.mean(0)).max() > 0.05  # a single draw would not pass


def test_shared_and_fixed_orders():
    fixed = np.asarray(surgery.fixed_orders(4))
    assert fixed.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    shared = np.asarray(surgery.random_orders(jax.random.key(3), 6, shared=True))
    place = {j: n for n, j in enumerate([*shared[0], 0])}
    permutations = []
    for i, row in enumerate(shared):
        assert i not in row and len(set(row.tolist())) == 5
        permutations.append([j for j in row.tolist() if j != 0])
    for row in permutations[1:]:
        places = [place[j] for j in row]
        assert places == sorted(places)
    for order, orders in (("fixed", fixed), ("independent", None), ("shared", None)):
        tx = surgery.pcgrad(num_tasks=4, seed=7, order=order, diagnostics=False)
        got, _ = tx.update(jnp.asarray(FOUR), tx.init(jnp.zeros(6)))
        if orders is None:
            key = jax.random.fold_in(jax.random.key(7), 0)
            orders = surgery.random_orders(key, 4, shared=order == "shared")
        want = pcgrad_literal(FOUR, np.asarray(orders)).sum(0)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_two_tasks_closed_form():
    rng = np.random.default_rng(0)
    for _ in range(20):
        jacobian = conflict(rng, 2, 7)
        g, h = jacobian
        cos = g @ h / np.linalg.norm(g) / np.linalg.norm(h)
        ratio = np.linalg.norm(g) / np.linalg.norm(h)
        want = (1 - cos / ratio) * g + (1 - ratio * cos) * h if cos < 0 else g + h
        np.testing.assert_allclose(update_of(jacobian, [[1], [0]]), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e15, 1e-15])
def test_golden_value_at_any_scale(scale):
    # TorchJD, tests/unit/aggregation/test_values.py: PCGrad and PCGradWeighting of this matrix.
    jacobian = np.array([[-4.0, 1, 1], [6, 1, 1]]) * scale
    gram = surgery.gram_matrix(jnp.asarray(jacobian, jnp.float32))
    weights = weights_of(gram, jnp.array([[1], [0]]))
    np.testing.assert_allclose(weights, [2.2222, 1.5789], rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        update_of(jacobian, [[1], [0]]) / scale, [0.5848, 3.8012, 3.8012], rtol=0, atol=1e-4
    )


def test_zero_identical_opposed_and_single_gradients():
    k = 4
    orders = surgery.random_orders(jax.random.key(0), k)
    ones = np.ones(k)
    np.testing.assert_array_equal(weights_of(jnp.zeros((k, k)), orders), ones)
    np.testing.assert_array_equal(weights_of(jnp.full((k, k), 3.0), orders), ones)
    # Opposed pair, norms 1 : 3: nothing is left.
    opposed = update_of([[1.0, 2.0], [-3.0, -6.0]], [[1], [0]])
    np.testing.assert_allclose(opposed, [0.0, 0.0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(
        weights_of(jnp.full((1, 1), 2.0), jnp.zeros((1, 0), jnp.int32)), [1.0]
    )
    # A zero gradient changes nothing for the others: row 3 is zero, wherever it is visited.
    with_zero = np.vstack([FOUR[:3], np.zeros(6)])
    visits = [[3, 1, 2], [0, 3, 2], [1, 0, 3], [0, 1, 2]]
    without = [[1, 2], [0, 2], [1, 0]]
    np.testing.assert_array_equal(update_of(with_zero, visits), update_of(FOUR[:3], without))


def test_small_gradients_are_exact():
    # Ports that add 1e-8 to the squared norm are 1 % off at norm 1e-3 and 90 % off at 1e-5.
    orders = [[1, 2, 3], [3, 2, 0], [0, 3, 1], [2, 1, 0]]
    want = pcgrad_literal(FOUR, orders).sum(0)
    for scale in (1e-3, 1e-5, 1e-10):
        np.testing.assert_allclose(update_of(FOUR * scale, orders) / scale, want, atol=1e-5)


def test_mixed_scales_from_1e_minus_15_to_1e15():
    orders = [[1, 2, 3], [3, 2, 0], [0, 3, 1], [2, 1, 0]]
    jacobian = (FOUR * np.array([[1e15], [1e5], [1.0], [1e-15]])).astype(np.float32)
    want = pcgrad_literal(jacobian, orders)
    got = update_of(jacobian, orders)
    np.testing.assert_allclose(got, want.sum(0), rtol=0, atol=1e-6 * np.linalg.norm(want.sum(0)))


def test_nan_in_one_task_reaches_every_parameter():
    grads = {"a": jnp.asarray(FOUR[:, :4], jnp.float32), "b": jnp.ones((4, 3))}
    grads["a"] = grads["a"].at[2, 1].set(jnp.nan)
    tx = surgery.pcgrad(num_tasks=4)
    update, _ = tx.update(grads, tx.init({"a": jnp.zeros(4), "b": jnp.zeros(3)}))
    assert np.isnan(update["a"]).all() and np.isnan(update["b"]).all()
    clean, _ = tx.update({**grads, "a": jnp.asarray(FOUR[:, :4], jnp.float32)}, tx.init(update))
    assert all(np.isfinite(x).all() for x in clean.values())


def test_bfloat16_gradients_are_accumulated_in_float32():
    rng = np.random.default_rng(1)
    jacobian = jnp.asarray(gauss(rng, 6, 20_000), jnp.bfloat16)
    orders = surgery.random_orders(jax.random.key(2), 6)
    exact = pcgrad_literal(np.asarray(jacobian, np.float64), np.asarray(orders)).sum(0)
    weights = np.asarray(weights_of(surgery.gram_matrix(jacobian), orders), np.float64)
    got = weights @ np.asarray(jacobian, np.float64)
    assert np.linalg.norm(got - exact) < 1e-4 * np.linalg.norm(exact)


def test_invariants_of_the_weights():
    rng = np.random.default_rng(3)
    k = 5
    for draw in range(5):
        jacobian = conflict(rng, k, 40)
        orders = np.asarray(surgery.random_orders(jax.random.key(draw), k))
        update = update_of(jacobian, orders)
        size = np.linalg.norm(update)
        gram = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
        weights = np.asarray(weights_of(gram, jnp.asarray(orders)))
        assert (weights >= 1).all()  # PCGrad only ever weighs tasks up
        np.testing.assert_allclose(update_of(jacobian * 3, orders), update * 3, atol=1e-5 * size)
        rotation, _ = np.linalg.qr(rng.normal(size=(40, 40)))
        np.testing.assert_allclose(
            update_of(jacobian @ rotation, orders), update @ rotation, atol=1e-5 * size
        )
        permutation = rng.permutation(k)
        inverse = np.argsort(permutation)
        np.testing.assert_allclose(
            update_of(jacobian[permutation], inverse[orders[permutation]]),
            update,
            atol=1e-5 * size,
        )
        # Rescaling one task scales its own projected gradient and no other: compare the parts.
        scaled = jacobian * np.array([1, 1, 7.0, 1, 1])[:, None]
        parts, again = pcgrad_literal(jacobian, orders), pcgrad_literal(scaled, orders)
        want = update + 6 * parts[2]
        np.testing.assert_allclose(update_of(scaled, orders), want, atol=2e-5 * size)
        np.testing.assert_allclose(again.sum(0), want, atol=2e-5 * size)
    aligned = np.abs(gauss(rng, k, 10))
    np.testing.assert_allclose(update_of(aligned, orders), aligned.sum(0), rtol=1e-5)


def test_mean_is_the_sum_over_k():
    total, mean = (
        surgery.pcgrad(num_tasks=4, seed=1, reduction=r, diagnostics=False) for r in ("sum", "mean")
    )
    grads = jnp.asarray(FOUR)
    a, b = (tx.update(grads, tx.init(jnp.zeros(6)))[0] for tx in (total, mean))
    np.testing.assert_allclose(a, 4 * b, rtol=1e-6)


def test_global_surgery_does_not_see_how_the_tree_is_cut():
    tx = surgery.pcgrad(num_tasks=4, seed=1, diagnostics=False)
    whole, _ = tx.update(jnp.asarray(FOUR), tx.init(jnp.zeros(6)))
    cut = {"a": jnp.asarray(FOUR[:, :4]).reshape(4, 2, 2), "b": [jnp.asarray(FOUR[:, 4:])]}
    cut["c"] = jnp.zeros((4, 3))  # coordinates that no task uses
    parts, _ = tx.update(cut, tx.init({"a": 0.0, "b": [0.0], "c": 0.0}))
    flat = np.concatenate([parts["a"].reshape(-1), parts["b"][0]])
    np.testing.assert_allclose(flat, whole, rtol=1e-6)
    assert not parts["c"].any()


@functools.cache
def _toy():
    """The two-parameter problem of the paper's figure 1."""

    def loss(theta, task):
        a, b = theta
        inner = jnp.where(task == 0, 0.5 * a + jnp.tanh(b), 0.5 * a - jnp.tanh(b) + 2)
        return jnp.where(task == 0, 20.0, 25.0) * jnp.log(jnp.maximum(jnp.abs(inner), 5e-6))

    return surgery.per_task_value_and_grad(loss)


def test_on_the_toy_problem_of_the_paper_the_gradients_conflict_and_no_task_is_set_back():
    losses, grads = _toy()(jnp.array([0.5, -3.0]), jnp.arange(2))
    # By hand: inner_0 = 0.25 + tanh(-3), inner_1 = 0.25 - tanh(-3) + 2.
    inner = np.array([0.25 + np.tanh(-3), 2.25 - np.tanh(-3)])
    np.testing.assert_allclose(losses, np.array([20, 25]) * np.log(np.abs(inner)), rtol=1e-5)
    slope = 1 - np.tanh(-3) ** 2
    want = np.array([[20 * 0.5, 20 * slope], [25 * 0.5, -25 * slope]]) / inner[:, None]
    np.testing.assert_allclose(grads, want, rtol=1e-4)
    assert want[0] @ want[1] < 0
    tx = surgery.pcgrad(num_tasks=2)
    update, state = tx.update(grads, tx.init(jnp.zeros(2)))
    assert (want @ np.asarray(update) >= -1e-4).all()
    assert int(surgery.diagnostics(state).conflicts) == 1
