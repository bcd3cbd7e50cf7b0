"""Differentiating through an update: which methods can be reversed, against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import surgery

G = jnp.asarray(np.random.default_rng(3).normal(size=(3, 7)), jnp.float32)
DIRECTION = jnp.asarray(np.random.default_rng(4).normal(size=(3, 7)), jnp.float32)


def along(name):
    tx = surgery.METHODS[name](num_tasks=3, seed=0)
    state = tx.init(G[0])
    return lambda t: jnp.sum(jnp.sin(tx.update(G + t * DIRECTION, state, G[0])[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean", "sum", "pcgrad", "gradvac", "imtl_g", "config"])
def test_methods_without_a_loop_can_be_reversed(name):
    f = along(name)
    h = 1e-3
    difference = (f(h) - f(-h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(f)(0.0), difference, rtol=2e-2, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["upgrad", "mgda"])
def test_methods_with_one_go_forward_only(name):
    f = along(name)
    assert jnp.isfinite(jax.jvp(f, (0.0,), (1.0,))[1])
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(f)(0.0)
