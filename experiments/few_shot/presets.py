"""Families of tasks, methods, and the numbers of each method on each family.

Chosen on seeds 100 and 101, by scores on training tasks; `docs/few_shot.md` says what was tried.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from mtrl_jax.algorithms import maml, rl2
from mtrl_jax.algorithms.few_shot import Learner
from mtrl_jax.envs.bandits import bandits
from mtrl_jax.envs.point_navigation import point_navigation
from mtrl_jax.envs.random_mdps import random_mdps
from mtrl_jax.envs.task_family import TaskFamily

__all__ = ["FAMILIES", "METHODS", "Plan", "learner", "plan"]

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
}


class Plan(NamedTuple):
    """How one method learns.

    Attributes:
      updates: of meta-training; 0 where there is none.
      config: of `maml` or `rl2`.
    """

    updates: int
    config: maml.Config | rl2.Config


# Rates of the inner step. Where nothing was meta-trained for it, it is that of the best curve.
_RATES = {
    "bandits": {"maml": 1.0, "finetune": 1.0, "scratch": 1.0},
    "mdps": {"maml": 1.0, "finetune": 1.0, "scratch": 1.0},
    "navigation": {"maml": 0.5, "finetune": 0.5, "scratch": 0.5},
}
_UPDATES = {
    "bandits": {"maml": 1000, "rl2": 1000, "finetune": 1000},
    "mdps": {"maml": 1000, "rl2": 1000, "finetune": 1000},
    "navigation": {"maml": 1000, "rl2": 1000, "finetune": 1000},
}


def plan(method: str, tasks: str) -> Plan:
    """The preset of a method on a family."""
    updates = _UPDATES[tasks].get(method, 0)
    if method == "rl2":
        return Plan(updates, rl2.Config())
    config = maml.Config(rate=_RATES[tasks][method])
    if method == "finetune":
        config = dataclasses.replace(config, inner_steps=0)
    if method == "scratch":  # there is no critic to speak of
        config = dataclasses.replace(config, inner_steps=0, baseline="episodes")
    return Plan(updates, config)


@functools.cache  # one program for what is asked for twice
def learner(tasks: str, config: Any, curve: tuple[int, ...]) -> Learner:
    """What a plan is of.

    Raises:
      ValueError: for numbers that cannot be.
    """
    module: Any = rl2 if isinstance(config, rl2.Config) else maml
    made: Learner = module.learner_of(FAMILIES[tasks](), config, curve)
    return made
