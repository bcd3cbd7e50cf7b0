r"""Trains several algorithms on one suite with equal budgets and seeds, and draws the comparison.

    python -m experiments.distral.compare --suite=maze8
    python -m experiments.distral.compare --suite=maze8 --permute_actions=0    # the control
    python -m experiments.distral.compare --suite=minigrid_nav4 --algorithms=a3c,kl_ent_2col

Everything that a preset sets is the same for all algorithms. On a functional suite the seeds are
one program; elsewhere they run one after the other. The same command continues where it stopped,
and on a finished comparison only draws. Two shells with different --algorithms may share a
--workdir.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from absl import flags

from mtrl_jax import engines, intervals, plots
from mtrl_jax.algorithms import distral
from mtrl_jax.losses.distral import ALGORITHMS
from mtrl_jax.types import FunctionalSuite

from ..common import binary, given, report, run_flags, runs
from . import run
from .presets import PRESETS

_ALGORITHMS = flags.DEFINE_list("algorithms", list(ALGORITHMS), "Rows of the paper's Table 1.")
_OUT = flags.DEFINE_string(
    "out",
    None,
    "The PNG to write; the numbers go beside it as JSON lines. (default: <workdir>/comparison.png)",
)
_TASK_PANELS = flags.DEFINE_bool("task_panels", False, "Also one panel for each task.")

Rows = list[dict[str, Any]]


def final_scores(group: list[Rows], tasks: tuple[str, ...], policy: str) -> np.ndarray | None:
    """Mean return over tasks of the evaluation at the end, `[S]`; None without such a policy."""
    values = []
    for rows in group:
        last = rows[-1]
        if f"eval/{policy}/{tasks[0]}/return" not in last:
            return None
        values.append(np.mean([last[f"eval/{policy}/{t}/return"] for t in tasks], axis=0))
    return np.concatenate([np.atleast_1d(value) for value in values])


def line(name: str, group: list[Rows], tasks: tuple[str, ...]) -> dict[str, Any]:
    """What is kept of one algorithm: per seed, means over tasks, and per task."""
    found = plots.curve(group, [plots.task_key(t, "episode/return") for t in tasks])
    curve = found.values[np.isfinite(found.values).all(1)]  # where it has no gap
    result: dict[str, Any] = {
        "algorithm": name,
        "env_steps": group[0][-1]["step"],  # of each seed
        "final": final_scores(group, tasks, "task_policy"),
        "distilled": final_scores(group, tasks, "distilled_policy"),
        "training_mean": curve.mean(0),  # over the whole of training: the area under the curve
        "last_tenth": curve[-max(len(curve) // 10, 1) :].mean(0),
    }
    for task in tasks:
        result[f"final/{task}"] = final_scores(group, (task,), "task_policy")
    return {
        k: np.round(v, 4).tolist() if isinstance(v, np.ndarray) else v for k, v in result.items()
    }


def cell(values: list[float] | None) -> str:
    """Mean and Student's 95 % interval over agents, one a seed."""
    if values is None:
        return ""
    _, low, high = intervals.mean(np.asarray(values), unit="agent")
    return f"{np.mean(values):.3g}" + (f" [{low:.3g}, {high:.3g}]" if len(values) > 1 else "")


def main() -> None:
    run_flags.start()
    algorithms = given.names(_ALGORITHMS, ALGORITHMS)
    suite_settings = run_flags.suite_settings()
    suite = runs.make_suite(suite_settings)
    preset = PRESETS.get(suite_settings["suite"], PRESETS[""])
    run_config = run_flags.run_config(preset["run"], suite.spec)
    seeds = range(run_config.seed, run_config.seed + run_config.num_seeds)
    chunks = [run_config]
    if not isinstance(suite, FunctionalSuite):
        chunks = [dataclasses.replace(run_config, seed=seed, num_seeds=1) for seed in seeds]
    for chunk in chunks:
        engines.check(chunk, suite)
    control = "" if suite_settings["permute_actions"] is None else "-permuted"
    folder = run_flags.workdir("distral_compare", suite_settings["suite"] + control)
    out = given.out(pathlib.Path(_OUT.value or folder / "comparison.png"))
    configs = {name: run.config_of(name, preset) for name in algorithms}
    for config in configs.values():
        distral.check(suite.spec, config)
    run_flags.explain(run_config, preset["run"])

    groups: dict[str, list[Rows]] = {}
    for name, config in configs.items():
        groups[name] = [
            run.train_one(
                name,
                suite,
                suite_settings,
                config,
                chunk,
                folder / name / f"seed{chunk.seed}",
                skip_finished=True,
            )
            for chunk in chunks
        ]
    tasks = suite.spec.task_names
    random = report.random_scores(suite, run_config)
    plots.learning_curves(
        groups,
        tasks,
        out,
        task_panels=_TASK_PANELS.value,
        mean_panel=True,
        levels={"random": {task: float(np.mean(random[f"{task}/return"])) for task in tasks}},
    )
    results = [line(name, group, tasks) for name, group in groups.items()]
    with out.with_suffix(".jsonl").open("w") as file:
        file.writelines(json.dumps(result) + "\n" for result in results)
    print(f"\nMean return over {len(tasks)} tasks, {len(seeds)} seeds [95 % interval over them]:")
    heads = (f"{text:>24}" for text in ("final", "distilled policy", "mean over training"))
    print(f"{'':14}", *heads, f"{'environment steps':>20}", sep="")
    for r in results:
        cells = (cell(r[k]) for k in ("final", "distilled", "training_mean"))
        print(f"{r['algorithm']:14}", *(f"{text:>23}" for text in cells), f"{r['env_steps']:19,}")
    print(f"\ncurves   {out}\nnumbers  {out.with_suffix('.jsonl')}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(run)
    flags.FLAGS.set_default("num_seeds", 5)
    binary.main(main)
