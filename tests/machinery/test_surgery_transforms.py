"""Surgery under the transformations of JAX and optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtrl_jax import surgery
from tests.machinery import tiny


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


K = 3
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 32).reshape(8, 4), "b": jnp.full(4, 0.1)}
X = jax.random.normal(jax.random.key(0), (K, 16, 8))
Y = jax.random.normal(jax.random.key(1), (K, 16, 4))


def loss(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w"] + params["b"][None]) - y) ** 2)


per_task = surgery.per_task_value_and_grad(loss)


def surgery_of(name="pcgrad", seed=0, **more):
    return surgery.METHODS[name](num_tasks=K, seed=seed, **more)


def chain(name="pcgrad", seed=0, **more):
    tx = surgery_of(name, seed, **more)
    return optax.chain(tx, optax.clip_by_global_norm(1.0), optax.adam(1e-2))


def train_step(tx):
    def step(params, state, batch):
        losses, grads = per_task(params, batch)
        updates, state = tx.update(grads, state, params, task_losses=losses)
        return optax.apply_updates(params, updates), state

    return step


@functools.cache
def reference(steps=3):
    """Parameters and state of the plain jitted loop: what everything else is compared with."""
    tx = chain()
    step = jax.jit(train_step(tx))
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(steps):
        params, state = step(params, state, (X, Y))
    return params, state


@functools.cache
def task_grads():
    return jax.jit(per_task)(PARAMS, (X, Y))[1]


def once(tx, grads=None, params=PARAMS):
    """The first update of a transform, and its state."""
    grads = task_grads() if grads is None else grads
    return jax.jit(lambda g: tx.update(g, tx.init(params), params))(grads)


def same(a, b, tolerance=0.0):
    def key(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    a, b = (jax.tree.map(lambda x: np.asarray(key(x)), t) for t in (a, b))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_training_lowers_every_loss_and_draws_anew_at_each_step():
    params, state = reference()
    compiled = jax.jit(per_task)
    before, after = compiled(PARAMS, (X, Y))[0], compiled(params, (X, Y))[0]
    assert (after < before).all()
    assert int(state[0].step) == 3
    keys = [jax.random.fold_in(state[0].key, n) for n in range(8)]
    orders = {tuple(surgery.random_orders(k, K).ravel().tolist()) for k in keys}
    assert len(orders) > 1


def test_scan():
    tx = chain()
    step = train_step(tx)

    def carry(c, _):
        return (step(*c, (X, Y)), surgery.diagnostics(c[1]).conflicts)

    (params, state), conflicts = jax.jit(lambda p: jax.lax.scan(carry, (p, tx.init(p)), length=3))(
        PARAMS
    )
    assert conflicts.shape == (3,)
    same((params, state), reference(), 1e-6)


def test_cond_over_states():
    tx = chain()
    grads = task_grads()

    def maybe(flag, state):
        def go(s):
            return tx.update(grads, s, PARAMS)

        def stay(s):
            return (jax.tree.map(jnp.zeros_like, PARAMS), s)

        return jax.lax.cond(flag, go, stay, state)

    update, state = jax.jit(maybe)(True, tx.init(PARAMS))
    assert int(state[0].step) == 1 and float(jnp.abs(update["w"]).max()) > 0


def test_vmap_over_seeds():
    seeds = jnp.arange(3)

    def run(seed):
        tx = chain(seed=seed)
        step = train_step(tx)

        def body(c, _):
            return (step(*c, (X, Y)), None)

        return jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), length=3)[0]

    params, state = jax.jit(jax.vmap(run))(seeds)
    same(jax.tree.map(lambda x: x[0], (params, state)), reference(), 1e-5)
    assert np.abs(params["w"][1] - params["w"][0]).max() > 1e-6  # other orders


def test_vmap_of_init_and_reseed():
    tx = chain()
    stacked = jax.tree.map(lambda x: jnp.stack([x] * 4), PARAMS)
    states = jax.vmap(tx.init)(stacked)

    def data(s):
        return np.asarray(jax.random.key_data(s[0].key))

    assert len(np.unique(data(states), axis=0)) == 1  # one init, one key: documented
    states = jax.vmap(surgery.reseed)(states, jnp.arange(4))
    assert len(np.unique(data(states), axis=0)) == 4
    params, states = jax.jit(jax.vmap(train_step(tx), (0, 0, None)))(stacked, states, (X, Y))
    assert params["w"].shape == (4, 8, 4) and (states[0].step == 1).all()
    per_seed = jax.vmap(lambda seed: chain(seed=seed).init(PARAMS))(jnp.arange(4))
    assert len(np.unique(data(per_seed), axis=0)) == 4


def test_keys_as_seeds_and_raw_keys():
    key = jax.random.key(5)
    state = surgery_of(seed=key).init(PARAMS)
    assert int(state.step) == 0 and state.key.dtype == jnp.uint32
    np.testing.assert_array_equal(state.key, jax.random.key_data(jax.random.fold_in(key, 0)))
    with pytest.raises(ValueError, match="wrap_key_data"):
        surgery_of(seed=jax.random.key_data(key)).init(PARAMS)


def test_abstract_init():
    tx = chain()
    shapes = jax.eval_shape(tx.init, PARAMS)
    concrete = tx.init(PARAMS)

    def describe(t):
        return jax.tree.map(lambda x: (x.shape, x.dtype), t)

    assert describe(shapes) == describe(concrete)
    from_shapes = tx.init(jax.eval_shape(lambda: PARAMS))
    assert describe(from_shapes) == describe(concrete)


@pytest.mark.parametrize("name", ["pcgrad", "famo"])
def test_donated_state_and_a_second_init(name):
    key = jax.random.key(3)
    for seed in (3, key) if name == "pcgrad" else (3,):
        tx = chain(name, seed)
        step = jax.jit(train_step(tx), donate_argnums=(0, 1))
        outcomes = []
        for _ in range(2):  # the second init comes after the first state was deleted
            params = jax.tree.map(jnp.copy, PARAMS)
            state = tx.init(params)
            first = state
            params, state = step(params, state, (X, Y))
            assert first[0].step.is_deleted()
            params, state = step(params, state, (X, Y))
            outcomes.append((params, state))
        same(*outcomes)
    assert int(jax.random.key_data(key)[1]) == 3  # the caller's key lives


# optax --------------------------------------------------------------------------------------------


def test_partition_with_a_method_for_each_group():
    tx = optax.partition(
        {"shared": surgery_of("pcgrad"), "heads": surgery_of("sum")}, {"w": "shared", "b": "heads"}
    )
    grads = task_grads()
    update, _ = once(tx)
    want, _ = once(surgery_of("pcgrad"), {"w": grads["w"]}, {"w": PARAMS["w"]})
    np.testing.assert_allclose(update["w"], want["w"], rtol=1e-6)
    np.testing.assert_allclose(update["b"], grads["b"].sum(0), rtol=1e-5)


@pytest.mark.parametrize(
    "mask", [{"w": True, "b": False}, lambda p: jax.tree.map(lambda x: x.ndim > 1, p)]
)
def test_mask_leaves_task_specific_leaves_as_the_sum(mask):
    # The callable looks at ndim: it must see parameters, whose b has one axis, in `update` too.
    tx = surgery_of("pcgrad", mask=mask)
    grads = task_grads()
    update, state = once(tx)
    want, _ = once(surgery_of("pcgrad"), {"w": grads["w"]}, {"w": PARAMS["w"]})
    np.testing.assert_allclose(update["w"], want["w"], rtol=1e-6)
    np.testing.assert_allclose(update["b"], grads["b"].sum(0), rtol=1e-5)
    norms = jnp.linalg.norm(grads["w"].reshape(K, -1), axis=1)
    np.testing.assert_allclose(surgery.diagnostics(state).task_norms, norms, rtol=1e-5)
    update, _ = once(surgery_of("pcgrad", mask=False))
    np.testing.assert_allclose(update["w"], grads["w"].sum(0), rtol=1e-5, atol=1e-7)


def test_scopes():
    params = {"params": {"torso": {"w": jnp.zeros(3), "b": jnp.zeros(2)}, "head": jnp.zeros(4)}}
    grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), (K, *x.shape)), params)

    def tx(scope):
        return surgery.imtl_g(num_tasks=K, scope=scope)

    def run(scope, g, p):
        return once(tx(scope), g, p)[0]

    module, leaf = run("module", grads, params)["params"], run("leaf", grads, params)["params"]
    g = grads["params"]
    for name in ("torso", "head"):
        want = run("global", g[name], params["params"][name])
        same(module[name], want, 1e-5)
    same(leaf["head"], module["head"], 1e-5)
    for name in ("w", "b"):
        want = run("global", g["torso"][name], params["params"]["torso"][name])
        np.testing.assert_allclose(leaf["torso"][name], want, rtol=1e-4, atol=1e-5)
        assert np.abs(np.asarray(leaf["torso"][name] - module["torso"][name])).max() > 1e-3


def test_inject_hyperparams():
    grads = task_grads()
    tx = optax.chain(
        optax.inject_hyperparams(surgery.cagrad)(num_tasks=K, c=0.4), optax.scale(-1.0)
    )
    state = tx.init(PARAMS)
    update = jax.jit(tx.update)
    first, state = update(grads, state, PARAMS)
    state[0].hyperparams["c"] = jnp.asarray(0.0)
    second, _ = update(grads, state, PARAMS)
    want, _ = once(surgery_of("cagrad", c=0.4))
    same(first, jax.tree.map(jnp.negative, want), 1e-5)
    same(second, jax.tree.map(lambda g: -g.mean(0), grads), 1e-5)
    scheduled = optax.inject_hyperparams(surgery.cagrad)(
        num_tasks=K, c=optax.linear_schedule(0.4, 0.0, 2)
    )
    state = scheduled.init(PARAMS)
    update = jax.jit(scheduled.update)
    for _ in range(3):
        last, state = update(grads, state, PARAMS)
    same(last, jax.tree.map(lambda g: g.mean(0), grads), 1e-5)
    random = optax.inject_hyperparams(surgery.pcgrad)(num_tasks=K, seed=4)
    update, _ = jax.jit(random.update)(grads, random.init(PARAMS), PARAMS)
    same(update, once(surgery_of(seed=4))[0], 1e-6)
    with pytest.raises(ValueError, match=r"static_args=\('num_tasks',\)"):
        jax.jit(random.init)(PARAMS)
    static = optax.inject_hyperparams(surgery.pcgrad, static_args=("num_tasks",))
    jax.jit(static(num_tasks=K, seed=4).init)(PARAMS)


@pytest.mark.parametrize("name", surgery.METHODS)
def test_every_method_can_have_its_hyperparameters_injected(name):
    tx = optax.inject_hyperparams(surgery.METHODS[name])(num_tasks=K, seed=0)
    state = tx.init(PARAMS)  # numbers, integers too, are traced arrays from here on

    def update(g, s):
        return tx.update(g, s, PARAMS, task_losses=jnp.ones(K))

    out, after = jax.eval_shape(update, task_grads(), state)

    def describe(t):
        return jax.tree.map(lambda x: (x.shape, x.dtype), t)

    assert describe(out) == describe(PARAMS) and describe(after) == describe(state)


def test_multi_steps_and_apply_if_finite_behind_surgery():
    grads = task_grads()
    tx = optax.chain(surgery_of("mgda"), optax.MultiSteps(optax.sgd(1.0), 2))
    state = tx.init(PARAMS)
    step = jax.jit(tx.update)
    nothing, state = step(grads, state, PARAMS)
    assert not nothing["w"].any()
    update, _ = step(grads, state, PARAMS)
    want, _ = once(surgery_of("mgda"))
    same(update, jax.tree.map(jnp.negative, want), 1e-5)

    tx = optax.chain(surgery_of("pcgrad"), optax.apply_if_finite(optax.adam(0.1), 3))
    bad = {**grads, "w": grads["w"].at[1].set(jnp.nan)}
    step = jax.jit(tx.update)
    update, state = step(bad, tx.init(PARAMS), PARAMS)
    assert not update["w"].any() and int(state[1].total_notfinite) == 1
    update, _ = step(grads, state, PARAMS)
    assert np.isfinite(update["w"]).all() and update["w"].any()


def test_around_surgery_they_fail_and_both_shapes_are_named():
    """`MultiSteps` hands over leaves without a task axis, which is told; the others choose between
    our update and their input under `lax.cond`, which names the two shapes (the guide says where
    to put them)."""
    grads = task_grads()
    inner = optax.chain(surgery_of("pcgrad"), optax.adam(0.1))

    def always(*_, **__):
        return jnp.array(True)

    both = r"float32\[8,4\].*float32\[3,8,4\]"
    wrong = {
        r"optax\.chain\(surgery, optax\.MultiSteps\(": optax.MultiSteps(inner, 2),
        both: optax.apply_if_finite(inner, 3),
        f"(?s){both}": optax.conditionally_transform(inner, always),
    }
    for message, tx in wrong.items():
        for wrap in (lambda f: f, jax.jit):
            with pytest.raises((ValueError, TypeError), match=message):
                wrap(tx.update)(grads, tx.init(PARAMS), PARAMS)


def test_accumulating_task_gradients_before_surgery():
    # MultiSteps made for parameters *with* the task axis holds what surgery needs.
    tx = optax.MultiSteps(surgery_of("mgda"), 2)
    state = tx.init(jax.tree.map(lambda x: jnp.broadcast_to(x, (K, *x.shape)), PARAMS))
    compiled, step = jax.jit(per_task), jax.jit(tx.update)
    a, b = (compiled(PARAMS, (X[:, i::2], Y[:, i::2]))[1] for i in (0, 1))
    _, state = step(a, state)
    update, _ = step(b, state)
    mean = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
    want, _ = once(surgery_of("mgda"), mean)
    same(update, want, 1e-5)


def test_as_an_aggregator_of_optax():
    aggregating = optax.experimental.aggregating
    pre = optax.with_extra_args_support(optax.identity())
    tx = aggregating.process(pre, surgery_of("mgda"), optax.sgd(1.0))
    update, _ = once(tx)
    want, _ = once(surgery_of("mgda"))
    same(update, jax.tree.map(jnp.negative, want), 1e-6)


def test_tree_utilities_of_optax_find_the_state():
    tx = chain()
    state = tx.init(PARAMS)
    assert optax.tree.get(state, "record").gram.shape == (1, K, K)
    doubled = optax.tree.map_params(tx, lambda x: x + 1.0, state)
    assert doubled[0].record.gram.shape == (1, K, K)
