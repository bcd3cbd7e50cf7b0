r"""Trains Distral, or any of its relatives, on a suite of tasks.

    python -m experiments.distral                                     # four MiniGrid tasks
    python -m experiments.distral --suite=maze8 --num_seeds=5 --algorithm=kl_2col
    python -m experiments.distral --suite=envpool:Pong-v5,Breakout-v5 --core=lstm

The same command continues a run that was stopped, killed or given more --total_env_steps.
"""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any

from absl import flags

from experiments import common, distral_report
from mtrl_jax import checkpoint, engines, metrics, processes, surgery, train, workdir
from mtrl_jax.algorithms import distral
from mtrl_jax.losses.distral import ALGORITHMS
from mtrl_jax.types import Agent, EnvSpec

_ALGORITHM = flags.DEFINE_enum(
    "algorithm", "kl_ent_2col", list(ALGORITHMS), "A row of the paper's Table 1."
)
_SURGERY = flags.DEFINE_enum(
    "surgery",
    "sum",
    list(surgery.METHODS),
    "How the tasks' gradients of the shared column combine.",
)
_CORE = flags.DEFINE_enum("core", "none", ["none", "lstm"], "Recurrent core of every column.")
_ALONE = flags.DEFINE_bool(
    "alone", True, "Also train the same agent on each task alone, for as many steps of that task."
)

# What a suite needs to show something on two CPU cores; any flag or override wins over it.
PRESETS: dict[str, dict[str, Any]] = {
    "minigrid_ladder": {
        "run": {"total_env_steps": 1_000_000, "num_envs_per_task": 16},
        "config": {
            "entropy_cost": 1e-3,
            "lambda_": 0.95,
            "unroll_length": 10,
            "learning_rate": 1e-3,
            "hidden": (64, 64),
        },
    },
    "minigrid_nav4": {
        "run": {"total_env_steps": 1_000_000, "num_envs_per_task": 16},
        "config": {
            "entropy_cost": 1e-3,
            "lambda_": 0.95,
            "unroll_length": 10,
            "learning_rate": 1e-3,
            "hidden": (64, 64),
        },
    },
    "maze8": {
        "run": {"total_env_steps": 4_000_000, "num_envs_per_task": 32},
        "config": {
            "entropy_cost": 1e-2,
            "lambda_": 0.95,
            "learning_rate": 1e-3,
            "hidden": (64, 64),
        },
    },
    # Throughput and reward scales were looked at; nothing was tuned for the final score.
    **{
        suite: {
            "run": {"total_env_steps": total, "num_envs_per_task": 4, "eval_episodes": 8},
            "config": {
                "entropy_cost": 1e-3,
                "lambda_": 0.95,
                "unroll_length": 10,
                "learning_rate": 1e-3,
            },
        }
        for suite, total in (("doom_tag8_small", 400_000), ("doom_tag8", 150_000))
    },
    "": {"run": {"total_env_steps": 2_000_000, "num_envs_per_task": 16}, "config": {}},
}


def make_agent(spec: EnvSpec, settings: dict[str, Any], num_updates: int = 0) -> Agent:
    """The agent of a run's config.json."""
    fields = {f.name for f in dataclasses.fields(distral.Config)}
    values = {k.removeprefix("config/"): v for k, v in settings.items() if k.startswith("config/")}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in fields}
    return distral.agent(spec, distral.Config(**values), num_updates)


def config_of(name: str, preset: dict[str, Any]) -> distral.Config:
    """One algorithm with the numbers of a preset and of the flags."""
    config = distral.Config(
        algorithm=name, surgery=_SURGERY.value, core=_CORE.value, **preset["config"]
    )
    return common.override(config, common.overrides())


def train_one(
    title: str,
    suite: Any,
    suite_settings: dict[str, Any],
    config: distral.Config,
    run_config: engines.RunConfig,
    folder: pathlib.Path,
    *,
    skip_finished: bool = False,
) -> list[dict[str, Any]]:
    """Trains one run, or what is left of it, and returns its metrics (of the chief process).

    An interrupt ends the process, after saving. With `skip_finished` a run whose last checkpoint
    exists is not opened again, which would compile it.
    """
    settings = {
        "binary": "distral",
        **suite_settings,
        **dataclasses.asdict(run_config),
        **{f"config/{k}": v for k, v in dataclasses.asdict(config).items()},
    }
    settings = json.loads(json.dumps(settings))  # tuples as config.json will hold them
    if skip_finished and workdir.check(folder, settings):
        with checkpoint.open_manager(folder / "checkpoints", read_only=True) as manager:
            if (manager.latest_step() or 0) >= run_config.total_env_steps:
                return metrics.read_jsonl(folder / "metrics.jsonl")
    per_update = config.unroll_length * suite.spec.num_tasks * run_config.num_envs_per_task
    agent = make_agent(suite.spec, settings, -(-run_config.total_env_steps // per_update))
    with contextlib.closing(common.Progress(title, suite.spec.task_names)) as progress:
        result = train.run(run_config, suite, agent, folder, settings, progress)
    if not result.finished:
        common.stop(result.step, folder)
    return metrics.read_jsonl(folder / "metrics.jsonl") if processes.is_chief() else []


def main() -> None:
    common.start()
    suite_settings = common.suite_settings()
    suite = common.make_suite(suite_settings)
    preset = PRESETS.get(suite_settings["suite"], PRESETS[""])
    config = config_of(_ALGORITHM.value, preset)
    run_config = common.run_config(preset["run"])
    engines.check(run_config, suite)
    name = f"{suite_settings['suite']}-{config.algorithm}-seed{run_config.seed}"
    folder = common.workdir("distral", name)
    runs = {config.algorithm: (config, folder)}
    if _ALONE.value and not config.separate:
        runs["each task alone"] = (dataclasses.replace(config, separate=True), folder / "alone")

    rows = {
        title: train_one(title, suite, suite_settings, values, run_config, run_folder)
        for title, (values, run_folder) in runs.items()
    }
    if processes.is_chief():
        distral_report.report(suite, run_config, rows, folder)


if __name__ == "__main__":
    flags.adopt_module_key_flags(common)
    common.main(main)
