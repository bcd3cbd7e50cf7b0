r"""Runs the transfer benchmark: every game from scratch, after other games, and all games at once.

    python -m experiments.benchmark                          # DQN on twelve small games
    python -m experiments.benchmark --suite=maze8 --agent=a3c,ppo --workdir=runs/benchmark/maze8
    python -m experiments.benchmark --suite=envpool:Pong-v5,Breakout-v5,Boxing-v5 --folds=3 \
        --agent=my_package.my_agent:make
    python -m experiments.benchmark.report --workdir=runs/benchmark/maze8

The same command goes on where it was stopped, at any moment; another --agent adds to the table.
docs/benchmark.md says what is measured. Controls (random actions, a network that never learns)
are in every table.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from mtrl_jax import workdir
from mtrl_jax.benchmark import cells, compiled, hosted, matrix, results, worker

from ..common import binary, run_flags
from . import plan, show
from .plan import Plan

_WORKERS = flags.DEFINE_integer(
    "num_workers",
    0,
    "Cells at a time, each with its share of the cores; 0: one a core, or one in "
    "all where there is an accelerator.",
    0,
)
_WORKER = flags.DEFINE_bool("worker", False, "Used by the binary itself.")


def work(planned: Plan) -> None:
    """Runs the cells that the scheduling process names."""
    by_name = {cell.name: cell for cell in planned.every}

    def run_cell(name: str, on_progress: Callable[[int, int], None]) -> list[dict[str, Any]]:
        cell = by_name[name]
        with matrix.cell_lock(planned.folder, name):
            return hosted.run_any(
                cell,
                planned.settings,
                planned.suite,
                planned.entries[cell.agent],
                planned.folder / "cells",
                lambda step, total, row: on_progress(step, total),
            )

    worker.serve(run_cell, compiled.Stopped)


def schedule(planned: Plan) -> None:
    """Hands out what is left of the matrix to workers, and keeps the table."""
    folder, every = planned.folder, planned.every
    settings = cells.values(planned.settings)
    identity = json.loads(json.dumps({"binary": "benchmark", **settings}))
    numbers = {name: entry.settings for name, entry in planned.entries.items()}
    if workdir.check(folder, identity):
        results.check_agents(folder, numbers)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    with workdir.locked(folder), contextlib.closing(show.Board()) as board:
        workdir.create(folder, identity)
        twins = results.twins(every, planned.entries, results.keep_agents(folder, numbers))
        table = results.Table(folder, every)
        table.copy(every, twins)
        names = {cell.name for cell in every}
        runs = [cell for cell in every if table.finished(cell) or twins.get(cell.name) not in names]

        def finished(cell: cells.Cell) -> None:
            table.copy(every, twins)
            shutil.rmtree(folder / "cells" / cell.name / "checkpoints", ignore_errors=True)

        args = ["-m", str(__package__), *sys.argv[1:], f"--workdir={folder}", "--worker"]
        count = _WORKERS.value or int(worker.has_accelerator())
        outcome = matrix.run(runs, table, folder, args, count, board, finished)
    show.end(outcome, folder, every)


def main() -> None:
    run_flags.start()
    if not _WORKER.value:
        jax.config.update("jax_platforms", "cpu")  # only workers may hold an accelerator
    planned = plan.read()
    if _WORKER.value:
        work(planned)
    else:
        schedule(planned)


if __name__ == "__main__":
    flags.FLAGS.set_default("suite", "small_games")
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(plan)
    binary.main(main)
