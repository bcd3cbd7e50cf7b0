"""Recipes of the guide for models with statistics and dropout, and for methods that need losses."""

import flax.linen as nn
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mtrl_jax import surgery
from tests.machinery import tiny


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


K = 3
X = jax.random.normal(jax.random.key(0), (K, 16, 4)) + jnp.arange(float(K))[:, None, None]
Y = jax.random.normal(jax.random.key(1), (K, 16, 2))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(0.5)
        self.out = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x, key):
        return self.out(self.drop(nnx.relu(self.norm(self.dense(x))), rngs=nnx.Rngs(dropout=key)))


def test_nnx_with_batch_norm_and_dropout():
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(
        model, optax.chain(surgery.pcgrad(num_tasks=K), optax.adam(1e-2)), wrt=nnx.Param
    )
    kernel = np.asarray(model.dense.kernel[...])

    @nnx.jit
    def step(model, optimizer, key):
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def loss(params, batch, key, rest):
            net = nnx.merge(graph, params, rest, copy=True)  # its statistics are written to
            value = jnp.mean((net(batch[0], key) - batch[1]) ** 2)
            return value, nnx.state(net, nnx.BatchStat)

        per_task = surgery.per_task_value_and_grad(
            loss, has_aux=True, in_axes=(None, 0, None, None), keys=2
        )
        (losses, statistics), grads = per_task(params, (X, Y), key, rest)
        optimizer.update(model, grads)
        nnx.update(model, jax.tree.map(lambda s: s.mean(0), statistics))
        return losses, grads

    key = jax.random.key(5)
    losses, grads = step(model, optimizer, key)
    # One step of a running mean from 0, over the batches of all tasks.
    hidden = np.asarray(X) @ kernel
    np.testing.assert_allclose(model.norm.mean[...], 0.1 * hidden.mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(
        model.norm.var[...], 0.9 + 0.1 * hidden.var(1).mean(0), rtol=1e-4, atol=1e-5
    )
    assert losses.shape == (K,) and grads["out"]["kernel"].shape == (K, 8, 2)

    # Dropout: the same batch in every task, and still other gradients.
    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)

    def one(params, x, key):
        return jnp.mean(nnx.merge(graph, params, rest, copy=True)(x, key) ** 2)

    same = jnp.broadcast_to(X[:1], X.shape)
    values, _ = surgery.per_task_value_and_grad(one, keys=2)(params, same, key)
    assert len(np.unique(np.asarray(values))) == K


@pytest.mark.parametrize(
    "name",
    [
        "famo",
        "gradnorm",
        "dwa",
        "uncertainty_weighting",
        "imtl_l",
        "stch",
        "go4align",
        "db_mtl",
        "moco",
    ],
)
def test_a_train_state_with_a_method_that_needs_losses(name):
    model = nn.Dense(2)
    tx = optax.chain(surgery.METHODS[name](num_tasks=K), optax.adam(1e-2))
    params = model.init(jax.random.key(2), X[0])
    start = flax.training.train_state.TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    def loss(params, batch):
        return jnp.mean((model.apply(params, batch[0]) - batch[1]) ** 2)

    losses, grads = surgery.per_task_value_and_grad(loss)(params, (X, Y))
    with pytest.raises(ValueError, match=rf"surgery\.{name}.*TrainState.*ts\.tx\.update"):
        start.apply_gradients(grads=grads)

    @jax.jit
    def step(ts):
        losses, grads = surgery.per_task_value_and_grad(loss)(ts.params, (X, Y))
        updates, opt_state = ts.tx.update(grads, ts.opt_state, ts.params, task_losses=losses)
        params = optax.apply_updates(ts.params, updates)
        return ts.replace(step=ts.step + 1, params=params, opt_state=opt_state)

    after = start
    for _ in range(20):
        after = step(after)
    now, _ = surgery.per_task_value_and_grad(loss)(after.params, (X, Y))
    assert after.step == 20 and (now < losses).all()
