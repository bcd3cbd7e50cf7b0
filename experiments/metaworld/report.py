"""What one run and a comparison on Meta-World say at the end: tables and curves."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mtrl_jax import engines, intervals, metrics, plots, train
from mtrl_jax.types import Agent, EnvSpec

from ..common import binary, progress, runs

Results = dict[str, Any]  # of one run, what results.json holds


def read(folder: pathlib.Path) -> Results | None:
    """The results of a run that has been scored, else None."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


def score(
    suite: Any,
    config: engines.RunConfig,
    agent: Agent,
    result: train.Result,
    folder: pathlib.Path,
    episodes: int,
) -> Results:
    """Plays the last evaluation, of the likeliest actions, and writes results.json."""
    spec: EnvSpec = suite.spec
    key = jax.random.fold_in(engines.stream(jax.random.key(config.seed), "eval"), 2**30)
    play = progress.scorer("last evaluation", suite, agent, episodes)
    played = jax.device_get(play(agent.policy_params(result.state), key))
    tasks: dict[str, dict[str, float]] = {}
    for k, task in enumerate(spec.task_names):
        tasks[task] = {"return": float(played.episode_return[k].mean())}
        if spec.has_success:
            tasks[task]["success"] = float(played.success[k].mean())
    mean = {q: float(np.mean([v[q] for v in tasks.values()])) for q in tasks[spec.task_names[0]]}
    rows = metrics.over_cpu_seconds(metrics.read_jsonl(folder / "metrics.jsonl"))
    results = {
        "episodes": episodes,
        "env_steps": result.step,
        "cpu_seconds": round(rows[-1]["step"], 1),
        "mean": mean,
        "tasks": tasks,
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def show(spec: EnvSpec, results: Results, folder: pathlib.Path) -> None:
    """The table of one run, with Wilson's intervals over its episodes, and its learning curves."""
    width = max(map(len, (*spec.task_names, "mean over tasks")))
    count = results["episodes"]
    told = f"\n{count} episode{'s' * (count > 1)} of each task, likeliest actions"
    print(told + (", success at any step:" if spec.has_success else ":"))
    heads = f"{'task'.ljust(width)}  {'return':>10}"
    print(heads + "  success  95 % interval" * spec.has_success)
    for task, values in results["tasks"].items():
        line = f"{task.ljust(width)}  {values['return']:10.1f}"
        if spec.has_success:
            count = results["episodes"]
            _, low, high = intervals.wilson(values["success"] * count, count, unit="episode")
            line += f"  {values['success']:7.2f}  [{low:.2f}, {high:.2f}]"
        print(line)
    line = f"{'mean over tasks'.ljust(width)}  {results['mean']['return']:10.1f}"
    print(line + (f"  {results['mean']['success']:7.2f}" if spec.has_success else ""))
    picture = folder / "plots" / "learning_curves.png"
    curves(spec, {"training episodes": [folder]}, picture)
    runs.add_picture(folder, results["env_steps"], "learning_curves", picture)
    print(f"""
{results["env_steps"]:,} environment steps, {results["cpu_seconds"]:,.0f} CPU-seconds

learning curves  {picture}
results          {folder / "results.json"}
checkpoints      {folder / "checkpoints"}
to continue      the same command with a larger --total_env_steps
to record GIFs   {binary.command("evaluate")} --workdir={folder}""")


def curves(spec: EnvSpec, groups: Mapping[str, Sequence[pathlib.Path]], path: pathlib.Path) -> None:
    """Training episodes of every task and of their mean; the runs of a label are its seeds."""
    plots.learning_curves(
        {
            label: [metrics.read_jsonl(folder / "metrics.jsonl") for folder in folders]
            for label, folders in groups.items()
        },
        spec.task_names,
        path,
        quantity="episode/success" if spec.has_success else "episode/return",
        mean_panel=True,
    )


def compare(spec: EnvSpec, results: Mapping[str, Sequence[Results]]) -> None:
    """Prints one column a method: means over seeds of every task, intervals over seeds."""
    quantity = "success" if spec.has_success else "return"
    width = max(map(len, (*spec.task_names, "mean over tasks")))
    number = "{:.2f}" if spec.has_success else "{:.0f}"

    def cell(values: Sequence[float]) -> str:
        text = number.format(np.mean(values))
        if len(values) > 1:
            bounds = (0.0, 1.0) if spec.has_success else None
            _, low, high = intervals.mean(np.asarray(values), unit="agent", bounds=bounds)
            text += f" [{number.format(low)}, {number.format(high)}]"
        return f"{text:>22}"

    print(f"\nFinal {quantity}, likeliest actions; Student's 95 % intervals over agents (seeds):")
    seeds = {label: f"{label} ({len(r)} seed{'s' * (len(r) > 1)})" for label, r in results.items()}
    print("task".ljust(width), *(f"{text:>22}" for text in seeds.values()))
    for task in spec.task_names:
        cells = (cell([r["tasks"][task][quantity] for r in runs]) for runs in results.values())
        print(task.ljust(width), *cells)
    means = (cell([r["mean"][quantity] for r in runs]) for runs in results.values())
    print("mean over tasks".ljust(width), *means)
    seconds = (f"{np.mean([r['cpu_seconds'] for r in runs]):22,.0f}" for runs in results.values())
    print("CPU-seconds".ljust(width), *seconds)
    steps = (" and ".join(f"{n:,}" for n in _steps(runs)) for runs in results.values())
    print("environment steps".ljust(width), *(f"{text:>22}" for text in steps))


def _steps(runs: Sequence[Results]) -> list[int]:
    return sorted({run["env_steps"] for run in runs})
