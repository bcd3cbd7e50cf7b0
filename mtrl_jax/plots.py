"""Figures from rows of metrics: what people would rather look at than read.

Means over episodes are those of `metrics.settled`: at the start of a run only short episodes end (a
room that a random policy finds the way out of in half of its episodes would start near 1), so a
curve starts when the longest has had the time to.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax import intervals, metrics

__all__ = [
    "COLOURS",
    "HELD",
    "NAMES",
    "Curve",
    "count_axis",
    "curve",
    "learning_curves",
    "quantity_label",
    "readable",
    "short_task",
    "task_key",
]

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")

HELD = 5  # rows for which a metric stays what it last was, where others are new

# What flags and files call algorithms, agents and methods, and what figures call them.
NAMES = {
    "kl_ent_2col": "Distral",
    "kl_ent_1col": "Distral, one column",
    "kl_2col": "Distral, KL only",
    "kl_1col": "Distral, KL only, one column",
    "a3c": "A3C",
    "a3c_multitask": "A3C, one policy for all",
    "a3c_2col": "A3C, two columns",
    "ppo": "PPO",
    "sac": "SAC",
    "dqn": "DQN",
    "distillation": "distillation",
    "actor_mimic": "Actor-Mimic",
    "net2net": "Net2Net",
    "net2net, adam anew": "Net2Net, Adam anew",
    "scratch": "from scratch",
    "random": "random policy",
    "frozen": "untrained network",
    "mean": "no surgery (mean)",
    "sum": "no surgery (sum)",
    "alone": "each task alone",
    "pcgrad": "PCGrad",
    "gradvac": "GradVac",
    "cagrad": "CAGrad",
    "upgrad": "UPGrad",
    "dual_proj": "DualProj",
    "mgda": "MGDA",
    "nash_mtl": "Nash-MTL",
    "fairgrad": "FairGrad",
    "aligned_mtl": "Aligned-MTL",
    "imtl_g": "IMTL-G",
    "graddrop": "GradDrop",
    "gradnorm": "GradNorm",
    "mfec": "MFEC",
    "nec": "NEC",
    "maml": "MAML",
    "rl2": "RL²",
    "finetune": "fine-tuning",
    "gittins": "Gittins index",
    "thompson": "Thompson sampling",
}
_QUANTITIES = {
    "return": "return of an episode",
    "success": "success, share of episodes",
    "length": "length of an episode, actions",
}
_POLICIES = {"task_policy": "evaluation", "distilled_policy": "distilled policy, evaluation"}


class Curve(NamedTuple):
    """A mean over metrics along a run.

    Attributes:
      steps: `[N]`.
      values: `[N, S]`, S being the seeds of all runs together; NaN where nothing is known: there
        the line has a gap.
      early: whether short episodes may count for more than they should, nothing else being known.
    """

    steps: np.ndarray
    values: np.ndarray
    early: bool


def readable(name: str) -> str:
    """What a figure calls an algorithm, an agent or a method; unknown names stay as they are."""
    head = name.removesuffix(" alone")
    return NAMES.get(head, head) + name[len(head) :]


def short_task(task: str) -> str:
    """A task's name without what all tasks of its suite have: `MiniGrid-DoorKey-5x5-v0` is
    DoorKey-5x5."""
    return re.sub(r"-v\d+$", "", task).removeprefix("MiniGrid-")


def quantity_label(quantity: str) -> str:
    """A quantity of `task_key` in words, with its unit."""
    first, _, name = quantity.rpartition("/")
    words = _QUANTITIES.get(name) if first.split("/")[0] in ("episode", "eval") else None
    if words is None:
        return quantity.replace("/", " ").replace("_", " ")
    policy = _POLICIES.get(first.removeprefix("eval/"))
    return f"{words} ({policy})" if policy else words


def count_axis(panel: Any, most: float, label: str) -> str:
    """Ticks of a horizontal axis in thousands or millions, if that makes them short.

    Args:
      panel: of matplotlib.
      most: the largest count on the axis; panels that share it give the same.
      label: what is counted, in the plural.

    Returns:
      The label with the unit, as in "million environment steps": no power of ten stands beside the
      axis.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    scale, unit = next(
        (pair for pair in ((1e6, "million "), (1e3, "thousand ")) if most >= 2 * pair[0]),
        (1.0, ""),
    )
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / scale:g}"))
    panel.xaxis.set_major_locator(MaxNLocator(nbins=5))
    return unit + label


