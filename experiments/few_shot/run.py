"""One method on one family, all seeds as one program, and its directory.

config.json                     what it is
checkpoints/, metrics.jsonl     of meta-training, if there is any
scores.json                     adaptation curves on training and test tasks, a number a seed
"""

import contextlib
import functools
import json
import os
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import checkpoint, metrics, train, workdir
from mtrl_jax.algorithms.few_shot import Learner

from ..common import binary
from ..common.progress import Progress
from .asked import Asked, keys_of, scores_of
from .presets import learner

__all__ = ["check", "run"]

LOG_EVERY, CHECKPOINT_EVERY = 25, 250  # updates
SCORES = "scores.json"


def check(asked: Asked, folder: pathlib.Path) -> bool:
    """Whether `folder` holds this very run, finished.

    Raises:
      ValueError: for numbers that cannot be, or a folder of another run; nothing is written.
    """
    learner(asked.tasks, asked.plan.config, asked.curve)
    return workdir.check(folder, asked.settings()) and (folder / SCORES).exists()


def run(asked: Asked, folder: pathlib.Path) -> dict[str, Any]:
    """What scores.json holds; learns and scores what is left.

    Raises:
      ValueError: as `check`.
    """
    if not check(asked, folder):
        with workdir.locked(folder):
            workdir.check(folder, asked.settings())
            workdir.create(folder, asked.settings())
            made = learner(asked.tasks, asked.plan.config, asked.curve)
            state = _learn(asked, made, folder)
            temporary = folder / f"{SCORES}.tmp"
            temporary.write_text(json.dumps(scores_of(asked, made, state)) + "\n")
            os.replace(temporary, folder / SCORES)
    return json.loads((folder / SCORES).read_text())


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _updates(made: Learner, states: Any, keys: jax.Array, begin: int, end: int) -> Any:
    """Updates `begin` to `end` of all seeds; update n draws from fold_in(key, n) alone. Metrics are
    of the last of them, `[S]`."""

    def one(n: Any, states: Any) -> Any:
        return jax.vmap(lambda s, key: made.update(s, jax.random.fold_in(key, n)))(states, keys)

    states = jax.lax.fori_loop(begin, end - 1, lambda n, states: one(n, states)[0], states)
    return one(end - 1, states)


def _learn(asked: Asked, made: Learner, folder: pathlib.Path) -> Any:
    """States after the last update, `[S, ...]`, from the newest checkpoint on."""
    states, total = jax.jit(jax.vmap(made.init))(keys_of(asked, 0)), asked.plan.updates
    if not total:
        return states
    rows, keys = folder / "metrics.jsonl", keys_of(asked, 1)
    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(train.interrupts())
        manager = stack.enter_context(checkpoint.open_manager(folder / "checkpoints"))
        progress = stack.enter_context(contextlib.closing(Progress(asked.method, ())))
        found = checkpoint.restore_latest(manager, checkpoint.abstract(states), repair=True)
        step = 0
        if found is not None:
            step, states, _ = found
        metrics.drop_after(rows, step)
        progress(step, total, {})
        while step < total:
            begun, end = time.perf_counter(), min((step // LOG_EVERY + 1) * LOG_EVERY, total)
            states, values = _updates(made, states, keys, jnp.int32(step), jnp.int32(end))
            row = {name: np.asarray(x).tolist() for name, x in values.items()}
            _check_finite(row, step, end)
            row["time/updates_per_second"] = (end - step) / (time.perf_counter() - begun)
            step = end
            with rows.open("a") as out:
                out.write(json.dumps({"step": step, **row}) + "\n")
            stop = interrupted.is_set()
            if step % CHECKPOINT_EVERY == 0 or step == total or stop:
                checkpoint.save(manager, step, states, {})
                manager.wait_until_finished()  # before the arrays are donated
            progress(step, total, {})
            if stop and step < total:
                binary.stop(step, folder)
    return states


def _check_finite(row: dict[str, Any], begin: int, end: int) -> None:
    wrong = [name for name, values in row.items() if not np.isfinite(values).all()]
    if wrong:
        raise FloatingPointError(f"{wrong[0]} is not finite between updates {begin} and {end}")
