r"""Auxiliary tasks beside an actor-critic: which one helps, and what protects from one that harms.

    python -m experiments.auxiliary                                   # rooms, every task, summed
    python -m experiments.auxiliary --combine=sum,gradient_cosine,pcgrad --auxiliary=noise,all
    python -m experiments.auxiliary --suite=envpool:Pong-v5,Breakout-v5 --num_seeds=1

UNREAL's auxiliary tasks (pixel control, reward prediction, value replay) on one network with
memory, each alone and all together; `noise` is harmful by construction: it asks for random numbers,
with a large weight. Rows of the table are pairs of --auxiliary and --combine; `none`, the agent
without any, is always among them. Suites of images only. The same command goes on where it was
stopped, and on what is finished only draws.
"""

import dataclasses

from absl import flags

from mtrl_jax import engines, learner
from mtrl_jax.algorithms import auxiliaries, unreal
from mtrl_jax.types import FunctionalSuite

from ..common import binary, given, run_flags, runs
from ..common.override import override
from . import report, run
from .presets import PRESETS

_AUXILIARY = flags.DEFINE_list("auxiliary", list(run.SETS), "What is learnt beside the main task.")
_COMBINE = flags.DEFINE_list(
    "combine", ["sum"], f"How gradients meet: some of {', '.join(auxiliaries.COMBINE)}."
)


def main() -> None:
    run_flags.start()
    names = given.names(_AUXILIARY, list(run.SETS))
    ways = given.names(_COMBINE, list(auxiliaries.COMBINE))
    suite_settings = run_flags.suite_settings()
    suite = runs.make_suite(suite_settings)
    preset = PRESETS.get(suite_settings["suite"].partition(":")[0], PRESETS[""])
    run_config = run_flags.run_config(preset["run"], suite.spec)
    numbers = override(unreal.Config(**preset["config"]), run_flags.overrides())
    rows = run.rows_of(names, ways, numbers)
    chunks = [run_config]
    if not isinstance(suite, FunctionalSuite):  # seeds one after the other
        seeds = range(run_config.seed, run_config.seed + run_config.num_seeds)
        chunks = [dataclasses.replace(run_config, seed=seed, num_seeds=1) for seed in seeds]
    for chunk in chunks:
        engines.check(chunk, suite)
    num_envs = run_config.num_envs_per_task // learner.across(run_config.num_devices).size
    for config in rows.values():
        unreal.check(suite.spec, config, chunks[0].num_seeds, num_envs)
    folder = run_flags.workdir("auxiliary", f"{suite_settings['suite']}-seed{run_config.seed}")
    given.check_folder("workdir", folder)
    run_flags.explain(run_config, preset["run"])
    found = {
        name: [
            run.train_one(name, suite, suite_settings, config, chunk, folder) for chunk in chunks
        ]
        for name, config in rows.items()
    }
    report.show(suite, run_config, found, folder)


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.FLAGS.set_default("suite", "rooms")
    flags.FLAGS.set_default("num_seeds", 5)
    flags.FLAGS.set_default("writers", "")
    binary.main(main)
