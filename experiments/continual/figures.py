"""Figures of a sequence: the curves of every task, and the table as bars."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from mtrl_jax import intervals, plots

from .numbers import Curves, Numbers, Scale
from .sequence import REFERENCE

__all__ = ["COLUMNS", "HEADS", "draw", "draw_numbers"]

COLUMNS = ("performance", "forgetting", "forward")
HEADS = ("final performance", "forgetting", "forward transfer")
_DASHES = ("-", "--", ":")


def draw(
    curves: Mapping[str, Curves],
    scale: Scale,
    task_names: Sequence[str],
    quantity: str,
    path: pathlib.Path,
) -> None:
    """The score of every task over the whole sequence, a panel a task; its own training is grey."""
    from matplotlib.figure import Figure  # not needed to learn

    n = len(task_names)
    figure = Figure(figsize=(9, 1.2 + 1.5 * n), layout="constrained")
    panels = figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0]
    own = curves[REFERENCE].steps
    for i, (panel, task) in enumerate(zip(panels, task_names, strict=True)):
        panel.axvspan(own[i, 0], own[i, -1], color="0.92", zorder=0)
        for m, (method, c) in enumerate(curves.items()):
            steps, scores = c.flat()
            panel.plot(
                steps,
                scores[..., i].mean(0),
                _DASHES[m // len(plots.COLOURS)],
                color=plots.COLOURS[m % len(plots.COLOURS)],
                linewidth=1.3,
                label=method,
            )
        panel.axhline(scale.low[i], color="0.5", linestyle=":", linewidth=1, zorder=0)
        panel.set_title(plots.short_task(task), fontsize=9, loc="left")
        panel.grid(alpha=0.25)
    panels[-1].set_xlabel(plots.count_axis(panels[-1], own.max(), "environment steps"))
    figure.supylabel(plots.quantity_label(f"eval/task_policy/{quantity}"), fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_numbers(numbers: Mapping[str, Numbers], path: pathlib.Path) -> None:
    """The table as bars, with intervals over agents."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.9 + 0.32 * len(numbers)), layout="constrained")
    panels = figure.subplots(1, len(COLUMNS), sharey=True)
    names = list(numbers)
    for panel, column, head in zip(panels, COLUMNS, HEADS, strict=True):
        for m, method in enumerate(names):
            values = getattr(numbers[method], column)
            if values is None:
                continue
            at = intervals.mean(values, unit="agent")
            ends = np.nan_to_num([[at.value - at.low], [at.high - at.value]])
            panel.barh(m, at.value, xerr=ends, color=plots.COLOURS[m % len(plots.COLOURS)])
        panel.axvline(0, color="0.3", linewidth=0.8)
        panel.set_title(head, fontsize=9)
        panel.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=110)
