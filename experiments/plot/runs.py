"""The runs that `experiments.plot` compares, and what they hold."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl_jax import metrics, workdir

Rows = list[dict[str, Any]]


def task_names(rows: Rows) -> tuple[str, ...]:
    """The tasks of a run, from its first evaluation."""
    before, after = "eval/task_policy/", "/return"
    keys = next((r for r in rows if any(k.startswith(before) for k in r)), {})
    return tuple(
        key.removeprefix(before).removesuffix(after)
        for key in keys
        if key.startswith(before) and key.endswith(after)
    )


def default_label(settings: dict[str, Any]) -> str:
    """The algorithm, and whether every task is trained by itself."""
    name = str(settings.get("config/algorithm", settings.get("binary", "run")))
    return f"{name} alone" if settings.get("config/separate") else name


def check_seeds(runs: dict[str, dict[str, Any]]) -> None:
    """Runs that share a label without having been told to must differ in their seeds and no more.

    Raises:
      ValueError: naming the two runs and what is wrong.
    """
    free = {*workdir.MAY_CHANGE, "seed", "num_seeds", "num_devices", "eval_episodes"}
    for n, (one, a) in enumerate(runs.items()):
        for other, b in list(runs.items())[n + 1 :]:
            if default_label(a) != default_label(b):
                continue
            for key in sorted((a.keys() | b.keys()) - free):
                if a.get(key) != b.get(key):
                    raise ValueError(
                        f"--runs: {one} and {other} differ in {key} ({a.get(key)!r}, "
                        f"{b.get(key)!r}), so they are no seeds of one run; name them by --labels"
                    )
            seeds = [_seeds(settings) for settings in (a, b)]
            if seeds[0] & seeds[1]:
                raise ValueError(
                    f"--runs: {one} and {other} are the same run (both hold seed "
                    f"{min(seeds[0] & seeds[1])}); name them by --labels"
                )


def _seeds(settings: dict[str, Any]) -> set[int]:
    first = settings.get("seed", 0)
    return set(range(first, first + settings.get("num_seeds", 1)))


def read(folders: list[str], labels: list[str]) -> tuple[dict[str, list[Rows]], tuple[str, ...]]:
    """The rows of all runs by label, and the tasks that they share.

    Raises:
      ValueError: for something that is no run, or runs that cannot be compared.
    """
    if not folders:
        raise ValueError("--runs must name at least one directory")
    if labels and len(labels) != len(folders):
        raise ValueError(
            f"--labels must hold one name for each of {len(folders)} runs; got {len(labels)}"
        )
    if len(set(folders)) != len(folders):
        raise ValueError(f"--runs must differ; got {','.join(folders)}")
    settings = {folder: workdir.read_config(pathlib.Path(folder)) for folder in folders}
    rows = {f: metrics.read_jsonl(pathlib.Path(f) / "metrics.jsonl") for f in folders}
    tasks = {folder: task_names(rows[folder]) for folder in folders}
    for folder in folders:
        if not tasks[folder]:
            raise ValueError(f"--runs: {folder} has no metrics yet")
        if tasks[folder] != tasks[folders[0]]:
            raise ValueError(
                f"--runs: {folders[0]} and {folder} have different tasks "
                f"({', '.join(tasks[folders[0]])}; {', '.join(tasks[folder])})"
            )
    if not labels:
        check_seeds(settings)
    groups: dict[str, list[Rows]] = {}
    for n, folder in enumerate(folders):
        label = labels[n] if labels else default_label(settings[folder])
        groups.setdefault(label, []).append(rows[folder])
    return groups, tasks[folders[0]]


def random_level(
    folders: Sequence[str], tasks: Sequence[str], quantity: str, given: Sequence[float]
) -> dict[str, float]:
    """Task to what a random policy gets, {} where nobody says it.

    Args:
      folders: of the runs; the first results.json with the scores of a random policy counts.
      tasks: their tasks.
      quantity: as in `plots.task_key`.
      given: by the user instead, one number for all tasks or one for each.

    Raises:
      ValueError: for another number of them.
    """
    if given:
        if len(given) not in (1, len(tasks)):
            raise ValueError(
                f"--random must hold one number, or one for each of {len(tasks)} tasks "
                f"({', '.join(tasks)}); got {len(given)}"
            )
        each = given if len(given) > 1 else [given[0]] * len(tasks)
        return dict(zip(tasks, each, strict=True))
    if quantity.split("/")[0] not in ("episode", "eval"):
        return {}
    name = quantity.rpartition("/")[2]
    for path in (pathlib.Path(folder) / "results.json" for folder in folders):
        found = json.loads(path.read_text()).get("random", {}) if path.exists() else {}
        if all(f"{task}/{name}" in found for task in tasks):
            return {task: float(np.mean(found[f"{task}/{name}"])) for task in tasks}
    return {}


def known_metrics(rows: Rows, task: str) -> list[str]:
    """Everything that `--metric` can be."""
    names = {k: None for row in rows for k in row}
    middle = [k.removeprefix(f"task/{task}/") for k in names if k.startswith(f"task/{task}/")]
    scores = [
        k.replace(f"/{task}/", "/") for k in names if k.startswith("eval/") and f"/{task}/" in k
    ]
    return sorted({*middle} - {"episode/longest"}) + sorted(scores)
