"""What binaries of discrete actions say at the end: a table, a picture, and what to do next."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from mtrl_jax import engines, evaluate, intervals, plots
from mtrl_jax.types import EnvSpec

from . import binary, progress, runs


def mean_text(values: Any, unit: intervals.Unit = "agent", places: int = 2) -> str:
    """Mean and 95 % interval of scores `[S]`, which the unit says of what."""
    return text_of(intervals.mean(np.asarray(values), unit=unit), places)


def text_of(found: intervals.Interval | None, places: int = 2) -> str:
    """A value and its interval, where it has one."""
    if found is None:
        return "none"
    value, low, high = (float(x) for x in found)
    ends = "" if np.isnan(low) else f" [{low:.{places}f}, {high:.{places}f}]"
    return f"{value:.{places}f}{ends}"


def write_lines(path: pathlib.Path, lines: Iterable[dict[str, Any]]) -> None:
    """A JSON line each, in place of what was there."""
    with path.open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def random_scores(suite: Any, config: engines.RunConfig) -> dict[str, Any]:
    """`<task>/return` and more of a policy that draws actions uniformly."""
    agent = evaluate.random_agent(suite.spec)
    score = progress.scorer("random policy", suite, agent, config.eval_episodes)
    key = engines.stream(jax.random.key(config.seed), "eval")
    return evaluate.summary(suite.spec, jax.device_get(score((), key)))


def report(
    suite: Any,
    config: engines.RunConfig,
    rows: dict[str, Any],
    folder: pathlib.Path,
    actions: str = "sampled actions",
) -> None:
    """Prints the table, writes results.json and the learning curves, and says what to do next.

    `rows` are those of `runs.rows`, by title; the last of each is what the table shows.
    """
    spec: EnvSpec = suite.spec
    episodes = next(iter(rows.values()))[-1].get("eval/episodes", config.eval_episodes)
    config = dataclasses.replace(config, eval_episodes=episodes)
    columns: dict[str, dict[str, Any]] = {"random": random_scores(suite, config)}
    for title, run_rows in rows.items():
        final = run_rows[-1]
        for policy in ("task_policy", "distilled_policy"):
            prefix = f"eval/{policy}/"
            scores = {k.removeprefix(prefix): v for k, v in final.items() if k.startswith(prefix)}
            if scores and not (policy == "distilled_policy" and title == "each task alone"):
                label = title if policy == "task_policy" else "distilled"
                columns[label] = {"env_steps": final["step"], **scores}
    width = max(len(name) for name in spec.task_names)
    quantities = ("return", "success") if spec.has_success else ("return",)
    steps = {f"{scores['env_steps']:,}" for scores in columns.values() if "env_steps" in scores}
    print(
        f"\nMeans of {episodes} episodes a task, {actions}, policies after "
        f"{' and '.join(sorted(steps))} environment steps:"
    )
    print(" " * width, *(f"{label:>20}" for label in columns))
    print("task".ljust(width), *(f"{' / '.join(quantities):>20}" for _ in columns))
    for task in spec.task_names:
        cells = [
            " / ".join(f"{np.mean(scores[f'{task}/{q}']):.2f}" for q in quantities)
            for scores in columns.values()
        ]
        print(task.ljust(width), *(f"{cell:>20}" for cell in cells))
    results = {
        label: {k: np.asarray(v).tolist() for k, v in s.items()} for label, s in columns.items()
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    picture = folder / "plots" / "learning_curves.png"
    levels = {task: float(np.mean(columns["random"][f"{task}/return"])) for task in spec.task_names}
    plots.learning_curves(
        {title: [r] for title, r in rows.items()},
        spec.task_names,
        picture,
        levels={"random": levels},
    )
    done = columns[next(iter(rows))]["env_steps"]
    runs.add_picture(folder, done, "learning_curves", picture)
    print(f"""
learning curves  {picture}
checkpoints      {folder / "checkpoints"}
to continue      the same command with a larger --total_env_steps (now {done})
to evaluate      {binary.command("evaluate")} --workdir={folder}
to compare runs  {binary.command("plot")} --runs={
        ",".join([str(folder), str(folder / "alone")][: len(rows)])
    }""")
