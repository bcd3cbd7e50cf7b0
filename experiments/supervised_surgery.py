"""Gradient surgery on supervised multi-task problems, beside the plain mean and no sharing.

    python -m experiments.supervised_surgery --problem=two_digits --surgery=pcgrad,upgrad
    python -m experiments.supervised_surgery --problem=many_tasks --workdir=runs/many

Every method trains the same network from the same initial parameters on the same batches; `alone`
trains one network a task on those batches: as many examples and backward passes, K times the
parameters. Prints a table and writes config.json, metrics.jsonl and plots/<problem>.png.
"""

import dataclasses
import json
import os
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags

from experiments.supervised_data import PROBLEMS
from experiments.supervised_report import CURVES, draw, show, table
from experiments.supervised_train import ALONE, History, Settings, train_seeds
from mtrl_jax import metrics, surgery, workdir


@dataclasses.dataclass(frozen=True)
class Config:
    """One command: the flags of the same names, `surgery` with the baselines in front."""

    problem: str = "two_digits"
    surgery: tuple[str, ...] = (ALONE, "mean", "pcgrad")
    num_seeds: int = 10
    seed: int = 0
    steps: int = 1000
    eval_every: int = 50
    batch_size: int = 32
    width: int = 64
    learning_rate: float = 1e-3


def run(config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """Trains what `folder` does not hold yet and returns the table: a row of numbers a method."""
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    workdir.check(folder, saved)
    workdir.create(folder, saved)
    path = folder / "metrics.jsonl"
    rows = metrics.read_jsonl(path)
    shared = ("steps", "eval_every", "batch_size", "width", "learning_rate")
    settings = Settings(**{name: saved[name] for name in shared}, test_size=500)
    seeds = jax.numpy.arange(config.seed, config.seed + config.num_seeds)
    for method in config.surgery:
        if any(row["method"] == method for row in rows):
            continue  # finished before the run was stopped: its rows are written all at once
        begun = time.perf_counter()
        history = jax.device_get(train_seeds(method, PROBLEMS[config.problem](), settings, seeds))
        rows += _rows(method, history, config, time.perf_counter() - begun)
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temporary, path)
        print(f"{method}: {rows[-1]['time/train']:.0f} s", file=sys.stderr, flush=True)
    draw(rows, config.surgery, folder / "plots" / f"{config.problem}.png")
    return table(rows, config.surgery)


def _rows(method: str, history: History, config: Config, seconds: float) -> list[dict[str, Any]]:
    """One row an evaluation; every curve holds a number a seed, `null` where it is undefined."""
    rows = []
    for n in range(history.loss.shape[1]):
        row: dict[str, Any] = {"step": (n + 1) * config.eval_every, "method": method}
        values = history._replace(accuracy=history.accuracy.mean(-1))
        for name in CURVES:
            value = np.round(getattr(values, name)[:, n].astype(float), 5)
            row[name] = value.tolist() if np.isfinite(value).all() else None
        rows.append(row)
    rows[-1]["task_accuracy"] = np.round(history.accuracy[:, -1].mean(0).astype(float), 4).tolist()
    rows[-1]["time/train"] = round(seconds, 1)
    return rows


def define_flags() -> None:
    """Called by the binary only, so that importing this module defines no flag."""
    d = Config()
    flags.DEFINE_enum("problem", d.problem, list(PROBLEMS), "Tasks; see supervised_data.py.")
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
        print(f"supervised_surgery: {error}", file=sys.stderr)
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
        print(f"supervised_surgery: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"numbers {folder / 'metrics.jsonl'}, figure {folder}/plots/{config.problem}.png")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse)
