"""What came of a sequence: a row of a table for each method, and the curves of every task."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrl_jax import intervals, plots
from mtrl_jax.evaluations import Evaluation

from ..common import report, runs
from .numbers import Curves, Numbers, Scale, curves_of, numbers_of, scale_of
from .plan import REFERENCE, Block, Plan

__all__ = ["show"]

COLUMNS = ("performance", "forgetting", "forward")
HEADS = ("final performance", "forgetting", "forward transfer")
_DASHES = ("-", "--", ":")


def show(plan: Plan, found: Mapping[str, Sequence[Block]], scored: Evaluation) -> None:
    """Prints the table, writes results.jsonl, a line a method, and draws the figures.

    Args:
      plan: of the sequence.
      found: the blocks of each method, `REFERENCE` among them, all of them trained.
      scored: what evaluations were of.
    """
    spec = scored.suite.spec
    quantity = "success" if spec.has_success else "return"
    drawn = report.random_scores(scored.suite, plan.run)
    random = np.array([float(drawn[f"{task}/{quantity}"]) for task in spec.task_names])
    curves = {
        method: curves_of([runs.rows(one.folder) for one in blocks], spec.task_names, quantity)
        for method, blocks in found.items()
    }
    scale = scale_of(curves[REFERENCE], random, success=spec.has_success)
    known = [name for name, k in zip(spec.task_names, scale.known, strict=True) if k]
    numbers = {}
    if known:
        numbers = {m: numbers_of(c, curves[REFERENCE], scale) for m, c in curves.items()}
    lines = [
        _line(plan, method, c, numbers.get(method), random, spec.task_names)
        for method, c in curves.items()
    ]
    path = plan.folder / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _print(plan, numbers, known, [name for name in spec.task_names if name not in known])
    figure = plan.folder / "plots" / "curves.png"
    draw(curves, scale, spec.task_names, quantity, figure)
    if numbers:
        draw_numbers(numbers, plan.folder / "plots" / "numbers.png")
    print(f"\nnumbers {path}, figures {figure.parent}/")


def _line(
    plan: Plan,
    method: str,
    curves: Curves,
    numbers: Numbers | None,
    random: np.ndarray,
    tasks: Sequence[str],
) -> dict[str, Any]:
    steps, scores = curves.flat()
    one: dict[str, Any] = {"method": method, "told": plan.config.told, "tasks": list(tasks)}
    if numbers is not None:
        for name in COLUMNS:
            value = getattr(numbers, name)
            one[name] = None if value is None else np.round(value, 4).tolist()
    one |= {"random": np.round(random, 3).tolist(), "steps": steps.tolist()}
    return one | {"scores": np.round(scores, 2).tolist()}


def _print(
    plan: Plan, numbers: Mapping[str, Numbers], known: Sequence[str], unknown: Sequence[str]
) -> None:
    seeds = plan.run.num_seeds
    over = f"{seeds} agents [95 % interval over them]" if seeds > 1 else "one agent"
    told = "told" if plan.config.told else "not told"
    print(
        f"\n{', '.join(plan.suite.spec.task_names)}, {told} where tasks change: {over}; 0 is a "
        "random policy, 1 what is learnt from scratch"
        if not plan.suite.spec.has_success
        else f"\n{told} where tasks change, shares of successes: {over}"
    )
    if unknown:
        print(f"left out, since nobody learns them from scratch: {', '.join(unknown)}")
    if not known:
        return
    print(f"{'method':14}" + "".join(f"{head:>24}" for head in HEADS))
    for method, row in numbers.items():
        values = [getattr(row, name) for name in COLUMNS]
        cells = ["-" if v is None else report.mean_text(v) for v in values]
        print(f"{method:14}" + "".join(f"{cell:>24}" for cell in cells))


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
