r"""Trains Distral, or any of its relatives, on a suite of tasks.

    python -m experiments.distral                                     # four MiniGrid tasks
    python -m experiments.distral --suite=maze8 --num_seeds=5 --algorithm=kl_2col
    python -m experiments.distral --suite=envpool:Pong-v5,Breakout-v5 --core=lstm

The same command continues a run that was stopped, killed or given more --total_env_steps.
"""

import dataclasses
from typing import Any

from absl import flags

from mtrl_jax import engines, processes
from mtrl_jax.algorithms import distral
from mtrl_jax.losses.distral import ALGORITHMS

from ..common import binary, report, run_flags, runs, task_flags
from . import run
from .presets import PRESETS

_ALGORITHM = flags.DEFINE_enum(
    "algorithm", "kl_ent_2col", list(ALGORITHMS), "A row of the paper's Table 1."
)
_ALONE = flags.DEFINE_bool(
    "alone",
    True,
    "Also train the same agent on each task alone, for as many steps of that task; from fresh "
    "parameters, whatever the run begins with.",
)


def main() -> None:
    run_flags.start()
    suite_settings = run_flags.suite_settings()
    suite = runs.make_suite(suite_settings)
    preset = PRESETS.get(suite_settings["suite"], PRESETS[""])
    config = task_flags.applied(run.config_of(_ALGORITHM.value, preset), suite.spec)
    run_config = run_flags.run_config(preset["run"], suite.spec)
    distral.check(suite.spec, config)
    engines.check(run_config, suite)
    run_flags.explain(run_config, preset["run"])
    name = f"{suite_settings['suite']}-{config.algorithm}-seed{run_config.seed}"
    folder = run_flags.workdir("distral", name)
    todo = {config.algorithm: (config, folder, task_flags.begin_from())}
    if _ALONE.value and not config.separate:
        # What tasks have in common is not there: neither weights nor what was learnt together.
        nothing: dict[str, Any] = {"task_weights": (), "curriculum": "", "freeze": ()}
        alone = dataclasses.replace(config, separate=True, **nothing)
        todo["each task alone"] = (alone, folder / "alone", None)

    rows = {
        title: run.train_one(
            title, suite, suite_settings, values, run_config, run_folder, begin_from=source
        )
        for title, (values, run_folder, source) in todo.items()
    }
    if processes.is_chief():
        report.report(suite, run_config, rows, folder)


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(run)
    flags.adopt_module_key_flags(task_flags)
    binary.main(main)
