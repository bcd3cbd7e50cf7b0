"""The drop-in, in the loops of other libraries: each reproduces the hand-written loop."""

import functools

import equinox as eqx
import flax.linen as nn
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from mtrl_jax import surgery
from tests.machinery import tiny


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


K, STEPS = 3, 3
X = jax.random.normal(jax.random.key(0), (K, 16, 4))
Y = jax.random.normal(jax.random.key(1), (K, 16, 2))
KERNEL = jax.random.normal(jax.random.key(2), (4, 2)) * 0.3


def transform():
    tx = surgery.pcgrad(num_tasks=K, seed=0)
    return optax.chain(tx, optax.clip_by_global_norm(1.0), optax.adam(1e-2))


def squared(prediction, y):
    return jnp.mean((jnp.tanh(prediction) - y) ** 2)


@functools.cache
def by_hand():
    """Kernel and bias after three steps of the plain loop, and the number of conflicts at the
    last."""
    tx, params = transform(), {"kernel": KERNEL, "bias": jnp.zeros(2)}

    def loss(p, batch):
        return squared(batch[0] @ p["kernel"] + p["bias"][None], batch[1])

    @jax.jit
    def step(params, state):
        _, grads = surgery.per_task_value_and_grad(loss)(params, (X, Y))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    return np.asarray(params["kernel"]), np.asarray(params["bias"]), surgery.diagnostics(state)


def agrees(kernel, bias, opt_state):
    want = by_hand()
    np.testing.assert_allclose(kernel, want[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bias, want[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        surgery.diagnostics(opt_state).task_norms, want[2].task_norms, rtol=1e-4
    )


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x)


def test_flax_linen_train_state():
    model = Linear()
    params = {"Dense_0": {"kernel": KERNEL, "bias": jnp.zeros(2)}}
    state = flax.training.train_state.TrainState.create(
        apply_fn=model.apply, params=params, tx=transform()
    )

    @jax.jit
    def step(state):
        def loss(p, batch):
            return squared(state.apply_fn({"params": p}, batch[0]), batch[1])

        _, grads = surgery.per_task_value_and_grad(loss)(state.params, (X, Y))
        return state.apply_gradients(grads=grads)

    for _ in range(STEPS):
        state = step(state)
    agrees(*(state.params["Dense_0"][name] for name in ("kernel", "bias")), state.opt_state)


def test_flax_nnx_optimizer():
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    model.kernel[...] = KERNEL
    optimizer = nnx.Optimizer(model, transform(), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        graph, params = nnx.split(model, nnx.Param)

        def loss(p, batch):
            return squared(nnx.merge(graph, p)(batch[0]), batch[1])

        _, grads = surgery.per_task_value_and_grad(loss)(params, (X, Y))
        optimizer.update(model, grads)

    for _ in range(STEPS):
        step(model, optimizer)
    agrees(model.kernel[...], model.bias[...], optimizer.opt_state)


def test_equinox():
    model = eqx.nn.Linear(4, 2, key=jax.random.key(0))
    model = eqx.tree_at(lambda m: (m.weight, m.bias), model, (KERNEL.T, jnp.zeros(2)))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    tx = transform()

    def loss(p, batch):
        return squared(jax.vmap(eqx.combine(p, static))(batch[0]), batch[1])

    @eqx.filter_jit
    def step(params, state):
        _, grads = surgery.per_task_value_and_grad(loss)(params, (X, Y))
        updates, state = tx.update(grads, state, params)
        return eqx.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    agrees(params.weight.T, params.bias, state)


def test_equinox_modules_as_scopes():
    model = eqx.nn.MLP(4, 2, 3, depth=1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    state = surgery.pcgrad(num_tasks=K, scope="module").init(params)
    assert state.record.gram.shape == (2, K, K)  # two layers
    state = surgery.pcgrad(num_tasks=K, scope="leaf").init(params)
    assert state.record.gram.shape == (4, K, K)


def test_orbax_save_and_restore_in_mid_training(tmp_path):
    """Restored, the run draws the orders and keeps the running means of the uninterrupted one."""
    tx = optax.chain(surgery.gradvac(num_tasks=K, seed=3, beta=0.5), optax.adam(1e-2))
    params = {"kernel": KERNEL, "bias": jnp.zeros(2)}

    def loss(p, batch):
        return squared(batch[0] @ p["kernel"] + p["bias"][None], batch[1])

    @jax.jit
    def step(params, state):
        _, grads = surgery.per_task_value_and_grad(loss)(params, (X, Y))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    both = (params, tx.init(params))
    for _ in range(2):
        both = step(*both)
    with ocp.CheckpointManager((tmp_path / "run").absolute()) as manager:
        manager.save(2, args=ocp.args.StandardSave(both))
        manager.wait_until_finished()
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one),
            jax.eval_shape(lambda p: (p, tx.init(p)), params),
        )
        restored = manager.restore(2, args=ocp.args.StandardRestore(target))
    assert isinstance(restored[1][0], surgery.SurgeryState)
    for _ in range(2):
        both, restored = step(*both), step(*restored)

    def data(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    for a, b in zip(*map(jax.tree.leaves, (both, restored)), strict=True):
        np.testing.assert_array_equal(data(a), data(b))
