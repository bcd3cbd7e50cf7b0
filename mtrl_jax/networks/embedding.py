"""One network that is told its task by a vector, which is learnt."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import layers
from mtrl_jax.types import Array

__all__ = ["Embedding"]


class Embedding(nn.Module):
    """An MLP on the input and a learnt vector of unit length for each task.

    After Nauman et al. 2025, *Bigger, Regularized, Categorical: High-Capacity Value Functions are
    Efficient Multi-Task Learners*, arXiv 2505.23150:

        y = f([x; z_i]),   z_i = e_i / ‖e_i‖,   e_i in R^Z

    Differences:
      1. There one embedding serves actor and critic and is trained by the critic's loss alone, with
         its gradient stopped in the actor. Here the two share nothing, so each learns its own.
      2. f is this library's MLP, not their residual BroNet.
      3. Z is 32 as there; e_i starts from a normal distribution.

    Attributes:
      embedding_size: Z.
      others: as in `OneHot`. `e_i` is the task's own, f is shared.

    Raises:
      ValueError: `x` is not `[B, F]`, `task` not one integer, or `embedding_size` below 1.
    """

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0
    embedding_size: int = 32

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        layers.check(x, task, embedding_size=self.embedding_size)
        e = layers.own(
            self, "embedding", lambda key: jax.random.normal(key, (self.embedding_size,))
        )
        z = e * jax.lax.rsqrt(jnp.maximum((e * e).sum(), 1e-12))
        x = layers.mlp(self, layers.beside(x, z), self.hidden)
        return nn.Dense(self.size, kernel_init=layers.scaled(self.out_scale), name="out")(x)
