"""One table of all methods, one set of properties. A new method is a file, a name and a row
here."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from surgery_reference import FOUR, conflict, gauss, hard, spread

from mtrl_jax import surgery
from tests.machinery import tiny

K, SIZE = 4, 6
LOSSES = jnp.array([0.5, 1.0, 2.0, 3.0])


class Row(NamedTuple):
    """What is claimed of a method.

    equal: K equal gradients g give `equal * g` (None: the length depends on the scale of g).
    alone: for K = 1 the update is `alone * g` (None likewise).
    unconflicting: no task is set back, on matrices of full rank.
    homogeneous: scaling all gradients scales the update.
    linear: the update is linear in positive factors of the rows.
    permutes: permuting the tasks leaves the update unchanged.
    combines: the update is a combination of the gradients (else each coordinate has a step of its
        own, and of the update only the signs are claimed).
    """

    equal: float | None = 1.0
    alone: float | None = 1.0
    unconflicting: bool = False
    homogeneous: bool = True
    linear: bool = False
    permutes: bool = True
    combines: bool = True


TABLE = {
    "pcgrad": Row(equal=4.0, permutes=False, linear=True),
    "gradvac": Row(equal=4.0, permutes=False),
    "cagrad": Row(equal=1.4, alone=1.4),  # 1 + c
    "mgda": Row(unconflicting=True),
    # The length is decided by max_norm, not by the gradients.
    "nash_mtl": Row(equal=None, alone=None, unconflicting=True, homogeneous=False),
    "imtl_g": Row(),
    "aligned_mtl": Row(),
    "fairgrad": Row(equal=None, alone=None, unconflicting=True, homogeneous=False),
    "upgrad": Row(unconflicting=True, linear=True),
    "dual_proj": Row(unconflicting=True),
    "config": Row(equal=4.0, unconflicting=True, linear=True),
    "graddrop": Row(equal=4.0, permutes=False),
    "random_weighting": Row(permutes=False, linear=True),
    "gradnorm": Row(equal=4.0),
    "famo": Row(linear=True),
    "uncertainty_weighting": Row(equal=2.0, alone=0.5, linear=True),
    "dwa": Row(equal=4.0, linear=True),
    "gradient_cosine": Row(equal=4.0, permutes=False),
    "ol_aux": Row(equal=4.0, linear=True),
    "imtl_l": Row(equal=4.0, linear=True),
    "stch": Row(linear=True),
    "go4align": Row(linear=True),
    "sdmgrad": Row(),
    "pivrg": Row(equal=None, alone=None, unconflicting=True, homogeneous=False),
    "db_mtl": Row(equal=0.4, alone=0.1),
    "moco": Row(equal=None, alone=None, homogeneous=False),
    "excess_mtl": Row(linear=True),
    "m_config": Row(equal=None, alone=None, homogeneous=False, combines=False),
    "mean": Row(linear=True),
    "sum": Row(equal=4.0, linear=True),
}
METHODS = pytest.mark.parametrize("name", TABLE)


@functools.cache
def compiled(name, k=K):
    """The method's transform for trees `{'a': [2, 2], 'b': [2]}` and its compiled update."""
    tx = surgery.METHODS[name](num_tasks=k, seed=0, diagnostics=True)
    params = tree(np.zeros((1, SIZE)))
    params = jax.tree.map(lambda x: x[0], params)
    step = jax.jit(lambda g, s, losses: tx.update(g, s, params, task_losses=losses))
    return tx, params, step


def tree(jacobian):
    jacobian = jnp.asarray(np.asarray(jacobian, np.float32))
    return {"a": jacobian[:, :4].reshape(-1, 2, 2), "b": jacobian[:, 4:]}


def update_of(name, jacobian, losses=LOSSES):
    """The first update, as a float64 vector."""
    tx, params, step = compiled(name)
    update, _ = step(tree(jacobian), tx.init(params), losses)
    return np.concatenate([update["a"].reshape(-1), update["b"]]).astype(np.float64)


_read = jax.jit(surgery.diagnostics)


def read(state):
    """Diagnostics, compiled once for all methods with weights: what a method remembers is left
    out."""
    return _read(state._replace(method=(), key=None))


def close(got, want, tolerance=1e-4):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.linalg.norm(want))


def test_every_method_has_a_row():
    assert set(TABLE) == set(surgery.METHODS)


def matrices(seed=0):
    rng = np.random.default_rng(seed)
    return [FOUR, *(kind(rng, K, SIZE) for kind in (gauss, conflict, spread))]


