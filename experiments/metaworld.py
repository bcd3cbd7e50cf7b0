r"""Trains one agent on many manipulation tasks of Meta-World, or on any continuous-action suite.

    python -m experiments.metaworld                                        # MT10 on a laptop
    python -m experiments.metaworld --benchmark=reach,window-open --surgery=pcgrad
    python -m experiments.metaworld --algorithm=sac --surgery=pcgrad
    python -m experiments.metaworld --benchmark=mt50 --preset=paper --num_devices=0
    python -m experiments.metaworld --benchmark=envpool:WalkerStand-v1,WalkerWalk-v1,WalkerRun-v1

The same command continues a run that was stopped, killed or given more --total_env_steps.
"""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import jax
from absl import flags

from experiments import agents, common, metaworld_report
from mtrl_jax import engines, processes, surgery, train, workdir
from mtrl_jax.envs.metaworld import BENCHMARKS
from mtrl_jax.networks import multitask
from mtrl_jax.types import HostSuite

_BENCHMARK = flags.DEFINE_string(
    "benchmark",
    "mt10",
    f"Tasks: {', '.join(BENCHMARKS)}, Meta-World tasks with commas between "
    "them, or envpool:<id>,<id> with continuous actions.",
)
_ALGORITHM = flags.DEFINE_enum("algorithm", "ppo", list(agents.ALGORITHMS), "How to learn.")
_NETWORK = flags.DEFINE_enum(
    "network", "multihead", list(multitask.NETWORKS), "How one network serves all tasks."
)
_SURGERY = flags.DEFINE_enum(
    "surgery", "mean", list(surgery.METHODS), "How the tasks' gradients of it combine."
)
_PRESET = flags.DEFINE_enum(
    "preset",
    "laptop",
    ["laptop", "paper"],
    "Sizes: something to look at within half an hour on "
    "two CPU cores, or the published protocol's, for an accelerator.",
)
_FINAL_EPISODES = flags.DEFINE_integer(
    "final_episodes",
    50,
    "Episodes of every task in the last evaluation; 50 is the official protocol.",
    1,
)


def suite_name(benchmark: str) -> str:
    """The name of a benchmark in the table of suites."""
    return benchmark if benchmark in BENCHMARKS or ":" in benchmark else f"metaworld:{benchmark}"


class Plan(NamedTuple):
    """One run: everything that the flags, a method of surgery and a seed decide."""

    suite: HostSuite
    agent_config: Any
    run_config: engines.RunConfig
    settings: dict[str, Any]  # of config.json
    name: str


def plan(method: str, seed: int) -> Plan:
    """The run that the flags describe, with this surgery and seed.

    Raises:
      ValueError: for anything that cannot run; nothing is written.
    """
    preset = agents.METAWORLD_PRESETS[_ALGORITHM.value, _PRESET.value]
    suite_settings = {"suite": suite_name(_BENCHMARK.value), "permute_actions": None}
    suite = common.make_suite(suite_settings)
    if not suite.spec.action_size:
        raise ValueError(f"--benchmark: the actions of {_BENCHMARK.value} are discrete")
    config = agents.ALGORITHMS[_ALGORITHM.value].Config(
        network=_NETWORK.value, surgery=method, **preset["config"]
    )
    config = common.override(config, common.overrides())
    given = {k: v for k, v in preset["often"].items() if not flags.FLAGS[k].present}
    run_config = dataclasses.replace(
        common.run_config(preset["run"]), seed=seed, num_seeds=1, **given
    )
    engines.check(run_config, suite)
    agents.check_devices(suite.spec, config, run_config)
    settings = {
        "binary": "metaworld",
        "algorithm": _ALGORITHM.value,
        **suite_settings,
        **dataclasses.asdict(run_config),
        **{f"config/{k}": v for k, v in dataclasses.asdict(config).items()},
    }
    settings = json.loads(json.dumps(settings))  # tuples as config.json will hold them
    agents.metaworld(suite.spec, settings)  # checks what only the algorithm knows
    name = f"{_BENCHMARK.value}-{_ALGORITHM.value}-{config.network}-{method}-seed{seed}"
    return Plan(suite, config, run_config, settings, name)


def train_and_score(run: Plan, folder: pathlib.Path) -> dict[str, Any]:
    """Trains the run, or what is left of it, plays the last evaluation, and returns results.json.

    A run that has been scored is not opened again. An interrupt ends the process, after saving.
    """
    config, spec = run.run_config, run.suite.spec
    # Several processes must all go the same way, and only the first one can read the folder.
    if jax.process_count() == 1 and workdir.check(folder, run.settings):
        done = metaworld_report.read(folder)
        if done and (done["env_steps"], done["episodes"]) == (
            config.total_env_steps,
            _FINAL_EPISODES.value,
        ):
            return done
    per_update = run.agent_config.unroll_length * spec.num_tasks * config.num_envs_per_task
    agent = agents.metaworld(spec, run.settings, -(-config.total_env_steps // per_update))
    with contextlib.closing(common.Progress(run.name, spec.task_names)) as progress:
        result = train.run(config, run.suite, agent, folder, run.settings, progress)
    if not result.finished:
        common.stop(result.step, folder)
    if not processes.is_chief():
        return {}
    return metaworld_report.score(
        run.suite, config, agent, result.state, folder, _FINAL_EPISODES.value
    )


def main() -> None:
    common.start()
    common.refuse("suite", "permute_actions", "num_seeds")
    run = plan(_SURGERY.value, common.seed())
    folder = common.workdir("metaworld", run.name)
    results = train_and_score(run, folder)
    if processes.is_chief():
        metaworld_report.show(run.suite.spec, results, folder)


if __name__ == "__main__":
    flags.adopt_module_key_flags(common)
    common.main(main)
