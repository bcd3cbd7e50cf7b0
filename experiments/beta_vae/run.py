"""A run that learns to see, and its directory, which `experiments.darla` reads.

config.json                     what it is
denoising/                      checkpoints/ and metrics.jsonl of the denoising autoencoder, if any
checkpoints/, metrics.jsonl     of the beta-VAE
latents.json, plots/*.png       what its latents are
"""

import contextlib
import dataclasses
import json
import pathlib
import time
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import checkpoint, metrics, ranges, train, workdir
from mtrl_jax.networks.autoencoder import Autoencoder
from mtrl_jax.ranges import Count, NotNegative, OneOf, Positive, Seed
from mtrl_jax.types import ArrayTree

from ..common import binary
from ..common.progress import Progress
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


def run(config: Config, folder: pathlib.Path) -> None:
    """Learns what is left to learn, draws and prints; of a finished run it says so alone.

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
            learner, steps = _denoiser(config, shape), config.denoising_steps
            params = denoising = _learn(learner, folder / DENOISING, steps, config, images)
            frozen = judge(shape, denoising["encoder"], images.train[:HELD_OUT])
        if config.objective != DENOISING:
            nets = vae_nets(shape, config.num_latents, config.objective)
            params = _learn(_vae(config, shape), folder, config.steps, config, images, frozen)
        report.write(folder, config, nets, params, images, denoising)
    report.show(folder)


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
    state, rows = learner.init(jax.random.fold_in(key, 0)), folder / "metrics.jsonl"
    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(train.interrupts())
        manager = stack.enter_context(checkpoint.open_manager(folder / "checkpoints"))
        progress = stack.enter_context(contextlib.closing(Progress(title, ())))
        found = checkpoint.restore_latest(manager, checkpoint.abstract(state), repair=True)
        step = 0
        if found is not None:
            step, state, _ = found
        metrics.drop_after(rows, step)
        progress(step, total, {})
        while step < total:
            begun, end = time.perf_counter(), min((step // LOG_EVERY + 1) * LOG_EVERY, total)
            draws = jax.random.fold_in(key, 1)
            state, values = learner.steps(
                state, images.train, frozen, draws, jnp.int32(step), jnp.int32(end)
            )
            row = {name: float(x) for name, x in values.items()}
            _check_finite(row, step, end)
            row["time/steps_per_second"] = (end - step) / (time.perf_counter() - begun)
            step = end
            with rows.open("a") as out:
                out.write(json.dumps({"step": step, **row}) + "\n")
            stop = interrupted.is_set()
            if step % CHECKPOINT_EVERY == 0 or step == total or stop:
                checkpoint.save(manager, step, state, {})
            progress(step, total, {})
            if stop and step < total:
                manager.wait_until_finished()
                binary.stop(step, folder)
    return jax.device_get(state.params)


def _check_finite(row: dict[str, float], begin: int, end: int) -> None:
    wrong = [name for name, value in row.items() if not np.isfinite(value)]
    if wrong:
        raise FloatingPointError(
            f"{wrong[0]} is not finite between steps {begin} and {end}; the last checkpoint is of "
            "before"
        )


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
