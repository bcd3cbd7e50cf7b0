"""Families of tasks that are drawn, one environment for all of them: what few-shot learners meet.

A suite has K tasks with names. A family has as many as are asked for: `draw` makes a task of a key.
Episodes of a family all have the same number of actions, so that trials of several episodes are
arrays.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.ranges import Count, Seed, check_value
from mtrl_jax.types import Array, ArrayTree, EnvSpec, FunctionalEnv, FunctionalSuite, Key

__all__ = ["TaskFamily", "draw_tasks", "suite"]


class TaskFamily(NamedTuple):
    """A distribution over tasks.

    Attributes:
      spec: of one task; `episode_limit[0]` is the length T of every episode.
      env: whose episodes all end after T actions.
      draw: `(key) -> task`.
      best: `(task) -> []`, the highest expected return of an episode for whoever knows the task.
    """

    spec: EnvSpec
    env: FunctionalEnv
    draw: Callable[[Key], ArrayTree]
    best: Callable[[ArrayTree], Array]

    @property
    def episode_length(self) -> int:
        """T."""
        return int(self.spec.episode_limit[0])


def draw_tasks(family: TaskFamily, key: Key, num_tasks: int) -> ArrayTree:
    """Tasks, leaves `[K, ...]`.

    Raises:
      ValueError: for fewer than one.
    """
    check_value("num_tasks", num_tasks, Count)
    return jax.vmap(family.draw)(jax.random.split(key, num_tasks))


def suite(family: TaskFamily, num_tasks: int, seed: int = 0) -> FunctionalSuite:
    """Tasks of a family as a suite, for every algorithm that learns a number of named tasks.

    Args:
      family: of the tasks.
      num_tasks: K.
      seed: of the draw.

    Raises:
      ValueError: for fewer than one task, or a seed below 0.
    """
    check_value("seed", seed, Seed)
    tasks = draw_tasks(family, jax.random.key(seed), num_tasks)
    spec = family.spec
    spec = spec._replace(
        task_names=tuple(f"{spec.task_names[0]}{k}" for k in range(num_tasks)),
        action_mask=np.repeat(spec.action_mask, num_tasks, 0),
        episode_limit=np.repeat(spec.episode_limit, num_tasks, 0),
    )
    return FunctionalSuite(spec, family.env, tasks)


def discrete_spec(name: str, num_actions: int, length: int, num_states: int) -> EnvSpec:
    """Of a family whose observation is the number of a state, int32 `[1]`."""
    return EnvSpec(
        task_names=(name,),
        observation_shape=(1,),
        observation_dtype=np.dtype(np.int32),
        vocabulary=np.array([num_states]),
        num_actions=num_actions,
        action_mask=np.ones((1, num_actions), bool),
        episode_limit=np.array([length]),
        has_success=False,
    )


def state_number(state: Array | int) -> Array:
    """The observation that `discrete_spec` says."""
    return jnp.asarray(state, jnp.int32)[None]
