r"""Trains DQN on one task or many, with one network or one for each.

    python -m experiments.dqn                                            # twelve small games
    python -m experiments.dqn --network=separate --num_seeds=5           # each game by itself
    python -m experiments.dqn --suite=small_games:catch,rain --network=multihead
    python -m experiments.dqn --suite=envpool:Pong-v5,Breakout-v5

The same command continues a run that was stopped, killed or given more --total_env_steps.
"""

import contextlib
import dataclasses
import json
from typing import Any

from absl import flags

from experiments import agents, common, distral_report
from mtrl_jax import engines, metrics, processes, surgery, train
from mtrl_jax.algorithms import dqn, q_network

_NETWORK = flags.DEFINE_enum(
    "network",
    "onehot",
    list(q_network.NETWORKS),
    "How one network serves all tasks: told the "
    "task's number (onehot), with outputs for each (multihead), not told (blind), one network each "
    "(separate), or another of those that share parts.",
)
_SURGERY = flags.DEFINE_enum(
    "surgery", "mean", list(surgery.METHODS), "How the tasks' gradients of the network combine."
)

SMALL_GAMES = "small_games"
ATARI, ATARI42 = "envpool:", "atari42:"

# Any flag or override wins over these; a suite is found by what its name begins with.
PRESETS: dict[str, dict[str, Any]] = {
    SMALL_GAMES: {
        "run": {"num_envs_per_task": 8, "steps_of_a_task": 150_000},
        "config": agents.DQN_ON_SMALL_GAMES,
    },
    **dict.fromkeys((ATARI, ATARI42), agents.DQN_ON_ATARI),
    "": {"run": {"num_envs_per_task": 8, "steps_of_a_task": 200_000}, "config": {}},
}


def preset_of(suite: str) -> dict[str, Any]:
    """The row of `PRESETS` for a suite's name."""
    return next(row for start, row in PRESETS.items() if suite.startswith(start))


def main() -> None:
    common.start()
    suite_settings = common.suite_settings()
    if not flags.FLAGS["suite"].present:
        suite_settings["suite"] = SMALL_GAMES
    suite = common.make_suite(suite_settings)
    preset = preset_of(suite_settings["suite"])
    config = dqn.Config(network=_NETWORK.value, surgery=_SURGERY.value, **preset["config"])
    config = common.override(config, common.overrides())
    total = preset["run"]["steps_of_a_task"] * suite.spec.num_tasks
    run_config = common.run_config({**preset["run"], "total_env_steps": total})
    dqn.check(suite.spec, config)
    engines.check(run_config, suite)
    agents.check_devices(suite.spec, config, run_config)
    settings = {
        "binary": "dqn",
        **suite_settings,
        **dataclasses.asdict(run_config),
        **{f"config/{k}": v for k, v in dataclasses.asdict(config).items()},
    }
    settings = json.loads(json.dumps(settings))  # tuples as config.json will hold them
    agent = agents.dqn_agent(suite.spec, settings)
    name = f"{suite_settings['suite']}-{config.network}-{config.surgery}-seed{run_config.seed}"
    folder = common.workdir("dqn", name)
    title = f"dqn ({config.network})"
    with contextlib.closing(common.Progress(title, suite.spec.task_names)) as progress:
        result = train.run(run_config, suite, agent, folder, settings, progress)
    if not result.finished:
        common.stop(result.step, folder)
    if processes.is_chief():
        rows = {title: metrics.read_jsonl(folder / "metrics.jsonl")}
        distral_report.report(suite, run_config, rows, folder, actions="best actions")


if __name__ == "__main__":
    flags.adopt_module_key_flags(common)
    common.main(main)
