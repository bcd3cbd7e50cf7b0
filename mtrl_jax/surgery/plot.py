"""Diagnostics over training as a figure; matplotlib is imported when one is drawn."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mtrl_jax.surgery.diagnostics import Diagnostics

__all__ = ["plot_diagnostics"]


def plot_diagnostics(
    history: Diagnostics | Sequence[Diagnostics],
    path: str | os.PathLike[str] | None = None,
    *,
    steps: Sequence[int] | None = None,
    task_names: Sequence[str] | None = None,
) -> Any:
    """Draws the conditions of interference, and what the method did about them, over training.

    Args:
      history: T `Diagnostics` in a sequence, or one whose leaves lead with T (as from `lax.scan`).
      path: where to save; None does not.
      steps: int `[T]`, for the horizontal axis; 0 to T - 1 by default.
      task_names: K names for the legends.

    Returns:
      The `matplotlib.figure.Figure`, made without pyplot, so that no display or global state is
      touched.
    """
    from matplotlib.figure import Figure  # here, so that nothing else needs matplotlib

    if not isinstance(history, Diagnostics):
        if len(history) == 0:
            raise ValueError("history is empty: nothing to draw.")
        history = jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x]), *history)
    d = jax.tree.map(np.asarray, history)
    if d.cosine.ndim != 3:
        raise ValueError(f"history.cosine must be [T, K, K], got shape {d.cosine.shape}.")
    t, k, _ = d.cosine.shape
    x = np.arange(t) if steps is None else np.asarray(steps)
    if x.shape != (t,):
        raise ValueError(f"steps must be {t} numbers, got shape {x.shape}.")
    names = [f"task {i}" for i in range(k)] if task_names is None else list(task_names)
    if len(names) != k:
        raise ValueError(f"task_names must be {k} names, got {len(names)}.")

    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, 3)
    pairs = np.triu_indices(k, 1)
    for ax, values, title in (
        (axes[0, 0], d.cosine, "cosine similarity of pairs"),
        (axes[0, 1], d.magnitude_similarity, "gradient magnitude similarity of pairs"),
    ):
        ax.set_title(title)
        if k > 1:
            of_pairs = values[:, pairs[0], pairs[1]]
            ax.fill_between(x, of_pairs.min(1), of_pairs.max(1), alpha=0.2, label="range")
            ax.plot(x, of_pairs.mean(1), label="mean")
            ax.legend()
    axes[0, 0].axhline(0.0, color="grey", linewidth=0.8)
    axes[0, 2].set_title(f"conflicting pairs (of {k * (k - 1) // 2})")
    axes[0, 2].plot(x, d.conflicts)
    axes[1, 0].set_title("norm of the update")
    axes[1, 0].plot(x, d.norm_before, label="before surgery")
    axes[1, 0].plot(x, d.norm_after, label="after")
    axes[1, 0].legend()
    weights = d.weights if d.weights is None or d.weights.ndim == 2 else d.weights.mean(1)
    per_task = d.task_norms if weights is None else weights
    axes[1, 1].set_title("norm of the task gradient" if weights is None else "task weight")
    for i in range(k):
        axes[1, 1].plot(x, per_task[:, i], label=names[i])
    if k <= 10:
        axes[1, 1].legend()
    if d.curvature is not None:
        axes[1, 2].set_title("multi-task curvature along the step")
        axes[1, 2].plot(x, d.curvature)
    elif d.update_cosine is not None:
        axes[1, 2].set_title("cosine of the update with each task gradient")
        for i in range(k):
            axes[1, 2].plot(x, d.update_cosine[:, i], label=names[i])
        axes[1, 2].axhline(0.0, color="grey", linewidth=0.8)
    else:
        axes[1, 2].set_axis_off()
    for ax in axes[1]:
        ax.set_xlabel("update")
    if path is not None:
        figure.savefig(path)
    return figure
