"""Where numbers go: one JSON object a line, TensorBoard events, a progress bar. Two methods each.
And what a row of them is made of: sums over a window of updates.

`metrics.jsonl` is append-only and what plots and reports read. Whatever depends on the clock has a
key under `time/`, so that two equal runs differ nowhere else. A resumed run first drops the lines
behind its checkpoint.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from mtrl_jax.types import EnvSpec, Metrics


class Writer(Protocol):
    """Takes flat dictionaries of numbers, or of arrays `[S]` where a run holds S seeds."""

    def write(self, step: int, metrics: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class NullWriter:
    """Writes nothing."""

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class Writers:
    """Several writers as one."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = writers

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        for writer in self._writers:
            writer.write(step, metrics)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class JsonlWriter:
    """Appends `{"step": ..., key: number or [S numbers], ...}` lines, flushed one by one."""

    def __init__(self, path: pathlib.Path):
        self._path, self._file = path, path.open("ab", buffering=0)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        row = {"step": step, **{k: np.asarray(v).tolist() for k, v in metrics.items()}}
        # JSON has no NaN: an undefined mean (no episode ended) is null.
        line = memoryview((json.dumps(_nulls(row)) + "\n").encode())
        with _writing(self._path):
            while line:
                line = line[self._file.write(line) :]

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter:
    """Event files, of the mean over seeds. Earlier events from `purge_step` on become void."""

    def __init__(self, folder: pathlib.Path, purge_step: int = 0):
        import tensorboardX  # only runs that write need it

        self._folder = folder
        self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=purge_step)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        with _writing(self._folder):
            for name, value in metrics.items():
                mean = float(np.mean(value))
                if np.isfinite(mean):
                    self._writer.add_scalar(name, mean, step)

    def close(self) -> None:
        with _writing(self._folder):
            self._writer.close()


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    """Errors of the system say what they were about."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _nulls(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _nulls(v) for k, v in x.items()}
    if isinstance(x, list):
        return [_nulls(v) for v in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x


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
    """The rows with processor time for `step`: of training and its evaluations, in all processes
    that continued the run.

    A process counts from its own start, so a count that falls begins a new one. What a killed
    process did after its last row is lost, and so is a row before the first count.
    """
    before, last, found = 0.0, None, []
    for row in rows:
        count = row.get("time/cpu_seconds")
        if count is not None:
            before += last if last is not None and count < last else 0.0
            last = count
        if last is not None:
            found.append({**row, "step": before + last})
    return found


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
    """Means over the window: `task/<name>/...` for what is per task, the rest as it is.

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
