"""Encoder and decoder of images, as DARLA has them: four convolutions down, four up.

Higgins, Pal et al. 2017, *DARLA*, arXiv 1707.08475, appendix. What is known here of it is at second
hand, from a report that re-implements it: four convolutions of 32, 32, 64 and 64 features, 4 x 4
with stride 2 and relu, and the same in reverse; a dense layer of 256 before 64 outputs (mean and
log-standard deviation of 32 latents) in the beta-VAE; one dense bottleneck of about 100 in the
denoising autoencoder. Ours are two choices:
  1. Every convolution is padded by one pixel, so that each halves the image, which must therefore
     be a multiple of 16 pixels: 32 x 32 ends as 2 x 2, 64 x 64 as 4 x 4.
  2. The decoder mirrors the encoder: from 64 features through 64, 32 and 32 to the image's.

Images are `[B, H, W, C]` floats in [0, 1]; `pixels` makes them of a suite's observations. Networks
are one task's, or shared by all; under a vmap over parameters convolutions stay products
(`networks/convolution.py`).
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks.convolution import BlockConv, BlockConvTranspose
from mtrl_jax.networks.layers import scaled
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, ArrayTree, Key

__all__ = ["FEATURES", "Autoencoder", "Decoder", "Encoder", "init", "make", "pixels"]

FEATURES = (32, 32, 64, 64)
SIZE, STRIDE = 4, 2
SCALE = STRIDE ** len(FEATURES)  # what an image's sides must be multiples of


class Encoder(nn.Module):
    """Images to vectors.

    Attributes:
      size: of the output: Z of an autoencoder, 2 Z of a Gaussian.
      hidden: widths of dense layers with relu between convolutions and output.
    """

    size: int
    hidden: tuple[int, ...] = ()

    def setup(self) -> None:
        self.convolutions = [
            BlockConv(n, SIZE, STRIDE, scaled(2.0), name=f"conv{i}") for i, n in enumerate(FEATURES)
        ]
        self.dense = [
            nn.Dense(n, kernel_init=scaled(2.0), name=f"dense{i}")
            for i, n in enumerate(self.hidden)
        ]
        self.out = nn.Dense(self.size, kernel_init=scaled(1.0))

    def __call__(self, image: Array) -> Array:
        """`[B, size]` of images `[B, H, W, C]`.

        Raises:
          ValueError: for a wrong rank, integers, or sides that are no multiples of 16.
        """
        x = self.features(image)
        for layer in self.dense:
            x = nn.relu(layer(x))
        return self.out(x)

    def features(self, image: Array) -> Array:
        """What the last convolution says, `[B, F]`; for `apply(..., method="features")`."""
        if jnp.ndim(image) != 4:
            raise ValueError(f"image must have shape [B, H, W, C], got {jnp.shape(image)}")
        if not jnp.issubdtype(jnp.result_type(image), jnp.floating):
            raise ValueError(
                f"image must be floats in [0, 1] (autoencoder.pixels), got {jnp.result_type(image)}"
            )
        _check(jnp.shape(image)[1:])
        x, border = image, (SIZE - STRIDE) // 2
        for layer in self.convolutions:
            room = ((0, 0), (border, border), (border, border), (0, 0))
            x = nn.relu(layer(jnp.pad(x, room)))
        return x.reshape(x.shape[0], -1)


class Decoder(nn.Module):
    """Vectors to images.

    Attributes:
      shape: (H, W, C) of its output; C is 2 channels a colour where pixels are Gaussians.
      hidden: widths of dense layers with relu before the first image.
    """

    shape: tuple[int, int, int]
    hidden: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """`[B, H, W, C]` of `[B, Z]`: numbers of any size, whose meaning is the loss's."""
        if jnp.ndim(z) != 2:
            raise ValueError(f"z must have shape [B, Z], got {jnp.shape(z)}")
        _check(self.shape)
        height, width, channels = self.shape
        first = (height // SCALE, width // SCALE, FEATURES[-1])
        x = z
        for i, n in enumerate((*self.hidden, first[0] * first[1] * first[2])):
            x = nn.relu(nn.Dense(n, kernel_init=scaled(2.0), name=f"dense{i}")(x))
        x = x.reshape(z.shape[0], *first)
        # A pixel is a sum over (SIZE / STRIDE)^2 pixels of all features, not over SIZE^2.
        for i, n in enumerate(FEATURES[-2::-1]):
            layer = BlockConvTranspose(n, SIZE, STRIDE, scaled(2.0 * STRIDE**2), name=f"deconv{i}")
            x = nn.relu(layer(x))
        return BlockConvTranspose(channels, SIZE, STRIDE, scaled(STRIDE**2), name="out")(x)


class Autoencoder(NamedTuple):
    """Both halves; parameters are `{"encoder": ..., "decoder": ...}`, so that one goes without the
    other.

    Attributes:
      encoder: `encoder.apply({"params": params["encoder"]}, image)`.
      decoder: `decoder.apply({"params": params["decoder"]}, z)`.
      num_latents: Z.
    """

    encoder: Encoder
    decoder: Decoder
    num_latents: int


def make(
    image_shape: tuple[int, int, int],
    num_latents: int = 32,
    hidden: tuple[int, ...] = (256,),
    *,
    gaussian_latents: bool = True,
    gaussian_pixels: bool = False,
) -> Autoencoder:
    """A beta-VAE's networks by default; `num_latents=100, hidden=(), gaussian_latents=False` is the
    denoising autoencoder.

    Args:
      image_shape: (H, W, C), H and W multiples of 16 from 32 on.
      num_latents: Z.
      hidden: widths of the dense layers, in the encoder's order.
      gaussian_latents: whether the encoder gives means `[:, :Z]` and log-standard deviations
        `[:, Z:]`; otherwise a vector.
      gaussian_pixels: whether the decoder gives means `[..., :C]` and log-standard deviations
        `[..., C:]`.

    Raises:
      ValueError: for a size that does not fit, or a number that is no positive integer.
    """
    _check(image_shape)
    check_value("num_latents", num_latents, Count)
    check_value("hidden", hidden, tuple[Count, ...])
    check_value("gaussian_latents", gaussian_latents, bool)
    check_value("gaussian_pixels", gaussian_pixels, bool)
    height, width, channels = image_shape
    out = (height, width, 2 * channels if gaussian_pixels else channels)
    size = 2 * num_latents if gaussian_latents else num_latents
    hidden = tuple(hidden)
    return Autoencoder(Encoder(size, hidden), Decoder(out, hidden[::-1]), num_latents)


def init(nets: Autoencoder, key: Key, image_shape: tuple[int, int, int]) -> ArrayTree:
    """Fresh parameters of both halves."""

    @jax.jit  # one program, instead of several for each parameter
    def draw(keys: Key) -> ArrayTree:
        encoder: Any = nets.encoder.init(keys[0], jnp.zeros((1, *image_shape)))
        decoder: Any = nets.decoder.init(keys[1], jnp.zeros((1, nets.num_latents)))
        return {"encoder": encoder["params"], "decoder": decoder["params"]}

    return draw(jax.random.split(key))


def pixels(observation: Array) -> Array:
    """Images `[..., H, W, C]` in [0, 1] of observations `[..., C, H, W]` of bytes.

    Raises:
      ValueError: for anything but uint8 with three axes at least.
    """
    if jnp.ndim(observation) < 3 or jnp.result_type(observation) != jnp.uint8:
        raise ValueError(
            f"observation must be uint8 [..., C, H, W], got {jnp.result_type(observation)}"
            f"{jnp.shape(observation)}"
        )
    return jnp.moveaxis(observation, -3, -1).astype(jnp.float32) / 255.0


def _check(shape: Any) -> None:
    ok = isinstance(shape, tuple | list) and len(shape) == 3
    for n in shape if ok else ():
        check_value("image_shape", n, Count)
    if not ok or min(shape[:2]) < 2 * SCALE or shape[0] % SCALE or shape[1] % SCALE:
        raise ValueError(
            f"image_shape must be (H, W, C) with H and W multiples of {SCALE} from {2 * SCALE} on; "
            f"got {shape}"
        )