def task_key(task: str, quantity: str) -> str:
    """Where the rows hold a quantity of one task.

    `episode/return` is under `task/<task>/episode/return`, and `eval/task_policy/return` under
    `eval/task_policy/<task>/return`.
    """
    if quantity.startswith("eval/"):
        policy, _, name = quantity.rpartition("/")
        return f"{policy}/{task}/{name}"
    return f"task/{task}/{quantity}"


def curve(group: Sequence[Sequence[dict[str, Any]]], names: Sequence[str]) -> Curve:
    """The mean over metrics, seed by seed, from where every run and seed has all of them.

    Where some metrics or seeds have a new value, the others stay what they last were for `HELD`
    rows of theirs: where episodes are long, few rows have a return of every task. Where none has,
    or one for longer than that, nothing is known.

    Args:
      group: runs, each the rows of a metrics.jsonl.
      names: keys of the rows, for example one a task.

    Returns:
      Up to the end of the shortest run.
    """
    group = [metrics.settled(rows) for rows in group]
    series = [[_series(rows, name) for name in names] for rows in group]
    steps = np.unique(np.concatenate([s for run in series for s, _ in run]))
    steps = steps[steps <= min(max((row["step"] for row in rows), default=-1) for rows in group)]
    held = [[_held(s, v, steps) for s, v in run] for run in series]
    values = np.concatenate([sum(v for v, _ in run) / len(names) for run in held], axis=1)
    new = np.any([n for run in held for _, n in run], axis=0)
    known = new & np.isfinite(values).all(1)
    values = np.where(known[:, None], values, np.nan)
    some = np.flatnonzero(known)
    cut = slice(some[0], some[-1] + 1) if some.size else slice(0, 0)
    marks = {f"{name.rpartition('/')[0]}/early" for name in names}
    early = any(mark in row for rows in group for row in rows for mark in marks)
    return Curve(steps[cut], values[cut], early)


