"""A network that grows while it learns, beside the bigger one from scratch: handwritten digits.

    python -m experiments.morph
    python -m experiments.morph --width=16 --factor=8 --noise=0.02 --workdir=runs/morph/wide

Trains a small network (two hidden layers), widens both by --factor and inserts a third (Net2Net:
Chen et al. 2015), then goes on, with adam's moments carried over or from zero. `scratch` is the
big network from random parameters, `stays small` the one that never grew. Prints a table of test
accuracy at equal steps of the big network, and writes config.json, metrics.jsonl and
plots/morph.png; the same command writes them anew.
"""

import dataclasses
import pathlib
import sys

from absl import flags

from ..common import binary
from .report import show
from .run import run
from .train import Config

_D = Config()
_WORKDIR = flags.DEFINE_string("workdir", "runs/morph/digits", "Where numbers and plots go.")
flags.DEFINE_integer("seed", _D.seed, "The first seed; the others follow it.", 0)
flags.DEFINE_integer("num_seeds", _D.num_seeds, "Runs of everything, in one program.", 1)
flags.DEFINE_integer("width", _D.width, "Units of each layer before growing.", 1)
flags.DEFINE_integer("factor", _D.factor, "How many times wider the network grows.", 2)
flags.DEFINE_float("noise", _D.noise, "Noise of copied weights, in units of their spread.", 0.0)
flags.DEFINE_integer("teacher_steps", _D.teacher_steps, "Optimiser steps before growing.", 1)
flags.DEFINE_integer("steps", _D.steps, "Optimiser steps of the big network.", 1)
flags.DEFINE_integer("record_every", _D.record_every, "Optimiser steps between evaluations.", 1)
flags.DEFINE_integer("batch_size", _D.batch_size, "Examples in one step.", 1)
flags.DEFINE_float("learning_rate", _D.learning_rate, "Step size of adam.", 0.0)


def main() -> None:
    values = {f.name: getattr(flags.FLAGS, f.name) for f in dataclasses.fields(Config)}
    config = Config(**values)
    for name in ("teacher_steps", "steps"):
        if values[name] % config.record_every:
            raise ValueError(f"--{name}={values[name]} must be a multiple of --record_every")
    folder = pathlib.Path(_WORKDIR.value)
    show(run(config, folder))
    print(f"numbers {folder}/metrics.jsonl, figure {folder}/plots/morph.png", file=sys.stderr)


if __name__ == "__main__":
    binary.main(main)
