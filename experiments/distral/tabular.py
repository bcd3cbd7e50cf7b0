"""Tabular Distral in two rooms, in the manner of the paper's grid world, with confidence bands.

    python -m experiments.distral.tabular
    python -m experiments.distral.tabular --state=cell    # no previous action or reward
    python -m experiments.distral.tabular --count_estimator=cumulative    # counts never decay

Teh et al. 2017, arXiv 1707.04175, section 4.1. Ten tasks that differ in the goal's cell; Distral
(soft Q-learning in turn with a distilled policy from counts, alpha 1, beta 5) against soft
Q-learning in each task by itself; every seed draws goals of its own. All seeds, tasks and both
methods are one compiled program. The figure has the learning curves, the map with the goals of
the first seed, and the distilled policy in the corridor after a step to the left and after one to
the right.
"""

import dataclasses
import json
import pathlib
import time

from absl import flags

from mtrl_jax.envs import two_rooms

from ..common import binary, given
from .tabular_figure import figure
from .tabular_run import ESTIMATORS, Config, run, summary

_WORKDIR = flags.DEFINE_string("workdir", "runs/distral_tabular", "Where results and plots go.")
_SEED = flags.DEFINE_integer("seed", 0, "Root of all randomness; seeds differ in goals too.", 0)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 32, "Runs of each method, in one program.", 1)
_NUM_TASKS = flags.DEFINE_integer("num_tasks", 10, "Goals.", 1)
_TOTAL = flags.DEFINE_integer(
    "total_env_steps", 600_000, "Environment steps of one run, summed over its tasks."
)
_STATE = flags.DEFINE_enum(
    "state",
    "full",
    two_rooms.STATES,
    "What Q and the distilled policy see: cell, previous action "
    "and previous reward; all but the previous action; the cell alone.",
)
_ESTIMATOR = flags.DEFINE_enum(
    "count_estimator", "recency", list(ESTIMATORS), "Counts decay by 0.98 an iteration, or never."
)


def main() -> None:
    config = Config(
        seed=_SEED.value,
        num_seeds=_NUM_SEEDS.value,
        num_tasks=_NUM_TASKS.value,
        total_env_steps=_TOTAL.value,
        state=_STATE.value,
        count_estimator=_ESTIMATOR.value,
    )
    folder = pathlib.Path(_WORKDIR.value)
    given.check_folder("workdir", folder)
    begun = time.perf_counter()
    results = run(config)
    picture = folder / "plots" / "two_rooms.png"
    figure(results, config.state, picture)
    sums = summary(results, config.state)
    steps = int(results["steps"][-1])  # whole blocks of them, of each seed
    numbers = {**dataclasses.asdict(config), "env_steps": steps, **sums}
    (folder / "results.json").write_text(json.dumps(numbers, indent=1) + "\n")
    for title, values in sums.items():
        print(f"\n{title}")
        for name, value in values.items():
            print(f"  {name:16} {value}")
    print(f"\n{config.num_seeds} seeds of each method in {time.perf_counter() - begun:.0f} s")
    print(f"figure   {picture}\nnumbers  {folder / 'results.json'}")


if __name__ == "__main__":
    binary.main(main)
