"""The two networks that learn to see, their losses, and steps of adam on one of them.

The denoising autoencoder undoes a rectangle of zeros, and its encoder up to the bottleneck is J.
The beta-VAE (Higgins et al. 2017) is held against the pixels, or against what J makes of them
(DARLA, arXiv 1707.08475): its decoder gives a Gaussian for each pixel, of which J sees a draw.
Reductions are those of `losses.representation`: sums over units and latents, means over images.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax.distributions import Gaussian, bounded_log_std, sample
from mtrl_jax.losses import representation as losses
from mtrl_jax.networks import autoencoder
from mtrl_jax.networks.autoencoder import Autoencoder
from mtrl_jax.types import Array, ArrayTree, Key, Metrics

__all__ = [
    "OBJECTIVES",
    "Judge",
    "Learner",
    "State",
    "beta_vae",
    "denoiser",
    "denoiser_nets",
    "encode",
    "judge",
    "pictures",
    "posterior",
    "reconstruction",
    "vae_nets",
]

OBJECTIVES = ("pixels", "features", "denoising")
BOTTLENECK = 100  # of the denoising autoencoder
LOG_STD = (-6.0, 0.0)  # of a pixel that J sees a draw of
MAX_GRAD_NORM = 100.0  # sums over an image have large gradients at first
Shape = tuple[int, int, int]


class State(NamedTuple):
    """Everything learnt of one network."""

    params: ArrayTree
    opt_state: ArrayTree


class Learner(NamedTuple):
    """How one network learns.

    Attributes:
      init: `(key) -> State`.
      steps: `(state, images, frozen, key, begin, end) -> (state, metrics)`: optimiser steps `begin`
        to `end` on uint8 images `[N, H, W, C]`; `frozen` is J, if the loss asks for one, else None.
        Step n draws from fold_in(key, n) alone; metrics are means over those steps.
    """

    init: Callable[[Key], State]
    steps: Callable[..., tuple[State, Metrics]]


class Judge(NamedTuple):
    """J, which nothing moves any more.

    Attributes:
      params: of the denoising autoencoder's encoder.
      scale: [], of its features, such that their variance is 1 on average: else a beta would mean
        something else after every training of it.
    """

    params: ArrayTree
    scale: Array


def judge(shape: Shape, params: ArrayTree, images: Array) -> Judge:
    """J of the encoder's `params`, with the scale that its features have on images, bytes."""
    floats = images.astype(jnp.float32) / 255.0
    features = jax.jit(encode, static_argnums=0)(denoiser_nets(shape), params, floats)
    return Judge(params, 1.0 / jnp.sqrt(features.var(0).mean() + 1e-12))


def vae_nets(shape: Shape, num_latents: int, objective: str) -> Autoencoder:
    """Of the beta-VAE."""
    return autoencoder.make(shape, num_latents, gaussian_pixels=objective == "features")


def denoiser_nets(shape: Shape) -> Autoencoder:
    """Of the denoising autoencoder."""
    return autoencoder.make(shape, BOTTLENECK, (), gaussian_latents=False)


def encode(nets: Autoencoder, params: ArrayTree, images: Array) -> Array:
    """What a policy is to read of images `[B, H, W, C]`, floats: posterior means `[B, Z]`, never
    draws; or the bottleneck of the denoising autoencoder. `params` are the encoder's."""
    out: Any = nets.encoder.apply({"params": params}, images)
    return out[:, : nets.num_latents]


def posterior(nets: Autoencoder, params: ArrayTree, images: Array) -> Gaussian:
    """Of each image, leaves `[B, Z]`; `params` are the encoder's."""
    out: Any = nets.encoder.apply({"params": params}, images)
    return Gaussian(*jnp.split(out, 2, axis=-1))


