"""A progress bar for whoever waits for a run."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm

from mtrl_jax import processes

__all__ = ["Progress"]


class Progress:
    """A bar with steps, steps a second, time left and the latest return of every task.

    It appears with the first call, when a run has passed its checks; a file or pipe gets a line
    every ten seconds instead.
    """

    def __init__(self, title: str, task_names: Sequence[str]):
        self._title = title
        self._names = task_names
        self._bar: Any = None

    def __call__(self, step: int, total: int, row: dict[str, Any]) -> None:
        if not processes.is_chief():
            return
        if self._bar is None:
            tty = sys.stderr.isatty()
            where = {"dynamic_ncols": True} if tty else {"file": _Lines(), "mininterval": 10.0}
            self._bar = tqdm.tqdm(
                desc=self._title,
                total=total,
                initial=step,
                unit="step",
                unit_scale=True,
                smoothing=0.1,
                **where,
            )
        if row:
            self._show(row)
        self._bar.update(step - self._bar.n)

    def _show(self, row: dict[str, Any]) -> None:
        returns = (row.get(f"task/{name}/episode/return", np.nan) for name in self._names)
        shown = " ".join(f"{np.mean(value):.2f}" for value in returns)
        self._bar.set_postfix_str(f"returns {shown}", refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Lines:
    """Standard error for a progress bar where no cursor can go back: whole lines, no empty ones."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
