"""Learning that is a number of steps on one state, in a directory: logged, kept and gone on with.

config.json                     what it is
checkpoints/, metrics.jsonl     beside what else the caller keeps there
scores.json                     there once all is done

For what is no run of `train.run`: there are no environments, or they are inside a step.
"""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mtrl_jax import checkpoint, metrics, train, workdir
from mtrl_jax.types import ArrayTree, Metrics

from . import binary
from .progress import Progress

__all__ = ["SCORES", "finished", "learn", "scores"]

SCORES = "scores.json"


def finished(folder: pathlib.Path, settings: dict[str, Any]) -> bool:
    """Whether `folder` holds the run of these settings, and all of it is done.

    Raises:
      ValueError: for a folder of another run.
    """
    return workdir.check(folder, settings) and (folder / SCORES).exists()


def scores(
    folder: pathlib.Path, settings: dict[str, Any], make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What scores.json holds; if it is not there, `make` says it, alone in the directory.

    Raises:
      ValueError: for a folder of another run, or one in which another process is at work.
    """
    if not finished(folder, settings):
        with workdir.locked(folder):
            workdir.check(folder, settings)
            workdir.create(folder, settings)
            temporary = folder / f"{SCORES}.tmp"
            temporary.write_text(json.dumps(make()) + "\n")
            os.replace(temporary, folder / SCORES)
    found: dict[str, Any] = json.loads((folder / SCORES).read_text())
    return found


def learn(
    title: str,
    folder: pathlib.Path,
    state: Any,
    total: int,
    advance: Callable[[Any, int, int], tuple[Any, Metrics]],
    *,
    log_every: int,
    checkpoint_every: int,
    unit: str = "step",
) -> ArrayTree:
    """The state after `total` steps, from the newest checkpoint on; an interrupt ends the process,
    after saving.

    Args:
      title: of the progress bar.
      folder: which holds the checkpoints.
      state: before the first step.
      total: steps.
      advance: `(state, begin, end) -> (state, metrics)`, steps `begin` to `end`; it may donate the
        state. Metrics are numbers, or arrays of one a seed.
      log_every: steps at most in one call.
      checkpoint_every: steps, a multiple of `log_every`.
      unit: what a step is called.

    Raises:
      FloatingPointError: for a metric that is not finite; nothing of those steps is kept.
    """
    rows = folder / "metrics.jsonl"
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
            begun, end = time.perf_counter(), min((step // log_every + 1) * log_every, total)
            state, values = advance(state, step, end)
            row = {name: np.asarray(x).tolist() for name, x in values.items()}
            wrong = [name for name, value in row.items() if not np.isfinite(value).all()]
            if wrong:
                raise FloatingPointError(
                    f"{wrong[0]} is not finite between {unit}s {step} and {end}; the last "
                    "checkpoint is of before"
                )
            row[f"time/{unit}s_per_second"] = (end - step) / (time.perf_counter() - begun)
            step = end
            with rows.open("a") as out:
                out.write(json.dumps({"step": step, **row}) + "\n")
            stop = interrupted.is_set()
            if step % checkpoint_every == 0 or step == total or stop:
                checkpoint.save(manager, step, state, {})
                manager.wait_until_finished()  # before the state is donated
            progress(step, total, {})
            if stop and step < total:
                binary.stop(step, folder)
    return state
