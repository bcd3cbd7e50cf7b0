"""What a policy may read of the rooms, and the frozen encoder in front of a suite.

A policy reads posterior means, never draws. They are brought to mean 0 and variance 1 by moments of
the *source* split alone, which stay what they are while anything learns or is scored.
"""

import functools
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import normalisers
from mtrl_jax.envs import encoded
from mtrl_jax.networks import autoencoder
from mtrl_jax.networks.autoencoder import Autoencoder
from mtrl_jax.types import Array, ArrayTree, FunctionalSuite

from ..beta_vae.frames import of_suite
from ..beta_vae.train import encode

__all__ = ["VISIONS", "Vision", "as_torso", "digest", "encode_observation", "moments"]

SOURCE_FRAMES, AT_ONCE = 4096, 512
LEAST_STD = 0.1  # of a latent, as a part of the largest: latents that say nothing stay small


class Vision(NamedTuple):
    """A kind of vision.

    Attributes:
      objective: of the run of `experiments.beta_vae` that learns it, "" where nothing is learnt.
      beta: its default.
      frozen: whether the policy reads latents; otherwise it is given images, and what has learnt
        to see, if anything has, is what its network begins with.
    """

    objective: str
    beta: float
    frozen: bool


VISIONS = {
    "darla": Vision("features", 0.5, True),
    "beta_vae": Vision("pixels", 4.0, True),
    "dae": Vision("denoising", 0.0, True),
    "entangled": Vision("features", 0.005, True),
    "finetuned": Vision("features", 0.5, False),
    "random": Vision("", 0.0, True),
    "pixels": Vision("", 0.0, False),
}


@functools.cache
def encode_observation(nets: Autoencoder) -> Any:
    """`(params, uint8 [B, C, H, W]) -> codes [B, Z]`, for `encoded.encoded`."""

    def look(params: ArrayTree, observation: Array) -> Array:
        return encode(nets, params, autoencoder.pixels(observation))

    return look


def moments(nets: Autoencoder, params: ArrayTree, source: FunctionalSuite, seed: int) -> Any:
    """The frozen encoder with the running mean and standard deviation of its codes over what a
    random policy sees of `source`, the suite that the policy learns in."""
    images = of_suite(source, SOURCE_FRAMES, seed).astype(jnp.float32) / 255.0

    @jax.jit
    def add(running: normalisers.Moments, params: ArrayTree, images: Array) -> normalisers.Moments:
        codes = encode(nets, params, images)
        there = jnp.ones(codes.shape, bool)
        return normalisers.update_moments(running, normalisers.masked_moments(codes, there, (0,)))

    running = normalisers.init_moments((nets.num_latents,))
    for start in range(0, len(images), AT_ONCE):
        running = add(running, params, images[start : start + AT_ONCE])
    std = np.sqrt(np.asarray(running.variance))
    std = np.maximum(std, max(LEAST_STD * std.max(), 1e-6))
    return encoded.Encoder(params, running.mean, jnp.asarray(std, jnp.float32))


def as_torso(frozen: encoded.Encoder) -> ArrayTree:
    """Parameters of a network's torso "encoder" that says what the frozen encoder does: scaled
    means. Their scales are in its last layer, which from now on learns with the rest."""
    layers: dict[str, Any] = dict(jax.tree.map(np.asarray, frozen.params))
    count, out = len(frozen.mean), layers["out"]
    mean, std = np.asarray(frozen.mean), np.asarray(frozen.std)
    kernel, bias = out["kernel"][:, :count] / std, (out["bias"][:count] - mean) / std
    return {"encoder": {**layers, "out": {"kernel": kernel, "bias": bias}}}


def digest(params: ArrayTree) -> str:
    """Of an encoder's parameters, by which a run knows them again."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]
