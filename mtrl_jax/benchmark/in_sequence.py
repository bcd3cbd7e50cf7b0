"""The report's section on a run of `experiments.continual`: one task after the other."""

import pathlib
from collections.abc import Sequence
from typing import Any

from mtrl_jax import intervals, metrics
from mtrl_jax.benchmark.page import Section, best_in_bold

__all__ = ["read", "section"]

FILE = "results.jsonl"
# Fields of a line, [S] each or None, and what a column is called; of the second less is better.
COLUMNS = {
    "performance": "final performance",
    "forgetting": "forgetting",
    "forward": "forward transfer",
}


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """A line for each method, from a run's directory or its results.jsonl.

    Raises:
      ValueError: for no such file, or one of something else.
    """
    file = path / FILE if path.is_dir() else path
    lines = metrics.read_jsonl(file) if file.is_file() else []
    if not lines or not all(map(_is_row, lines)):
        raise ValueError(
            f"--continual: {file} holds no numbers of a finished experiments.continual"
        )
    return lines


def _is_row(line: dict[str, Any]) -> bool:
    if {"method", "tasks", *COLUMNS} - line.keys() or not isinstance(line["performance"], list):
        return False
    return all(line[name] is None or isinstance(line[name], list) for name in COLUMNS)


def section(lines: Sequence[dict[str, Any]]) -> Section:
    """The numbers of Continual World (Wolczyk et al. 2021, arXiv 2105.10919), a row a method.

    Args:
      lines: from `read`.
    """
    rows = [
        [
            None if line[name] is None else intervals.mean(line[name], unit="agent")
            for name in COLUMNS
        ]
        for line in lines
    ]
    cells = best_in_bold(rows, [name == "forgetting" for name in COLUMNS])
    first = lines[0]
    algorithm = first.get("algorithm", "ppo")
    agents = max(len(line["performance"]) for line in lines)
    text = (
        f"{', '.join(first['tasks'])}, learnt in this order by {algorithm}, which is "
        f"{'told' if first.get('told', True) else 'not told'} where tasks change; "
        f"{agents} agents. Final performance: mean over tasks at the end of all. Forgetting: what "
        "each has lost since the end of its own training; less is better. Forward transfer: share "
        "of the possible gain in area over its own training, against a fresh network for each "
        "task (reset). Returns have a random policy at 0 and at 1 what reset has learnt, so the "
        "scale is not that of the other sections; successes are shares. Brackets hold 95 % "
        "intervals (Student's t) over agents."
    )
    return Section(
        f"One task after the other ({algorithm}, {len(first['tasks'])} tasks)",
        text,
        (),
        ("method", *COLUMNS.values()),
        [[line["method"], *row] for line, row in zip(lines, cells, strict=True)],
    )