@METHODS
def test_shape_dtype_and_state_are_stable(name):
    tx, params, step = compiled(name)
    state = tx.init(params)
    update, after = step(tree(FOUR), state, LOSSES)

    def describe(t):
        return jax.tree.map(lambda x: (x.shape, str(x.dtype)), t)

    assert describe(update) == describe(params)
    assert describe(after) == describe(state)
    _, after = step(tree(FOUR), after, LOSSES)
    assert int(after.step) == 2
    assert step._cache_size() == 1  # nothing recompiled


@METHODS
def test_finite_on_hard_inputs(name):
    tx, params, step = compiled(name)
    for kind, jacobian in hard(K, SIZE).items():
        update, state = step(tree(jacobian), tx.init(params), LOSSES)
        # xi is infinite by definition where two gradients are exactly opposed.
        seen = read(state)._replace(curvature_bound=None)
        for leaf in jax.tree.leaves((update, state.method, seen)):
            assert np.isfinite(leaf).all(), kind
        assert not np.isnan(read(state).curvature_bound).any(), kind
        length = np.linalg.norm(np.concatenate([x.reshape(-1) for x in update.values()]))
        if kind == "zero":
            assert length == 0.0, kind


@METHODS
def test_equal_gradients_give_that_gradient(name):
    g = FOUR[0]
    update = update_of(name, np.tile(g, (K, 1)), jnp.ones(K))
    factor = TABLE[name].equal
    if factor is None:
        factor = update @ g / (g @ g)
        assert factor > 0
    if not TABLE[name].combines:
        update, g, factor = np.sign(update), np.sign(g), 1.0
    close(update, factor * g)


@METHODS
def test_one_task_is_left_as_it_is(name):
    tx = surgery.METHODS[name](num_tasks=1, seed=0)
    g = FOUR[:1]
    update, _ = jax.jit(tx.update)(
        jnp.asarray(g, jnp.float32), tx.init(jnp.zeros(SIZE)), task_losses=jnp.ones(1)
    )
    factor = TABLE[name].alone
    if factor is None:
        factor = np.asarray(update) @ g[0] / (g[0] @ g[0])
        assert factor > 0
    if not TABLE[name].combines:
        update, g, factor = np.sign(update), np.sign(g), 1.0
    close(np.asarray(update), factor * g[0])


@METHODS
def test_no_task_is_set_back_where_that_is_claimed(name):
    worst = 0.0
    for jacobian in matrices(1):
        update = update_of(name, jacobian)
        cosines = jacobian @ update / np.linalg.norm(jacobian, axis=1) / np.linalg.norm(update)
        worst = min(worst, cosines.min())
    if TABLE[name].unconflicting:
        assert worst > -1e-5
    elif name in ("mean", "sum", "random_weighting", "dwa", "gradient_cosine", "ol_aux"):
        assert worst < -0.01  # the matrices do conflict, so that the claim above means something


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.permutes])
def test_permuting_the_tasks(name):
    permutation = np.array([2, 0, 3, 1])
    for jacobian in matrices(2):
        update = update_of(name, jacobian)
        close(update_of(name, jacobian[permutation], LOSSES[permutation]), update)


@METHODS
def test_scaling_all_gradients(name):
    for jacobian in matrices(3)[:2]:
        update = update_of(name, jacobian)
        for factor in (3.0, 1e-6, 1e9):
            again = update_of(name, jacobian * factor)
            if TABLE[name].homogeneous:
                close(again, factor * update)
            elif not TABLE[name].combines:
                close(np.sign(again), np.sign(update))
            else:  # the direction is kept even so
                close(again / np.linalg.norm(again), update / np.linalg.norm(update), 2e-3)


CURVED = ("mgda", "cagrad", "nash_mtl", "imtl_g", "aligned_mtl", "fairgrad")


@pytest.mark.parametrize("name", [n for n, row in TABLE.items() if row.linear or n in CURVED])
def test_scaling_single_gradients(name):
    rng = np.random.default_rng(4)
    a, b = rng.uniform(0.1, 3.0, (2, K, 1))
    difference = []
    for jacobian in matrices(4):
        separate = update_of(name, jacobian * a) + update_of(name, jacobian * b)
        together = update_of(name, jacobian * (a + b))
        difference.append(np.linalg.norm(separate - together) / np.linalg.norm(together))
    if TABLE[name].linear:
        assert max(difference) < 1e-4
    else:
        assert max(difference) > 1e-3


