"""Heads of auxiliary tasks, which read what a column has made of its observations.

Jaderberg et al. 2016 (arXiv 1611.05397), appendix A. A head is no part of a column: acting does
without it, and a column with heads beside it is the column alone.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from mtrl_jax.networks.convolution import BlockConvTranspose
from mtrl_jax.types import Array

__all__ = ["PixelControl", "RewardPrediction"]


class PixelControl(nn.Module):
    """A dueling network's two parts in every cell of the image, by a deconvolution.

    A dense layer makes a map of half as many cells a side, and two transposed convolutions of
    4 x 4 at stride 2 make of it the two parts, for `losses.auxiliary.dueling`. (The paper's map of
    9 x 9 becomes 20 x 20 without padding, ours of 10 x 10 with it.)

    Attributes:
      num_actions: A.
      cells: (H', W').
      channels: of the map.
    """

    num_actions: int
    cells: tuple[int, int]
    channels: int = 32

    @nn.compact
    def __call__(self, core: Array) -> tuple[Array, Array]:
        """Value `[..., H', W']` and advantages `[..., A, H', W']` of what the column's heads read,
        `[..., F]`."""
        height, width = (math.ceil(n / 2) for n in self.cells)
        x = nn.relu(nn.Dense(height * width * self.channels, name="dense")(core))
        x = x.reshape(-1, height, width, self.channels)

        def part(features: int, name: str) -> Array:
            y = BlockConvTranspose(features, 4, 2, name=name)(x)
            y = jnp.moveaxis(y[:, : self.cells[0], : self.cells[1]], -1, 1)
            return y.reshape(*core.shape[:-1], features, *self.cells)

        return part(1, "value")[..., 0, :, :], part(self.num_actions, "advantage")


class RewardPrediction(nn.Module):
    """Logits of the sign of the next reward, of a few frames and no memory.

    Attributes:
      num_classes: of signs.
      hidden: width of the layer between.
    """

    num_classes: int
    hidden: int = 128

    @nn.compact
    def __call__(self, frames: Array) -> Array:
        """float32 `[N, num_classes]` of what the convolutions made of the frames side by side, `[N,
        F]`."""
        x = nn.relu(nn.Dense(self.hidden, name="dense")(frames))
        return nn.Dense(self.num_classes, name="out")(x).astype(jnp.float32)
