"""Gradient surgery on supervised multi-task problems, beside the plain mean and no sharing.

    python -m experiments.supervised --problem=two_digits --surgery=pcgrad,upgrad
    python -m experiments.supervised --problem=many_tasks --workdir=runs/many

Every method trains the same network from the same initial parameters on the same batches; `alone`
trains one network a task on those batches: as many examples and backward passes, K times the
parameters. Prints a table and writes config.json, metrics.jsonl and plots/<problem>.png.
"""

import dataclasses
import pathlib
import sys

from absl import app, flags

from mtrl_jax import surgery

from .data import PROBLEMS
from .report import show
from .run import Config, run
from .train import ALONE


def define_flags() -> None:
    """Called by the binary only, so that importing this module defines no flag."""
    d = Config()
    flags.DEFINE_enum("problem", d.problem, list(PROBLEMS), "Tasks; see data.py.")
    flags.DEFINE_list(
        "surgery", "pcgrad", f"Methods, separated by commas: {', '.join(surgery.METHODS)}."
    )
    flags.DEFINE_integer("num_seeds", d.num_seeds, "Runs of every method, trained at once.", 1)
    flags.DEFINE_integer("seed", d.seed, "The first seed; the others follow it.", 0)
    flags.DEFINE_integer("steps", d.steps, "Optimiser steps, a multiple of --eval_every.", 1)
    flags.DEFINE_integer("eval_every", d.eval_every, "Optimiser steps between evaluations.", 1)
    flags.DEFINE_integer("batch_size", d.batch_size, "Examples of one task in one step.", 1)
    flags.DEFINE_integer("width", d.width, "Units of each of the two shared layers.", 1)
    flags.DEFINE_float("learning_rate", d.learning_rate, "Step size of adam.", 0.0)
    flags.DEFINE_string("workdir", None, "Folder of the run. (default: runs/supervised/<problem>)")
    known = f"must name methods among {', '.join(surgery.METHODS)}"
    flags.register_validator("surgery", lambda x: bool(x) and set(x) <= set(surgery.METHODS), known)


def parse(argv: list[str]) -> list[str]:
    """Reads the flags; a wrong one ends the program in one sentence, with exit code 2."""
    try:
        rest = flags.FLAGS(argv)
        if rest[1:]:
            raise flags.Error(f"unexpected arguments: {' '.join(rest[1:])}; flags start with --")
        if flags.FLAGS.steps % flags.FLAGS.eval_every:
            raise flags.Error(
                f"flag --steps={flags.FLAGS.steps}: must be a multiple of "
                f"--eval_every={flags.FLAGS.eval_every}"
            )
    except flags.Error as error:
        print(f"supervised: {error}", file=sys.stderr)
        sys.exit(2)
    return rest


def main(argv: list[str]) -> None:
    del argv
    values = {f.name: getattr(flags.FLAGS, f.name) for f in dataclasses.fields(Config)}
    methods = [m for m in dict.fromkeys(values["surgery"]) if m != "mean"]
    config = Config(**{**values, "surgery": (ALONE, "mean", *methods)})
    folder = pathlib.Path(flags.FLAGS.workdir or f"runs/supervised/{config.problem}")
    try:
        show(run(config, folder))
    except ValueError as error:
        print(f"supervised: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"numbers {folder / 'metrics.jsonl'}, figure {folder}/plots/{config.problem}.png")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse)
