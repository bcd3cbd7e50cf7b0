"""The table of results: one JSON object a line, a line for each cell and seed, in `results.jsonl`.

A cell is finished when all its lines are there; they are written in one piece, and what a kill cut
short is dropped when the table is opened again. Keys:

    cell, agent, track, kind, task, fold, seed   which run (`cells.Cell`)
    steps    [M] environment steps of the evaluations
    scores   game -> [M] mean undiscounted return of an evaluation's episodes
    final    game -> mean return at the end, on episodes of their own
    env_steps, time/seconds                      what it took
"""

import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from mtrl_jax import metrics
from mtrl_jax.benchmark.cells import Cell

__all__ = ["AGENTS", "FILE", "Table", "check_agents", "keep_agents"]

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


def keep_agents(folder: pathlib.Path, settings: dict[str, dict[str, Any]]) -> None:
    """Notes the settings of agents beside the table, with those that are there."""
    path = folder / AGENTS
    saved = json.loads(path.read_text()) if path.exists() else {}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**saved, **settings}, indent=1) + "\n")
    os.replace(temporary, path)


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

    def add(self, rows: Iterable[Row]) -> None:
        """Writes the rows of a finished cell, to the disk."""
        rows = list(rows)
        with self._path.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
        self.rows += rows
        self._finished |= {row["cell"] for row in rows}
