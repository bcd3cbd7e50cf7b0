"""Training with every method of a command, and what is written of it."""

import dataclasses
import json
import os
import pathlib
import sys
import time
from typing import Annotated, Any

import jax
import numpy as np

from mtrl_jax import metrics, ranges, surgery, workdir
from mtrl_jax.ranges import Count, OneOf, Positive, Seed

from .data import PROBLEMS
from .report import CURVES, draw, table
from .train import ALONE, History, Settings, train_seeds

METHODS = (ALONE, *surgery.METHODS)


@dataclasses.dataclass(frozen=True)
class Config:
    """One command: the flags of the same names, `surgery` with the baselines in front."""

    problem: Annotated[str, OneOf(PROBLEMS)] = "two_digits"
    surgery: tuple[Annotated[str, OneOf(METHODS)], ...] = (ALONE, "mean", "pcgrad")
    num_seeds: Count = 10
    seed: Seed = 0
    steps: Count = 1000
    eval_every: Count = 50
    batch_size: Count = 32
    width: Count = 64
    learning_rate: Positive = 1e-3


def run(config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """Trains what `folder` does not hold yet and returns the table: a row of numbers a method.

    Raises:
      ValueError: for numbers that cannot be, or a folder of another run; nothing is written.
    """
    ranges.check(config)
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
