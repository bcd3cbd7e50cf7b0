"""Which agents are compared, and the training of one."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from mtrl_jax import engines, learner
from mtrl_jax.algorithms import unreal

from ..common import agents, runs

__all__ = ["NONE", "SETS", "rows_of", "train_one"]

NONE = "none"
_UNREAL = ("pixel_control", "reward_prediction", "value_replay")
SETS: dict[str, tuple[str, ...]] = {
    NONE: (),
    **{name: (name,) for name in _UNREAL},
    "all": _UNREAL,
    "noise": ("noise",),
    "all_and_noise": (*_UNREAL, "noise"),
}


def rows_of(
    names: Sequence[str], ways: Sequence[str], numbers: unreal.Config
) -> dict[str, unreal.Config]:
    """The agents by their titles: `none` once, and every other set with every way of combining."""
    rows = {NONE: dataclasses.replace(numbers, auxiliaries=())}
    for name in names:
        for way in ways if name != NONE else ():
            rows[f"{name} {way}"] = dataclasses.replace(
                numbers, auxiliaries=SETS[name], combine=way
            )
    return rows


def train_one(
    title: str,
    suite: Any,
    suite_settings: dict[str, Any],
    config: unreal.Config,
    run_config: engines.RunConfig,
    root: pathlib.Path,
) -> list[dict[str, Any]]:
    """Trains one agent, or what is left of it, and returns its metrics; one that is done is not
    opened again, which would compile it."""
    folder = root / title.replace(" ", "-") / f"seed{run_config.seed}"
    num_updates, planned = runs.schedule(folder, suite.spec.num_tasks, run_config, config)
    settings = runs.settings_of("auxiliary", suite_settings, run_config, config, **planned)
    if not runs.finished(folder, settings, run_config, suite, config.unroll_length):
        collectives = learner.across(run_config.num_devices)
        agent = agents.make(suite.spec, settings, num_updates, collectives)
        runs.learn(title, suite, agent, run_config, settings, folder)
    return runs.rows(folder)
