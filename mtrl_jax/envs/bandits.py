"""Bernoulli bandits: an episode is one pull of one of A arms, whose probabilities are the task.

Duan et al. 2016, *RL^2: fast reinforcement learning via slow reinforcement learning*, arXiv
1611.02779, section 3.1: probabilities are uniform on [0, 1], and a trial is n pulls.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.envs.task_family import TaskFamily, discrete_spec, state_number
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, Key, Timestep

__all__ = ["Bandit", "bandits"]


class Bandit(NamedTuple):
    """The family; a task is float32 `[A]`, the probability of a reward of 1 for each arm.

    Observations are int32 `[1]`, always 0.
    """

    def reset(self, key: Key, task: Array) -> tuple[Array, Timestep]:
        """There is nothing to draw."""
        return jnp.int32(0), restart(state_number(0))

    def step(
        self, key: Key, state: Array, action: Array, task: Array
    ) -> tuple[Array, Timestep, Array]:
        """Pulls an arm, which ends the episode."""
        reward = jax.random.bernoulli(key, task[action])
        return state, transition(state_number(0), reward, 0.0), jnp.bool_(True)


def bandits(num_arms: int = 5) -> TaskFamily:
    """Bandits with arms that are uniform on [0, 1].

    Raises:
      ValueError: `num_arms` below 1.
    """
    check_value("num_arms", num_arms, Count)
    return TaskFamily(
        discrete_spec("bandit", num_arms, 1, 1),
        Bandit(),
        lambda key: jax.random.uniform(key, (num_arms,)),
        jnp.max,
    )
