"""Families of tasks, methods, and the numbers of each method on each family.

Those of bandits, of navigation and of Meta-World were chosen on seed 100 and tasks drawn apart from
the test tasks (`docs/few_shot.md`); those of MDPs, of RL^2 in navigation, and of fine-tuning and
`scratch` on Meta-World are untried.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from mtrl_jax.algorithms import distral_few_shot, maml, mfec_few_shot, rl2
from mtrl_jax.algorithms.few_shot import Learner
from mtrl_jax.envs.bandits import bandits
from mtrl_jax.envs.point_navigation import point_navigation
from mtrl_jax.envs.random_mdps import random_mdps
from mtrl_jax.envs.task_family import TaskFamily

from . import host_presets

__all__ = [
    "FAMILIES",
    "METHODS",
    "Plan",
    "defaults",
    "learner",
    "named",
    "plan",
]

FAMILIES: dict[str, Callable[[], TaskFamily]] = {
    "bandits": bandits,
    "mdps": random_mdps,
    "navigation": point_navigation,
}
METHODS = {
    "maml": "parameters from which gradient steps help",
    "rl2": "a memory that is kept from episode to episode",
    "finetune": "one policy for all training tasks, then the same gradient steps",
    "scratch": "fresh parameters, then the same gradient steps",
    "distral": "the policy that Distral distils from some training tasks, then the same steps",
    "episodic": "tables, empty at first, of what followed each action (discrete actions)",
}


class Plan(NamedTuple):
    """How one method learns.

    Attributes:
      updates: of meta-training; 0 where there is none.
      config: of the module that it is `Config` of.
    """

    updates: int
    config: Any


class Defaults(NamedTuple):
    """What a command asks for where its flags say nothing."""

    methods: tuple[str, ...]
    curve: tuple[int, ...]
    test_tasks: int


def named(tasks: str) -> str:
    """`tasks` in full: of Meta-World with the length of an episode.

    Raises:
      ValueError: if there is no such family.
      ImportError: for Meta-World without envpool.
    """
    if tasks not in FAMILIES and not host_presets.is_hosted(tasks):
        known = ", ".join((*FAMILIES, *host_presets.SETS))
        raise ValueError(f"--tasks must be one of {known}; got {tasks!r}")
    if host_presets.is_hosted(tasks):
        return host_presets.named(tasks)
    return tasks


def defaults(tasks: str) -> Defaults:
    """Of a family."""
    if host_presets.is_hosted(tasks):
        return Defaults(("rl2",), (0, 1, 2), 40)
    continuous = bool(FAMILIES[tasks]().spec.action_size)
    methods = tuple(name for name in METHODS if name != "episodic" or not continuous)
    return Defaults(methods, (0, 1, 5, 20), 200)


# Of MAML; `finetune` and `scratch` take their steps of as many episodes, at a rate of their own.
_MAML: dict[str, dict[str, Any]] = {
    "bandits": {"rate": 0.5, "baseline": "critic"},
    "mdps": {"rate": 1.0, "dice_lambda": 0.0},
    "navigation": {
        "rate": 1.2,
        "dice_lambda": 0.0,
        "learning_rate": 2e-3,
        "meta_batch": 20,
        "outer_episodes": 10,
    },
}
_RATES = {"bandits": 0.3, "mdps": 0.3, "navigation": 0.6}
_RL2: dict[str, Any] = {"learning_rate": 3e-3}
_UPDATES = {"maml": 300, "rl2": 600, "finetune": 300, "scratch": 0, "distral": 300, "episodic": 0}


def plan(method: str, tasks: str) -> Plan:
    """The preset of a method on a family."""
    if host_presets.is_hosted(tasks):
        return Plan(*host_presets.plan(method, tasks))
    if method == "rl2":
        return Plan(_UPDATES[method], rl2.Config(**_RL2))
    if method == "distral":
        return Plan(_UPDATES[method], distral_few_shot.Config(rate=_RATES[tasks]))
    if method == "episodic":
        return Plan(_UPDATES[method], mfec_few_shot.Config())
    config = maml.Config(**_MAML[tasks])
    if method != "maml":  # its critic, if any, knows nothing of a policy that adapts
        numbers: dict[str, Any] = {"inner_steps": 0, "baseline": "episodes", "rate": _RATES[tasks]}
        config = dataclasses.replace(config, **numbers)
    return Plan(_UPDATES[method], config)


@functools.cache  # one program for what is asked for twice
def learner(tasks: str, config: Any, curve: tuple[int, ...]) -> Learner:
    """What a plan is of.

    Raises:
      ValueError: for numbers that cannot be.
    """
    modules: tuple[Any, ...] = (maml, rl2, distral_few_shot, mfec_few_shot)
    (module,) = (x for x in modules if isinstance(config, x.Config))
    made: Learner = module.learner_of(FAMILIES[tasks](), config, curve)
    return made
