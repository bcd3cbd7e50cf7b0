"""One run on Meta-World, for the binaries that start one or many."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
from absl import flags

from mtrl_jax import by_name, engines, learner, processes, ranges
from mtrl_jax.envs.metaworld import BENCHMARKS
from mtrl_jax.networks import multitask
from mtrl_jax.types import FunctionalSuite, HostSuite

from ..common import agents, proportion, run_flags, runs, task_flags
from ..common.beginning import beginning
from ..common.override import override
from . import report
from .presets import PRESETS

PROTOCOL = 50  # episodes of every task in the last evaluation, officially

_BENCHMARK = flags.DEFINE_string(
    "benchmark",
    "mt10",
    f"Tasks: {', '.join(BENCHMARKS)}, Meta-World tasks with commas between "
    "them (:goal=hidden behind either hides the goals), or envpool:<id>,<id> or module:function of "
    "your own with continuous actions.",
)
_ALGORITHM = flags.DEFINE_enum("algorithm", "ppo", list(agents.ON_METAWORLD), "How to learn.")
_NETWORK = flags.DEFINE_string(
    "network",
    "multihead",
    f"How one network serves all tasks: {', '.join(multitask.NETWORKS)}, or module:class of your "
    "own, with :name=value behind it.",
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
    None,
    f"Episodes of every task in the last evaluation. (default: the official protocol's {PROTOCOL}, "
    "or as many as take no longer than the training)",
    1,
)


def suite_name(benchmark: str) -> str:
    """The name of a benchmark in the table of suites."""
    head, _ = by_name.parse(benchmark)
    return benchmark if head in BENCHMARKS or ":" in head else f"metaworld:{benchmark}"


class Plan(NamedTuple):
    """One run: everything that the flags, a method of surgery and a seed decide."""

    suite: FunctionalSuite | HostSuite
    agent_config: Any
    run_config: engines.RunConfig
    final_episodes: int
    settings: dict[str, Any]  # of config.json
    name: str


def plan(method: str, seed: int) -> Plan:
    """The run that the flags describe, with this surgery and seed.

    Raises:
      ValueError: for anything that cannot run; nothing is written.
    """
    preset = PRESETS[_ALGORITHM.value, _PRESET.value]
    name = suite_name(_BENCHMARK.value)
    suite_settings = {"suite": name, "permute_actions": None, **run_flags.pad()}
    suite = runs.make_suite(suite_settings)
    if not suite.spec.action_size:
        raise ValueError(f"--benchmark: the actions of {_BENCHMARK.value} are discrete")
    config = agents.ON_METAWORLD[_ALGORITHM.value].Config(
        network=_NETWORK.value, surgery=method, **preset["config"]
    )
    config = task_flags.applied(override(config, run_flags.overrides()), suite.spec)
    run_config = dataclasses.replace(
        run_flags.run_config(preset["run"], suite.spec), seed=seed, num_seeds=1
    )
    if _FINAL_EPISODES.value is not None:
        ranges.check_value("--final_episodes", _FINAL_EPISODES.value, ranges.Count)
    final = _FINAL_EPISODES.value or proportion.affordable(
        suite.spec, PROTOCOL, run_config.total_env_steps
    )
    engines.check(run_config, suite)
    agents.check_devices(suite.spec, config, run_config)
    settings = runs.settings_of(
        "metaworld", suite_settings, run_config, config, algorithm=_ALGORITHM.value
    )
    agents.make(suite.spec, settings)  # checks what only the algorithm knows
    name = f"{_BENCHMARK.value}-{_ALGORITHM.value}-{config.network}-{method}-seed{seed}"
    return Plan(suite, config, run_config, final, settings, name)


def train_and_score(run: Plan, folder: pathlib.Path) -> dict[str, Any]:
    """Trains the run, or what is left of it, plays the last evaluation, and returns results.json.

    A run that has been scored is not opened again. An interrupt ends the process, after saving.
    """
    config, spec = run.run_config, run.suite.spec
    begins = beginning(task_flags.begin_from(), folder, spec, run.settings, config)
    settings = {**run.settings, **begins.settings}
    # Several processes must all go the same way, and only the first one can read the folder.
    unroll = run.agent_config.unroll_length
    if jax.process_count() == 1 and runs.finished(folder, settings, config, run.suite, unroll):
        done, step = report.read(folder), runs.newest_step(folder)
        if done and (done["env_steps"], done["episodes"]) == (step, run.final_episodes):
            return done
    run_flags.explain(config, PRESETS[_ALGORITHM.value, _PRESET.value]["run"])
    if run.final_episodes < PROTOCOL and _FINAL_EPISODES.value is None and processes.is_chief():
        print(
            f"Episodes of every task in the last evaluation: {run.final_episodes}, instead of the "
            f"protocol's {PROTOCOL}, which would take longer than the training; --final_episodes "
            "sets them."
        )
    num_updates, planned = runs.schedule(folder, spec.num_tasks, config, run.agent_config)
    agent = agents.make(spec, run.settings, num_updates, learner.across(config.num_devices))
    settings |= planned
    result = runs.learn(run.name, run.suite, agent, config, settings, folder, begins.state)
    if not processes.is_chief():
        return {}
    return report.score(run.suite, config, agent, result, folder, run.final_episodes)
