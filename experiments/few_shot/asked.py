"""What one method of a command is, and how it is scored: on which tasks, with which draws."""

import dataclasses
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.algorithms.few_shot import Learner
from mtrl_jax.envs.task_family import draw_tasks
from mtrl_jax.types import ArrayTree

from .presets import FAMILIES, Plan

__all__ = ["TEST_SEED", "Asked", "keys_of", "scores_of", "test_tasks"]

TEST_SEED = 2**31 - 1  # of the test tasks, which are the same for all seeds and methods


class Asked(NamedTuple):
    """One method of a command.

    Attributes:
      method: of `METHODS`.
      tasks: of `FAMILIES`, or Meta-World's in full.
      plan: its numbers.
      curve: numbers of episodes of adaptation.
      test_tasks: how many; as many training tasks are scored.
      seed, num_seeds: the first seed, and how many follow from it.
    """

    method: str
    tasks: str
    plan: Plan
    curve: tuple[int, ...]
    test_tasks: int
    seed: int
    num_seeds: int

    def settings(self) -> dict[str, Any]:
        """What config.json is to hold."""
        plain = {k: v for k, v in self._asdict().items() if k != "plan"}
        numbers = dataclasses.asdict(self.plan.config)
        found = {"binary": "few_shot", **plain, "updates": self.plan.updates, **numbers}
        return json.loads(json.dumps(found))


def keys_of(asked: Asked, stream: int) -> jax.Array:
    """One a seed; streams are of the start, of updates and of scores."""
    seeds = jnp.arange(asked.seed, asked.seed + asked.num_seeds)
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), stream))(seeds)


def test_tasks(tasks: str, num_tasks: int) -> ArrayTree:
    """Tasks that nobody learns from."""
    return draw_tasks(FAMILIES[tasks](), jax.random.key(TEST_SEED), num_tasks)


def scores_of(asked: Asked, made: Learner, states: Any) -> dict[str, Any]:
    """Of training tasks (each seed has its own) and test tasks, means over tasks: `curve` `[N][S]`,
    `online` `[S]` and `best`, what knowing the task would earn, `[S]`."""
    best = jax.vmap(FAMILIES[asked.tasks]().best)
    test = test_tasks(asked.tasks, asked.test_tasks)

    def of(state: Any, tasks: ArrayTree, key: jax.Array) -> dict[str, Any]:
        score = made.evaluate(state, tasks, key)
        curve, online = score.curve.mean(0), score.online.mean()
        return {"curve": curve, "online": online, "best": best(tasks).mean()}

    def one(state: Any, key: jax.Array) -> dict[str, Any]:
        for_train, for_test = jax.random.split(key)
        known = jax.tree.map(lambda x: x[: asked.test_tasks], made.tasks(state))
        found = {"test": of(state, test, for_test)}
        if jax.tree.leaves(known)[0].shape[0]:
            found["train"] = of(state, known, for_train)
        return found

    found = jax.device_get(jax.jit(jax.vmap(one))(states, keys_of(asked, 2)))
    return jax.tree.map(lambda x: np.round(x.T.astype(float), 5).tolist(), found)
