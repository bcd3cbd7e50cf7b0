"""Meta-World's sets as families of tasks, and the numbers of each method on them."""

import functools
from typing import Any

from mtrl_jax.algorithms import rl2, rl2_host
from mtrl_jax.algorithms.few_shot import HostLearner
from mtrl_jax.envs.trials import TrialFamily, metaworld_trials

__all__ = ["METHODS", "SETS", "host_learner", "is_hosted", "named", "plan", "trials"]

SETS = ("ml1:<environment>", "ml10", "ml45")
METHODS = ("rl2",)
# The official sets have 500 actions an episode and ten episodes to adapt on.
LENGTH = 100
_RL2: dict[str, Any] = {
    "train_tasks": 0,
    "meta_batch": 20,
    "eval_trials": 1,
    "discount": 0.97,
    "reward_scale": 0.1,
    "value_scale": 30.0,
}
_UPDATES = 200


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


def plan(method: str, tasks: str) -> tuple[int, rl2.Config]:
    """Updates and numbers of a method.

    Raises:
      ValueError: if the method has no way to play on the host.
    """
    if method not in METHODS:
        raise ValueError(
            f"--method={method} needs environments that compile with it; on Meta-World there is "
            f"{', '.join(METHODS)}"
        )
    numbers = _RL2 | ({"meta_batch": 45} if tasks.startswith("ml45") else {})
    return _UPDATES, rl2.Config(**numbers)


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
    return rl2_host.learner_of(trials(tasks), config, curve)
