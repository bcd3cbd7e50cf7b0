"""Tabular Distral in two rooms, in the manner of the paper's grid world, with confidence bands.

    python -m experiments.distral.tabular
    python -m experiments.distral.tabular --state=cell    # no previous action or reward
    python -m experiments.distral.tabular --count_estimator=cumulative    # counts never decay

Teh et al. 2017, arXiv 1707.04175, section 4.1. Ten tasks that differ in the goal's cell; Distral
(soft Q-learning in turn with a distilled policy from counts, alpha 1, beta 5) against soft
Q-learning in each task by itself; every seed draws goals of its own. All seeds, tasks and both
methods are one compiled program. The figure has the learning curves, the map with the goals of
the first seed, and the distilled policy in the corridor after a step to the left and after one to
the right.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from mtrl_jax import plots
from mtrl_jax.algorithms import soft_q
from mtrl_jax.envs import two_rooms

ESTIMATORS = {"recency": 0.98, "cumulative": 1.0}  # what an iteration leaves of earlier counts
METHODS = ("Distral", "separate soft Q")
ROWS = 10  # of an iteration, for each task: the paper's rollouts

_WORKDIR = flags.DEFINE_string("workdir", "runs/distral_tabular", "Where results and plots go.")
_SEED = flags.DEFINE_integer("seed", 0, "Root of all randomness; seeds differ in goals too.", 0)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 32, "Runs of each method, in one program.", 1)
_NUM_TASKS = flags.DEFINE_integer("num_tasks", 10, "Goals.", 1)
_TOTAL = flags.DEFINE_integer(
    "total_env_steps", 600_000, "Environment steps of one run, summed over its tasks."
)
_STATE = flags.DEFINE_enum(
    "state",
    "full",
    two_rooms.STATES,
    "What Q and the distilled policy see: cell, previous action "
    "and previous reward; all but the previous action; the cell alone.",
)
_ESTIMATOR = flags.DEFINE_enum(
    "count_estimator", "recency", list(ESTIMATORS), "Counts decay by 0.98 an iteration, or never."
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of the experiment."""

    seed: int = 0
    num_seeds: int = 32
    num_tasks: int = 10
    total_env_steps: int = 600_000
    state: str = "full"
    count_estimator: str = "recency"
    num_points: int = 60  # of the curves


def run(config: Config) -> dict[str, Any]:
    """Trains all seeds of both methods.

    Returns:
      "steps" [points], environment steps of a task; "length" [methods, seeds, points], mean steps
      of an episode; "policy" [methods, seeds, N, A], distilled policies; "goals" [seeds, K].

    Raises:
      ValueError: for fewer steps than one iteration a point.
    """
    block = config.total_env_steps // (config.num_points * config.num_tasks * ROWS)
    if block < 1:
        least = config.num_points * config.num_tasks * ROWS
        raise ValueError(f"total_env_steps must be at least {least}, got {config.total_env_steps}")
    learn = functools.partial(
        soft_q.learn,
        two_rooms.TwoRooms(),
        shape=(two_rooms.num_states(config.state), len(two_rooms.ACTIONS)),
        num_blocks=config.num_points,
        block_length=block,
    )

    def one(settings, key):
        goals_key, key = jax.random.split(key)  # the same goals for both methods
        goals = two_rooms.random_goals(goals_key, config.num_tasks)
        index = functools.partial(two_rooms.state_index, state=config.state)
        state, log = learn(goals, index, settings, key)
        length = log.steps / jnp.maximum(log.episodes, 1)
        return length, soft_q.distilled_policy(state), goals

    settings = soft_q.Settings(
        count_decay=ESTIMATORS[config.count_estimator], distils=jnp.array([1.0, 0.0])
    )
    settings = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(METHODS),)), settings)
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    every = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))
    length, policy, goals = jax.device_get(every(settings, keys))
    steps = ROWS * block * (1 + np.arange(config.num_points))
    return {"steps": steps, "length": length, "policy": policy, "goals": goals[0]}


def corridor_policy(policy: np.ndarray, state: str = "full") -> np.ndarray:
    """[2, ..., cells, A], pi_0 in the corridor after a plain step to the left and to the right."""
    after = [
        [
            int(two_rooms.state_index(jnp.array([cell, previous + 1, 1]), state))
            for cell in two_rooms.corridor()
        ]
        for previous in (3, 4)
    ]
    return np.stack([policy[..., rows, :] for rows in after])


def summary(results: dict[str, Any], state: str = "full") -> dict[str, Any]:
    """The numbers behind the figure: lengths in each sixth of training, policies in the
    corridor."""
    length = results["length"].mean(1)
    sixths = {
        method: [round(float(x.mean()), 1) for x in np.array_split(row, 6)]
        for method, row in zip(METHODS, length, strict=True)
    }
    left, right = corridor_policy(results["policy"][0], state).mean((1, 2))
    policies = {
        name: {a: round(float(x), 3) for a, x in zip(two_rooms.ACTIONS, p, strict=True)}
        for name, p in (("after left", left), ("after right", right))
    }
    return {"steps of an episode, each sixth of training": sixths, "pi_0 in the corridor": policies}


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
        low, high = plots.bootstrap_interval(length.T)
        curves.plot(results["steps"], length.mean(0), color=colour, label=method)
        curves.fill_between(results["steps"], low, high, color=colour, alpha=0.25, linewidth=0)
    curves.set(xlabel="environment steps of each task", ylabel="steps of an episode", yscale="log")
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


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    config = Config(
        seed=_SEED.value,
        num_seeds=_NUM_SEEDS.value,
        num_tasks=_NUM_TASKS.value,
        total_env_steps=_TOTAL.value,
        state=_STATE.value,
        count_estimator=_ESTIMATOR.value,
    )
    begun = time.perf_counter()
    try:
        results = run(config)
    except ValueError as error:
        print(f"distral_tabular: {error}", file=sys.stderr)
        sys.exit(2)
    folder = pathlib.Path(_WORKDIR.value)
    picture = folder / "plots" / "two_rooms.png"
    figure(results, config.state, picture)
    numbers = {**dataclasses.asdict(config), **summary(results, config.state)}
    (folder / "results.json").write_text(json.dumps(numbers, indent=1) + "\n")
    for title, values in summary(results, config.state).items():
        print(f"\n{title}")
        for name, value in values.items():
            print(f"  {name:16} {value}")
    print(f"\n{config.num_seeds} seeds of each method in {time.perf_counter() - begun:.0f} s")
    print(f"figure   {picture}\nnumbers  {folder / 'results.json'}")


if __name__ == "__main__":
    app.run(main)
