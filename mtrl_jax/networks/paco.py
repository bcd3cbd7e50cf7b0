"""Each task's parameters are a combination of a few shared sets."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import layers
from mtrl_jax.types import Array

__all__ = ["PaCo"]


class PaCo(nn.Module):
    """Parameter-compositional networks.

    Sun et al. 2022, *PaCo: Parameter-Compositional Multi-Task Reinforcement Learning*,
    arXiv 2210.11653: all of a task's parameters, output layer included, are

        θ_i = Φ w_i = Σ_m w_{i,m} θ_m,   Φ in R^{P × M},   w_i in R^M

    Φ is shared, w_i the task's own.

    The network sees the input alone. A task's parameters are composed once, then used for its whole
    batch: M P multiplications a task, whatever the batch.

    What stands in the authors' code only, and what is ours:
      1. All M sets start from the same values: followed.
      2. w_i is a linear map of the one-hot number without activation: a row for each task. How it
         starts is ours: 1/M plus noise of standard deviation 1/sqrt(M), adding up to 1, so that
         every task starts as the one network that all sets hold, and their gradients differ.
      3. A task whose loss exceeds 3000 is masked there, and its w_i reset to a random convex
         combination of the others'. That is an affair of the algorithm and is not here.

    Attributes:
      num_sets: M; 5 for MT10 and 20 for MT50 in the paper.
      others: as in `OneHot`. Scales and offsets of layer norms, which the paper has not, are
        composed like the rest.

    Raises:
      ValueError: `x` is not `[B, F]`, `task` not one integer, or `num_sets` below 1.
    """

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0
    num_sets: int = 5

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        layers.check(x, task, num_sets=self.num_sets)
        w = layers.own(self, "weights", self._weights)
        for i, width in enumerate(self.hidden):
            x = self._dense(f"dense{i}", x, w, width, 2.0)
            if self.layer_norm:
                scale = self._compose(f"norm{i}_scale", nn.initializers.ones, w, (width,))
                bias = self._compose(f"norm{i}_bias", nn.initializers.zeros, w, (width,))
                x = layers.normalise(x, scale, bias)
            x = layers.activate(self, x)
        return self._dense("out", x, w, self.size, self.out_scale)

    def _weights(self, key: jax.Array) -> Array:
        noise = jax.random.normal(key, (self.num_sets,))
        return 1.0 / self.num_sets + (noise - noise.mean()) / self.num_sets**0.5

    def _compose(self, name: str, init: Any, w: Array, shape: tuple[int, ...]) -> Array:
        def same(key):
            return jnp.broadcast_to(init(key, shape), (self.num_sets, *shape))

        return jnp.tensordot(w, self.param(name, same), 1)

    def _dense(self, name: str, x: Array, w: Array, width: int, scale: float) -> Array:
        kernel = self._compose(f"{name}_kernel", layers.scaled(scale), w, (x.shape[-1], width))
        bias = self._compose(f"{name}_bias", nn.initializers.zeros, w, (width,))
        return layers.add_bias(x @ kernel, bias)
