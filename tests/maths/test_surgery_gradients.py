"""Per-task losses and gradients against jax.grad in a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import surgery

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2), "b": jnp.zeros(2)}
X = jax.random.normal(jax.random.key(0), (4, 5, 3))
Y = jax.random.normal(jax.random.key(1), (4, 5, 2))


def loss(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w"] + params["b"][None]) - y) ** 2)


def loop(fn, params, batches):
    value_and_grad = jax.jit(jax.value_and_grad(fn))
    return [value_and_grad(params, tuple(x[k] for x in batches)) for k in range(4)]


@pytest.mark.parametrize("method", ["vmap", "map"])
def test_one_loss(method):
    losses, grads = jax.jit(surgery.per_task_value_and_grad(loss, method=method))(PARAMS, (X, Y))
    assert losses.shape == (4,) and grads["w"].shape == (4, 3, 2)
    for k, (value, grad) in enumerate(loop(loss, PARAMS, (X, Y))):
        np.testing.assert_allclose(losses[k], value, rtol=1e-5)
        for name in grads:
            np.testing.assert_allclose(grads[name][k], grad[name], rtol=1e-4)


def test_aux_argnums_and_more_arguments():
    def with_aux(scale, params, batch, weight):
        value = weight * scale * loss(params, batch)
        return value, {"half": value / 2}

    fn = surgery.per_task_value_and_grad(with_aux, has_aux=True, argnums=(0, 1))
    (losses, aux), (by_scale, grads) = fn(2.0, PARAMS, (X, Y), jnp.arange(4.0))
    np.testing.assert_allclose(aux["half"], losses / 2)
    np.testing.assert_allclose(by_scale, losses / 2, rtol=1e-5)
    single = jax.grad(loss)(PARAMS, (X[3], Y[3]))
    np.testing.assert_allclose(grads["w"][3], 6 * single["w"], rtol=1e-4)


def test_different_losses_with_batches_of_different_shapes():
    def absolute(params, batch):
        return jnp.mean(jnp.abs(batch @ params["w"]))

    fns = [loss, absolute, lambda params, target: jnp.sum((params["b"] - target) ** 2)]
    batches = [(X[0], Y[0]), X[1, :2], 3.0]
    losses, grads = jax.jit(surgery.per_task_value_and_grad(losses=fns))(PARAMS, batches)
    assert losses.shape == (3,) and grads["b"].shape == (3, 2)
    for k, (fn, batch) in enumerate(zip(fns, batches, strict=True)):
        value, grad = jax.value_and_grad(fn)(PARAMS, batch)
        np.testing.assert_allclose(losses[k], value, rtol=1e-5)
        np.testing.assert_allclose(grads["w"][k], grad["w"], rtol=1e-4, atol=1e-7)
    aux = surgery.per_task_value_and_grad(
        losses=[lambda p, b: (loss(p, b), 1), lambda p, b: (loss(p, b), "b")], has_aux=True
    )
    (_, extras), _ = aux(PARAMS, [(X[0], Y[0]), (X[1], Y[1])])
    assert extras == [1, "b"]


def test_wrong_use():
    fn = surgery.per_task_value_and_grad(loss)
    with pytest.raises(ValueError, match=r"batch 0\[1\] has shape \(3, 5, 2\).*leads with 4 tasks"):
        fn(PARAMS, (X, Y[:3]))
    with pytest.raises(ValueError, match=r"batch 0 is a scalar"):
        fn(PARAMS, 1.0)
    with pytest.raises(ValueError, match="no per-task argument"):
        fn(PARAMS)
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(5,\)"):
        surgery.per_task_value_and_grad(lambda p, b: b[0] @ p["w"][:, 0])(PARAMS, (X, Y))
    with pytest.raises(ValueError, match="either one loss_fn or losses"):
        surgery.per_task_value_and_grad(loss, losses=[loss])
    with pytest.raises(ValueError, match="method must be one of 'vmap', 'map', got 'jacrev'"):
        surgery.per_task_value_and_grad(loss, method="jacrev")
    two = surgery.per_task_value_and_grad(losses=[loss, loss])
    with pytest.raises(ValueError, match=r"argument 1 must be a list of 2.*got tuple of 2"):
        two(PARAMS, (X, Y))
    with pytest.raises(ValueError, match=r"must be a list of 2.*got list of 3"):
        two(PARAMS, [X, X, X])
