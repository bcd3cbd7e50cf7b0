r"""Picks and places towards a goal image, or a sequence of them, on a small tabletop.

    python -m experiments.transporter                                 # told nothing, an end, a way
    python -m experiments.transporter --condition=final,sequence --sampling=uniform,weighted
    python -m experiments.transporter --condition=final --steps=1200 --workdir=runs/transporter/long

Transporter networks imitate a scripted oracle on six compositions of two modules each. Inspired by
Lim et al. 2021 (MultiRavens): no contact physics, and no score here compares with theirs. Prints
the share of modules finished, with intervals over seeds, and writes a figure, its numbers as JSON
lines and a GIF of each composition. The same command goes on where it was stopped.
"""

import dataclasses
import pathlib
from typing import Any

import absl.logging
from absl import flags

from mtrl_jax.algorithms.transporter import CONDITIONS, SAMPLINGS, Config
from mtrl_jax.ranges import Seed, check_value

from ..common import binary, given
from . import report
from .run import Arm, check, run

_D = Config()
_CONDITION = flags.DEFINE_list(
    "condition",
    list(CONDITIONS),
    "What the network is told: some of none, final (the image of the end), sequence (the next "
    "image of a demonstration that is not reached yet).",
)
_SAMPLING = flags.DEFINE_list(
    "sampling",
    ["weighted"],
    "How tasks are drawn: some of uniform, weighted (more often, where the loss is higher).",
)
_STEPS = flags.DEFINE_integer("steps", 300, "Optimiser steps of each network.", 1)
_EPISODES = flags.DEFINE_integer("test_episodes", 20, "Of each composition, for each network.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "The first seed; the others follow it.", 0)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "Networks of each kind.", 1)
flags.DEFINE_integer("num_demos", _D.num_demos, "Demonstrations of each composition.", 1)
flags.DEFINE_integer("batch_size", _D.batch_size, "Actions in a step.", 1)
flags.DEFINE_integer("width", _D.width, "Features of hidden layers.", 1)
flags.DEFINE_float("learning_rate", _D.learning_rate, "Step size of adam at the start.", 0.0)
flags.DEFINE_float("floor", _D.floor, "With weights, share of samples of all tasks alike.", 0.0)
_NUMBERS = ("num_demos", "batch_size", "width", "learning_rate", "floor")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's. (default: runs/transporter/tabletop)")


def main() -> None:
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write, as asked
    conditions, samplings = given.names(_CONDITION, CONDITIONS), given.names(_SAMPLING, SAMPLINGS)
    check_value("seed + num_seeds", _SEED.value + _NUM_SEEDS.value, Seed)
    numbers: dict[str, Any] = {name: flags.FLAGS[name].value for name in _NUMBERS}
    config = Config(**numbers)
    folder = pathlib.Path(_WORKDIR.value or "runs/transporter/tabletop")
    arms = {}
    for condition in conditions:
        for sampling in samplings:
            own = dataclasses.replace(config, condition=condition, sampling=sampling)
            arm = Arm(own, _STEPS.value, _EPISODES.value, _SEED.value, _NUM_SEEDS.value)
            check(arm, folder / arm.name)  # whatever cannot be is said before anything is written
            arms[folder / arm.name] = arm
    lines = [report.line_of(arm, run(arm, path)) for path, arm in arms.items()]
    report.write(lines, folder)
    report.gifs(list(arms), folder)
    print(
        f"\nModules finished, of two; {_NUM_SEEDS.value} seeds [95 % interval over them], "
        f"{_EPISODES.value} episodes of each composition"
    )
    print("\n".join(report.table(lines) + report.verdicts(lines)))
    print(f"\nfigure {folder}/transporter.png, numbers beside it, GIFs {folder}/gifs/")


if __name__ == "__main__":
    binary.main(main)