def pictures(
    nets: Autoencoder, params: ArrayTree, z: Array, objective: str, denoising: ArrayTree
) -> Array:
    """Images `[B, H, W, C]` in [0, 1] of codes `[B, Z]`.

    Args:
      nets: of the decoder whose `params` are given.
      params: of it.
      z: codes.
      objective: one of `OBJECTIVES`. With "features" any image of the same features will do, so
        that pixels look like noise: what is shown is what the denoising autoencoder makes of it.
      denoising: parameters of that one, encoder and decoder; used with "features" only.
    """
    out: Any = nets.decoder.apply({"params": params}, z)
    if objective == "pixels":
        return jax.nn.sigmoid(out)
    if objective == "features":
        image = out[..., : out.shape[-1] // 2]
        theirs = denoiser_nets(image.shape[1:])
        features = encode(theirs, denoising["encoder"], image)
        out = theirs.decoder.apply({"params": denoising["decoder"]}, features)
    return jnp.clip(out, 0.0, 1.0)


def reconstruction(
    objective: str, frozen: Judge | None, decoded: Array, images: Array, key: Key
) -> Array:
    """Error `[B]` of what the beta-VAE's decoder gave for images `[B, H, W, C]`, floats; carries
    gradient to `decoded` alone."""
    if objective == "pixels":
        return jax.vmap(losses.bernoulli_nll)(decoded, images)
    mean, raw = jnp.split(decoded, 2, axis=-1)
    noise = jax.random.normal(key, mean.shape)
    drawn = mean + jnp.exp(bounded_log_std(raw, *LOG_STD)) * noise
    _, height, width, channels = images.shape
    theirs = denoiser_nets((height, width, channels))

    def features(frozen: Judge, image: Array) -> Array:
        return frozen.scale * encode(theirs, frozen.params, image[None])[0]

    return jax.vmap(functools.partial(losses.feature_loss, features, frozen))(drawn, images)


@functools.cache
def denoiser(shape: Shape, learning_rate: float, batch_size: int) -> Learner:
    """Learns to undo a rectangle of zeros."""
    nets = denoiser_nets(shape)

    def loss(params: ArrayTree, images: Array, frozen: None, key: Key) -> tuple[Array, Metrics]:
        keys = jax.random.split(key, len(images))
        corrupted, _ = jax.vmap(losses.occlude)(keys, images)
        z = encode(nets, params["encoder"], corrupted)
        decoded: Any = nets.decoder.apply({"params": params["decoder"]}, z)
        error = jax.vmap(losses.squared_error)(decoded, images).mean()
        return error, {"loss/reconstruction": error}

    return _learner(nets, shape, loss, learning_rate, batch_size)


@functools.cache
def beta_vae(
    shape: Shape,
    objective: str,
    beta: float,
    num_latents: int,
    learning_rate: float,
    batch_size: int,
) -> Learner:
    """Learns latents, by the pixels or by the features of J."""
    nets = vae_nets(shape, num_latents, objective)

    def loss(
        params: ArrayTree, images: Array, frozen: Judge | None, key: Key
    ) -> tuple[Array, Metrics]:
        for_latents, for_pixels = jax.random.split(key)
        found = posterior(nets, params["encoder"], images)
        z = sample(found, jax.random.split(for_latents, len(images)))
        decoded: Any = nets.decoder.apply({"params": params["decoder"]}, z)
        error = reconstruction(objective, frozen, decoded, images, for_pixels)
        return losses.beta_vae_loss(error, jax.vmap(losses.latent_kl)(found), beta)

    return _learner(nets, shape, loss, learning_rate, batch_size)


def _learner(
    nets: Autoencoder, shape: Shape, loss: Any, learning_rate: float, batch_size: int
) -> Learner:
    adam = optax.chain(optax.clip_by_global_norm(MAX_GRAD_NORM), optax.adam(learning_rate))

    def init(key: Key) -> State:
        params = autoencoder.init(nets, key, shape)
        return State(params, adam.init(params))

    def gradient(
        state: State, images: Array, frozen: Judge | None, key: Key
    ) -> tuple[ArrayTree, Metrics]:
        rows, draws = jax.random.split(key)
        chosen = images[jax.random.randint(rows, (batch_size,), 0, len(images))]
        chosen = chosen.astype(jnp.float32) / 255.0
        return jax.grad(loss, has_aux=True)(state.params, chosen, frozen, draws)

    @jax.jit
    def steps(
        state: State, images: Array, frozen: Judge | None, key: Key, begin: Array, end: Array
    ) -> tuple[State, Metrics]:
        def one(n: Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, sums = carry
            grads, metrics = gradient(state, images, frozen, jax.random.fold_in(key, n))
            updates, opt_state = adam.update(grads, state.opt_state)
            state = State(optax.apply_updates(state.params, updates), opt_state)
            return state, jax.tree.map(lambda a, b: a + b.astype(jnp.float32), sums, metrics)

        shapes = jax.eval_shape(gradient, state, images, frozen, key)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
        state, sums = jax.lax.fori_loop(begin, end, one, (state, zeros))
        return state, jax.tree.map(lambda x: x / (end - begin), sums)

    return Learner(jax.jit(init), steps)
