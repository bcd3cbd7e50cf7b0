"""Unlabelled images to learn from: what a random policy sees of a suite, or what a file holds."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import evaluate, rollout
from mtrl_jax.envs import suites
from mtrl_jax.networks import autoencoder
from mtrl_jax.types import Array, FunctionalSuite

__all__ = ["Images", "image_suite", "of_file", "of_suite"]

ENVS, STEPS = 64, 25  # of each task in one collection
HELD_OUT = 512


class Images(NamedTuple):
    """Images `[N, H, W, C]` of bytes.

    Attributes:
      train: to learn from.
      held_out: never learnt from.
      factors: float `[M, F]` of `held_out`, or None.
    """

    train: Any
    held_out: Any
    factors: np.ndarray | None = None


def image_suite(name: str) -> FunctionalSuite:
    """The suite of a name, if its observations are images that an encoder reads.

    Raises:
      ValueError: if they are not, or the suite is none of JAX functions.
    """
    suite = suites.make(name)
    if not isinstance(suite, FunctionalSuite):
        raise ValueError(f"suite {name!r} must be one of JAX functions; it lives on the host")
    shape, dtype = suite.spec.observation_shape, np.dtype(suite.spec.observation_dtype)
    if len(shape) != 3 or dtype != np.uint8 or suite.spec.vocabulary is not None:
        raise ValueError(f"suite {name!r} must show images, uint8 (C, H, W); got {dtype}{shape}")
    autoencoder.make((*shape[1:], shape[0]))  # raises
    return suite


def of_suite(suite: FunctionalSuite, num_frames: int, seed: int) -> Array:
    """What a random policy sees: uint8 `[N, H, W, C]`, as much of every task."""
    agent = evaluate.random_agent(suite.spec)
    tasks = suite.spec.num_tasks
    index = jnp.asarray(rollout.env_indices(tasks, ENVS))

    @jax.jit
    def collect(loop: rollout.EnvLoop, key: Array) -> tuple[rollout.EnvLoop, Array]:
        loop, seen = rollout.unroll(suite, agent.act, (), loop, key, STEPS)
        images = jnp.moveaxis(seen.timestep.observation[:-1], -3, -1)
        return loop, images.reshape(-1, *images.shape[3:])

    key = jax.random.key(seed)
    loop = rollout.init_env_loop(suite, jax.random.fold_in(key, 0), index, agent.init_actor)
    parts = []
    for n in range(-(-num_frames // (STEPS * tasks * ENVS))):
        loop, images = collect(loop, jax.random.fold_in(key, n + 1))
        parts.append(np.asarray(images))
    frames = np.concatenate(parts)
    order = np.random.default_rng(seed).permutation(len(frames))  # a part of all tasks and steps
    return jnp.asarray(frames[order[:num_frames]])


def of_file(path: str) -> Images:
    """The images of an .npz file: `images` uint8 `[N, H, W, C]`, and `factors` `[N, F]` if there.
    The last tenth, of at most 512, is held out.

    Raises:
      ValueError: if the file cannot be read without unpickling, or holds something else.
    """
    try:
        with np.load(pathlib.Path(path), allow_pickle=False) as file:
            found = {name: file[name] for name in ("images", "factors") if name in file}
    except Exception as error:  # whatever NumPy and zipfile raise for what is no such file
        raise ValueError(f"--images: {path} cannot be read as .npz: {error}") from error
    images, factors = found.get("images"), found.get("factors")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or len(images) < 20:
        what = "nothing of that name" if images is None else f"{images.dtype}{list(images.shape)}"
        raise ValueError(
            f"--images: {path} must hold images, uint8 [N, H, W, C] of at least 20; got {what}"
        )
    try:
        autoencoder.make(images.shape[1:])
    except ValueError as error:
        raise ValueError(f"--images: {path}: {error}") from error
    cut = len(images) - min(HELD_OUT, len(images) // 10)
    if factors is not None:
        numbers = factors.ndim == 2 and len(factors) == len(images) and factors.dtype.kind in "biuf"
        if not numbers or not np.isfinite(factors).all():
            raise ValueError(
                f"--images: {path} must hold finite factors [{len(images)}, F]; got "
                f"{factors.dtype}{list(factors.shape)}"
            )
        factors = factors[cut:].astype(np.float64)
        if len(factors) < 2 or (factors == factors[0]).all(0).any():
            raise ValueError(f"--images: {path}: a factor is the same in all held-out images")
    return Images(jnp.asarray(images[:cut]), jnp.asarray(images[cut:]), factors)