@pytest.mark.parametrize(
    "name", [n for n, row in TABLE.items() if row.combines and n != "graddrop"]
)
def test_update_lies_in_the_span_of_the_gradients(name):
    rng = np.random.default_rng(6)
    jacobian = rng.normal(size=(K, 3)) @ rng.normal(size=(3, SIZE))
    update = update_of(name, jacobian)
    basis = np.linalg.svd(jacobian)[2][:3]
    close(basis.T @ (basis @ update), update)


@METHODS
def test_nan_in_one_task_is_never_hidden(name):
    jacobian = FOUR.copy()
    jacobian[2, 0] = np.nan
    tx, params, step = compiled(name)
    _, state = step(tree(FOUR), tx.init(params), LOSSES)
    update, after = step(tree(jacobian), state, LOSSES)
    assert np.isnan(update["a"][0, 0])
    without_gram = "graddrop random_weighting famo uncertainty_weighting dwa mean sum".split()
    without_gram += "imtl_l stch go4align".split()
    if name not in without_gram:
        assert all(np.isnan(x).all() for x in update.values())
        # What the method remembers is as before, so that the next step is sound.
        for a, b in zip(*map(jax.tree.leaves, (after.method, state.method)), strict=True):
            np.testing.assert_array_equal(a, b)
    update, _ = step(tree(FOUR), after, LOSSES)
    assert all(np.isfinite(x).all() for x in update.values())


@pytest.mark.parametrize("name", tiny.quick_methods(TABLE))
def test_jit_equals_no_jit(name):
    tx, params, step = compiled(name)
    with jax.disable_jit():
        update, state = tx.update(tree(FOUR), tx.init(params), params, task_losses=LOSSES)
    want, want_state = step(tree(FOUR), tx.init(params), LOSSES)
    both = ((update, state.method), (want, want_state.method))
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@METHODS
def test_dtypes_of_the_update(name):
    tx, params, step = compiled(name)

    def narrow(t):
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), t)

    state = tx.init(params)
    for grads in (tree(FOUR), narrow(tree(FOUR))):
        update, _ = jax.eval_shape(step, grads, state, LOSSES)  # float32 parameters
        assert {x.dtype for x in update.values()} == {np.dtype("float32")}
        for like in (None, narrow(params)):

            def bare(g, p):
                return tx.update(g, state, p, task_losses=LOSSES)

            update, after = jax.eval_shape(bare, grads, like)
            want = grads["a"].dtype if like is None else jnp.bfloat16
            assert {x.dtype for x in update.values()} == {np.dtype(want)}
            assert after.record.gram.dtype == jnp.float32


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "graddrop", "mean"])
def test_bfloat16_gradients_give_the_same_update(name):
    tx, params, step = compiled(name)  # FOUR is exact in bfloat16: small integers
    grads = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree(FOUR))
    update, _ = step(grads, tx.init(params), LOSSES)
    flat = np.concatenate([update["a"].reshape(-1), update["b"]])
    np.testing.assert_allclose(flat, update_of(name, FOUR), rtol=0.01, atol=0.01)


# TorchJD, tests/unit/aggregation/test_values.py (revision 2883f73), all for this matrix. Its
# UPGrad and DualProj add 1e-4 of the trace to the diagonal, which moves the exact values (derived
# by hand below) by 5e-4 and 7e-4; hence their tolerance.
BASE = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
PUBLISHED = {
    "aligned_mtl": ([0.2133, 0.9673, 0.9673], 1e-4),
    "config": ([0.1588, 2.0706, 2.0706], 1e-4),
    "dual_proj": ([0.5563, 1.1109, 1.1109], 1e-3),
    "imtl_g": ([0.0767, 1.0000, 1.0000], 1e-4),
    "mean": ([1.0, 1.0, 1.0], 1e-6),
    "mgda": ([0.0, 1.0, 1.0], 1e-5),
    "pcgrad": ([0.5848, 3.8012, 3.8012], 1e-4),
    "sum": ([2.0, 2.0, 2.0], 1e-6),
    "upgrad": ([0.2929, 1.9004, 1.9004], 1e-3),
    "cagrad": ([0.1835, 1.2041, 1.2041], 1e-4),  # c = 0.5
    "nash_mtl": ([0.0542, 0.7061, 0.7061], 1e-4),
    # By hand: a main gradient that the other one conflicts with stands alone.
    "gradient_cosine": ([-4.0, 1.0, 1.0], 1e-6),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name):
    want, tolerance = PUBLISHED[name]
    arguments = {"c": 0.5} if name == "cagrad" else {}
    tx = surgery.METHODS[name](num_tasks=2, **arguments)
    update, _ = jax.jit(tx.update)(jnp.asarray(BASE, jnp.float32), tx.init(jnp.zeros(3)))
    np.testing.assert_allclose(update, want, rtol=0, atol=tolerance)


