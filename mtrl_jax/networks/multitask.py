"""Networks for many tasks: Linen modules called with `(x, task)`, one task at a time.

    x     float32 [B, F], inputs of one task (an observation, already normalised)
    task  int32 [], its number

    variables = module.init(key, x, task)
    y = module.apply(variables, x, task)      # [B, size]

Parameters that all tasks share are in the collection `params`; what belongs to one task alone is in
the collection `task`, where `apply` wants that task's own, so that K of them are leaves
`[K, *param]` and one vmap over tasks is the whole of batching. Gradients of different tasks cannot
meet in them.

To add a network write such a module and give it a row in `NETWORKS`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.types import Array

__all__ = ["ACTIVATIONS", "NETWORKS", "MultiHead", "OneHot", "Separate", "make"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu, "tanh": nn.tanh, "silu": nn.silu, "elu": nn.elu,
}  # fmt: skip


class OneHot(nn.Module):
    """An MLP on the input and a one-hot task number; everything is shared.

    Attributes:
      num_tasks: K.
      hidden: widths.
      size: of the output.
      activation: key of `ACTIVATIONS`.
      layer_norm: whether a layer norm stands before each activation.
      out_scale: variance of the initial outputs, for inputs of variance 1.
    """

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        which = jax.nn.one_hot(task, self.num_tasks)
        which = jnp.broadcast_to(which, (*x.shape[:-1], self.num_tasks))
        x = _trunk(self, jnp.concatenate([x, which], -1))
        return nn.Dense(self.size, kernel_init=_init(self.out_scale), name="out")(x)


class MultiHead(nn.Module):
    """The same trunk with an output layer for each task. Attributes as in `OneHot`."""

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        which = jax.nn.one_hot(task, self.num_tasks)
        which = jnp.broadcast_to(which, (*x.shape[:-1], self.num_tasks))
        x = _trunk(self, jnp.concatenate([x, which], -1))
        return _own_dense(self, "out", x, self.size, self.out_scale)


class Separate(nn.Module):
    """A network for each task: nothing is shared. Attributes as in `OneHot`."""

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        if self.layer_norm:
            raise ValueError("layer_norm is not offered by the network 'separate'")
        for i, width in enumerate(self.hidden):
            x = ACTIVATIONS[self.activation](_own_dense(self, f"dense{i}", x, width, 2.0))
        return _own_dense(self, "out", x, self.size, self.out_scale)


NETWORKS: dict[str, Any] = {"onehot": OneHot, "multihead": MultiHead, "separate": Separate}


def make(name: str, num_tasks: int, hidden: tuple[int, ...], size: int, **options: Any) -> Any:
    """The network `name`.

    Raises:
      ValueError: for an unknown network or activation, or no hidden layer.
    """
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}; got {name!r}")
    if options.get("activation", "relu") not in ACTIVATIONS:
        raise ValueError(
            f"activation must be one of {', '.join(ACTIVATIONS)}; got {options['activation']!r}"
        )
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden must hold at least one positive width; got {hidden}")
    return NETWORKS[name](num_tasks, hidden, size, **options)


def _init(scale: float) -> Any:
    # Not orthogonal: its batched QR (all tasks in one program) deadlocks XLA:CPU of jax 0.10.
    return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")


def _trunk(module: Any, x: Array) -> Array:
    for i, width in enumerate(module.hidden):
        x = nn.Dense(width, kernel_init=_init(2.0), name=f"dense{i}")(x)
        if module.layer_norm:
            x = nn.LayerNorm(name=f"norm{i}")(x)
        x = ACTIVATIONS[module.activation](x)
    return x


def _own_dense(module: nn.Module, name: str, x: Array, width: int, scale: float) -> Array:
    """A dense layer whose parameters are one task's own."""
    shape = (x.shape[-1], width)
    kernel = module.variable(
        "task", f"{name}_kernel", lambda: _init(scale)(module.make_rng("params"), shape)
    )
    bias = module.variable("task", f"{name}_bias", lambda: jnp.zeros(width))
    y = x @ kernel.value
    return y + jnp.broadcast_to(bias.value, y.shape)
