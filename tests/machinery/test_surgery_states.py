"""States are trees of plain arrays, which generic code can walk, write and read."""

import io

import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtrl_jax import surgery
from tests.machinery import tiny

PARAMS = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(2)}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def states(name):
    """A state after an update, and one before it, with everything that can be recorded."""
    tx = surgery.METHODS[name](num_tasks=2, diagnostics="curvature", seed=3)
    grads = jax.tree.map(lambda x: jnp.stack([x + 1.0, x - 0.5]), PARAMS)
    before = tx.init(PARAMS)
    return jax.jit(tx.update)(grads, before, PARAMS, task_losses=jnp.ones(2))[1], before


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", tiny.quick_methods(surgery.METHODS))
def test_written_and_read_by_generic_code(name):
    state, blank = states(name)
    same(flax.serialization.from_bytes(blank, flax.serialization.to_bytes(state)), state)

    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, state)
    file.seek(0)
    same(eqx.tree_deserialise_leaves(file, blank), state)

    file = io.BytesIO()
    np.savez(file, *jax.tree.leaves(state))
    file.seek(0)
    with np.load(file) as arrays:
        same(jax.tree.unflatten(jax.tree.structure(blank), list(arrays.values())), state)

    assert np.isfinite(optax.tree.norm(state))
    assert {x.dtype for x in jax.tree.leaves(optax.tree.cast(state, jnp.float32))}


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_are_data_and_draw_as_the_typed_key_does(impl):
    seed = jax.random.key(5, impl=impl)
    tx = surgery.random_weighting(num_tasks=3, seed=seed, diagnostics=True)
    state = tx.init(jnp.zeros(1))
    assert state.key.dtype == jnp.uint32
    _, after = jax.jit(tx.update)(jnp.eye(3)[..., None][:, 0], state)
    key = jax.random.fold_in(jax.random.fold_in(seed, 0), 0)
    want = surgery.random_weights(key, 3)
    np.testing.assert_allclose(surgery.diagnostics(after).weights, want, rtol=1e-6)
    again = surgery.reseed(after, jax.random.key(6, impl=impl))
    assert (again.key != after.key).any() and again.key.shape == after.key.shape
    jax.jit(tx.update)(jnp.eye(3)[..., None][:, 0], again)


def test_reseeding_with_another_kind_of_key():
    state = surgery.pcgrad(num_tasks=2).init(PARAMS)
    with pytest.raises(ValueError, match="of the kind that the state holds"):
        surgery.reseed(state, jax.random.key(0, impl="rbg"))


def test_a_state_made_for_other_groups_is_refused():
    tx = surgery.gradvac(num_tasks=2, scope="leaf")
    more = {**PARAMS, "c": jnp.zeros(1)}
    grads = jax.tree.map(lambda x: jnp.stack([x, x]), more)
    with pytest.raises(ValueError, match="remembers 2 groups of leaves, but the gradients have 3"):
        tx.update(grads, tx.init(PARAMS), more)
