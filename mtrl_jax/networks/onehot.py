"""One network that is told the number of its task."""

from typing import Any

import flax.linen as nn
import jax

from mtrl_jax.networks import layers
from mtrl_jax.types import Array

__all__ = ["OneHot", "shared_trunk"]


class OneHot(nn.Module):
    """An MLP on the input and a one-hot task number; everything is shared.

    The multi-task baseline of Meta-World (Yu et al. 2019, arXiv 1910.10897):

        y = W_out h_L + b_out,   h_l = act(W_l h_{l-1} + b_l),   h_0 = [x; e_i]

    Attributes:
      num_tasks: K.
      hidden: widths.
      size: of the output.
      activation: key of `layers.ACTIVATIONS`.
      layer_norm: whether a layer norm stands before each activation.
      out_scale: variance of the initial outputs, for inputs of variance 1.

    Raises:
      ValueError: `x` is not `[B, F]`, or `task` not one integer.
    """

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        x = shared_trunk(self, x, task)
        return nn.Dense(self.size, kernel_init=layers.scaled(self.out_scale), name="out")(x)


def shared_trunk(module: Any, x: Array, task: Array) -> Array:
    """Features `[B, hidden[-1]]` of inputs and the one-hot number of their task."""
    layers.check(x, task)
    which = jax.nn.one_hot(task, module.num_tasks)
    return layers.mlp(module, layers.beside(x, which), module.hidden)
