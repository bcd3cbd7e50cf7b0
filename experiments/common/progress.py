"""A progress bar for whoever waits for a run."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tqdm

from mtrl_jax import evaluate, plots, processes
from mtrl_jax.types import Agent, FunctionalSuite, HostSuite, Timestep

__all__ = ["Progress", "latest", "scorer"]

LINE_EVERY = 10.0  # seconds, into a file or pipe
NAMED = 4  # tasks of which each has its return in the bar


def latest(row: dict[str, Any], task_names: Sequence[str]) -> str:
    """The latest return of every task by its name, means over seeds; of many tasks their mean, the
    lowest and the highest."""
    known, unknown = {}, []
    for task in task_names:
        value = np.asarray(row.get(f"task/{task}/episode/return", np.nan), np.float64)
        if np.isnan(value).all():
            unknown.append(plots.short_task(task))
        else:
            known[plots.short_task(task)] = float(np.nanmean(value))
    if not known:
        return "no episode yet"
    if len(task_names) <= NAMED:
        parts = [f"{task} {value:.2f}" for task, value in known.items()]
        return "return: " + ", ".join(parts + [f"{task} no episode yet" for task in unknown])
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    text = f"mean return {np.mean([*known.values()]):.2f}"
    text += f" ({low} {known[low]:.2f} to {high} {known[high]:.2f})"
    return text + (
        f"; no episode yet of {len(unknown)} of {len(task_names)} tasks" if unknown else ""
    )


class Progress:
    """A bar with steps, steps a second, time left and what `latest` says; and, while
    an evaluation plays, how many of its episodes are over.

    It appears with the first call, when a run has passed its checks; a file or pipe gets a line
    every ten seconds instead.
    """

    def __init__(self, title: str, task_names: Sequence[str]):
        self._title = title
        self._names = task_names
        self._bar: Any = None
        self._shown = -LINE_EVERY

    def __call__(self, step: int, total: int, row: dict[str, Any]) -> None:
        if not processes.is_chief():
            return
        if self._bar is None:
            self._bar = tqdm.tqdm(
                desc=self._title,
                total=total,
                initial=step,
                unit="step",
                unit_scale=True,
                smoothing=0.1,
                **_where(),
            )
        if "eval/ended" in row:
            self._evaluating(row["eval/ended"], row["eval/episodes"])
            return
        if any(key.startswith("task/") for key in row):
            self._bar.set_postfix_str(latest(row, self._names), refresh=False)
        self._bar.update(step - self._bar.n)

    def _evaluating(self, ended: int, episodes: int) -> None:
        text = f"evaluating, {ended} of {episodes} episodes"
        self._bar.set_postfix_str(text, refresh=False)
        now = time.monotonic()
        if sys.stderr.isatty() or now - self._shown >= LINE_EVERY:
            self._shown = now
            self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def scorer(
    title: str,
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
    episodes: int,
    *,
    distilled: bool = False,
    greedy: bool | None = None,
) -> Callable[..., evaluate.Score]:
    """`evaluate.scorer` that says what it does: with a bar on the host, where it may take minutes,
    and a line where it is one program."""
    if isinstance(suite, FunctionalSuite):
        print(f"{title}: {episodes} episodes a task, as one program ...", flush=True)
        return evaluate.scorer(suite, agent, episodes, distilled=distilled, greedy=greedy)

    def score(policy: Any, key: Any) -> evaluate.Score:
        total = suite.spec.num_tasks * episodes
        with tqdm.tqdm(desc=title, total=total, unit="episode", **_where()) as bar:

            def on_row(timestep: Timestep, alive: np.ndarray) -> None:
                bar.update(min(alive.size - int(alive.sum()), total) - bar.n)

            play = evaluate.host_scorer(
                suite, agent, episodes, distilled=distilled, greedy=greedy, on_row=on_row
            )
            result = play(policy, key)
            bar.update(total - bar.n)
        return result

    return score


def _where() -> dict[str, Any]:
    if sys.stderr.isatty():
        return {"dynamic_ncols": True}
    return {"file": _Lines(), "mininterval": LINE_EVERY}


class _Lines:
    """Standard error for a progress bar where no cursor can go back: whole lines, no empty ones."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
