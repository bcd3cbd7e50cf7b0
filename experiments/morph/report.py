"""What growing shows: a table at equal steps of the big network, and curves over all steps."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtrl_jax import intervals, plots

GROWN = ("net2net", "net2net, adam anew", "stays small")


def rows(curves: Mapping[str, tuple[int, Any]], every: int) -> list[dict[str, Any]]:
    """A row an evaluation, with a number a seed.

    Args:
      curves: for each method its first optimiser step, and accuracy and loss `[S, N]`.
      every: optimiser steps between evaluations.
    """
    out = []
    for method, (begin, (accuracy, loss)) in curves.items():
        for n in range(accuracy.shape[1]):
            numbers = {"accuracy": accuracy[:, n], "loss": loss[:, n]}
            row: dict[str, Any] = {"method": method, "step": begin + n * every}
            out.append(row | {k: np.round(v, 5).astype(float).tolist() for k, v in numbers.items()})
    return out


def table(rows: list[dict[str, Any]], steps: int) -> dict[str, dict[str, Any]]:
    """Accuracy at the first and second evaluation of each method, and after `steps`.

    Intervals are Student's, 95 %, of the mean over runs (seeds); `over_scratch` is the last
    accuracy minus that of `scratch` after equally many steps of the big network, paired by seed;
    `scratch longer` is `scratch` after as many steps as the grown network had in both its sizes.
    """
    result = {}
    scratch = [row for row in rows if row["method"] == "scratch"]
    equal = [row for row in scratch if row["step"] <= steps]
    last = np.array(equal[-1]["accuracy"])
    for method in (*GROWN, "scratch", "scratch longer"):
        mine = [row for row in rows if row["method"] == method]
        mine = {"scratch": equal, "scratch longer": scratch}.get(method, mine)
        accuracy = np.array([row["accuracy"] for row in mine])
        difference = accuracy[-1] - last
        result[method] = {
            "steps": [row["step"] - mine[0]["step"] for row in (mine[0], mine[1], mine[-1])],
            "accuracy": [float(accuracy[n].mean()) for n in (0, 1, -1)],
            "interval": _ends(accuracy[-1]),
            "over_scratch": float(difference.mean()),
            "over_scratch_interval": _ends(difference),
            "loss": float(np.mean(mine[-1]["loss"])),
        }
    before = [row for row in rows if row["method"] == "teacher"][-1]
    result["teacher"] = {"accuracy": [float(np.mean(before["accuracy"]))]}
    return result


def _ends(values: np.ndarray) -> list[float]:
    return [float(x) for x in intervals.mean(values, unit="run")[1:]]


def show(result: dict[str, dict[str, Any]]) -> None:
    accuracy = 100 * result["teacher"]["accuracy"][0]
    print(f"test accuracy of the small network when it grows: {accuracy:.2f} %")
    steps = result["scratch"]["steps"]
    heads = "".join(f"{f'at {n}':>8}" for n in steps[:2])
    last = f"last, at {steps[2]}"
    print(f"{'accuracy %':22}{heads}{last:>24}{'over scratch':>25}{'loss':>8}")
    for method, row in result.items():
        if method == "teacher":
            continue
        first = "".join(f"{100 * x:8.2f}" for x in row["accuracy"][:2])
        low, high = (100 * x for x in row["interval"])
        other = row["steps"][2] != steps[2]
        name = f"{method} ({row['steps'][2]})" if other else method
        text = f"{name:22}{first}{100 * row['accuracy'][2]:8.2f} [{low:5.2f}, {high:5.2f}]"
        low, high = (100 * x for x in row["over_scratch_interval"])
        text += f"   {100 * row['over_scratch']:+6.2f} [{low:+5.2f}, {high:+5.2f}]"
        print(text + f"{row['loss']:8.3f}")


def draw(rows: list[dict[str, Any]], grown_at: int, path: pathlib.Path) -> None:
    """Accuracy and loss over optimiser steps, with 95 % intervals over seeds."""
    from matplotlib.figure import Figure  # not needed to train

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, name in zip(panels, ("accuracy", "loss"), strict=True):
        for n, method in enumerate(("teacher", *GROWN, "scratch")):
            mine = [row for row in rows if row["method"] == method]
            steps, values = [row["step"] for row in mine], np.array([row[name] for row in mine])
            panel.plot(steps, values.mean(1), color=plots.COLOURS[n], label=plots.readable(method))
            _, low, high = intervals.mean(values, unit="run")
            panel.fill_between(steps, low, high, color=plots.COLOURS[n], alpha=0.15, linewidth=0)
        panel.axvline(grown_at, color="#999999", linestyle=":", linewidth=1)
        panel.set(xlabel="optimiser steps", title=f"test {name}")
        panel.grid(alpha=0.25)
    panels[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
