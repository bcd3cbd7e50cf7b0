"""What a supervised run shows: a table of its last evaluation, and curves over training."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl_jax import intervals, plots

CURVES = ("accuracy", "conflicts", "cosine", "loss")
TITLES = ("test accuracy, mean of tasks", "share of pairs in conflict", "mean gradient cosine")


def table(rows: list[dict[str, Any]], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Last evaluation: means over runs (seeds) with Student's 95 % intervals, and differences to
    `mean` paired by seed; conflicts and cosine are means over training."""
    last = {row["method"]: row for row in rows}  # of each method the last row stays
    plain = np.array(last["mean"]["accuracy"])
    result = {}
    for method in methods:
        accuracy = np.array(last[method]["accuracy"])
        mine = [row for row in rows if row["method"] == method]

        def over(name, mine=mine):
            return None if mine[0][name] is None else float(np.mean([row[name] for row in mine]))

        result[method] = {
            "step": last[method]["step"],
            "accuracy": float(accuracy.mean()),
            "interval": _ends(accuracy),
            "over_mean": float((accuracy - plain).mean()),
            "over_mean_interval": _ends(accuracy - plain),
            "conflicts": over("conflicts"),
            "cosine": over("cosine"),
        }
    return result


def _ends(values: np.ndarray) -> list[float]:
    return [float(x) for x in intervals.mean(values, unit="run")[1:]]


def show(result: dict[str, dict[str, Any]]) -> None:
    heads = f"{'over plain mean':>25} {'conflicts':>10} cosine   step"
    print(f"{'method':22} {'test accuracy %':>22} {heads}")
    for method, row in result.items():
        low, high = (100 * x for x in row["interval"])
        text = f"{method:22} {100 * row['accuracy']:6.2f} [{low:5.2f}, {high:5.2f}]"
        low, high = (100 * x for x in row["over_mean_interval"])
        text += f"   {100 * row['over_mean']:+6.2f} [{low:+5.2f}, {high:+5.2f}]"
        numbers = (row["conflicts"], row["cosine"])
        text += "".join(f"{'-' if x is None else f'{x:.3f}':>10}" for x in numbers)
        print(text + f"{row['step']:7}")


def draw(rows: list[dict[str, Any]], methods: Sequence[str], path: pathlib.Path) -> None:
    """Accuracy, conflicts and gradient similarity over training, with 95 % intervals over seeds."""
    from matplotlib.figure import Figure  # not needed to train

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    for panel, name, title in zip(figure.subplots(1, 3), CURVES, TITLES, strict=False):
        for n, method in enumerate(methods):
            mine = [row for row in rows if row["method"] == method and row[name] is not None]
            if not mine:
                continue
            steps, values = [row["step"] for row in mine], np.array([row[name] for row in mine])
            colour = plots.COLOURS[n % len(plots.COLOURS)]
            style = "-" if n < len(plots.COLOURS) else "--"
            panel.plot(steps, values.mean(1), style, color=colour, label=plots.readable(method))
            _, low, high = intervals.mean(values, unit="run")
            panel.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.set(title=title, xlabel="optimiser steps")
        panel.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
