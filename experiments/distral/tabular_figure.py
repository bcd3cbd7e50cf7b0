"""The figure of tabular Distral: learning curves, the map, the distilled policy in the corridor."""

import pathlib
from typing import Any

import numpy as np

from mtrl_jax import intervals, plots
from mtrl_jax.envs import two_rooms

from .tabular_run import METHODS, corridor_policy


def figure(results: dict[str, Any], state: str, path: pathlib.Path) -> None:
    """Writes the PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplot_mosaic(
        [["curves", "map", "left"], ["curves", "map", "right"]],
        figsize=(13, 3.8),
        width_ratios=(1.1, 1.3, 1.3),
        layout="constrained",
    )
    curves = axes["curves"]
    for colour, method, length in zip(plots.COLOURS, METHODS, results["length"], strict=False):
        _, low, high = intervals.mean(length.T, unit="agent")
        curves.plot(results["steps"], length.mean(0), color=colour, label=method)
        curves.fill_between(results["steps"], low, high, color=colour, alpha=0.25, linewidth=0)
    label = plots.count_axis(curves, results["steps"][-1], "environment steps of each task")
    curves.set(xlabel=label, ylabel="length of an episode, steps", yscale="log")
    curves.legend(frameon=False)
    curves.grid(alpha=0.25)

    cells = two_rooms.positions()
    grid = np.zeros(cells.max(0) + 1)
    grid[tuple(cells.T)] = 1.0
    for name, axis in axes.items():
        if name == "curves":
            continue
        axis.imshow(np.pad(grid, 1), cmap="Greys_r", vmin=-0.6, vmax=1.0, extent=_extent(grid))
        axis.set_xticks([])
        axis.set_yticks([])
    for goal in results["goals"][0]:
        row, column = cells[goal]
        square = plt.Rectangle(
            (column - 0.4, row - 0.4), 0.8, 0.8, color=plots.COLOURS[2], alpha=0.6
        )
        axes["map"].add_patch(square)
    axes["map"].set_title("two rooms; goals of the first seed", fontsize=10)

    moves = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])
    policies = corridor_policy(results["policy"][0], state).mean(1)
    for name, policy in zip(("left", "right"), policies, strict=True):
        axis = axes[name]
        for cell, p in zip(two_rooms.corridor(), policy, strict=True):
            row, column = cells[cell]
            for (down, right), share in zip(moves[1:], p[1:], strict=True):
                axis.arrow(
                    column,
                    row,
                    0.6 * share * right,
                    0.6 * share * down,
                    color=plots.COLOURS[1],
                    width=0.05,
                    head_width=0.22 * np.sqrt(share),
                    length_includes_head=True,
                )
            axis.text(
                column, row + 1.0, f"{p[3 if name == 'left' else 4]:.2f}", ha="center", color="w"
            )
        middle = cells[two_rooms.corridor()]
        axis.set(
            xlim=(middle[0, 1] - 2.5, middle[-1, 1] + 2.5),
            ylim=(middle[0, 0] + 1.5, middle[0, 0] - 1.5),
        )
        axis.set_title(f"distilled policy after a step to the {name}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _extent(grid: np.ndarray) -> tuple[float, float, float, float]:
    """Cell (row, column) stands at (y, x) = (row, column), with a wall of one cell around."""
    rows, columns = grid.shape
    return -1.5, columns + 0.5, rows + 0.5, -1.5
