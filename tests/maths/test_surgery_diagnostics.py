"""Diagnostics against NumPy on the Jacobian itself."""

import functools

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import pytest
from surgery_reference import FOUR

from mtrl_jax import surgery
from mtrl_jax.surgery.plot import plot_diagnostics

GRADS = jnp.asarray(FOUR, jnp.float32)


def first(tx, grads=GRADS):
    """The first update, and the diagnostics of the state after it."""

    @jax.jit
    def run(grads):
        update, state = tx.update(grads, tx.init(jax.tree.map(lambda g: g[0], grads)))
        return update, surgery.diagnostics(state)

    return run(grads)


@functools.cache
def recorded():
    tx = surgery.pcgrad(num_tasks=4)
    update, _ = first(tx)
    _, d = first(optax.chain(tx, optax.clip_by_global_norm(1.0), optax.adam(1e-3)))
    return np.asarray(update, np.float64), d


def test_pairs_norms_and_conflicts():
    update, d = recorded()
    norms = np.linalg.norm(FOUR, axis=1)
    np.testing.assert_allclose(d.task_norms, norms, rtol=1e-6)
    np.testing.assert_allclose(d.cosine, FOUR @ FOUR.T / norms[:, None] / norms[None], atol=1e-6)
    phi = 2 * norms[:, None] * norms / (norms[:, None] ** 2 + norms**2)
    np.testing.assert_allclose(d.magnitude_similarity, phi, rtol=1e-5)
    xi = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            away, along = FOUR[i] - FOUR[j], FOUR[i] + FOUR[j]
            cos = FOUR[i] @ FOUR[j] / norms[i] / norms[j]
            xi[i, j] = (1 - cos**2) * (away @ away) / (along @ along)
    np.testing.assert_allclose(d.curvature_bound, xi, rtol=1e-4, atol=1e-5)
    assert int(d.conflicts) == 4  # pairs 01, 02, 13, 23; the pair 03 is orthogonal
    np.testing.assert_allclose(d.norm_before, np.linalg.norm(FOUR.sum(0)), rtol=1e-5)
    np.testing.assert_allclose(d.norm_after, np.linalg.norm(update), rtol=1e-5)
    cosines = FOUR @ update / norms / np.linalg.norm(update)
    np.testing.assert_allclose(d.update_cosine, cosines, atol=1e-5)
    np.testing.assert_allclose(np.asarray(d.weights) @ FOUR, update, rtol=1e-5)
    assert d.curvature is None


def test_extreme_scales_and_zero_gradients():
    for scale in (1e15, 1e-15):
        gram = surgery.gram_matrix(jnp.asarray(FOUR * scale, jnp.float32))
        want = surgery.gram_matrix(GRADS)
        for measure in (
            surgery.cosine_similarity,
            surgery.magnitude_similarity,
            surgery.curvature_bound,
        ):
            np.testing.assert_allclose(measure(gram), measure(want), rtol=1e-4, atol=1e-6)
    zero = jnp.zeros((2, 2))
    assert surgery.cosine_similarity(zero).tolist() == [[0, 0], [0, 0]]
    assert surgery.magnitude_similarity(zero).tolist() == [[1, 1], [1, 1]]
    assert surgery.magnitude_similarity(jnp.diag(jnp.array([1.0, 0.0])))[0, 1] == 0
    assert int(surgery.num_conflicts(zero)) == 0


def test_norm_before_is_that_of_the_mean_for_methods_of_a_means_scale():
    _, d = first(surgery.imtl_g(num_tasks=4))
    np.testing.assert_allclose(d.norm_before, np.linalg.norm(FOUR.mean(0)), rtol=1e-5)


def test_groups_add_up():
    tx = surgery.pcgrad(num_tasks=4, scope="leaf")
    update, d = first(tx, {"a": GRADS[:, :4], "b": GRADS[:, 4:]})
    norms = np.linalg.norm(FOUR, axis=1)
    np.testing.assert_allclose(d.cosine, FOUR @ FOUR.T / norms[:, None] / norms[None], atol=1e-6)
    flat = np.concatenate([update["a"], update["b"]])
    np.testing.assert_allclose(d.norm_after, np.linalg.norm(flat), rtol=1e-5)
    np.testing.assert_allclose(
        d.update_cosine, FOUR @ flat / norms / np.linalg.norm(flat), atol=1e-5
    )
    np.testing.assert_allclose(np.asarray(d.weights[0]) @ FOUR[:, :4], update["a"], rtol=1e-5)


def test_graddrop_records_a_norm_and_no_weights():
    update, d = first(surgery.graddrop(num_tasks=4, diagnostics=True))
    assert d.weights is None and d.update_cosine is None
    np.testing.assert_allclose(d.norm_after, np.linalg.norm(update), rtol=1e-5)