def _series(rows: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps `[N]` and values `[N, S]` of the rows that have the metric, NaN where it is null."""
    own = [row for row in rows if name in row]
    steps, values = metrics.series(own, name)
    null = np.array([row["step"] for row in own if row[name] is None])
    order = np.argsort(np.concatenate([steps, null]), kind="stable")
    nothing = np.full((len(null), values.shape[1]), np.nan)
    return np.concatenate([steps, null])[order], np.concatenate([values, nothing])[order]


def _held(steps: np.ndarray, values: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last finite value at or before each step of `at`, not older than `HELD` rows, else NaN:
    `[len(at), S]`; and whether there is a new one at that very step, `[len(at)]`."""
    finite = np.isfinite(values)
    rows = np.arange(len(steps))[:, None]
    last = np.maximum.accumulate(np.where(finite, rows, -1), axis=0)
    last = np.where(rows - last <= HELD, last, -1)
    last = np.concatenate([np.full((1, values.shape[1]), -1), last])  # before all steps
    last = last[np.searchsorted(steps, at, side="right")]
    padded = np.concatenate([values, np.full((1, values.shape[1]), np.nan)])  # -1 is the last row
    return np.take_along_axis(padded, last, axis=0), np.isin(at, steps[finite.any(1)])


def learning_curves(
    runs: Mapping[str, Sequence[Sequence[dict[str, Any]]]],
    task_names: Sequence[str],
    path: pathlib.Path,
    *,
    quantity: str = "episode/return",
    levels: Mapping[str, Mapping[str, float]] | None = None,
    task_panels: bool = True,
    mean_panel: bool = False,
    x_label: str = "environment steps, all tasks",
) -> None:
    """One panel a task, one line a label: the mean over runs and seeds, with a 95 % interval.

    A panel without any line says that no episode has ended yet. A dashed line is of early rows
    only (see `Curve`).

    Args:
      runs: label to its runs, each the rows of a metrics.jsonl; runs of one label share their
        steps. Labels are shown as `readable` says.
      task_names: what the panels are of.
      path: the PNG to write.
      quantity: as in `task_key`.
      levels: label to task to a constant, drawn as a dotted line (a random policy, say).
      task_panels: one panel for each task.
      mean_panel: one more panel, with the mean over tasks.
      x_label: what the rows' `step` counts.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {}
    if task_panels:
        panels = {short_task(task): [task] for task in task_names}
        if len(panels) < len(task_names):
            panels = {task: [task] for task in task_names}
    if mean_panel:
        panels["mean over tasks"] = list(task_names)
    columns = min(len(panels), min((4, 3), key=lambda n: -len(panels) % n))  # few gaps
    lines = -(-len(panels) // columns)
    width, height = (3.4, 2.7) if len(panels) > 1 else (6.8, 4.0)
    per_line = max(int(width * columns // 2.2), 1)  # labels in a line of the legend
    top = 0.1 + 0.25 * -(-len({**runs, **(levels or {})}) // per_line)  # inches, for the legend
    figure, axes = plt.subplots(
        lines, columns, figsize=(width * columns, height * lines + top), squeeze=False, sharex=True
    )
    most = max(
        (row["step"] for group in runs.values() for rows in group for row in rows), default=0
    )
    dashed = False
    for panel, (title, tasks) in zip(axes.flat, panels.items(), strict=False):
        keys = [task_key(task, quantity) for task in tasks]
        dashed |= _draw_panel(panel, runs, keys, quantity)
        for label, values_of in (levels or {}).items():
            level = np.mean([values_of[task] for task in tasks])
            panel.axhline(level, color="#777777", linestyle=":", label=readable(label))
        panel.set_title(title, fontsize=9)
        text = count_axis(panel, most, x_label)
        panel.grid(alpha=0.25)
    for panel in axes.flat[len(panels) :]:
        panel.axis("off")
    for panel in axes.flat[max(len(panels) - columns, 0) : len(panels)]:  # lowest of each column
        panel.tick_params(labelbottom=True)
        panel.set_xlabel(text, fontsize=8)
    for row in axes:
        row[0].set_ylabel(quantity_label(quantity), fontsize=8)
    _draw_legend(figure, [readable(label) for label in [*runs, *(levels or {})]], per_line)
    bottom = 0.0
    if dashed:
        bottom = 0.2 / figure.get_figheight()
        note = "dashed: the longest episode had no time to end, so short ones count for too much"
        figure.text(0.01, 0.01, note, fontsize=7, color="#555555")
    figure.tight_layout(rect=(0, bottom, 1, 1 - top / figure.get_figheight()))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_panel(
    panel: Any,
    runs: Mapping[str, Sequence[Sequence[dict[str, Any]]]],
    keys: Sequence[str],
    quantity: str,
) -> bool:
    """A line for each label; whether one of them is dashed."""
    bounds = (0.0, 1.0) if quantity.endswith("/success") else None
    dashed = False
    for colour, (label, group) in zip(COLOURS * 9, runs.items(), strict=False):
        found = curve(group, keys)
        _draw_curve(panel, found, readable(label), colour, bounds)
        dashed |= found.early and bool(found.steps.size)
    if not panel.lines:
        panel.text(
            0.5, 0.5, "no episode yet", transform=panel.transAxes, ha="center", color="#555555"
        )
    panel.ticklabel_format(axis="y", style="plain", useOffset=False)
    if bounds:
        panel.set_ylim(*bounds)
    return dashed


def _draw_curve(
    panel: Any, found: Curve, label: str, colour: str, bounds: tuple[float, float] | None
) -> None:
    """The mean over seeds with its interval where there are several; a point between two gaps, of
    which no line could be seen, is a dot."""
    steps, values, early = found
    if not steps.size:
        return
    mean = values.mean(1)
    panel.plot(
        steps,
        mean,
        color=colour,
        label=label,
        linewidth=1.6,
        linestyle="--" if early else "-",
        clip_on=bounds is None,  # a line at 1 is whole
    )
    gap = np.pad(np.isnan(mean), 1, constant_values=True)
    alone = ~gap[1:-1] & gap[:-2] & gap[2:]
    if alone.any():
        panel.plot(steps[alone], mean[alone], ".", color=colour, clip_on=bounds is None)
    if values.shape[1] > 1:
        _, low, high = intervals.mean(values, unit="agent", bounds=bounds)
        panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _draw_legend(figure: Any, labels: Sequence[str], per_line: int) -> None:
    """One legend for all panels, from which a label may be missing: no episode of that task has
    ended yet."""
    known: dict[str, Any] = {}
    for panel in figure.axes:
        handles, found = panel.get_legend_handles_labels()
        known |= dict(zip(found, handles, strict=True))
    order = [label for label in labels if label in known]
    figure.legend(
        [known[label] for label in order],
        order,
        loc="upper center",
        ncols=per_line,
        frameon=False,
        fontsize=9,
    )
