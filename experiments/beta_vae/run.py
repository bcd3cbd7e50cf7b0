"""A run that learns to see, and its directory, which `experiments.darla` reads.

config.json                     what it is
denoising/                      checkpoints/ and metrics.jsonl of the denoising autoencoder, if any
checkpoints/, metrics.jsonl     of the beta-VAE
latents.json, plots/*.png       what its latents are
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Iterable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from mtrl_jax import checkpoint, ranges, workdir
from mtrl_jax.networks.autoencoder import Autoencoder
from mtrl_jax.ranges import Count, NotNegative, OneOf, Positive, Seed
from mtrl_jax.types import ArrayTree, Metrics

from ..common import steps
from . import report
from .frames import HELD_OUT, Images, image_suite, of_file, of_suite
from .train import (
    OBJECTIVES,
    Judge,
    Learner,
    Shape,
    beta_vae,
    denoiser,
    denoiser_nets,
    judge,
    vae_nets,
)

__all__ = ["Config", "encoder_of", "read", "restore", "run", "settings_of", "shape_of"]

LOG_EVERY, CHECKPOINT_EVERY = 100, 500  # optimiser steps
DENOISING = "denoising"


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of the same names."""

    suite: str = "rooms:split=vision"
    images: str = ""
    objective: Annotated[str, OneOf(OBJECTIVES)] = "pixels"
    beta: NotNegative = 4.0
    num_latents: Count = 32
    num_frames: Count = 20_000
    steps: Count = 6_000
    denoising_steps: Count = 3_000
    batch_size: Count = 64
    learning_rate: Positive = 5e-4
    seed: Seed = 0


def run(config: Config, folder: pathlib.Path, judges: Iterable[pathlib.Path] = ()) -> None:
    """Learns what is left to learn, draws and prints; of a finished run it says so alone.

    Args:
      config: what is to be learnt.
      folder: of the run.
      judges: of other runs: the first that has learnt the denoising autoencoder that this one would
        learn, bit for bit, lends it.

    Raises:
      ValueError: for what cannot be, or a folder of another run; nothing is written then.
    """
    ranges.check(config)
    shape = shape_of(config)
    file = of_file(config.images) if config.images else None
    saved = settings_of(config)
    done = workdir.check(folder, saved) and (folder / report.LATENTS).exists()
    if done:
        restore(folder, config, shape)  # raises
        report.show(folder)
        return
    with workdir.locked(folder):
        workdir.check(folder, saved)
        workdir.create(folder, saved)
        images = file or _met(config)
        nets, params, frozen, denoising = denoiser_nets(shape), None, None, None
        if config.objective != "pixels":
            _lend(judges, folder, config)
            learner, total = _denoiser(config, shape), config.denoising_steps
            params = denoising = _learn(learner, folder / DENOISING, total, config, images)
            frozen = judge(shape, denoising["encoder"], images.train[:HELD_OUT])
        if config.objective != DENOISING:
            nets = vae_nets(shape, config.num_latents, config.objective)
            params = _learn(_vae(config, shape), folder, config.steps, config, images, frozen)
        report.write(folder, config, nets, params, images, denoising)
    report.show(folder)


def _lend(judges: Iterable[pathlib.Path], folder: pathlib.Path, config: Config) -> None:
    """Copies the denoising autoencoder of a run with the same one, unless this run has begun it."""
    apart = {"objective", "beta", "num_latents", "steps"}
    same = {name: x for name, x in settings_of(config).items() if name not in apart}
    for other in judges if not (folder / DENOISING).exists() else ():
        finished = (other / DENOISING / "checkpoints" / str(config.denoising_steps)).is_dir()
        if finished and same.items() <= workdir.read_config(other).items():
            temporary = folder / f"{DENOISING}.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(other / DENOISING, temporary)
            temporary.rename(folder / DENOISING)
            return


