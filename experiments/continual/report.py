"""What came of a sequence: a row of a table for each method, and the curves of every task."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrl_jax.evaluations import Evaluation

from ..common import report, runs
from .figures import COLUMNS, HEADS, draw, draw_numbers
from .numbers import Curves, Numbers, curves_of, numbers_of, scale_of
from .plan import Block
from .sequence import REFERENCE, Plan

__all__ = ["show"]


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
    report.write_lines(path, lines)
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
    one: dict[str, Any] = {"method": method, "algorithm": plan.algorithm, "told": plan.config.told}
    one["tasks"] = list(tasks)
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
    told = f"{plan.algorithm}, {'told' if plan.config.told else 'not told'}"
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
