"""What a command has found: a table, a figure, and the numbers behind them as JSON lines."""

import pathlib
from typing import Any

import numpy as np

from mtrl_jax import intervals, metrics, plots

from ..common.report import mean_text, write_lines
from .run import Asked, Loaded
from .split import few_tasks

__all__ = ["draw", "line_of", "table", "write"]


def line_of(
    asked: Asked, loaded: Loaded, scores: dict[str, Any], folder: pathlib.Path
) -> dict[str, Any]:
    """One JSON line a rule: returns `[K][S]` at the end, the last block's shares `[K][K]` (means
    over seeds), and the curve of mean returns of both groups of tasks, `[N][S]`."""
    rows = metrics.read_jsonl(folder / "metrics.jsonl")
    spec = loaded.suite.spec
    few = few_tasks(spec.num_tasks, asked.own.few)
    curve = np.array([row["return"] for row in rows])  # [N, S, K]
    found = {
        "suite": asked.suite,
        "base": asked.config.base,
        "rule": asked.config.rule,
        "seeds": [asked.seed, asked.seed + asked.num_seeds],
        "own": _text(asked.own.own),
        "few": _text(asked.own.few),
        "few_tasks": few,
        "updates": asked.updates,
        "return": scores["return"],
        "share": np.round(np.mean(rows[-1]["share"], 0), 4).tolist(),
        "distance": np.round(np.mean(rows[-1]["policy/distance"], 0), 4).tolist(),
        "steps": [row["step"] for row in rows],
        "curve": np.round(curve[..., few:].mean(-1), 3).tolist(),
    }
    if few:
        found["few_curve"] = np.round(curve[..., :few].mean(-1), 3).tolist()
    return found


def _text(mix: Any) -> str:
    return "+".join(f"{level}:{count}" for level, count in mix)


def _groups(line: dict[str, Any]) -> dict[str, np.ndarray]:
    """Name of a group of tasks to mean returns `[S]`."""
    returns, few = np.array(line["return"]), line["few_tasks"]
    rest = {f"{line['own']} ({len(returns) - few} tasks)": returns[few:].mean(0)}
    return {f"{line['few']} ({few} tasks)": returns[:few].mean(0), **rest} if few else rest


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Rows of text: every group's return, what it is above `none` with the same seeds' data, and
    how much of what was learnt from was own data."""
    none = next((_groups(line) for line in lines if line["rule"] == "none"), None)
    names = list(_groups(lines[0]))
    found = ["rule".ljust(10) + "".join(f"{name:>26}{'above none':>22}" for name in names)]
    found[0] += f"{'own share':>11}{'distance':>10}"
    for line in lines:
        row = line["rule"].ljust(10)
        for name, values in _groups(line).items():
            apart = "" if none is None else mean_text(values - none[name])
            row += f"{mean_text(values):>26}{apart:>22}"
        row += f"{np.trace(line['share']) / len(line['share']):>11.2f}"
        found.append(row + f"{np.mean(line['distance']):>10.2f}")
    return found


def draw(lines: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Curves of each group of tasks, and from whom tasks learn under one rule, CDS at best."""
    from matplotlib.figure import Figure  # not needed to learn

    groups = list(_groups(lines[0]))
    keys = ["few_curve", "curve"][-len(groups) :]
    figure = Figure(figsize=(4.2 * len(groups) + 3.4, 3.6))
    axes = figure.subplots(1, len(groups) + 1, squeeze=False)[0]
    for panel, name, key in zip(axes, groups, keys, strict=False):
        for n, line in enumerate(lines):
            mean, low, high = intervals.mean(np.array(line[key]), unit="agent")
            colour = plots.COLOURS[n % len(plots.COLOURS)]
            panel.plot(line["steps"], mean, color=colour, label=line["rule"])
            if not np.isnan(low).any():
                panel.fill_between(line["steps"], low, high, color=colour, alpha=0.08, linewidth=0)
        panel.set_title(f"{lines[0]['suite']}, own data {name}", fontsize=9)
        panel.set_xlabel("gradient steps", fontsize=8)
        panel.grid(alpha=0.25)
    axes[0].set_ylabel("return of an episode", fontsize=8)
    axes[0].legend(fontsize=7, frameon=False)
    order = ("cds", "cds_basic", "cds_uds", "hipi", "all", "uds", "none")
    shown, panel = min(lines, key=lambda line: order.index(line["rule"])), axes[-1]
    panel.imshow(np.array(shown["share"]), vmin=0.0, cmap="viridis")
    for (i, j), x in np.ndenumerate(np.array(shown["share"])):
        text, colour = f"{x:.2f}"[1:] if x < 1 else "1", "white" if x < 0.4 else "black"
        panel.text(j, i, text, ha="center", va="center", fontsize=6, color=colour)
    panel.set_title(f"{shown['rule']}: share of what a task learns from", fontsize=9)
    panel.set_xlabel("recorded for task", fontsize=8)
    panel.set_xticks(range(len(shown["share"])))
    panel.set_yticks(range(len(shown["share"])))
    panel.set_ylabel("learns", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def write(lines: list[dict[str, Any]], picture: pathlib.Path) -> None:
    """The figure, and the lines beside it."""
    draw(lines, picture)
    write_lines(picture.with_suffix(".jsonl"), lines)