def _met(config: Config) -> Images:
    suite = image_suite(config.suite)
    seeds = (2 * config.seed, 2 * config.seed + 1)  # nothing held out is learnt from
    train_set, held_out = (
        of_suite(suite, n, seed)
        for n, seed in zip((config.num_frames, HELD_OUT), seeds, strict=True)
    )
    return Images(train_set, held_out)


def shape_of(config: Config) -> Shape:
    """(H, W, C) of the images that a run learns from.

    Raises:
      ValueError: if there are none.
    """
    if config.images:
        height, width, channels = of_file(config.images).train.shape[1:]
        return height, width, channels
    channels, height, width = image_suite(config.suite).spec.observation_shape
    return height, width, channels


def _denoiser(config: Config, shape: Shape) -> Learner:
    return denoiser(shape, config.learning_rate, config.batch_size)


def _vae(config: Config, shape: Shape) -> Learner:
    numbers = (config.beta, config.num_latents, config.learning_rate, config.batch_size)
    return beta_vae(shape, config.objective, *numbers)


def _learn(
    learner: Learner,
    folder: pathlib.Path,
    total: int,
    config: Config,
    images: Images,
    frozen: Judge | None = None,
) -> ArrayTree:
    """Parameters after `total` steps, from the newest checkpoint on."""
    stage = DENOISING if folder.name == DENOISING else config.objective
    key = jax.random.fold_in(jax.random.key(config.seed), OBJECTIVES.index(stage))
    title = "denoising autoencoder" if stage == DENOISING else f"beta-VAE ({stage})"
    draws = jax.random.fold_in(key, 1)

    def advance(state: Any, begin: int, end: int) -> tuple[Any, Metrics]:
        return learner.steps(state, images.train, frozen, draws, jnp.int32(begin), jnp.int32(end))

    state: Any = steps.learn(
        title,
        folder,
        learner.init(jax.random.fold_in(key, 0)),
        total,
        advance,
        log_every=LOG_EVERY,
        checkpoint_every=CHECKPOINT_EVERY,
    )
    return jax.device_get(state.params)


def settings_of(config: Config) -> dict[str, Any]:
    """What config.json is to hold."""
    return {"binary": "beta_vae", **dataclasses.asdict(config)}


def read(folder: pathlib.Path) -> Config:
    """The settings of a run that has learnt to see.

    Raises:
      ValueError: if `folder` holds no such run.
    """
    saved = workdir.read_config(folder)
    fields = {field.name for field in dataclasses.fields(Config)}
    if saved.get("binary") != "beta_vae" or fields - saved.keys():
        raise ValueError(f"{folder} holds no run of beta_vae")
    config = Config(**{name: saved[name] for name in fields})
    ranges.check(config)
    return config


def restore(
    folder: pathlib.Path, config: Config, shape: Shape, *, denoising: bool = False
) -> ArrayTree:
    """Encoder and decoder as they are after the last step; nothing is written.

    Args:
      folder: of the run.
      config: of it.
      shape: of its images.
      denoising: those of the denoising autoencoder, whatever the run's objective.

    Raises:
      ValueError: if it has not learnt to the end, or the checkpoint is not what was written.
    """
    denoising = denoising or config.objective == DENOISING
    folder = folder / DENOISING if denoising else folder
    total = config.denoising_steps if denoising else config.steps
    learner = _denoiser(config, shape) if denoising else _vae(config, shape)
    path = folder / "checkpoints"
    if not (path / str(total)).is_dir():
        raise ValueError(f"{folder} has not learnt to see yet: it has no checkpoint {total}")
    target = checkpoint.abstract(jax.eval_shape(learner.init, jax.random.key(0)))
    with checkpoint.open_manager(path, read_only=True) as manager:
        state, _ = checkpoint.restore_step(manager, total, target)
    return jax.device_get(state.params)


def encoder_of(config: Config, shape: Shape, *, denoising: bool = False) -> Autoencoder:
    """The networks whose parameters `restore` gives."""
    if denoising or config.objective == DENOISING:
        return denoiser_nets(shape)
    return vae_nets(shape, config.num_latents, config.objective)
