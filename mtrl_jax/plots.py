"""Figures from rows of metrics: what people would rather look at than read."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrl_jax import intervals, metrics

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def task_key(task: str, quantity: str) -> str:
    """Where the rows hold a quantity of one task.

    `episode/return` is under `task/<task>/episode/return`, and `eval/task_policy/return` under
    `eval/task_policy/<task>/return`.
    """
    if quantity.startswith("eval/"):
        policy, _, name = quantity.rpartition("/")
        return f"{policy}/{task}/{name}"
    return f"task/{task}/{quantity}"


def curve(
    group: Sequence[Sequence[dict[str, Any]]], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The mean over metrics, seed by seed, from where every run and seed has all of them.

    A metric stays what it last was: where episodes are long, few rows have a return of every task.

    Args:
      group: runs, each the rows of a metrics.jsonl.
      names: keys of the rows, for example one a task.

    Returns:
      Steps `[N]`, up to the end of the shortest run, and values `[N, S]`, S being the seeds of all
      runs together.
    """
    found = [[metrics.series(rows, name) for name in names] for rows in group]
    steps = np.unique(np.concatenate([s for run in found for s, _ in run]))
    steps = steps[steps <= min(max((row["step"] for row in rows), default=-1) for rows in group)]
    values = np.concatenate(
        [sum(_held(s, v, steps) for s, v in run) / len(names) for run in found], axis=1
    )
    known = np.isfinite(values).all(1)
    return steps[known], values[known]


def _held(steps: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The last finite value at or before each step of `at`, else NaN: `[len(at), S]`."""
    finite = np.isfinite(values)
    last = np.maximum.accumulate(np.where(finite, np.arange(len(steps))[:, None], -1), axis=0)
    last = np.concatenate([np.full((1, values.shape[1]), -1), last])  # before all steps
    last = last[np.searchsorted(steps, at, side="right")]
    padded = np.concatenate([values, np.full((1, values.shape[1]), np.nan)])  # -1 is the last row
    return np.take_along_axis(padded, last, axis=0)


def learning_curves(
    runs: Mapping[str, Sequence[Sequence[dict[str, Any]]]],
    task_names: Sequence[str],
    path: pathlib.Path,
    *,
    quantity: str = "episode/return",
    levels: Mapping[str, Mapping[str, float]] | None = None,
    task_panels: bool = True,
    mean_panel: bool = False,
    x_label: str = "environment steps, all tasks",
) -> None:
    """One panel a task, one line a label: the mean over runs and seeds, with a 95 % interval.

    Args:
      runs: label to its runs, each the rows of a metrics.jsonl; runs of one label share their
        steps.
      task_names: what the panels are of.
      path: the PNG to write.
      quantity: as in `task_key`.
      levels: label to task to a constant, drawn as a dotted line (a random policy, say).
      task_panels: one panel for each task.
      mean_panel: one more panel, with the mean over tasks.
      x_label: what the rows' `step` counts.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {}
    if task_panels:
        panels = {task.removeprefix("MiniGrid-"): [task] for task in task_names}
    if mean_panel:
        panels["mean over tasks"] = list(task_names)
    columns = min(len(panels), min((4, 3), key=lambda n: -len(panels) % n))  # few gaps
    lines = -(-len(panels) // columns)
    width, height = (3.4, 2.7) if len(panels) > 1 else (6.8, 4.0)
    per_line = max(int(width * columns // 1.7), 1)  # labels in a line of the legend
    top = 0.1 + 0.25 * -(-len({**runs, **(levels or {})}) // per_line)  # inches, for the legend
    figure, axes = plt.subplots(
        lines, columns, figsize=(width * columns, height * lines + top), squeeze=False, sharex=True
    )
    for panel, (title, tasks) in zip(axes.flat, panels.items(), strict=False):
        keys = [task_key(task, quantity) for task in tasks]
        for colour, (label, group) in zip(COLOURS * 9, runs.items(), strict=False):
            _draw_curve(panel, *curve(group, keys), label, colour)
        for label, values_of in (levels or {}).items():
            level = np.mean([values_of[task] for task in tasks])
            panel.axhline(level, color="#777777", linestyle=":", label=label)
        panel.set_title(title, fontsize=9)
        panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        panel.grid(alpha=0.25)
    for panel in axes.flat[len(panels) :]:
        panel.axis("off")
    for panel in axes.flat[max(len(panels) - columns, 0) : len(panels)]:  # lowest of each column
        panel.tick_params(labelbottom=True)
        panel.set_xlabel(x_label, fontsize=8)
    for row in axes:
        row[0].set_ylabel(quantity.replace("/", " "), fontsize=8)
    _draw_legend(figure, [*runs, *(levels or {})], per_line)
    figure.tight_layout(rect=(0, 0, 1, 1 - top / figure.get_figheight()))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_curve(panel: Any, steps: np.ndarray, values: np.ndarray, label: str, colour: str) -> None:
    """The mean of `[N, S]` over steps `[N]`, with its interval where there are several seeds."""
    if not steps.size:
        return
    panel.plot(steps, values.mean(1), color=colour, label=label, linewidth=1.6)
    if values.shape[1] > 1:
        _, low, high = intervals.mean(values, unit="agent")
        panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _draw_legend(figure: Any, labels: Sequence[str], per_line: int) -> None:
    """One legend for all panels, from which a label may be missing: no episode of that task has
    ended yet."""
    known: dict[str, Any] = {}
    for panel in figure.axes:
        handles, found = panel.get_legend_handles_labels()
        known |= dict(zip(found, handles, strict=True))
    order = [label for label in labels if label in known]
    figure.legend(
        [known[label] for label in order],
        order,
        loc="upper center",
        ncols=per_line,
        frameon=False,
        fontsize=9,
    )
