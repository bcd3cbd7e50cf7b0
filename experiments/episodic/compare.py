r"""Compares episodic control with DQN after few steps: every game by itself, with equal steps.

    python -m experiments.episodic.compare
    python -m experiments.episodic.compare --suite=small_games:catch,snake --num_seeds=3 \
        --points=20_000,50_000

Each algorithm is evaluated when every game has had so many steps (--points, rounded up to the same
dispatches for all). Seeds are one program. The same command continues where it stopped, and goes on
to further points; on a finished comparison it only draws. --config_overrides are of one algorithm
each: mfec.capacity=20_000,nec.n_step=8.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from absl import flags

from mtrl_jax import engines, intervals, learner, plots
from mtrl_jax.algorithms import dqn

from ..common import agents, binary, given, report, run_flags, runs
from ..common.override import override
from ..dqn import presets as dqn_presets
from .presets import SMALL_GAMES, preset_of

_ALGORITHMS = flags.DEFINE_list("algorithms", [*agents.EPISODIC, "dqn"], "Who is compared.")
_POINTS = flags.DEFINE_list(
    "points", ["20000", "50000", "200000"], "Environment steps of a game, where all are evaluated."
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "The PNG to write; the numbers go beside it as JSON lines. (default: <workdir>/comparison.png)",
)

STEPS = 2_560  # of a game in one dispatch, whatever the algorithm


def config_of(name: str, suite: str) -> Any:
    """The preset's numbers, with a network a game where there is one."""
    if name == "dqn":
        config: Any = dqn.Config(**dqn_presets.preset_of(suite)["config"], network="separate")
    else:
        config = agents.EPISODIC[name].Config(**preset_of(suite)[name])
    if name == "nec":
        config = dataclasses.replace(config, network="separate")
    return config


def lines(name: str, rows: list[dict[str, Any]], tasks: tuple[str, ...]) -> list[dict[str, Any]]:
    """One for each evaluation behind the start: returns of every game, a number a seed."""
    key = "eval/task_policy/{}/return"
    return [
        {
            "algorithm": name,
            "steps_of_a_game": row["step"] // len(tasks),
            **{
                task: np.round(np.atleast_1d(value), 4).tolist()
                for task, value in zip(tasks, values, strict=True)
            },
        }
        for row in rows
        if row["step"] and key.format(tasks[0]) in row
        for values in [[row[key.format(task)] for task in tasks]]
    ]


def main() -> None:
    run_flags.start()
    binary.refuse("eval_every", "total_env_steps", "num_devices", "num_processes")
    names = given.names(_ALGORITHMS, [*agents.EPISODIC, "dqn"])
    points = sorted(int(x) for x in given.numbers(_POINTS))
    suite_settings = run_flags.suite_settings()
    if not flags.FLAGS["suite"].present:
        suite_settings["suite"] = SMALL_GAMES
    suite = runs.make_suite(suite_settings)
    tasks, preset = suite.spec.task_names, preset_of(suite_settings["suite"])
    defaults = {**preset["run"], "total_env_steps": points[-1] * len(tasks), "eval_every": 10**15}
    run = run_flags.run_config(defaults, suite.spec)
    folder = run_flags.workdir("episodic_compare", suite_settings["suite"])
    out = given.out(pathlib.Path(_OUT.value or folder / "comparison.png"))
    plans, overrides = {}, run_flags.overrides()
    for pair in overrides:
        if pair.partition(".")[0] not in names:
            raise ValueError(f"--config_overrides: {pair!r} is not <algorithm>.name=value")
    for name in names:
        own = [pair[len(name) + 1 :] for pair in overrides if pair.startswith(f"{name}.")]
        config = override(config_of(name, suite_settings["suite"]), own)
        updates = max(STEPS // (config.unroll_length * run.num_envs_per_task), 1)
        plans[name] = config, dataclasses.replace(run, updates_per_dispatch=updates)
        engines.check(plans[name][1], suite)
        agents.check_devices(suite.spec, *plans[name])
    groups: dict[str, Any] = {}
    for name, (config, whole) in plans.items():
        binary_name = "dqn" if name == "dqn" else "episodic"
        for point in points:
            leg = dataclasses.replace(whole, total_env_steps=point * len(tasks))
            settings = runs.settings_of(binary_name, suite_settings, leg, config, algorithm=name)
            agent = agents.make(suite.spec, settings, collectives=learner.across(1))
            if runs.newest_step(folder / name) < leg.total_env_steps:
                runs.learn(name, suite, agent, leg, settings, folder / name)
        groups[name] = [runs.rows(folder / name)]
    random = report.random_scores(suite, run)
    levels = {task: float(np.mean(random[f"{task}/return"])) for task in tasks}
    plots.learning_curves(
        groups, tasks, out, task_panels=True, mean_panel=True, levels={"random": levels}
    )
    found = [line for name in names for line in lines(name, groups[name][0], tasks)]
    report.write_lines(out.with_suffix(".jsonl"), found)
    print(
        f"\nMean return over {len(tasks)} games, {run.num_seeds} seeds [95 % interval over them]:"
    )
    for line in found:
        values = np.mean([line[task] for task in tasks], axis=0)
        _, low, high = intervals.mean(values, unit="agent")
        interval = f" [{low:.3g}, {high:.3g}]" if len(values) > 1 else ""
        print(f"{line['algorithm']:6} {line['steps_of_a_game']:10,} {values.mean():8.3g}{interval}")
    print(f"\ncurves   {out}\nnumbers  {out.with_suffix('.jsonl')}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.FLAGS.set_default("num_seeds", 5)
    binary.main(main)
