r"""Learns to see: a beta-VAE of a suite's images or of a file's, and what its latents stand for.

    python -m experiments.beta_vae                                       # the rooms' vision split
    python -m experiments.beta_vae --suite=rooms:split=all:size=64 --beta=16
    python -m experiments.beta_vae --objective=features --beta=0.5       # DARLA's, as its J sees it
    python -m experiments.beta_vae --images=frames.npz --num_latents=10  # images uint8 [N, H, W, C]

Prints the KL of each latent and, where factors are known (of rooms, or `factors` [N, F] in the
file), two scores of disentanglement; draws reconstructions and traversals. Restartable: the same
command goes on. `experiments.darla --see=<workdir>` acts on what it has learnt of the rooms.
"""

import dataclasses
import pathlib
import re

import absl.logging
from absl import flags

from ..common import binary
from .run import Config, run
from .train import OBJECTIVES

_D = Config()
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's. (default: runs/beta_vae/<what>)")
flags.DEFINE_string("suite", _D.suite, "A functional suite of images, met by a random policy.")
flags.DEFINE_string("images", _D.images, "Or a file .npz that holds images (and factors).")
flags.DEFINE_enum(
    "objective",
    _D.objective,
    list(OBJECTIVES),
    "What a reconstruction is held against: the pixels, the features of a denoising autoencoder "
    "that is trained before (DARLA), or no beta-VAE at all but that autoencoder alone.",
)
flags.DEFINE_float("beta", _D.beta, "Weight of the KL; see docs/seeing.md for its reductions.", 0.0)
flags.DEFINE_integer("num_latents", _D.num_latents, "Z of the beta-VAE.", 1)
flags.DEFINE_integer("num_frames", _D.num_frames, "Images of a suite to learn from.", 1)
flags.DEFINE_integer("steps", _D.steps, "Optimiser steps of the beta-VAE.", 1)
flags.DEFINE_integer("denoising_steps", _D.denoising_steps, "Those of the autoencoder before.", 1)
flags.DEFINE_integer("batch_size", _D.batch_size, "Images in a step.", 1)
flags.DEFINE_float("learning_rate", _D.learning_rate, "Step size of adam.", 0.0)
flags.DEFINE_integer("seed", _D.seed, "Of frames, parameters and draws.", 0)


def main() -> None:
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write, as asked
    if flags.FLAGS["images"].present and flags.FLAGS["suite"].present:
        raise ValueError("--images and --suite exclude each other; give one of them")
    values = {f.name: getattr(flags.FLAGS, f.name) for f in dataclasses.fields(Config)}
    if values["images"]:
        values["suite"] = ""
    config = Config(**values)
    what = re.sub(r"[^\w.=+-]", "-", pathlib.Path(config.images).stem or config.suite)
    name = f"{what}-{config.objective}-seed{config.seed}"
    folder = pathlib.Path(_WORKDIR.value or f"runs/beta_vae/{name}")
    run(config, folder)


if __name__ == "__main__":
    binary.main(main)
