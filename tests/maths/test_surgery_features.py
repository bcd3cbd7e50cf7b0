"""Surgery at shared features, against gradients of the parameters taken the long way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtrl_jax import surgery

K, B, F = 3, 6, 4
X = jax.random.normal(jax.random.key(0), (B, 5))
TARGETS = jax.random.normal(jax.random.key(1), (K, B))
SHARED = {"w": jax.random.normal(jax.random.key(2), (5, F)), "b": jnp.zeros(F)}
HEADS = jax.random.normal(jax.random.key(3), (K, F))


def torso(shared, x):
    return jnp.tanh(x @ shared["w"] + shared["b"][None])


def loss(head, z, target):
    return jnp.mean((z @ head - target) ** 2)


def update(method, heads=HEADS, targets=TARGETS):
    tx = method(num_tasks=K)

    @jax.jit
    def step(shared, heads):
        out = surgery.feature_value_and_grad(torso, loss)(shared, heads, X, targets)
        z_update, _ = tx.update(out.by_features, tx.init(out.features), out.features)
        return out._replace(backward=()), z_update, out.backward(z_update)

    return step(SHARED, heads)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_a_linear_method_gives_the_gradient_of_the_whole(reduce):
    out, _, grads = update(surgery.METHODS[reduce])

    def whole(shared, heads):
        each = jnp.stack([loss(heads[k], torso(shared, X), TARGETS[k]) for k in range(K)])
        return getattr(each, reduce)(), each

    (by_shared, by_heads), each = jax.grad(whole, argnums=(0, 1), has_aux=True)(SHARED, HEADS)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), grads, by_shared)
    scale = 1.0 if reduce == "sum" else K
    np.testing.assert_allclose(out.by_task, by_heads * scale, rtol=1e-4)
    np.testing.assert_allclose(out.losses, each, rtol=1e-5)


def test_the_update_conflicts_with_no_task_at_the_features():
    heads = HEADS.at[1].set(-3.0 * HEADS[0])  # tasks 0 and 1 want the features on opposite sides
    out, z_update, _ = update(surgery.upgrad, heads, TARGETS.at[:2].set(5.0))
    products = np.einsum("kbf,bf->k", out.by_features, z_update)
    assert (products > -1e-5 * np.abs(out.by_features).max() ** 2).all()
    plain = np.einsum("kbf,bf->k", out.by_features, out.by_features.sum(0))
    assert plain.min() < 0  # so that there was something to mend


def test_it_trains_torso_and_heads():
    tx = optax.chain(surgery.pcgrad(num_tasks=K), optax.identity())
    adam = optax.adam(3e-2)
    z = jax.eval_shape(torso, SHARED, X)
    state = (tx.init(z), adam.init((SHARED, HEADS)))

    @jax.jit
    def step(params, state):
        out = surgery.feature_value_and_grad(torso, loss)(*params, X, TARGETS)
        z_update, surgery_state = tx.update(out.by_features, state[0], out.features)
        grads = (out.backward(z_update), out.by_task)
        updates, adam_state = adam.update(grads, state[1], params)
        return optax.apply_updates(params, updates), (surgery_state, adam_state), out.losses

    params, losses = (SHARED, HEADS), []
    for _ in range(200):
        params, state, each = step(params, state)
        losses.append(each)
    assert (losses[-1] < 0.1 * losses[0]).all()
