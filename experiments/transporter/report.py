"""What a command has found: a table, a verdict, a figure, JSON lines and GIFs."""

import pathlib
from typing import Any

import numpy as np

from mtrl_jax import intervals, plots, record
from mtrl_jax.envs import tabletop

from ..common.report import mean_text, write_lines
from .run import EPISODES, NAMES, Arm

__all__ = ["draw", "gifs", "line_of", "table", "title", "verdicts", "write"]

TOLD = {"none": "told nothing", "final": "told the end", "sequence": "told the next sub-goal"}
SCALE, FPS = 8, 1.5  # pixels for one; pictures a second


def line_of(arm: Arm, scores: dict[str, Any]) -> dict[str, Any]:
    """One JSON line a kind: `success`, `solved` and `goals`, `[K][S]`, and what it took."""
    return {
        "condition": arm.config.condition,
        "sampling": arm.config.sampling,
        "seeds": [arm.seed, arm.seed + arm.num_seeds],
        "steps": arm.steps,
        "demos": arm.config.num_demos,
        "compositions": list(NAMES),
        **scores,
    }


def title(line: dict[str, Any]) -> str:
    """As in `told the end, weighted`."""
    return f"{TOLD[line['condition']]}, {line['sampling']}"


def _means(line: dict[str, Any]) -> np.ndarray:
    """Over compositions, `[S]`."""
    return np.mean(line["success"], 0)


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Rows of text."""
    heads = ["all six", *NAMES]
    found = [" " * 34 + f"{heads[0]:>22}" + "".join(f"{head:>13}" for head in heads[1:])]
    for line in lines:
        each = "".join(f"{np.mean(x):>13.2f}" for x in line["success"])
        found.append(f"{title(line):34}{mean_text(_means(line)):>22}{each}")
    return found


def verdicts(lines: list[dict[str, Any]]) -> list[str]:
    """Of each pair of kinds that differ in one thing, the difference paired by seed."""
    found = []
    for n, one in enumerate(lines):
        for other in lines[:n]:
            same = sum(one[name] == other[name] for name in ("condition", "sampling"))
            if same != 1 or len(_means(one)) < 2:
                continue
            change = intervals.mean(_means(one) - _means(other), unit="agent")
            word = "higher" if change.low > 0 else "lower" if change.high < 0 else "undecided"
            text = mean_text(_means(one) - _means(other))
            found.append(f"{title(one)} - {title(other)}: {text}, {word}")
    return found


def draw(lines: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Bars of each kind, over all compositions and for each, with intervals over seeds."""
    from matplotlib.figure import Figure  # not needed to learn

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panel = figure.subplots()
    width, at = 0.8 / len(lines), np.arange(len(NAMES) + 1)
    for n, line in enumerate(lines):
        values = np.concatenate([_means(line)[None], np.asarray(line["success"])])
        mean, low, high = intervals.mean(values, unit="agent", bounds=(0.0, 1.0))
        known = not np.isnan(low).any()
        panel.bar(
            at + (n - (len(lines) - 1) / 2) * width,
            mean,
            width,
            yerr=np.stack([mean - low, high - mean]) if known else None,
            color=plots.COLOURS[n % len(plots.COLOURS)],
            error_kw={"elinewidth": 1},
            label=title(line),
        )
    panel.set_xticks(at, ["all six", *NAMES])
    panel.set(ylabel="modules finished", ylim=(0, 1.05))
    panel.grid(alpha=0.25, axis="y")
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def write(lines: list[dict[str, Any]], folder: pathlib.Path) -> None:
    """transporter.png, and transporter.jsonl beside it."""
    draw(lines, folder / "transporter.png")
    write_lines(folder / "transporter.jsonl", lines)


def gifs(folders: list[pathlib.Path], folder: pathlib.Path) -> None:
    """gifs/<composition>.gif: the same problem by each kind side by side; the table above, what the
    network is told below."""
    for k, name in enumerate(NAMES):
        panels = []
        for path in folders:
            with np.load(path / EPISODES) as file:
                images, goals = file["images"][k], file["goals"][k]
                done = int(file["success"][k].sum())
            told = np.concatenate([goals, goals[-1:]])
            pictures = [_above(a, b) for a, b in zip(images, told, strict=True)]
            condition, _, sampling = path.name.partition("-")
            words = [f"{name}: {TOLD[condition]}", f"{sampling}; {done} of 2 modules finished"]
            panels.append(record.captioned(pictures, words))
        frames = [np.concatenate(row, axis=1) for row in zip(*panels, strict=True)]
        record.write_gif(frames, folder / "gifs" / f"{name}.gif", fps=FPS)


def _above(image: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Both pictures with a line between them, and one on their right."""
    upper, lower = (tabletop.picture(x, SCALE) for x in (image, told))
    line = np.full((SCALE // 2, upper.shape[1], 3), 255, np.uint8)
    both = np.concatenate([upper, line, lower])
    both[:, -SCALE // 2 :] = 255
    return both
