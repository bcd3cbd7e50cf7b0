"""Meta-World's sets as families of tasks, and the numbers of each method on them."""

import functools
from typing import Any

from mtrl_jax.algorithms import maml, maml_host, rl2, rl2_host
from mtrl_jax.algorithms.few_shot import HostLearner
from mtrl_jax.envs.trials import TrialFamily, metaworld_trials

__all__ = ["SETS", "host_learner", "is_hosted", "named", "plan", "trials"]

SETS = ("ml1:<environment>", "ml10", "ml45")
# The official sets have 500 actions an episode and ten episodes to adapt on.
LENGTH = 100
_RL2: dict[str, Any] = {
    "train_tasks": 0,
    "meta_batch": 20,
    "eval_trials": 1,
    "hidden": (64,),
    "core_size": 128,
    "discount": 0.97,
    "lambda_": 0.95,
    "epochs": 12,
    "entropy_cost": 0.0,
    "learning_rate": 3e-3,
    "reward_scale": 0.5,
    "value_scale": 150.0,
}
_MAML: dict[str, Any] = {
    "train_tasks": 0,
    "meta_batch": 20,
    "episodes": 2,
    "outer_episodes": 2,
    "eval_episodes": 1,
    "discount": 0.97,
    "dice_lambda": 0.0,
    "baseline": "critic",
    "rate": 0.5,
    "epochs": 8,
    "learning_rate": 3e-3,
    "reward_scale": 0.02,
}
_UPDATES = {"rl2": 150, "maml": 60, "finetune": 60, "scratch": 0}


def is_hosted(tasks: str) -> bool:
    """Whether its environments live on the host."""
    return tasks.partition(":")[0] in ("ml1", "ml10", "ml45")


def named(tasks: str) -> str:
    """`tasks` with the length of its episodes.

    Raises:
      ValueError: if there is no such set, environment or option.
      ImportError: envpool is not installed.
    """
    tasks += "" if ":length=" in tasks else f":length={LENGTH}"
    trials(tasks)
    return tasks


def plan(method: str, tasks: str) -> tuple[int, maml.Config | rl2.Config]:
    """Updates and numbers of a method.

    Raises:
      ValueError: if it cannot be on Meta-World.
    """
    if method not in _UPDATES:
        raise ValueError(
            f"--method on Meta-World must be some of {', '.join(_UPDATES)}; got {method!r}"
        )
    batch = {"meta_batch": 45} if tasks.startswith("ml45") else {}
    if method == "rl2":
        return _UPDATES[method], rl2.Config(**(_RL2 | batch))
    steps = {} if method == "maml" else {"inner_steps": 0, "baseline": "episodes"}
    return _UPDATES[method], maml.Config(**(_MAML | batch | steps))


@functools.cache
def trials(tasks: str) -> TrialFamily:
    """A family of Meta-World's.

    Raises:
      ValueError: if there is none of this name.
    """
    return metaworld_trials(tasks)


@functools.cache
def host_learner(tasks: str, config: Any, curve: tuple[int, ...]) -> HostLearner:
    """As `learner`, on Meta-World."""
    module: Any = rl2_host if isinstance(config, rl2.Config) else maml_host
    made: HostLearner = module.learner_of(trials(tasks), config, curve)
    return made
