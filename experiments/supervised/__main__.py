"""Gradient surgery on supervised multi-task problems, beside the plain mean and no sharing.

    python -m experiments.supervised --problem=two_digits --surgery=pcgrad,upgrad
    python -m experiments.supervised --problem=many_tasks --workdir=runs/many

Every method trains the same network from the same initial parameters on the same batches; `alone`
trains one network a task on those batches: as many examples and backward passes, K times the
parameters. Prints a table and writes config.json, metrics.jsonl and plots/<problem>.png.
"""

import dataclasses
import pathlib

from absl import flags

from mtrl_jax import surgery

from ..common import binary, given
from .data import PROBLEMS
from .report import show
from .run import Config, run
from .train import ALONE

_D = Config()
_METHODS = ", ".join(surgery.METHODS)
flags.DEFINE_enum("problem", _D.problem, list(PROBLEMS), "Tasks; data.py says what they are.")
flags.DEFINE_list("surgery", "pcgrad", f"Methods, separated by commas: {_METHODS}.")
flags.DEFINE_integer("num_seeds", _D.num_seeds, "Runs of every method, trained at once.", 1)
flags.DEFINE_integer("seed", _D.seed, "The first seed; the others follow it.", 0)
flags.DEFINE_integer("steps", _D.steps, "Optimiser steps, a multiple of --eval_every.", 1)
flags.DEFINE_integer("eval_every", _D.eval_every, "Optimiser steps between evaluations.", 1)
flags.DEFINE_integer("batch_size", _D.batch_size, "Examples of one task in one step.", 1)
flags.DEFINE_integer("width", _D.width, "Units of each of the two shared layers.", 1)
flags.DEFINE_float("learning_rate", _D.learning_rate, "Step size of adam.", 0.0)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's. (default: runs/supervised/<problem>)")


def main() -> None:
    values = {f.name: getattr(flags.FLAGS, f.name) for f in dataclasses.fields(Config)}
    given.names(flags.FLAGS["surgery"], surgery.METHODS)
    if values["steps"] % values["eval_every"]:
        raise ValueError(
            f"--steps must be a multiple of --eval_every={values['eval_every']}; got "
            f"{values['steps']}"
        )
    methods = [m for m in values["surgery"] if m != "mean"]
    config = Config(**{**values, "surgery": (ALONE, "mean", *methods)})
    folder = pathlib.Path(_WORKDIR.value or f"runs/supervised/{config.problem}")
    show(run(config, folder))
    print(f"numbers {folder / 'metrics.jsonl'}, figure {folder}/plots/{config.problem}.png")


if __name__ == "__main__":
    binary.main(main)
