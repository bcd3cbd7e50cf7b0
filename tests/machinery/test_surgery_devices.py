"""Surgery on several devices: pmap and shard_map, data sharded and parameters sharded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import P

from mtrl_jax import surgery
from tests.machinery import tiny
from tests.machinery.test_surgery_transforms import (
    PARAMS,
    K,
    X,
    Y,
    chain,
    once,
    per_task,
    reference,
    same,
    surgery_of,
    task_grads,
)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def data_parallel(params, state, batch, tx):
    losses, grads = per_task(params, batch)
    grads = jax.lax.pmean(grads, "device")  # the surgery of a mean, not the mean of surgeries
    updates, state = tx.update(grads, state, params, task_losses=losses)
    return optax.apply_updates(params, updates), state


def test_pmap_data_parallel_equals_one_device():
    devices = 8
    tx = chain()
    step = jax.pmap(
        functools.partial(data_parallel, tx=tx), axis_name="device", devices=jax.devices()[:devices]
    )

    def replicate(t):
        return jax.tree.map(lambda x: jnp.stack([x] * devices), t)

    def split(x):
        return x.reshape(K, devices, -1, *x.shape[2:]).swapaxes(0, 1)

    params, state = replicate(PARAMS), replicate(tx.init(PARAMS))
    for _ in range(3):
        params, state = jax.block_until_ready(step(params, state, (split(X), split(Y))))
    want = reference()
    for d in (0, devices - 1):
        same(jax.tree.map(lambda x: x[d], params), want[0], 1e-5)  # noqa: B023
    np.testing.assert_array_equal(params["w"][0], params["w"][-1])  # replicas agree exactly


def test_mean_of_surgeries_is_another_algorithm():
    # The comparison above has teeth: surgery before the mean is far off.
    compiled = jax.jit(per_task)
    halves = [compiled(PARAMS, (X[:, i::2], Y[:, i::2]))[1] for i in (0, 1)]
    tx = surgery_of()
    update = jax.jit(lambda g: tx.update(g, tx.init(PARAMS))[0])
    right = update(jax.tree.map(lambda a, b: (a + b) / 2, *halves))
    wrong = [update(h)["w"] for h in halves]
    difference = np.linalg.norm(right["w"] - (wrong[0] + wrong[1]) / 2)
    assert difference > 0.01 * np.linalg.norm(right["w"])


def mesh(n=4):
    return jax.sharding.Mesh(np.array(jax.devices()[:n]), ("device",))


def test_shard_map_data_parallel_equals_one_device():
    tx = chain()

    def each(params, state, batch):
        # Of replicated parameters the gradients would be sums over devices already.
        own = jax.lax.pcast(params, "device", to="varying")
        losses, grads = jax.lax.pmean(per_task(own, batch), "device")
        updates, state = tx.update(grads, state, params, task_losses=losses)
        return optax.apply_updates(params, updates), state

    specs = (P(), P(), P(None, "device"))
    step = jax.jit(jax.shard_map(each, mesh=mesh(), in_specs=specs, out_specs=P()))
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(3):
        params, state = jax.block_until_ready(step(params, state, (X, Y)))
    same(params, reference()[0], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scope"), [("pcgrad", "leaf"), ("cagrad", "global")])
def test_shard_map_with_sharded_parameters(name, scope):
    """`w` is sharded over devices, `b` is held by all: partial Gram matrices are summed, b once."""
    grads = task_grads()
    want, want_state = once(surgery_of(name, scope=scope))
    tx = surgery_of(name, scope=scope, axis_name="device", replicated={"w": False, "b": True})
    leaves = {"w": P(None, "device"), "b": P()}
    update = jax.shard_map(
        lambda g, s: tx.update(g, s),
        mesh=mesh(),
        in_specs=(leaves, P()),
        out_specs=({"w": P("device"), "b": P()}, P()),
    )
    got, state = jax.jit(update)(grads, tx.init(PARAMS))
    same(got, want, 1e-5)
    same(surgery.diagnostics(state), surgery.diagnostics(want_state), 1e-4)


@pytest.mark.parametrize("name", ["pcgrad", "gradvac", "cagrad", "nash_mtl"])
def test_data_that_differs_over_devices(name):
    """Seeds or parts on devices of their own: loops over K x K numbers pass the check of
    `shard_map`."""
    tx = surgery_of(name)
    grads = jax.random.normal(jax.random.key(0), (2, K, 6))
    each = jax.shard_map(
        lambda g: tx.update(g[0], tx.init(g[0, 0]))[0][None],
        mesh=mesh(2),
        in_specs=P("device"),
        out_specs=P("device"),
    )
    got = jax.jit(each)(grads)
    want, _ = once(tx, grads[1], grads[1, 0])
    np.testing.assert_allclose(got[1], want, rtol=1e-4, atol=1e-5)


def test_shards_that_decide_alone_are_wrong():
    # The comparison above has teeth.
    tx = surgery_of("pcgrad", diagnostics=False)
    alone = jax.shard_map(
        lambda g, s: tx.update(g, s)[0],
        mesh=mesh(),
        in_specs=(P(None, "device"), P()),
        out_specs=P("device"),
    )
    wrong = jax.jit(alone)(task_grads()["w"], tx.init(PARAMS["w"]))
    want, _ = once(tx, task_grads()["w"], PARAMS["w"])
    assert np.linalg.norm(wrong - want) > 1e-3 * np.linalg.norm(want)


def test_long_shards_in_pmap_and_shard_map():
    """More columns than the blocks of the Gram matrix, which then loops inside the mapped
    function."""
    size = 4 * 20_000
    grads = jax.random.normal(jax.random.key(0), (2, size))
    grads = grads.at[1].add(-0.5 * grads[0])
    want, _ = once(surgery.pcgrad(num_tasks=2, diagnostics=False), grads, jnp.zeros(size))
    tx = surgery.pcgrad(num_tasks=2, axis_name="device", diagnostics=False)
    sharded = jax.shard_map(
        lambda g, s: tx.update(g, s)[0],
        mesh=mesh(),
        in_specs=(P(None, "device"), P()),
        out_specs=P("device"),
    )
    got = jax.jit(sharded)(grads, tx.init(jnp.zeros(size)))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    state = tx.init(jnp.zeros(size))
    mapped = jax.pmap(
        lambda g: tx.update(g, state)[0], axis_name="device", devices=jax.devices()[:4]
    )
    got = mapped(grads.reshape(2, 4, -1).swapaxes(0, 1))
    np.testing.assert_allclose(got.reshape(-1), want, rtol=1e-4, atol=1e-5)


def test_graddrop_norm_of_sharded_parameters():
    grads = task_grads()
    tx = surgery_of(
        "graddrop", diagnostics=True, axis_name="device", replicated={"w": False, "b": True}
    )
    update = jax.shard_map(
        lambda g, s: tx.update(g, s),
        mesh=mesh(),
        in_specs=({"w": P(None, "device"), "b": P()}, P()),
        out_specs=({"w": P("device"), "b": P()}, P()),
    )
    got, state = jax.jit(update)(grads, tx.init(PARAMS))
    norm = np.sqrt(sum(float(jnp.sum(x**2)) for x in got.values()))
    np.testing.assert_allclose(surgery.diagnostics(state).norm_after, norm, rtol=1e-5)
