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
import sys

from absl import flags

from ..common import binary, run_flags
from .report import show
from .run import run
from .train import Config


def define_flags() -> None:
    """Called by the binary only, so that importing this module defines no flag."""
    d = Config()
    flags.FLAGS.set_default("num_seeds", d.num_seeds)
    flags.DEFINE_integer("width", d.width, "Units of each layer before growing.", 1)
    flags.DEFINE_integer("factor", d.factor, "How many times wider the network grows.", 2)
    flags.DEFINE_float("noise", d.noise, "Noise of copied weights, in units of their spread.", 0.0)
    flags.DEFINE_integer("teacher_steps", d.teacher_steps, "Optimiser steps before growing.", 1)
    flags.DEFINE_integer("steps", d.steps, "Optimiser steps of the big network.", 1)
    flags.DEFINE_integer("record_every", d.record_every, "Optimiser steps between evaluations.", 1)
    flags.DEFINE_integer("batch_size", d.batch_size, "Examples in one step.", 1)
    flags.DEFINE_float("learning_rate", d.learning_rate, "Step size of adam.", 0.0)


def main() -> None:
    binary.refuse_others("workdir", "seed", "num_seeds")
    values = {f.name: getattr(flags.FLAGS, f.name) for f in dataclasses.fields(Config)}
    config = Config(**values)
    for name in ("teacher_steps", "steps"):
        if values[name] % config.record_every:
            raise ValueError(f"--{name}={values[name]} must be a multiple of --record_every")
    folder = run_flags.workdir("morph", "digits")
    show(run(config, folder))
    print(f"numbers {folder}/metrics.jsonl, figure {folder}/plots/morph.png", file=sys.stderr)


if __name__ == "__main__":
    define_flags()
    binary.main(main)
