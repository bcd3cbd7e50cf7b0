"""One accumulator from input to output, and a state whose dtypes the parameters decide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import surgery
from tests.machinery import tiny

HALVES = [jnp.float16, jnp.bfloat16]


@pytest.mark.parametrize("name", ["sum", "pcgrad", "upgrad", "graddrop", "uncertainty_weighting"])
@pytest.mark.parametrize("k", [3, 20])  # both paths of narrow gradients
def test_float16_gradients_may_add_up_to_more_than_float16_holds(name, k):
    tx = surgery.METHODS[name](num_tasks=k)
    params = jnp.zeros(2)
    update, _ = jax.jit(tx.update)(
        jnp.full((k, 2), 6e4, jnp.float16), tx.init(params), params, task_losses=jnp.ones(k)
    )
    scale = {"upgrad": 1.0, "uncertainty_weighting": 0.5 * k}.get(name, k)
    np.testing.assert_allclose(update, np.full(2, scale * float(np.float16(6e4))), rtol=1e-5)


@pytest.mark.parametrize("k", [3, 20])
def test_bfloat16_is_rounded_once(k):
    grads = (
        jnp.zeros((k, 2), jnp.bfloat16)
        .at[:3]
        .set(jnp.asarray([[256.0, 1.0], [1.0, 1.0], [0.0, 1.0]], jnp.bfloat16))
    )
    params = {"shared": jnp.zeros(2), "head": jnp.zeros(2)}
    tx = surgery.sum(num_tasks=k, mask={"shared": True, "head": False})
    update, _ = jax.jit(tx.update)({"shared": grads, "head": grads}, tx.init(params), params)
    for leaf in update.values():
        np.testing.assert_array_equal(leaf, [257.0, 3.0])
    like = {"shared": jnp.zeros(2, jnp.float16), "head": params["head"]}
    update = surgery.weighted_sum(jnp.ones(k), {"shared": grads, "head": grads}, like)
    assert (update["shared"].dtype, update["head"].dtype) == (jnp.float16, jnp.float32)


@pytest.mark.parametrize("name", tiny.quick_methods(surgery.METHODS))
def test_float64_all_the_way(name):
    """At 1e-25 and 1e25 the squares of gradients leave float32's range."""
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(3, 5))
    with jax.enable_x64(True):
        params = jnp.zeros(5, jnp.float64)
        options = {"epsilon": 1e-60} if name == "m_config" else {}  # its square is of order 1e-50
        tx = surgery.METHODS[name](num_tasks=3, diagnostics=True, **options)
        update = jax.jit(lambda g, s: tx.update(g, s, params, task_losses=jnp.ones(3)))
        directions = []
        for scale in (1e-25, 1.0, 1e25):
            state = tx.init(params)
            out, after = update(jnp.asarray(jacobian * scale), state)
            assert out.dtype == jnp.float64 and after.record.gram.dtype == jnp.float64
            for a, b in zip(*map(jax.tree.leaves, (after, state)), strict=True):
                assert a.dtype == b.dtype and a.shape == b.shape
                assert a.dtype in (jnp.float64, jnp.int32, jnp.uint32, jnp.bool_)
            gram = np.asarray(after.record.gram[0])
            if name not in ("db_mtl", "moco", "m_config"):  # that of running means
                np.testing.assert_allclose(gram, jacobian @ jacobian.T * scale**2, rtol=1e-12)
            directions.append(np.asarray(out) / np.linalg.norm(out))
        np.testing.assert_allclose(directions[0], directions[1], atol=1e-4)
        np.testing.assert_allclose(directions[2], directions[1], atol=1e-4)


@pytest.mark.parametrize("name", ["gradvac", "famo", "gradnorm", "nash_mtl", "dwa"])
def test_the_state_keeps_its_dtypes_under_scan_whatever_the_gradients_are(name):
    with jax.enable_x64(True):
        for params, grads in ((jnp.float32, jnp.float64), (jnp.float64, jnp.float32)):
            tx = surgery.METHODS[name](num_tasks=3, diagnostics=True)
            like = jnp.zeros(5, params)
            g = jax.random.normal(jax.random.key(0), (3, 5), grads)

            def body(state, _, tx=tx, like=like, g=g):
                update, state = tx.update(g, state, like, task_losses=jnp.ones(3))
                return state, update

            state, updates = jax.jit(lambda s, body=body: jax.lax.scan(body, s, length=2))(
                tx.init(like)
            )
            assert updates.dtype == params and np.isfinite(updates).all()
            assert state.record.gram.dtype == params == state.weights.dtype


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", surgery.METHODS)
def test_init_with_half_precision_parameters(name, dtype):
    tx = surgery.METHODS[name](num_tasks=2, diagnostics=True)
    state = tx.init({"w": jnp.zeros(3, dtype)})
    for leaf in jax.tree.leaves(state):
        assert leaf.dtype in (jnp.float32, jnp.int32, jnp.uint32, jnp.bool_)


def test_leaves_of_two_dtypes_share_the_wider_gram_matrix():
    with jax.enable_x64(True):
        grads = {"a": jnp.full((2, 1), 1e-25, jnp.float32), "b": jnp.full((2, 1), 1e-25)}
        params = jax.tree.map(lambda g: g[0], grads)
        tx = surgery.pcgrad(num_tasks=2)
        _, state = tx.update(grads, tx.init(params), params)
        np.testing.assert_allclose(state.record.gram, np.full((1, 2, 2), 2e-50), rtol=1e-6)
