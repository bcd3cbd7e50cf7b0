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
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from mtrl_jax import workdir
from mtrl_jax.benchmark import cells, compiled, hosted, matrix, regime, regime_pool, results, worker
from mtrl_jax.envs import suites
from mtrl_jax.types import FunctionalSuite

from ..common import binary, run_flags
from . import agents, show

_AGENT = flags.DEFINE_list(
    "agent",
    ["dqn"],
    "Agents of experiments/benchmark/agents.py, or "
    "module:function of your own; several with commas.",
)
_WORKERS = flags.DEFINE_integer(
    "num_workers",
    0,
    "Cells at a time, each with its share of the cores; 0: one a core, or one in "
    "all where there is an accelerator.",
    0,
)
_WORKER = flags.DEFINE_bool("worker", False, "Used by the binary itself.")
_HELP = {
    "games": "Games of the suite, with commas. (default: all)",
    "track": "no_id: nobody says which game it is. task_id: the agent has one task a game.",
    "folds": "Parts of the games; each is held out of one pre-training.",
    "fold_seed": "Of the partition into folds.",
    "seeds": "Runs of everything, from --seed on.",
    "steps_per_task": "Environment steps of a run on one game.",
    "pretrain_steps": "Environment steps of a pre-training; 0: --steps_per_task for each game.",
    "multitask_steps": "Environment steps on all games; 0: --steps_per_task for each game.",
    "evaluations": "Evaluations in each run, at equal distances.",
    "final_episodes": "Episodes of every game at the end of a run.",
}
_OWN = tuple(_HELP)
_MEANT = (
    "workdir",
    "seed",
    "suite",
    "list_suites",
    "num_envs_per_task",
    "eval_episodes",
    "config_overrides",
)


def define_flags() -> None:
    """Called by the binary only, so that importing this module defines no flag of a setting."""
    flags.FLAGS.set_default("suite", "small_games")
    d = cells.Settings("")
    flags.DEFINE_list("games", list(d.games), _HELP["games"])
    flags.DEFINE_enum("track", d.track, list(cells.TRACKS), _HELP["track"])
    for name in _OWN[2:]:
        flags.DEFINE_integer(name, getattr(d, name), _HELP[name])


def settings_of_flags() -> cells.Settings:
    """The matrix that the flags describe."""
    f, d = flags.FLAGS, cells.Settings("")
    own = {name: getattr(f, name) for name in _OWN}
    return cells.Settings(
        suite=f.suite,
        seed=f.seed,
        num_envs=f.num_envs_per_task or d.num_envs,
        eval_episodes=f.eval_episodes or d.eval_episodes,
        **{**own, "games": tuple(own["games"])},
    )


def suite_of(settings: cells.Settings) -> Any:
    """The games, all of them or those that were named."""
    suite = suites.make(settings.suite)
    if not settings.games:
        return suite
    chosen = regime.choose(suite.spec, settings.games)
    if isinstance(suite, FunctionalSuite):
        return regime.subset(suite, chosen)
    return regime_pool.part(suite.spec, chosen)


def main() -> None:
    run_flags.start()
    own = [*_OWN, "agent", "num_workers", "worker"]
    binary.refuse_others(*_MEANT, *own)
    settings = settings_of_flags()
    if not _WORKER.value:
        jax.config.update("jax_platforms", "cpu")  # only workers may hold an accelerator
    suite = suite_of(settings)
    cells.check(settings, suite.spec.num_tasks)

    def make(name):
        return agents.make(name, settings.track, run_flags.overrides(), suite.spec)

    entries = {name: make(name) for name in (*agents.CONTROLS, *_AGENT.value)}
    functional = isinstance(suite, FunctionalSuite)
    every = cells.in_order(
        [
            cell
            for name, entry in entries.items()
            for cell in cells.cells(
                settings,
                suite.spec.task_names,
                {name: entry.learns},
                functional=functional and not entry.hosted,
            )
        ]
    )
    folder = run_flags.workdir("benchmark", f"{settings.suite}-{settings.track}")
    by_name = {cell.name: cell for cell in every}

    def run_cell(name: str, on_progress: Callable[[int, int], None]) -> list[dict[str, Any]]:
        cell = by_name[name]
        with matrix.cell_lock(folder, name):
            return hosted.run_any(
                cell,
                settings,
                suite,
                entries[cell.agent],
                folder / "cells",
                lambda step, total, row: on_progress(step, total),
            )

    if _WORKER.value:
        worker.serve(run_cell, compiled.Stopped)
        return

    identity = json.loads(json.dumps({"binary": "benchmark", **dataclasses.asdict(settings)}))
    settings_of = {name: entry.settings for name, entry in entries.items()}
    lock = contextlib.ExitStack()
    if workdir.check(folder, identity):
        results.check_agents(folder, settings_of)
    lock.enter_context(workdir.locked(folder))
    workdir.create(folder, identity)
    twins = results.twins(every, entries, results.keep_agents(folder, settings_of))
    table = results.Table(folder, every)
    table.copy(every, twins)
    runs = [cell for cell in every if table.finished(cell) or twins.get(cell.name) not in by_name]

    def finished(cell: cells.Cell) -> None:
        table.copy(every, twins)
        shutil.rmtree(folder / "cells" / cell.name / "checkpoints", ignore_errors=True)

    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    args = ["-m", __package__, *sys.argv[1:], f"--workdir={folder}", "--worker"]
    count = _WORKERS.value or int(worker.has_accelerator())
    with lock, contextlib.closing(show.Board()) as board:
        outcome = matrix.run(runs, table, folder, args, count, board, finished)
    show.end(outcome, folder, every)


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(run_flags)
    binary.main(main)
