"""What a command has found: a table, a figure, and the numbers behind them as JSON lines."""

import pathlib
from typing import Any

import numpy as np

from mtrl_jax import intervals, plots
from mtrl_jax.benchmark import bandits

from ..common.report import mean_text, write_lines
from .asked import Asked, test_tasks

__all__ = ["draw", "lines_of", "references", "table", "write"]

REPEATS = 50  # trials of a reference policy on each test task
PARTS = ("train", "test")


def lines_of(asked: Asked, scores: dict[str, Any], episodes: int) -> dict[str, Any]:
    """One JSON line a method: its scores, a number a seed, and what it took."""
    found: dict[str, Any] = {
        "tasks": asked.tasks,
        "method": asked.method,
        "curve": list(asked.curve),
        "seeds": [asked.seed, asked.seed + asked.num_seeds],
        "updates": asked.plan.updates,
        "training_episodes": asked.plan.updates * episodes,
    }
    for part in (part for part in PARTS if part in scores):
        score = scores[part]
        found[part] = score["curve"]
        if "best" in score:
            regret = np.subtract(score["best"], score["online"]) * max(asked.curve[-1], 1)
            found[f"{part}_regret"] = np.round(regret, 4).tolist()
            found[f"{part}_best"] = score["best"]
        for name in ("success", "environments"):
            if name in score:
                found[f"{part}_{name}"] = score[name]
    return found


def references(asked: Asked) -> list[dict[str, Any]]:
    """Lines of Thompson sampling and of the finite-horizon Gittins index, on the test tasks of a
    bandit; both know the prior, the second the number of pulls too."""
    if asked.tasks != "bandits" or not asked.curve[-1]:
        return []
    probabilities = np.asarray(test_tasks(asked.tasks, asked.test_tasks))
    many, last = np.repeat(probabilities, REPEATS, 0), asked.curve[-1]
    policies = {
        "gittins": bandits.gittins_policy(last + 1),
        "thompson": bandits.thompson_policy(),
    }
    found = []
    for name, policy in policies.items():
        earned = bandits.pull(policy, many, last + 1, np.random.default_rng(asked.seed))
        regret = (probabilities.max(1).mean() - earned[:, :last].mean()) * last
        curve = [[round(float(earned[:, n].mean()), 5)] for n in asked.curve]
        line = {"tasks": asked.tasks, "method": name, "curve": list(asked.curve), "test": curve}
        found.append({**line, "test_regret": [round(float(regret), 4)]})
    return found


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Rows of text."""
    curve = lines[0]["curve"]
    bandit = lines[0]["tasks"] == "bandits"
    heads = [f"after {n}" for n in curve]
    found = []
    for key, title in _panels(lines):
        part = key.partition("_")[0]
        places = 3 if bandit or part != key else 2
        regret = any(f"{key}_regret" in line for line in lines)
        titles = heads + [f"regret of {curve[-1]}"] * regret
        found.append(title.ljust(12) + "".join(f"{head:>24}" for head in titles))
        for line in (line for line in lines if key in line):
            cells = [mean_text(values, places=places) for values in line[key]]
            cells += [mean_text(line[f"{key}_regret"])] if regret else []
            found.append(line["method"].ljust(12) + "".join(f"{cell:>24}" for cell in cells))
        best = [np.mean(line[f"{key}_best"]) for line in lines if f"{key}_best" in line]
        if best:
            found.append("best".ljust(12) + f"{best[0]:>24.{places}f}")
    return found


def _panels(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Keys of adaptation curves in lines, with the titles of them."""
    known = [(p, f"{p} tasks") for p in PARTS] + [(f"{p}_success", f"{p} success") for p in PARTS]
    return [(key, title) for key, title in known if any(key in line for line in lines)]


def draw(lines: list[dict[str, Any]], path: pathlib.Path) -> None:
    """A panel for training and for test tasks, of returns and where known of success; points of the
    curve side by side, not to scale."""
    from matplotlib.figure import Figure  # not needed to learn

    panels = _panels(lines)
    figure = Figure(figsize=(4.6 * 2, 3.6 * -(-len(panels) // 2)))
    axes = figure.subplots(-(-len(panels) // 2), 2, squeeze=False)
    names = [*dict.fromkeys(line["method"] for line in lines)]
    for panel, (part, title) in zip(axes.flat, panels, strict=False):
        for line in (line for line in lines if part in line):
            colour = plots.COLOURS[names.index(line["method"])]
            mean, low, high = intervals.mean(np.asarray(line[part]), unit="agent")
            x, known = np.arange(len(mean)), "updates" in line
            style = "o-" if known else "x:"
            panel.plot(x, mean, style, color=colour, label=plots.readable(line["method"]))
            if not np.isnan(low).any():
                panel.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        best = next((line[f"{part}_best"] for line in lines if f"{part}_best" in line), None)
        if best is not None:
            panel.axhline(np.mean(best), color="#777777", linestyle=":", label="knows the task")
        panel.set_xticks(range(len(lines[0]["curve"])), [str(n) for n in lines[0]["curve"]])
        panel.set_title(f"{lines[0]['tasks']}, {title}", fontsize=9)
        panel.set_xlabel("episodes of adaptation", fontsize=8)
        share = part.endswith("_success")
        panel.set_ylabel("solved" if share else "return of an episode", fontsize=8)
        panel.grid(alpha=0.25)
    for panel in axes.flat[len(panels) :]:
        panel.axis("off")
    beside = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
    axes.flat[min(len(panels), 2) - 1].legend(fontsize=8, frameon=False, **beside)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def write(lines: list[dict[str, Any]], picture: pathlib.Path) -> None:
    """The figure, and the lines beside it."""
    draw(lines, picture)
    write_lines(picture.with_suffix(".jsonl"), lines)
