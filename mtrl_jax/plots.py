"""Figures from rows of metrics: what people would rather look at than read."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrl_jax import metrics

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def bootstrap_interval(
    values: np.ndarray, *, samples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean over the last axis (S seeds).

    Args:
      values: `[..., S]`.
      samples: resamples.
      level: coverage.
      seed: of the resampling.

    Returns:
      Lower and upper ends `[...]`.
    """
    rng = np.random.default_rng(seed)
    picks = rng.integers(values.shape[-1], size=(samples, values.shape[-1]))
    means = values[..., picks].mean(-1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=-1)
    return low, high


def learning_curves(
    runs: Mapping[str, Sequence[list[dict[str, Any]]]],
    task_names: Sequence[str],
    path: pathlib.Path,
    *,
    quantity: str = "episode/return",
    levels: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """One panel a task, one line a label: the mean over runs and seeds, with a 95 % interval.

    Args:
      runs: label to its runs, each the rows of a metrics.jsonl; runs of one label share their
        steps.
      task_names: panels.
      path: the PNG to write.
      quantity: what follows `task/<name>/` in the rows.
      levels: label to task to a constant, drawn as a dotted line (a random policy, say).
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(4, len(task_names))
    lines = -(-len(task_names) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.4 * columns, 2.7 * lines + 0.5), squeeze=False, sharex=True
    )
    for panel, task in zip(axes.flat, task_names, strict=False):
        for colour, (label, group) in zip(COLOURS * 9, runs.items(), strict=False):
            curves = [metrics.series(rows, f"task/{task}/{quantity}") for rows in group]
            shared = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves)))
            if not shared:
                continue
            values = np.concatenate([v[np.isin(s, shared)] for s, v in curves], axis=1)
            panel.plot(shared, values.mean(1), color=colour, label=label, linewidth=1.6)
            if values.shape[1] > 1:
                low, high = bootstrap_interval(values)
                panel.fill_between(shared, low, high, color=colour, alpha=0.2, linewidth=0)
        for label, values_of in (levels or {}).items():
            panel.axhline(values_of[task], color="#777777", linestyle=":", label=label)
        panel.set_title(task.removeprefix("MiniGrid-"), fontsize=9)
        panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        panel.grid(alpha=0.25)
    for panel in axes.flat[len(task_names) :]:
        panel.axis("off")
    for panel in axes[-1]:
        panel.set_xlabel("environment steps, all tasks", fontsize=8)
    for row in axes:
        row[0].set_ylabel(quantity.replace("/", " "), fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=4, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
