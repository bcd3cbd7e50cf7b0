"""Networks as a user may write them, right and wrong; tests name them by `module:class`."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import layers


class Bare(nn.Module):
    """The least that there is."""

    num_tasks: int
    hidden: tuple[int, ...]
    size: int

    @nn.compact
    def __call__(self, x: Any, task: Any) -> Any:
        for width in self.hidden:
            x = nn.tanh(nn.Dense(width)(x))
        return nn.Dense(self.size)(x)


class Full(nn.Module):
    """All fields that a run may set, one of its own, and parameters of each task's own."""

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    out_scale: float = 1.0
    activation: str = "relu"
    layer_norm: bool = False
    task_names: tuple[str, ...] = ()
    spread: float = 0.5

    @nn.compact
    def __call__(self, x: Any, task: Any) -> Any:
        assert len(self.task_names) == self.num_tasks
        x = layers.mlp(self, x, self.hidden)
        gate = layers.own(self, "gate", lambda key: jnp.full(x.shape[-1:], self.spread))
        return layers.own_dense(self, "out", x * gate[None], self.size, self.out_scale)


def made(num_tasks: int, hidden: Any, size: int, wide: bool = False) -> Any:
    """A function may stand for the class."""
    return Bare(num_tasks, (64,) if wide else hidden, size)


class Nameless(nn.Module):
    size: int

    def __call__(self, x: Any, task: Any) -> Any:
        return x


class OneArgument(Bare):
    @nn.compact
    def __call__(self, x: Any) -> Any:  # type: ignore[override]
        return nn.Dense(self.size)(x)


class Narrow(Bare):
    @nn.compact
    def __call__(self, x: Any, task: Any) -> Any:
        return nn.Dense(self.size - 1)(x)


class Pair(Bare):
    @nn.compact
    def __call__(self, x: Any, task: Any) -> Any:
        return nn.Dense(self.size)(x), x


class Whole(Bare):
    @nn.compact
    def __call__(self, x: Any, task: Any) -> Any:
        return nn.Dense(self.size)(x).astype(jnp.int32)


class Statistics(Bare):
    @nn.compact
    def __call__(self, x: Any, task: Any) -> Any:
        return nn.BatchNorm(use_running_average=False)(nn.Dense(self.size)(x))


class Looks(Bare):
    @nn.compact
    def __call__(self, x: Any, task: Any) -> Any:
        return nn.Dense(self.size + [0, 0, 0][task])(x)


class Draws(Bare):
    @nn.compact
    def __call__(self, x: Any, task: Any) -> Any:
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(self.size)(x))


class Counts(Bare):
    @nn.compact
    def __call__(self, x: Any, task: Any) -> Any:
        self.param("count", lambda key: jnp.int32(0))
        return nn.Dense(self.size)(x)


class Image(Bare):
    """Wants inputs of one length."""

    @nn.compact
    def __call__(self, x: Any, task: Any) -> Any:
        return nn.Dense(self.size)(x.reshape(x.shape[0], 3, 2).sum(1))


def forgets(num_tasks: int, hidden: Any, size: int) -> Any:
    return Bare(7, hidden, size)


def nothing(num_tasks: int, hidden: Any, size: int) -> Any:
    return jax.nn.relu
