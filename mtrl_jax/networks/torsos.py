"""From raw observations to the vectors that the networks of `multitask` read.

A torso is shared by all tasks. `choose` picks one that fits the observations of a suite.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks import autoencoder, columns
from mtrl_jax.networks.convolution import BlockConv
from mtrl_jax.networks.layers import scaled
from mtrl_jax.types import Array, EnvSpec

__all__ = ["NUM_LATENTS", "TORSOS", "Torso", "choose", "num_features"]

NUM_LATENTS = 32  # of the torso "encoder"
# (features, kernel size, stride) of each convolution, all without padding.
TORSOS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "flat": (),
    # Young & Tian 2019 (arXiv 1903.03176), for boards of about 10 x 10.
    "board": ((16, 3, 1),),
    # Mnih et al. 2015, Nature 518, for four frames of 84 x 84.
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    # For images too small for that one: three of the four layers of Higgins, Pal et al. 2017 (arXiv
    # 1707.08475).
    "small_image": ((32, 4, 2), (32, 4, 2), (64, 4, 2)),
    # Rusu et al. 2015 (arXiv 1511.06295): students of 25, and of 7 and 4 % of that, and of ten
    # games.
    "nature_16_32_32": ((16, 8, 4), (32, 4, 2), (32, 3, 1)),
    "nature_16_16_16": ((16, 8, 4), (16, 4, 2), (16, 3, 1)),
    "nature_64_64_64": ((64, 8, 4), (64, 4, 2), (64, 3, 1)),
    # The encoder of `autoencoder` with its dense layer, up to the means of 32 latents, so that what
    # has learnt to see can be fine-tuned.
    "encoder": tuple((n, autoencoder.SIZE, autoencoder.STRIDE) for n in autoencoder.FEATURES),
}


class Torso(nn.Module):
    """Convolutions with relu, flattened; or nothing but flattening.

    "encoder" has two dense layers besides, as `autoencoder.Encoder`.

    Attributes:
      kind: key of `TORSOS`.
      vocabulary: number of classes of each element of a categorical observation, flattened; else
        (). Classes become one-hot channels.
    """

    kind: str
    vocabulary: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, observation: Array) -> Array:
        """float32 `[B, F]` of observations `[B, ...]`: a board `[B, H, W]` of classes, an image
        `[B, C, H, W]` of bytes, or anything for "flat"."""
        b = observation.shape[0]
        if self.vocabulary:
            x = columns.one_hot(observation.reshape(b, -1), self.vocabulary)
        else:
            x = observation.astype(jnp.float32)
        if self.kind == "flat":
            return x.reshape(b, -1)
        if self.vocabulary:
            x = x.reshape(*observation.shape, -1)
        else:
            x = jnp.moveaxis(x, 1, -1) / 255.0
        if self.kind == "encoder":
            return autoencoder.Encoder(NUM_LATENTS, (256,), name="encoder")(x)
        for i, (features, size, stride) in enumerate(TORSOS[self.kind]):
            x = nn.relu(BlockConv(features, size, stride, scaled(2.0), name=f"conv{i}")(x))
        return x.reshape(b, -1)


def choose(spec: EnvSpec, kind: str = "auto") -> Torso:
    """The torso `kind` for the observations of `spec`; "auto" is "nature" for images of 36 x 36 and
    more, "small_image" for smaller ones, else "flat".

    Raises:
      ValueError: for an unknown kind, observations that no torso reads, or a kind that does not
        read these.
    """
    if kind not in ("auto", *TORSOS):
        raise ValueError(f"torso must be auto or one of {', '.join(TORSOS)}; got {kind!r}")
    reads = columns.torso_kind(spec)  # raises
    shape, vocabulary = spec.observation_shape, spec.vocabulary
    large = reads == "conv" and min(shape[1:]) >= 36
    if kind == "auto":
        kind = "nature" if large else "small_image" if reads == "conv" else "flat"
    any_image = kind in ("small_image", "encoder")
    fits = large if kind.startswith("nature") else any_image == (reads == "conv")
    if not fits:
        raise ValueError(f"torso {kind!r} does not read observations of shape {shape}")
    if kind == "encoder":
        channels, height, width = shape
        autoencoder.make((height, width, channels))  # raises
    if kind == "board":
        same = vocabulary is not None and len(np.unique(vocabulary)) == 1
        if not same or len(shape) != 2 or min(shape) < 3:
            raise ValueError(
                f"torso 'board' reads an (H, W) board of at least 3 x 3, all of the same classes; "
                f"got {np.dtype(spec.observation_dtype)}{shape}"
            )
    classes = () if vocabulary is None else tuple(int(n) for n in vocabulary.flat)
    return Torso(kind, classes)


def num_features(torso: Torso, spec: EnvSpec) -> int:
    """F, of what a torso makes of the observations of `spec`."""
    observation = jax.ShapeDtypeStruct((1, *spec.observation_shape), spec.observation_dtype)
    features, _ = jax.eval_shape(torso.init_with_output, jax.random.key(0), observation)
    return features.shape[-1]
