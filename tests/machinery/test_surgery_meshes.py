"""Surgery on explicit meshes (what `jax.make_mesh` builds), with sharded parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import P

from mtrl_jax import surgery
from tests.machinery import tiny

K = 3
SHAPES = {"w": (8, 6), "b": (6,), "stack": (2, 8, 3)}
SPECS = {"w": P("d"), "b": P(), "stack": P(None, "d")}
RNG = np.random.default_rng(0)
PARAMS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
GRADS = {name: RNG.normal(size=(K, *s)).astype(np.float32) for name, s in SHAPES.items()}
LOSSES = jnp.array([1.0, 2.0, 3.0])


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def sharded(tree, lead=()):
    return {n: jax.device_put(x, P(*lead, *SPECS[n])) for n, x in tree.items()}


def two_updates(tx, params, grads, **more):
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, task_losses=LOSSES, **more))
    _, state = update(grads, tx.init(params), params)
    return update(grads, state, params)


def agree(got, want):
    for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("name", ["pcgrad", "graddrop", "upgrad", "famo", "mean"])
def test_it_is_the_update_of_one_device(name, devices):
    tx = surgery.METHODS[name](num_tasks=K, seed=0)
    mesh = jax.make_mesh((devices,), ("d",), devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        updates, state = two_updates(tx, sharded(PARAMS), sharded(GRADS, (None,)))
    for leaf, update in updates.items():
        want = jax.NamedSharding(mesh, SPECS[leaf])
        assert update.sharding.is_equivalent_to(want, update.ndim), leaf
    if name != "graddrop":  # its draws are of each coordinate, and not those of one device
        agree((updates, state), two_updates(tx, PARAMS, GRADS))


def test_groups_masks_curvature_and_absent_tasks():
    tx = surgery.pcgrad(
        num_tasks=K,
        scope="leaf",
        mask={"w": True, "b": False, "stack": True},
        diagnostics="curvature",
    )
    present = jnp.array([True, False, True])
    with jax.set_mesh(jax.make_mesh((2,), ("d",), devices=jax.devices()[:2])):
        got = two_updates(tx, sharded(PARAMS), sharded(GRADS, (None,)), present=present)
        assert got[1].curvature.grads["w"].sharding.spec == P("d", None)
    agree(got, two_updates(tx, PARAMS, GRADS, present=present))


def test_a_whole_step_trains():
    """Per-task gradients, surgery, clip and adam, every type explicit."""
    x = jnp.asarray(RNG.normal(size=(K, 16, 8)), jnp.float32)
    tx = optax.chain(
        surgery.pcgrad(num_tasks=K, seed=0), optax.clip_by_global_norm(1.0), optax.adam(1e-2)
    )

    def loss(params, x):
        hidden = jnp.einsum("ni,ij->nj", x, params["w"], out_sharding=P(None, None))
        return jnp.mean((hidden + params["b"][None] - 1.0) ** 2)

    def alone(params, x):
        return jnp.mean((x @ params["w"] + params["b"][None] - 1.0) ** 2)

    @jax.jit
    def step(params, state):
        losses, grads = surgery.per_task_value_and_grad(loss)(params, x)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, losses

    params = {name: PARAMS[name] for name in ("w", "b")}
    with jax.set_mesh(jax.make_mesh((2,), ("d",), devices=jax.devices()[:2])):
        on_mesh = sharded(params)
        state = tx.init(on_mesh)
        for _ in range(5):
            on_mesh, state, losses = step(on_mesh, state)
        assert on_mesh["w"].sharding.spec == P("d", None)
    plain, plain_state = params, tx.init(params)
    for _ in range(5):
        plain_losses, grads = surgery.per_task_value_and_grad(alone)(plain, x)
        updates, plain_state = tx.update(grads, plain_state, plain)
        plain = optax.apply_updates(plain, updates)
    agree((on_mesh, losses), (plain, plain_losses))
