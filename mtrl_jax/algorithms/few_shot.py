"""What learners that adapt share: episodes of one task, the record of one learner, its scores.

Tasks are of a `TaskFamily`, whose episodes all have T actions. Axes besides those of `types.py`::

    M  tasks of one update or one evaluation
    E  episodes of one task
    N  points of an adaptation curve
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import distributions
from mtrl_jax.envs.task_family import TaskFamily, draw_tasks
from mtrl_jax.types import Array, ArrayTree, Key, Metrics

__all__ = ["Episodes", "Learner", "Score", "check_curve", "choose", "head_of", "play"]

LOG_STD = (-2.0, 1.0)  # of a Gaussian policy whose actions are in [-1, 1]


class Episodes(NamedTuple):
    """E episodes of one task, leaves `[E, T, ...]`.

    Attributes:
      observation: what actions were chosen on.
      action: int32, or float32 `[E, T, A]`.
      log_prob: of those actions, under the policy that drew them.
      reward: that followed.
    """

    observation: Array
    action: Array
    log_prob: Array
    reward: Array


class Score(NamedTuple):
    """What came of adapting to M tasks, means over episodes.

    Attributes:
      curve: float32 `[M, N]`, mean return of an episode after so many of adaptation.
      online: float32 `[M]`, mean return of the episodes that were adapted on.
    """

    curve: Array
    online: Array


class Learner(NamedTuple):
    """A meta-learner bound to a family and its numbers; all of it pure.

    Attributes:
      init: `(key) -> state`.
      update: `(state, key) -> (state, metrics)`, on tasks that it chooses of its training tasks.
      tasks: `(state) -> tasks`, the training tasks, leaves `[K, ...]`.
      evaluate: `(state, tasks, key) -> Score`.
      episodes_per_update: of all tasks together.
    """

    init: Callable[[Key], Any]
    update: Callable[[Any, Key], tuple[Any, Metrics]]
    tasks: Callable[[Any], ArrayTree]
    evaluate: Callable[[Any, ArrayTree, Key], Score]
    episodes_per_update: int


Act = Callable[[Array, Key], tuple[Array, Array]]  # of an observation, an action and its log-prob


def play(family: TaskFamily, act: Act, task: ArrayTree, keys: Key) -> Episodes:
    """Episodes of one task by a policy without memory; no gradient is meant to pass.

    Args:
      family: of the task.
      act: `(observation, key) -> (action, log_prob)`, of one environment.
      task: of the family.
      keys: `[E]`, one an episode.
    """

    def episode(key: Key) -> Episodes:
        for_reset, for_steps = jax.random.split(key)
        state, row = family.env.reset(for_reset, task)

        def step(carry: Any, key: Key) -> tuple[Any, Episodes]:
            state, observation = carry
            for_action, for_env = jax.random.split(key)
            action, log_prob = act(observation, for_action)
            state, row, _ = family.env.step(for_env, state, action, task)
            return (state, row.observation), Episodes(observation, action, log_prob, row.reward)

        keys = jax.random.split(for_steps, family.episode_length)
        return jax.lax.scan(step, (state, row.observation), keys)[1]

    return jax.vmap(episode)(keys)


def choose(family: TaskFamily, tasks: ArrayTree, key: Key, num_tasks: int) -> ArrayTree:
    """M of the training tasks `[K, ...]`, with replacement; fresh ones of the family where there
    are none (K = 0)."""
    (known, *_) = (x.shape[0] for x in jax.tree.leaves(tasks))
    if not known:
        return draw_tasks(family, key, num_tasks)
    chosen = jax.random.randint(key, (num_tasks,), 0, known)
    return jax.tree.map(lambda x: x[chosen], tasks)


def head_of(family: TaskFamily, outputs: Array) -> distributions.Distribution:
    """The policy that a column's outputs `[..., A]` or `[..., 2 A]` stand for."""
    if not family.spec.action_size:
        return distributions.categorical(outputs)
    mean, raw = jnp.split(outputs, 2, -1)
    return distributions.Gaussian(mean, distributions.bounded_log_std(raw, *LOG_STD))


def check_curve(curve: tuple[int, ...]) -> None:
    """Raises ValueError unless `curve` holds numbers of episodes, none below 0, each larger than
    the one before."""
    rising = all(a < b for a, b in itertools.pairwise(curve))
    if not curve or min(curve) < 0 or not rising:
        raise ValueError(f"curve must hold rising numbers of episodes from 0 on; got {curve}")
