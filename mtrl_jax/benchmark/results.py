"""The table of results: one JSON object a line, a line for each cell and seed, in `results.jsonl`.

A cell is finished when all its lines are there; they are written in one piece, and what a kill cut
short is dropped when the table is opened again. Keys::

    cell, agent, track, kind, task, fold, seed   which run (`cells.Cell`)
    steps    [M] environment steps of the evaluations
    scores   game -> [M] mean undiscounted return of an evaluation's episodes
    final    game -> mean return at the end, on episodes of their own
    env_steps, time/seconds                      what it took
    same_as                                      the cell that it was copied from, if it was
"""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtrl_jax import metrics
from mtrl_jax.benchmark.cells import Cell, Settings
from mtrl_jax.types import EnvSpec

__all__ = ["AGENTS", "FILE", "Table", "check_agents", "keep_agents", "table_rows", "twins"]

FILE = "results.jsonl"
AGENTS = "agents.json"
Row = dict[str, Any]


def check_agents(folder: pathlib.Path, settings: dict[str, dict[str, Any]]) -> None:
    """Raises ValueError if an agent of the folder had other settings than it has now."""
    path = folder / AGENTS
    saved = json.loads(path.read_text()) if path.exists() else {}
    for name, now in settings.items():
        before = saved.get(name, now)
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise ValueError(
                    f"workdir: {folder} holds results of {name} with {key}={before.get(key)!r}, "
                    f"this one has {now.get(key)!r}; choose another workdir or the same settings"
                )


def keep_agents(
    folder: pathlib.Path, settings: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Notes the settings of agents beside the table; returns them with those that are there."""
    path = folder / AGENTS
    saved = json.loads(path.read_text()) if path.exists() else {}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**saved, **settings}, indent=1) + "\n")
    os.replace(temporary, path)
    return {**saved, **settings}


def twins(
    cells: Sequence[Cell], entries: Mapping[str, Any], known: Mapping[str, dict[str, Any]]
) -> dict[str, str]:
    """Names of cells that repeat another agent's cell, each with the name of that.

    Args:
      cells: of the agents asked for.
      entries: name to `compiled.Entry`, whose `twin` says what it repeats.
      known: settings of all agents of the folder.
    """
    found = {}
    for cell in cells:
        twin = entries[cell.agent].twin
        if twin and cell.kind in twin.kinds and known.get(twin.agent) == twin.settings:
            found[cell.name] = twin.agent + cell.name.removeprefix(cell.agent)
    return found


def table_rows(
    cell: Cell,
    settings: Settings,
    spec: EnvSpec,
    rows: Sequence[Row],
    final: np.ndarray | None,
    step: int,
    seconds: float,
) -> list[Row]:
    """What the table keeps of a cell, a row for each seed.

    Args:
      cell: finished.
      settings: of the matrix.
      spec: of all its games.
      rows: of the cell's own metrics, its evaluations among them.
      final: mean returns `[S, N]` at the end; None: those of the last evaluation.
      step: environment steps done.
      seconds: that it took.

    Raises:
      ValueError: without `final`, if the last evaluation is not of `step`.
    """
    curves = {}
    for name in spec.task_names:
        steps, values = metrics.series(rows, f"eval/task_policy/{name}/return")
        if len(steps):
            curves[name] = (steps.astype(int).tolist(), values)
    for name, (steps, _) in curves.items():
        if final is None and steps[-1] != step:
            raise ValueError(
                f"cell {cell.name}: its last evaluation of {name} is of step {steps[-1]}, not of "
                f"the {step} that it has done"
            )
    found = []
    for s, seed in enumerate(cell.seeds):
        if final is None:
            last = {name: float(values[-1, s]) for name, (_, values) in curves.items()}
        else:
            last = dict(zip(spec.task_names, final[s].tolist(), strict=True))
        found.append(
            {
                "cell": cell.name,
                "agent": cell.agent,
                "track": settings.track,
                "kind": cell.kind,
                "task": spec.task_names[cell.task] if cell.task >= 0 else None,
                "fold": None if cell.fold < 0 else cell.fold,
                "seed": seed,
                "steps": next(iter(curves.values()))[0] if curves else [],
                "scores": {name: values[:, s].tolist() for name, (_, values) in curves.items()},
                "final": last,
                "env_steps": step,
                "time/seconds": seconds,
            }
        )
    return found


class Table:
    """The rows of a results folder; only the process that schedules the cells has one."""

    def __init__(self, folder: pathlib.Path, cells: Sequence[Cell]) -> None:
        """Reads the table, and drops what is incomplete.

        Raises:
          ValueError: if the file is not a table.
        """
        self._path = folder / FILE
        rows = metrics.read_jsonl(self._path)
        wanted = {cell.name: set(cell.seeds) for cell in cells}
        have: dict[str, set[int]] = {}
        for row in rows:
            have.setdefault(row["cell"], set()).add(row["seed"])
        # Cells of agents that are not asked for this time stay as they are.
        self.rows = [r for r in rows if have[r["cell"]] >= wanted.get(r["cell"], set())]
        self._finished = {row["cell"] for row in self.rows}
        if self._path.exists():
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
            os.replace(temporary, self._path)

    def finished(self, cell: Cell) -> bool:
        """Whether a cell need not run again."""
        return cell.name in self._finished

    def copy(self, cells: Iterable[Cell], twins: Mapping[str, str]) -> None:
        """Gives cells the rows of their twins, as far as these are finished."""
        for cell in cells:
            twin = twins.get(cell.name)
            if twin in self._finished and not self.finished(cell):
                own = {"cell": cell.name, "agent": cell.agent, "same_as": twin, "time/seconds": 0.0}
                self.add([{**row, **own} for row in self.rows if row["cell"] == twin])

    def add(self, rows: Iterable[Row]) -> None:
        """Writes the rows of a finished cell, to the disk."""
        rows = list(rows)
        with self._path.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
        self.rows += rows
        self._finished |= {row["cell"] for row in rows}
