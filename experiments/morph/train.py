"""Training of a small or a big network on handwritten digits, all seeds in one program."""

import dataclasses
import functools
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mtrl_jax.ranges import Count, NotNegative, Positive, Range, Seed

from ..common.digits import digits


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of the same names."""

    seed: Seed = 0
    num_seeds: Count = 5
    width: Count = 8
    factor: Annotated[int, Range(2, 2**16)] = 8
    noise: NotNegative = 0.01
    teacher_steps: Count = 400
    steps: Count = 400
    record_every: Count = 20
    batch_size: Count = 64
    learning_rate: Positive = 1e-3


class Net(nn.Module):
    """Rectified layers of the widths given, and ten logits."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for n, width in enumerate(self.widths):
            x = nn.relu(nn.Dense(width, name=f"dense{n}")(x))
        return nn.Dense(10, name="out")(x)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def train(net: Net, config: Config, steps: int, params: Any, state: Any, keys: Any) -> Any:
    """`steps` of adam for every seed at once: leaves `[S, ...]` in and out.

    Returns parameters, optimiser state, and test accuracy and loss before the first step and after
    every `record_every`: `[S, 1 + steps / record_every]`.
    """
    train_set, test_set = jax.tree.map(jnp.asarray, digits())
    tx = optax.adam(config.learning_rate)

    def loss(params, images, labels):
        logits: Any = net.apply({"params": params}, images.reshape(len(images), -1))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits.argmax(-1) == labels).mean()

    def one(carry, key):
        rows = jax.random.randint(key, (config.batch_size,), 0, len(train_set[1]))
        grads = jax.grad(loss, has_aux=True)(carry[0], train_set[0][rows], train_set[1][rows])[0]
        updates, state = tx.update(grads, carry[1])
        return (optax.apply_updates(carry[0], updates), state), None

    def several(carry, keys):
        value, accuracy = loss(carry[0], *test_set)
        return jax.lax.scan(one, carry, keys)[0], (accuracy, value)

    def run(params, state, key):
        keys = jax.random.split(key, (steps // config.record_every, config.record_every))
        (params, state), curves = jax.lax.scan(several, (params, state), keys)
        last = loss(params, *test_set)

        def join(curve, end):
            return jnp.append(curve, end)

        return params, state, (join(curves[0], last[1]), join(curves[1], last[0]))

    return jax.vmap(run)(params, state, keys)


def start(net: Net, config: Config, keys: Any) -> tuple[Any, Any]:
    """Random parameters and adam's first state `[S, ...]`."""

    def one(key):
        params = net.init(key, jnp.zeros((1, 64)))["params"]
        return params, optax.adam(config.learning_rate).init(params)

    return jax.jit(jax.vmap(one))(keys)
