"""Rows of numbers: how a file of them is read, what a row is made of (sums over a window of
updates), and which episodes it stands for.

`metrics.jsonl` is append-only and what plots and reports read; `writers` writes it. Whatever
depends on the clock has a key under `time/`, so that two equal runs differ nowhere else. A resumed
run first drops the lines behind its checkpoint.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl_jax.types import EnvSpec, Metrics


def read_jsonl(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line cut short by a kill is left out.

    Raises:
      ValueError: if a line other than the last is not JSON.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    rows = []
    for n, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if n < len(lines) - 1:
                raise ValueError(f"{path}, line {n + 1}, is not JSON: {error}") from error
    return rows


def drop_after(path: pathlib.Path, step: int) -> None:
    """Removes the rows of `path` behind `step`, in one atomic replacement."""
    rows = [row for row in read_jsonl(path) if row["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, path)


def series(rows: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps `[N]` and values `[N, S]` of one metric, rows without a value left out."""
    kept = [(r["step"], np.atleast_1d(r[name])) for r in rows if r.get(name) is not None]
    kept = [(s, v.astype(float)) for s, v in kept]
    if not kept:
        return np.zeros(0), np.zeros((0, 1))
    return np.array([s for s, _ in kept]), np.stack([v for _, v in kept])


def over_cpu_seconds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, `settled`, with processor time for `step`: of training and its evaluations, in all
    processes that continued the run.

    A process counts from its own start, so a count that falls begins a new one. What a killed
    process did after its last row is lost, and so is a row before the first count.
    """
    before, last, found = 0.0, None, []
    for row in settled(rows):
        count = row.get("time/cpu_seconds")
        if count is not None:
            before += last if last is not None and count < last else 0.0
            last = count
        if last is not None:
            found.append({**row, "step": before + last})
    return found


# ------------------------------------------------------------- which episodes a log row stands for

_LONGEST, _EARLY, _OF_EPISODES = "longest", "early", ("return", "success", "length")


def longest_episodes(spec: EnvSpec, num_envs: int) -> dict[str, float]:
    """`task/<name>/episode/longest`, for the row at which all environments begin anew: environment
    steps of the run until an episode of the task that begins there has ended, however long it is.

    An episode of L actions is counted with the reset row behind it, row L + 1 of its environment.

    Args:
      spec: of the suite; NaN where it knows no limit.
      num_envs: E.
    """
    limits = np.asarray(spec.episode_limit, np.float64)
    steps = np.where(limits > 0, (limits + 1) * spec.num_tasks * num_envs, np.nan)
    return {
        f"task/{name}/episode/{_LONGEST}": float(n)
        for name, n in zip(spec.task_names, steps, strict=True)
    }


def settled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with means over episodes in which short and long ones are in proportion.

    A log row has the mean over the episodes that ended in its window. Environments that begin
    together are in step for a while: first only short episodes end, later all long ones at once.
    With n the steps that the longest episode takes (`longest_episodes`), each mean here is over all
    episodes that ended in the last n steps and more, weighted by their number, and stands from
    where those began n steps after the first reset and later: before, it is null. Then episodes of
    every length have had as long a time to end (a renewal process, see Cox 1962, *Renewal Theory*).

    Where that is nowhere, because n is unknown or the run too short, means are as they were and the
    rows have `task/<name>/episode/early`. Rows of a run that does not say n stay as they are.
    """
    found = [dict(row) for row in rows]
    ending = f"/episode/{_LONGEST}"
    for task in {k.removesuffix(ending): None for row in rows for k in row if k.endswith(ending)}:
        own = [row for row in rows if f"{task}/episode/return" in row]
        changed = _settled(own, _resets(rows, task + ending), f"{task}/episode/")
        for row in found:
            row.pop(task + ending, None)
            if f"{task}/episode/return" in row:
                row |= changed.get(row["step"], {f"{task}/episode/{_EARLY}": 1.0})
    return found


