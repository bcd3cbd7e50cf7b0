"""One training run of Distral, for the binaries that start one or many."""

import pathlib
from typing import Any

from absl import flags

from mtrl_jax import engines, learner, surgery
from mtrl_jax.algorithms import distral

from ..common import agents, run_flags, runs
from ..common.beginning import beginning
from ..common.override import override

_SURGERY = flags.DEFINE_enum(
    "surgery",
    "sum",
    list(surgery.METHODS),
    "How the tasks' gradients of the shared column combine.",
)
_CORE = flags.DEFINE_enum("core", "none", ["none", "lstm"], "Recurrent core of every column.")


def config_of(name: str, preset: dict[str, Any]) -> distral.Config:
    """One algorithm with the numbers of a preset and of the flags."""
    config = distral.Config(
        algorithm=name, surgery=_SURGERY.value, core=_CORE.value, **preset["config"]
    )
    return override(config, run_flags.overrides())


def train_one(
    title: str,
    suite: Any,
    suite_settings: dict[str, Any],
    config: distral.Config,
    run_config: engines.RunConfig,
    folder: pathlib.Path,
    *,
    skip_finished: bool = False,
    begin_from: str | None = None,
) -> list[dict[str, Any]]:
    """Trains one run, or what is left of it, and returns its metrics (of the chief process).

    An interrupt ends the process, after saving. With `skip_finished` a run whose last checkpoint
    exists is not opened again, which would compile it. `begin_from` is another run's directory.
    """
    num_updates, planned = runs.schedule(folder, suite.spec.num_tasks, run_config, config)
    settings = runs.settings_of("distral", suite_settings, run_config, config, **planned)
    begins = beginning(begin_from, folder, suite.spec, settings, run_config)
    settings |= begins.settings
    if skip_finished and runs.finished(folder, settings, run_config, suite, config.unroll_length):
        return runs.rows(folder)
    collectives = learner.across(run_config.num_devices)
    agent = agents.make(suite.spec, settings, num_updates, collectives)
    runs.learn(title, suite, agent, run_config, settings, folder, begins.state)
    return runs.rows(folder)