# Recorded from torchjd 0.18.0 in float64 on FOUR: UPGrad and DualProj with a ridge of 1e-12, MGDA
# with 1e5 Frank-Wolfe steps, CAGrad(c=0.4), FairGrad(alpha=2). (Its Nash-MTL solver fails on this
# matrix.)
RECORDED = {
    "upgrad": [0.82429, 0.0768, -0.12666, 1.1009, 1.10624, 1.00092],
    "dual_proj": [0.5, -0.25, -0.25, 0.5, 0.5, 0.75],
    "mgda": [0.24771, 0.28072, 0.09105, 0.5002, 0.4998, 0.22306],
    "cagrad": [0.53337, 0.0788, -0.14278, 0.75494, 0.68108, 0.64278],
    "imtl_g": [0.27237, 0.25314, 0.09027, 0.49651, 0.50349, 0.23071],
    "aligned_mtl": [0.27723, 0.07042, -0.02916, 0.39795, 0.38589, 0.31192],
    "fairgrad": [0.5806, 0.38553, 0.04728, 0.99041, 0.94921, 0.57425],
    "config": [1.12639, 1.04686, 0.3733, 2.05332, 2.08217, 0.95409],
}


@pytest.mark.parametrize("name", RECORDED)
def test_values_recorded_from_torchjd(name):
    np.testing.assert_allclose(update_of(name, FOUR), RECORDED[name], rtol=0, atol=1e-4)


def test_gradvac_recorded_from_torchjd():
    # torchjd 0.18.0, GradVac(beta=0.2, eps=0), its permutations set to these orders; three updates.
    orders = jnp.array([[1, 2, 3], [3, 2, 0], [0, 3, 1], [2, 1, 0]])
    want = (
        [3.15371, -0.64354, -0.52333, 3.45335, 3.91328, 4.06758],
        [2.89772, -0.55851, -0.74028, 3.32331, 3.50654, 3.85619],
        [2.63893, -0.4436, -0.9263, 3.23073, 3.17892, 3.7013],
    )
    gram, target = jnp.asarray(FOUR @ FOUR.T, jnp.float32), jnp.zeros((4, 4))
    for expected in want:
        weights, target = surgery.gradvac_weights(gram, target, orders, 0.2)
        np.testing.assert_allclose(np.asarray(weights) @ FOUR, expected, rtol=0, atol=1e-4)


def test_upgrad_of_two_tasks_is_pcgrad():
    rng = np.random.default_rng(8)
    for _ in range(5):
        jacobian = conflict(rng, 2, 9)
        gram = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
        pcgrad = jax.jit(surgery.pcgrad_weights)(gram, surgery.fixed_orders(2))
        np.testing.assert_allclose(jax.jit(surgery.upgrad_weights)(gram), pcgrad, rtol=2e-5)


def test_cagrad_between_the_mean_and_mgda():
    gram = jnp.asarray(FOUR @ FOUR.T, jnp.float32)
    weights = jax.jit(surgery.cagrad_weights)
    np.testing.assert_allclose(weights(gram, 0.0), np.full(4, 0.25), atol=1e-6)
    far = np.asarray(weights(gram, 1e4)) @ FOUR
    shortest = np.asarray(surgery.mgda_weights(gram)) @ FOUR
    close(far / np.linalg.norm(far), shortest / np.linalg.norm(shortest), 1e-3)
    # The defining property, against many directions of the ball: none is better for the worst task.
    rng = np.random.default_rng(0)
    mean = FOUR.mean(0)
    update = np.asarray(weights(gram, 0.6)) @ FOUR
    radius = 0.6 * np.linalg.norm(mean)
    assert abs(np.linalg.norm(update - mean) - radius) < 1e-4 * radius
    directions = rng.normal(size=(50_000, 6))
    directions *= radius / np.linalg.norm(directions, axis=1, keepdims=True)
    others = (FOUR @ (mean + directions).T).min(0)
    assert others.max() <= (FOUR @ update).min() + 1e-4
    assert others.max() > (FOUR @ update).min() - 0.2  # and the search comes close


