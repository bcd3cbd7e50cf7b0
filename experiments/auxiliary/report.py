"""What came out: a row for each agent, its scores task by task, and how gradients met."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrl_jax import intervals, plots, processes
from mtrl_jax.engines import RunConfig

from ..common import report

__all__ = ["cosines", "final_scores", "show"]

Rows = list[dict[str, Any]]
_MOST_TASKS = 4  # with a column each


def final_scores(group: Sequence[Rows], tasks: Sequence[str]) -> np.ndarray:
    """Returns `[S, K]` of the evaluation at the end."""
    keys = [f"eval/task_policy/{task}/return" for task in tasks]
    each = [[np.atleast_1d(rows[-1][key]) for key in keys] for rows in group]
    return np.concatenate([np.asarray(one, np.float64).T for one in each])


def cosines(group: Sequence[Rows]) -> dict[str, float]:
    """Of each auxiliary task, the cosine of its gradient with the main one: the mean over all of
    training and seeds."""
    keys = dict.fromkeys(key for rows in group for row in rows for key in row)
    names = [key for key in keys if key.startswith("aux/") and key.endswith("/cosine")]
    found = {}
    for name in names:
        values = [np.mean(row[name]) for rows in group for row in rows if name in row]
        found[name.split("/")[1]] = float(np.mean(values))
    return found


def show(
    suite: Any, run: RunConfig, found: Mapping[str, Sequence[Rows]], folder: pathlib.Path
) -> None:
    """Prints the table, writes results.jsonl, a line an agent, and draws curves and scores."""
    if not processes.is_chief():
        return
    tasks = suite.spec.task_names
    drawn = report.random_scores(suite, run)
    random = {task: float(np.mean(drawn[f"{task}/return"])) for task in tasks}
    scores = {name: final_scores(group, tasks) for name, group in found.items()}
    met = {name: cosines(group) for name, group in found.items()}
    path = folder / "results.jsonl"
    lines = (
        {
            "agent": name,
            "env_steps": found[name][0][-1]["step"],
            "tasks": list(tasks),
            "scores": np.round(values, 4).tolist(),
            "cosines": {k: round(v, 4) for k, v in met[name].items()},
            "random": list(random.values()),
        }
        for name, values in scores.items()
    )
    report.write_lines(path, lines)
    seeds = next(iter(scores.values())).shape[0]
    over = f"{seeds} agents [95 % interval over them]" if seeds > 1 else "one agent"
    print(f"\nFinal return, {over}; cosines of auxiliary with main gradients over training")
    shown = tasks if 1 < len(tasks) <= _MOST_TASKS else ()
    heads = ["mean over tasks", *shown, "cosine"]
    width = max(map(len, scores)) + 2
    print(" " * width + "".join(f"{head:>22}" for head in heads))
    for name, values in scores.items():
        cells = [values.mean(1), *(values[:, tasks.index(task)] for task in shown)]
        text = ", ".join(f"{value:+.3f}" for value in met[name].values())
        line = "".join(f"{report.mean_text(cell):>22}" for cell in cells)
        print(f"{name:{width}}{line}{text:>22}")
    levels = [np.mean(list(random.values())), *(random[task] for task in shown)]
    print(f"{'random':{width}}" + "".join(f"{level:>22.2f}" for level in levels))
    pictures = folder / "plots"
    plots.learning_curves(
        found, tasks, pictures / "curves.png", mean_panel=len(tasks) > 1, levels={"random": random}
    )
    draw(scores, random, pictures / "scores.png")
    print(f"\nnumbers {path}, figures {pictures}/")


def draw(scores: Mapping[str, np.ndarray], random: Mapping[str, float], path: pathlib.Path) -> None:
    """A panel a task, a bar an agent, with intervals over agents' seeds."""
    from matplotlib.figure import Figure  # not needed to learn

    tasks = list(random)
    names, columns = list(scores), min(len(tasks), _MOST_TASKS)
    lines = -(-len(tasks) // columns)
    size = (2.5 + 2.5 * columns, lines * (1.0 + 0.3 * len(names)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for k, (panel, task) in enumerate(zip(panels.flat, tasks, strict=False)):
        for m, name in enumerate(names):
            at = intervals.mean(scores[name][:, k], unit="agent")
            ends = np.nan_to_num([[at.value - at.low], [at.high - at.value]])
            panel.barh(m, at.value, xerr=ends, color=plots.COLOURS[m % len(plots.COLOURS)])
        panel.axvline(random[task], color="0.5", linestyle=":")
        panel.set_title(plots.short_task(task), fontsize=9)
        panel.grid(axis="x", alpha=0.25)
        panel.set_xlabel("final return", fontsize=8)
    for panel in panels.flat[len(tasks) :]:
        panel.axis("off")
    panels[0, 0].set_yticks(range(len(names)), names)
    panels[0, 0].invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
