"""Small networks with one width that can grow, for the tests of morphs."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks import morph

BATCH = 6


class Heads(nn.Module):
    """A dense layer with three readers: a head, a second head, and one that reads more."""

    width: int

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.tanh(nn.Dense(self.width, name="grown")(x))
        more = nn.Dense(2, name="more")(jnp.concatenate([x, y, x], -1))
        return jnp.concatenate([nn.Dense(3, name="head")(y), nn.Dense(1, name="value")(y), more], 1)


class Convolutions(nn.Module):
    """Convolution, batch norm, depthwise convolution, flattened into a dense layer."""

    width: int

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.Conv(self.width, (3, 3), use_bias=False, name="grown")(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(y))
        y = nn.Conv(self.width, (3, 3), feature_group_count=self.width, name="depthwise")(y)
        z = nn.Conv(2, (3, 3), (2, 2), name="conv")(y)
        parts = [y.reshape(len(y), -1), z.reshape(len(z), -1)]
        return nn.Dense(3, name="flat")(nn.relu(parts[0])) + nn.Dense(3, name="rest")(parts[1])


class Normed(nn.Module):
    """Both norms over units."""

    width: int

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.LayerNorm(name="layer_norm")(nn.Dense(self.width, name="grown")(x))
        z = nn.RMSNorm(name="rms_norm")(nn.gelu(y))
        return nn.Dense(3, name="head")(z)


class Recurrent(nn.Module):
    """A recurrent core `[B, T, F]` behind a dense layer that is not grown."""

    width: int
    kind: str

    @nn.compact
    def __call__(self, x, train=False):
        kinds = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        cell = kinds[self.kind](self.width, recurrent_kernel_init=init, name="core")
        y = nn.RNN(cell)(nn.Dense(4, name="before")(x))
        return nn.Dense(3, name="head")(y)


class Feeding(nn.Module):
    """A layer that feeds an LSTM, beside other inputs."""

    width: int

    @nn.compact
    def __call__(self, x, train=False):
        y = jnp.concatenate([nn.relu(nn.Dense(self.width, name="grown")(x)), x], -1)
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        return nn.RNN(nn.LSTMCell(3, recurrent_kernel_init=init, name="core"))(y)


class Residual(nn.Module):
    """A stream of embeddings that a block adds to."""

    width: int

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.Embed(5, self.width, name="embed")(x)
        block = nn.relu(nn.Dense(7, name="enter")(y))
        y = y + nn.Dense(self.width, name="leave")(block)
        return nn.Dense(3, name="head")(nn.silu(y))


class Row(NamedTuple):
    make: object
    shape: tuple[int, ...]
    edits: tuple
    even: bool = False


_CORE = morph.inputs("head")
ROWS = {
    "dense": Row(
        Heads,
        (BATCH, 3),
        (
            *morph.outputs("grown"),
            *morph.inputs("head"),
            *morph.inputs("value"),
            *morph.inputs("more", start=3),
        ),
    ),
    "conv": Row(
        Convolutions,
        (BATCH, 4, 4, 2),
        (
            *morph.outputs("grown", "conv"),
            *morph.through("batch_norm", "norm"),
            *morph.through("depthwise", "depthwise"),
            *morph.inputs("conv", "conv"),
            *morph.inputs("flat", blocks=16),
        ),
    ),
    "norms": Row(
        Normed,
        (BATCH, 3),
        (
            *morph.outputs("grown"),
            *morph.through("layer_norm", "layer_norm"),
            *morph.through("rms_norm", "rms_norm"),
            *morph.inputs("head"),
        ),
        even=True,
    ),
    "lstm": Row(
        lambda n: Recurrent(n, "lstm"), (BATCH, 4, 3), (*morph.outputs("core", "lstm"), *_CORE)
    ),
    "gru": Row(
        lambda n: Recurrent(n, "gru"), (BATCH, 4, 3), (*morph.outputs("core", "gru"), *_CORE)
    ),
    "feeding": Row(
        Feeding,
        (BATCH, 4, 3),
        (
            *morph.outputs("grown"),
            *morph.inputs("core", "lstm", start=0),
        ),
    ),
    "residual": Row(
        Residual,
        (BATCH,),
        (
            *morph.outputs("embed", "embedding"),
            *morph.inputs("enter"),
            *morph.outputs("leave"),
            *morph.inputs("head"),
        ),
    ),
}


def inputs_of(row):
    if len(row.shape) == 1:
        return jnp.asarray(np.arange(row.shape[0]) % 5)
    return jnp.asarray(np.random.default_rng(0).normal(size=row.shape), jnp.float32)


def initial(module, x, seed=1):
    """Variables whose leaves are all random, biases, scales and statistics too."""
    variables = jax.eval_shape(module.init, jax.random.key(seed), x)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        y = 0.5 * rng.normal(size=leaf.shape)
        return jnp.asarray(np.exp(y) if path[-1].key in ("var", "scale") else y, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, variables)


@functools.cache
def runner(name, width):
    """`variables, train -> output, new batch statistics`, compiled."""
    row = ROWS[name]
    module, x = row.make(width), inputs_of(row)

    def run(variables, train):
        if train and "batch_stats" in variables:
            return module.apply(variables, x, train, mutable=["batch_stats"])
        return module.apply(variables, x, train), {}

    return jax.jit(run, static_argnums=1)


def step_of(name, width, tx):
    """`params, rest, state -> gradients, updates, state`, compiled; a loss without symmetry."""
    row = ROWS[name]
    module, x = row.make(width), inputs_of(row)

    def loss(params, rest):
        variables = {"params": params, **rest}
        y = module.apply(variables, x, True, mutable=["batch_stats"])[0]
        return jnp.mean((y - jnp.sin(jnp.arange(y.size)).reshape(y.shape)) ** 2)

    def step(params, rest, state):
        gradients = jax.grad(loss)(params, rest)
        return gradients, *tx.update(gradients, state, params)

    return jax.jit(step)