def test_equal_cosines_of_imtl_g_and_config():
    for name in ("imtl_g", "config"):
        update = update_of(name, FOUR)
        projections = FOUR @ update / np.linalg.norm(FOUR, axis=1)
        np.testing.assert_allclose(projections, projections[0], rtol=1e-4)


def test_aligned_mtl_has_condition_number_one():
    # The balanced gradients are B J with B from the method; w = B 1/K is linear in the preference,
    # so their Gram matrix is sigma * I. Recover it from the SVD: all singular values the smallest.
    u, s, vt = np.linalg.svd(FOUR, full_matrices=False)
    for scale, sigma in (("min", s[-1]), ("median", s[2]), ("rmse", np.sqrt((s**2).mean()))):
        want = (sigma * u @ vt).mean(0)
        gram = jnp.asarray(FOUR @ FOUR.T, jnp.float32)
        close(np.asarray(surgery.aligned_mtl_weights(gram, scale)) @ FOUR, want)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_bargaining_equations_hold(power):
    rng = np.random.default_rng(9)
    for kind in (gauss, conflict, spread):
        jacobian = kind(rng, K, 8)
        gram = jacobian @ jacobian.T
        alpha = surgery.fairgrad_weights(jnp.asarray(gram, jnp.float32), 1 / power)
        alpha = np.asarray(alpha, np.float64)
        np.testing.assert_allclose(gram @ alpha * alpha**power, np.ones(K), rtol=2e-3)
        nash = np.asarray(surgery.nash_mtl_weights(jnp.asarray(gram, jnp.float32)), np.float64)
        np.testing.assert_allclose(gram / np.linalg.norm(gram) @ nash * nash, np.ones(K), rtol=2e-3)


def test_nash_mtl_keeps_weights_between_its_solves_and_clips():
    tx = surgery.nash_mtl(num_tasks=4, update_every=2, max_norm=None)
    step = jax.jit(tx.update)
    state = tx.init(jnp.zeros(6))
    used = []
    for scale in (1.0, 5.0, 5.0):
        scales = np.array([scale, 1, 1, 1])[:, None]
        _, state = step(jnp.asarray(FOUR * scales), state)
        used.append(np.asarray(surgery.diagnostics(state).weights))
    np.testing.assert_array_equal(used[0], used[1])
    assert np.abs(used[2] - used[1]).max() > 1e-2
    clipped = surgery.nash_mtl(num_tasks=4, max_norm=0.25)
    update, _ = clipped.update(jnp.asarray(FOUR), clipped.init(jnp.zeros(6)))
    np.testing.assert_allclose(np.linalg.norm(update), 0.25, rtol=1e-4)


def test_graddrop_takes_one_sign_with_the_purity_as_probability():
    size = 20_000
    column = np.array([3.0, -1.0, 2.0, -2.0])  # purity 1/2 (1 + 2/8) = 0.625
    grads = jnp.asarray(np.tile(column[:, None], (1, size)), jnp.float32)
    update = np.asarray(surgery.graddrop_leaf(jax.random.key(0), grads))
    assert set(np.unique(update)) == {5.0, -3.0}
    assert abs((update == 5.0).mean() - 0.625) < 5 * np.sqrt(0.625 * 0.375 / size)
    leaky = np.asarray(
        surgery.graddrop_leaf(jax.random.key(0), grads, jnp.array([1.0, 0.0, 0.0, 0.0]))
    )
    np.testing.assert_allclose(np.unique(leaky), [0.0, 5.0])  # task 0 always passes: 3 - 3 and 5
    both, _ = (tx := surgery.graddrop(num_tasks=4, leak=1.0)).update(
        grads, tx.init(jnp.zeros(size))
    )
    np.testing.assert_allclose(both, 2.0)


def test_gradient_cosine_gates():
    main = 1
    cos = FOUR @ FOUR[main] / np.linalg.norm(FOUR, axis=1) / np.linalg.norm(FOUR[main])
    gram = jnp.asarray(FOUR @ FOUR.T, jnp.float32)
    soft = surgery.gradient_cosine_weights(gram, main, "soft")
    np.testing.assert_allclose(
        soft, np.where(np.arange(4) == main, 1, np.maximum(cos, 0)), rtol=1e-5
    )
    assert surgery.gradient_cosine_weights(gram, main, "hard").tolist() == [0, 1, 1, 0]


def test_random_weights_change_and_have_the_mean_one_over_k():
    draw = jax.jit(jax.vmap(lambda key: surgery.random_weights(key, 3)))
    weights = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert (weights > 0).all() and weights.std(0).min() > 0.1
    np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=0.02)
