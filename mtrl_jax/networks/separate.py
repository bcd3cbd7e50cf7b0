"""A network for each task."""

import flax.linen as nn

from mtrl_jax.networks import layers
from mtrl_jax.types import Array

__all__ = ["Separate"]


class Separate(nn.Module):
    """A network for each task: nothing is shared, the bound that transfer is measured against.

    Attributes and errors as in `OneHot`, and a ValueError for `layer_norm`.
    """

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        layers.check(x, task)
        if self.layer_norm:
            raise ValueError("layer_norm is not offered by the network 'separate'")
        for i, width in enumerate(self.hidden):
            x = layers.activate(self, layers.own_dense(self, f"dense{i}", x, width, 2.0))
        return layers.own_dense(self, "out", x, self.size, self.out_scale)