def _resets(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    """Steps at which all environments began anew, and the longest episode in steps."""
    return [(r["step"], np.inf if r[key] is None else r[key]) for r in rows if key in r]


def _settled(
    rows: Sequence[dict[str, Any]], resets: Sequence[tuple[int, float]], prefix: str
) -> dict[int, dict[str, Any]]:
    """Step of each log row of one task to its new means; {} if all of them are null."""
    ends = [row["step"] for row in rows]
    begins = [resets[0][0], *ends[:-1]]
    names = [prefix + name for name in _OF_EPISODES if prefix + name in rows[0]] if rows else []
    found: dict[int, dict[str, Any]] = {}
    for i, end in enumerate(ends):
        reset, longest = [pair for pair in resets if pair[0] < end][-1]
        first = max((j for j in range(i + 1) if end - begins[j] >= longest), default=None)
        if first is None or begins[first] < reset + longest:
            found[end] = dict.fromkeys(names)
            continue
        pooled = rows[first : i + 1]
        count = np.array([row[f"{prefix}count"] for row in pooled], np.float64)
        found[end] = {}
        for name in names:
            value = np.array([row[name] for row in pooled], np.float64)  # None is NaN
            sums = np.where(count > 0, value * count, 0.0).sum(0)
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = sums / count.sum(0)
            known = np.asarray(mean).astype(object)
            known[~np.isfinite(mean)] = None  # as JSON has it
            found[end][name] = known.tolist()
    return found if any(v is not None for new in found.values() for v in new.values()) else {}


# ---------------------------------------------------------------------- what a log row is made of


def accumulate(window: dict[str, Any], values: Metrics, spec: EnvSpec, step: int) -> dict[str, Any]:
    """Sums since the last log row, with the metrics of some more updates.

    Args:
      window: sums of before, JSON values, so that a checkpoint can hold them; {} at first.
      values: of N updates, `[N, ...]`; {} of none.
      spec: of the suite.
      step: environment steps done.

    Raises:
      FloatingPointError: naming the task, if a loss or gradient norm is not finite.
    """
    _check_finite(values, spec, step)
    if not values:
        return window
    sums = {k: np.asarray(v, np.float64).sum(0) for k, v in values.items()}
    sums["updates"] = np.asarray(float(len(next(iter(values.values())))))
    return {k: (np.asarray(window.get(k, 0.0)) + v).tolist() for k, v in sums.items()}


def log_row(window: dict[str, Any], spec: EnvSpec, num_seeds: int) -> dict[str, Any]:
    """Means over the window, and sums of counts: `task/<name>/...` for what is per task, the rest
    as it is.

    Args:
      window: of `accumulate`, of one update at least.
      spec: of the suite.
      num_seeds: S; values of several seeds are `[S, ...]`.
    """
    window = {k: np.asarray(v) for k, v in window.items()}
    updates, count = window.pop("updates"), window.pop("episode/count")
    row: dict[str, Any] = {}
    with np.errstate(invalid="ignore", divide="ignore"):  # no episode ended: nan, null in the file
        means = {k: v / (count if k.startswith("episode/") else updates) for k, v in window.items()}
    means = {**means, "episode/count": count}
    if "curriculum/steps" in window:
        means["curriculum/steps"] = window["curriculum/steps"]
    if not spec.has_success:
        del means["episode/success"]
    for name, value in means.items():
        if value.ndim == (2 if num_seeds > 1 else 1):  # else one number for all tasks
            for k, task in enumerate(spec.task_names):
                row[f"task/{task}/{name}"] = value[..., k]
        else:
            row[name] = value
    return row


def _check_finite(values: Metrics, spec: EnvSpec, step: int) -> None:
    for name in ("loss/total", "grad/shared_norm", "grad/task_norm"):
        bad = ~np.isfinite(values[name]) if name in values else np.zeros((1, 1), bool)
        if bad.any():
            task = spec.task_names[int(np.argwhere(bad)[0][-1])]
            raise FloatingPointError(
                f"{name} of task {task} is not finite at environment step {step}; "
                "the last checkpoint is of before"
            )