def test_which_state_is_meant():
    params = {"a": jnp.zeros(6), "b": jnp.zeros(6)}
    two = optax.partition(
        {"x": surgery.pcgrad(num_tasks=4), "y": surgery.mgda(num_tasks=4)}, {"a": "x", "b": "y"}
    )
    state = two.init(params)
    with pytest.raises(ValueError, match=r"found 2; surgery\.all_diagnostics"):
        surgery.diagnostics(state)
    each = surgery.all_diagnostics(state)
    assert len(each) == 2 and {"'x'" in path for path in each} == {True, False}
    with pytest.raises(ValueError, match="found 0"):
        surgery.diagnostics(optax.adam(0.1).init(params))
    silent = surgery.mean(num_tasks=4)
    with pytest.raises(ValueError, match="diagnostics=True"):
        surgery.diagnostics(silent.init(jnp.zeros(6)))
    stacked = jax.vmap(surgery.pcgrad(num_tasks=4).init)(jnp.zeros((3, 6)))
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        surgery.diagnostics(stacked)
    assert jax.vmap(surgery.diagnostics)(stacked).cosine.shape == (3, 4, 4)


def test_curvature_of_a_quadratic_is_exact():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(3, 5, 5))
    hessians = np.einsum("kij,klj->kil", factor, factor)
    offsets = rng.normal(size=(3, 5))

    def loss(p, task):
        return 0.5 * jnp.concatenate([p["a"], p["b"]]) @ task[0] @ jnp.concatenate(
            [p["a"], p["b"]]
        ) + task[1] @ jnp.concatenate([p["a"], p["b"]])

    tasks = (jnp.asarray(hessians, jnp.float32), jnp.asarray(offsets, jnp.float32))
    tx = optax.chain(
        surgery.pcgrad(num_tasks=3, diagnostics="curvature", mask={"a": True, "b": False}),
        optax.adam(0.05),
    )
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}

    @jax.jit
    def step(params, state):
        losses, grads = surgery.per_task_value_and_grad(loss)(params, tasks)
        updates, state = tx.update(grads, state, params, task_losses=losses)
        return optax.apply_updates(params, updates), state

    state, points, values = tx.init(params), [], []
    for _ in range(4):
        points.append(np.concatenate([params["a"], params["b"]]).astype(np.float64))
        params, state = step(params, state)
        values.append(float(surgery.diagnostics(state).curvature))
    assert values[0] == 0.0
    for n in range(1, 4):
        change = points[n] - points[n - 1]
        want = change @ hessians.sum(0) @ change  # 2 (L' - L - <g, d>) of a quadratic
        np.testing.assert_allclose(values[n], want, rtol=2e-3)


def test_conditions_of_theorem_2():
    opposed = jnp.array([[1.0, -1.9], [-1.9, 4.0]])  # cos = -0.95 <= -Phi = -0.8
    xi = float(surgery.curvature_bound(opposed)[0, 1])
    np.testing.assert_allclose(xi, (1 - 0.95**2) * (5 + 3.8) / (5 - 3.8), rtol=1e-4)
    size = 5 - 3.8

    def check(gram, ell, rate):
        return tuple(bool(x) for x in surgery.detrimental_interference(gram, ell * size, rate, 1.0))

    assert check(opposed, xi + 10.0, 0.3) == (True, True, True)
    assert check(opposed, xi + 10.0, 0.1) == (True, True, False)  # 0.1 * 10 < 2
    assert check(opposed, xi - 0.1, 0.3) == (True, False, False)
    assert check(jnp.array([[1.0, -1.0], [-1.0, 4.0]]), 100.0, 0.3)[0] is False  # -0.5 > -0.8
    with pytest.raises(ValueError, match=r"\[2, 2\]"):
        surgery.detrimental_interference(jnp.eye(3), 1.0, 0.1, 1.0)


def test_plot(tmp_path):
    _, d = recorded()
    figure = plot_diagnostics([d, d, d], tmp_path / "surgery.png", task_names="abcd")
    assert isinstance(figure, matplotlib.figure.Figure)
    assert (tmp_path / "surgery.png").stat().st_size > 10_000
    lines = {ax.get_title(): ax.get_lines() for ax in figure.axes}
    drawn = lines["conflicting pairs (of 6)"][0].get_ydata()
    assert list(drawn) == [4, 4, 4]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), d, d)
    assert len(plot_diagnostics(stacked, steps=[0, 10]).axes) == 6
    with pytest.raises(ValueError, match="empty"):
        plot_diagnostics([])
    with pytest.raises(ValueError, match=r"\[T, K, K\]"):
        plot_diagnostics(d)
    with pytest.raises(ValueError, match="steps must be 2"):
        plot_diagnostics(stacked, steps=[1])
    with pytest.raises(ValueError, match="task_names must be 4"):
        plot_diagnostics(stacked, task_names=["a"])
