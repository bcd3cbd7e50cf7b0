"""What networks for many tasks are built of: trunks, layers of one task's own, stacked layers.

Each function takes the Linen module inside whose `__call__` it makes parameters; of that module it
reads `activation` (a key of `ACTIVATIONS`) and `layer_norm`, nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array

__all__ = [
    "ACTIVATIONS",
    "activate",
    "add_bias",
    "beside",
    "check",
    "mlp",
    "modulate",
    "normalise",
    "own",
    "own_dense",
    "scaled",
    "stacked_dense",
    "stacked_mlp",
    "stacked_norm",
]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "silu": nn.silu,
    "elu": nn.elu,
}

_EPSILON = 1e-6  # of a layer norm, as in flax


def scaled(scale: float, stacked: bool = False) -> Any:
    """Initialiser of variance `scale / fan_in`; of `[N, in, out]` where stacked."""
    # Not orthogonal: its batched QR (all tasks in one program) deadlocks XLA:CPU of jax 0.10.
    return nn.initializers.variance_scaling(
        scale, "fan_in", "truncated_normal", batch_axis=(0,) if stacked else ()
    )


def check(x: Array, task: Array, **sizes: int) -> None:
    """Raises ValueError unless `x` is `[B, F]`, `task` one integer and every size at least 1."""
    if jnp.ndim(x) != 2:
        raise ValueError(f"x must have shape [B, F], got {jnp.shape(x)}")
    if jnp.ndim(task) or not jnp.issubdtype(jnp.result_type(task), jnp.integer):
        raise ValueError(
            f"task must be one integer, got {jnp.result_type(task)} of shape {jnp.shape(task)}"
        )
    for name, size in sizes.items():
        check_value(name, size, Count)


def activate(module: Any, x: Array) -> Array:
    """What `module.activation` names, of `x`."""
    return ACTIVATIONS[module.activation](x)


def beside(x: Array, row: Array) -> Array:
    """`[B, F + Z]`: inputs `[B, F]` with the same `[Z]` next to each."""
    return jnp.concatenate([x, jnp.broadcast_to(row, (x.shape[0], row.shape[0]))], -1)


def add_bias(y: Array, bias: Array) -> Array:
    """Broadcast on purpose: under pytest an implicit one of unequal ranks is an error."""
    return y + jnp.broadcast_to(bias, y.shape)


def modulate(x: Array, scale: Array, bias: Array) -> Array:
    """`[B, F]` times one scale and plus one bias `[F]` for all rows."""
    return add_bias(x * jnp.broadcast_to(scale, x.shape), bias)


def mlp(
    module: Any, x: Array, hidden: Sequence[int], *, name: str = "", last_linear: bool = False
) -> Array:
    """Dense layers of the given widths, each normalised (where the module asks for it) and
    activated; the last one neither, where `last_linear`. Parameters have `name` in front."""
    for i, width in enumerate(hidden):
        linear = last_linear and i == len(hidden) - 1
        kernel_init = scaled(1.0 if linear else 2.0)
        x = nn.Dense(width, kernel_init=kernel_init, name=f"{name}dense{i}")(x)
        if linear:
            break
        if module.layer_norm:
            x = nn.LayerNorm(name=f"{name}norm{i}")(x)
        x = activate(module, x)
    return x


# -------------------------------------------------------------------------------- one task's own


def own(module: nn.Module, name: str, init: Callable[[jax.Array], Array]) -> Array:
    """A parameter that belongs to one task alone; `init` makes it from a key."""
    return module.variable("task", name, lambda: init(module.make_rng("params"))).value


def own_dense(module: nn.Module, name: str, x: Array, width: int, scale: float) -> Array:
    """A dense layer whose parameters are one task's own."""
    shape = (x.shape[-1], width)
    kernel = own(module, f"{name}_kernel", lambda key: scaled(scale)(key, shape))
    bias = own(module, f"{name}_bias", lambda key: jnp.zeros(width))
    return add_bias(x @ kernel, bias)


# ---------------------------------------------------------------------------- N layers side by side


def stacked_dense(module: nn.Module, name: str, x: Array, num: int, width: int) -> Array:
    """`[N, B, width]`: N dense layers, of the same `[B, F]` or of one `[N, B, F]` each."""
    x = jnp.broadcast_to(x, (num, *x.shape[-2:]))
    shape = (num, x.shape[-1], width)
    kernel = module.param(f"{name}_kernel", scaled(2.0, stacked=True), shape)
    bias = module.param(f"{name}_bias", nn.initializers.zeros, (num, width))
    return add_bias(jnp.einsum("nbf,nfh->nbh", x, kernel), bias[:, None])


def stacked_norm(module: nn.Module, name: str, x: Array) -> Array:
    """A layer norm for each of N, `[N, B, H]`, with scales and offsets of its own."""
    shape = (x.shape[0], x.shape[-1])
    scale = module.param(f"{name}_scale", nn.initializers.ones, shape)
    bias = module.param(f"{name}_bias", nn.initializers.zeros, shape)
    return normalise(x, scale[:, None], bias[:, None])


def normalise(x: Array, scale: Array, bias: Array) -> Array:
    """Layer norm over the last axis; `scale` and `bias` broadcast."""
    x = x - x.mean(-1, keepdims=True)
    return modulate(x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + _EPSILON), scale, bias)


def stacked_mlp(module: Any, x: Array, num: int, hidden: Sequence[int], *, name: str) -> Array:
    """`[N, B, hidden[-1]]`: N MLPs of the same `[B, F]`, whose last layers are linear."""
    for i, width in enumerate(hidden):
        x = stacked_dense(module, f"{name}{i}", x, num, width)
        if i == len(hidden) - 1:
            break
        if module.layer_norm:
            x = stacked_norm(module, f"{name}_norm{i}", x)
        x = activate(module, x)
    return x
