"""One trunk, and an output layer for each task."""

import flax.linen as nn

from mtrl_jax.networks import layers
from mtrl_jax.networks.onehot import shared_trunk
from mtrl_jax.types import Array

__all__ = ["MultiHead"]


class MultiHead(nn.Module):
    """`OneHot`'s trunk with an output layer for each task.

    The multi-head baseline of Meta-World (Yu et al. 2019, arXiv 1910.10897):
    y = W_i φ(x, e_i) + b_i. The trunk sees the task's number as well, as public code has it. Public
    code computes all K heads and picks one; here a task computes its own only.

    Attributes and errors as in `OneHot`.
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
        return layers.own_dense(self, "out", x, self.size, self.out_scale)
