"""Tasks without data: the method does what it would do if it had been made for the others alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from surgery_reference import conflict

from mtrl_jax import surgery
from tests.machinery import tiny

K, SIZE, STEPS = 5, 8, 4
SETS = ([0, 2, 3], [1, 2, 3, 4], [4])
PARAMS = {"shared": jnp.zeros((2, 3)), "head": jnp.zeros(2)}
MASK = {"shared": True, "head": False}
DRAWS = ("pcgrad", "gradvac", "random_weighting")  # in distribution: see the tests below
EXACT = [name for name in surgery.METHODS if name not in DRAWS]


def stream(seed=0):
    """Gradients `[K, 8]` and positive losses of a few steps."""
    rng = np.random.default_rng(seed)
    return [(conflict(rng, K, SIZE), rng.uniform(0.5, 2.0, K)) for _ in range(STEPS)]


def tree(jacobian):
    jacobian = jnp.asarray(jacobian, jnp.float32)
    return {"shared": jacobian[:, :6].reshape(-1, 2, 3), "head": jacobian[:, 6:]}


@functools.cache
def compiled(name, k, **options):
    tx = surgery.METHODS[name](num_tasks=k, mask=MASK, diagnostics=True, **options)

    def step(grads, state, losses, present=None):
        return tx.update(grads, state, PARAMS, task_losses=losses, present=present)

    return tx, jax.jit(step)


def with_garbage(grads, losses, keep):
    """What comes in where the other tasks are absent: nonsense in their rows."""
    absent = np.setdiff1d(np.arange(K), keep)
    grads, losses = grads.copy(), losses.copy()
    grads[absent], losses[absent] = np.nan, np.inf
    return tree(grads), jnp.asarray(losses, jnp.float32)


def with_state(grads, losses, keep, state):
    grads, losses = with_garbage(grads, losses, keep)
    return grads, state, losses


def here(keep):
    return jnp.asarray(np.isin(np.arange(K), keep))


def of(x, keep):
    """The entries of present tasks of one leaf `[G, ...]` of what is remembered."""
    x = np.asarray(x)
    shape = x.shape
    for axis in (1, 2):
        if set(shape[1 : axis + 1]) == {K} and len(shape) > axis:
            x = x.take(keep, axis)
    return x


def rows(memory, keep):
    """What is remembered of gradients, `[K, *param]` or `[*param]`, of present tasks."""
    return jax.tree.map(lambda x: x[jnp.asarray(keep)] if x.shape[0] == K else x, memory)


def same(got, want, tolerance=2e-4):
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        scale = max(1.0, float(np.abs(b).max(initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", tiny.quick_methods(EXACT))
def test_equals_the_method_made_for_the_others(name):
    tx, step = compiled(name, K)
    for keep in SETS:
        if name in ("gradient_cosine", "ol_aux") and 0 not in keep:  # the main task
            continue
        small, small_step = compiled(name, len(keep))
        state, want_state = tx.init(PARAMS), small.init(PARAMS)
        for grads, losses in stream():
            update, state = step(*with_state(grads, losses, keep, state), here(keep))
            want, want_state = small_step(
                tree(grads[keep]), want_state, jnp.asarray(losses[keep], jnp.float32)
            )
            same(update, want)
            same(jax.tree.map(lambda x: of(x, keep), state.method), want_state.method)  # noqa: B023
            same(rows(state.memory, keep), want_state.memory)
            got, right = surgery.diagnostics(state), surgery.diagnostics(want_state)
            same((got.norm_before, got.norm_after), (right.norm_before, right.norm_after), 1e-3)
            if got.weights is not None:
                assert (np.delete(got.weights, keep) == 0).all()
                same(np.asarray(got.weights)[keep], right.weights)
        assert int(state.unsound) == 0
    assert step._cache_size() == 1  # traced


def remembers(name):
    state = surgery.METHODS[name](2).init(PARAMS)
    return bool(jax.tree.leaves((state.method, state.memory)))


REMEMBER = [name for name in surgery.METHODS if remembers(name)]


@pytest.mark.parametrize("name", [n for n in REMEMBER if n not in DRAWS])
def test_a_task_that_goes_and_comes_back(name):
    """Its memory stays; that of the others goes on as in a method that holds theirs alone."""
    tx, step = compiled(name, K)
    keep, state = [0, 2, 3], tx.init(PARAMS)
    steps = [(tree(g), jnp.asarray(l, jnp.float32)) for g, l in stream(1)]
    for grads, losses in steps[:2]:
        _, state = step(grads, state, losses, jnp.ones(K, bool))
    small, small_step = compiled(name, len(keep))
    want_state = small.init(PARAMS)._replace(
        step=state.step,
        method=jax.tree.map(lambda x: jnp.asarray(of(x, keep)), state.method),
        memory=rows(state.memory, keep),
    )
    before = state
    for grads, losses in stream(2)[:2]:
        update, state = step(*with_state(grads, losses, keep, state), here(keep))
        want, want_state = small_step(
            tree(grads[keep]), want_state, jnp.asarray(losses[keep], jnp.float32)
        )
        same(update, want)
        same(jax.tree.map(lambda x: of(x, keep), state.method), want_state.method)
        same(rows(state.memory, keep), want_state.memory)
    for a, b in zip(*map(jax.tree.leaves, (state.method, before.method)), strict=True):
        if a.shape[1:2] == (K,):
            np.testing.assert_array_equal(a[:, [1, 4]], b[:, [1, 4]])
    for a, b in zip(*map(jax.tree.leaves, (state.memory, before.memory)), strict=True):
        if a.shape[0] == K:
            np.testing.assert_array_equal(a[jnp.array([1, 4])], b[jnp.array([1, 4])])
    update, state = step(*steps[2][:1], state, steps[2][1], jnp.ones(K, bool))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((update, state.method)))


@pytest.mark.parametrize("name", surgery.METHODS)
def test_if_no_task_is_present_nothing_happens(name):
    tx, step = compiled(name, K)
    grads, losses = stream()[0]
    _, state = step(
        tree(grads), tx.init(PARAMS), jnp.asarray(losses, jnp.float32), jnp.ones(K, bool)
    )
    update, after = step(*with_state(grads, losses, [], state), jnp.zeros(K, bool))
    assert all((x == 0).all() for x in update.values())
    for a, b in zip(*map(jax.tree.leaves, (after, state)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_absent_from_the_first_step_and_present_later():
    """The first loss of a task is the first that it had, not that of the first step."""
    for name in ("gradnorm", "famo", "dwa"):
        tx, step = compiled(name, K)
        state = tx.init(PARAMS)
        for n, (grads, losses) in enumerate(stream(3)):
            keep = [0, 1] if n < 2 else list(range(K))
            _, state = step(*with_state(grads, losses, keep, state), here(keep))
            first = losses if n == 2 else None
            if name == "gradnorm" and first is not None:
                np.testing.assert_allclose(state.method.first_losses[0, 2:], first[2:], rtol=1e-5)
        assert int(state.unsound) == 0
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.method))


def restricted(orders, keep):
    """Orders of all tasks as the tasks that are present see them."""
    number = {task: n for n, task in enumerate(keep)}
    rows = [[number[j] for j in np.asarray(orders)[i].tolist() if j in number] for i in keep]
    return jnp.asarray(rows, jnp.int32).reshape(len(keep), len(keep) - 1)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", ["pcgrad", "gradvac"])
def test_orders_among_those_present_are_those_drawn(name, reduction):
    # A uniform order of K tasks is, among some of them, a uniform order.
    tx, step = compiled(name, K, reduction=reduction, seed=3)
    keep, state = [0, 2, 3], tx.init(PARAMS)
    target = jnp.zeros((3, 3))
    for n, (grads, losses) in enumerate(stream(4)):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), n)
        orders = restricted(surgery.random_orders(key, K), keep)
        update, state = step(*with_state(grads, losses, keep, state), here(keep))
        mine = jnp.asarray(grads[keep, :6], jnp.float32)
        if name == "pcgrad":
            weights = surgery.pcgrad_weights(mine @ mine.T, orders)
        else:
            weights, target = surgery.gradvac_weights(mine @ mine.T, target, orders, 0.01)
            same(of(state.method, keep)[0], target)
        weights = weights / 3 if reduction == "mean" else weights
        same(update["shared"].reshape(-1), weights @ mine)


def test_pcgrad_in_a_fixed_order():
    grads, losses = stream(5)[0]
    keep = [1, 2, 4]
    tx, step = compiled("pcgrad", K, order="fixed")
    small, small_step = compiled("pcgrad", 3, order="fixed")
    update, _ = step(*with_state(grads, losses, keep, tx.init(PARAMS)), here(keep))
    want, _ = small_step(tree(grads[keep]), small.init(PARAMS), None)
    same(update, want)


def test_random_weights_are_a_softmax_over_those_present():
    grads, losses = stream(6)[0]
    keep = [1, 2, 4]
    tx, step = compiled("random_weighting", K, seed=2)
    state = tx.init(PARAMS)
    _, after = step(*with_state(grads, losses, keep, state), here(keep))
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 0)
    normal = np.exp(jax.random.normal(key, (K,)))[keep]
    got = surgery.diagnostics(after).weights
    np.testing.assert_allclose(np.asarray(got)[keep], normal / normal.sum(), rtol=1e-5)
    assert (np.delete(got, keep) == 0).all()


def test_nothing_moves_while_the_main_task_is_absent():
    grads, losses = stream()[0]
    for gate in ("soft", "hard"):
        tx, step = compiled("gradient_cosine", K, gate=gate)
        update, _ = step(*with_state(grads, losses, [1, 2], tx.init(PARAMS)), here([1, 2]))
        assert (update["shared"] == 0).all() and (update["head"] != 0).any()


@pytest.mark.parametrize("name", ["mgda", "nash_mtl"])
def test_groups(name):
    params = {"a": jnp.zeros(4), "b": jnp.zeros(4)}
    keep = [0, 3]
    grads, _ = stream(7)[0]

    def split(j):
        j = jnp.asarray(j, jnp.float32)
        return {"a": j[:, :4], "b": j[:, 4:]}

    def run(k, g, present):
        tx = surgery.METHODS[name](num_tasks=k, scope="leaf")
        return jax.jit(tx.update)(g, tx.init(params), present=present)[0]

    nan = grads.copy()
    nan[[1, 2, 4]] = np.nan
    same(run(K, split(nan), here(keep)), run(2, split(grads[keep]), None))


def test_curvature_of_those_present():
    """Equal to that of the others alone; while the tasks change there is no new estimate."""
    shift = {"shared": jnp.full((2, 3), 0.1), "head": jnp.full(2, -0.2)}
    small = surgery.mean(num_tasks=2, diagnostics="curvature")
    tx = surgery.mean(num_tasks=K, diagnostics="curvature")
    keep, values, wanted = [1, 3], [], []
    state, want_state, params = tx.init(PARAMS), small.init(PARAMS), PARAMS
    for grads, losses in stream(8):
        g, l = with_garbage(grads, losses, keep)
        _, state = tx.update(g, state, params, task_losses=l, present=here(keep))
        mine = jnp.asarray(losses[keep], jnp.float32)
        _, want_state = small.update(tree(grads[keep]), want_state, params, task_losses=mine)
        values.append(float(state.curvature.value))
        wanted.append(float(want_state.curvature.value))
        params = jax.tree.map(jnp.add, params, shift)
    np.testing.assert_allclose(values, wanted, rtol=1e-4)
    assert wanted[0] == 0 != wanted[-1]
    g, l = with_garbage(grads, losses, [0])
    _, after = tx.update(g, state, params, task_losses=l, present=here([0]))
    assert float(after.curvature.value) == values[-1]
    assert after.curvature.present.tolist() == here([0]).tolist()


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (jnp.ones(3, bool), r"present must be bool \[5\].*got bool \[3\]"),
        (jnp.ones(5), r"present must be bool \[5\].*got float32 \[5\]"),
    ],
)
def test_wrong_arguments(present, message):
    tx, step = compiled("mean", K)
    with pytest.raises(ValueError, match=message):
        step(tree(stream()[0][0]), tx.init(PARAMS), jnp.ones(K), present)


def test_per_task_value_and_grad_hands_over_what_update_takes():
    def loss(params, x):
        return jnp.mean((x - params) ** 2)

    x = jnp.arange(6.0).reshape(3, 2)
    present = jnp.array([True, False, True])
    value_and_grad = surgery.per_task_value_and_grad(loss)
    losses, grads = value_and_grad(jnp.zeros(2), x, present=present)
    tx = surgery.famo(num_tasks=3)
    update, state = tx.update(grads, tx.init(jnp.zeros(2)), task_losses=losses, present=present)
    small = surgery.famo(num_tasks=2)
    losses, grads = value_and_grad(jnp.zeros(2), x[::2])
    want, _ = small.update(grads, small.init(jnp.zeros(2)), task_losses=losses)
    np.testing.assert_allclose(update, want, rtol=1e-5)
    assert int(state.unsound) == 0
