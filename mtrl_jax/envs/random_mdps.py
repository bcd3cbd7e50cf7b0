"""Tabular MDPs with random transitions and rewards.

Duan et al. 2016, *RL^2*, arXiv 1611.02779, section 3.2 (numbers from memory): ten states, five
actions, episodes of ten actions that begin in state 0. Rows of transition probabilities are from a
flat Dirichlet distribution, mean rewards from N(1, 1), and a reward adds noise of N(0, 1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.envs.task_family import TaskFamily, discrete_spec, state_number
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, Key, Timestep

__all__ = ["MDP", "MDPState", "RandomMDP", "random_mdps"]


class MDP(NamedTuple):
    """A task.

    Attributes:
      transition: float32 `[S, A, S]`, probabilities of the next state.
      reward: float32 `[S, A]`, means.
    """

    transition: Array
    reward: Array


class MDPState(NamedTuple):
    """`state` and `time` (actions so far), int32."""

    state: Array
    time: Array


class RandomMDP(NamedTuple):
    """The family; a task is an `MDP`. Observations are int32 `[1]`, the state."""

    horizon: int = 10

    def reset(self, key: Key, task: MDP) -> tuple[MDPState, Timestep]:
        """State 0."""
        return MDPState(jnp.int32(0), jnp.int32(0)), restart(state_number(0))

    def step(
        self, key: Key, state: MDPState, action: Array, task: MDP
    ) -> tuple[MDPState, Timestep, Array]:
        """Draws the next state and the reward's noise."""
        for_state, for_reward = jax.random.split(key)
        probabilities = task.transition[state.state, action]
        following = jax.random.categorical(for_state, jnp.log(probabilities)).astype(jnp.int32)
        reward = task.reward[state.state, action] + jax.random.normal(for_reward)
        time = state.time + 1
        ended = time >= self.horizon
        row = transition(state_number(following), reward, 1.0 - ended)
        return MDPState(following, time), row, ended


def random_mdps(num_states: int = 10, num_actions: int = 5, horizon: int = 10) -> TaskFamily:
    """MDPs of one size. The horizon ends an episode for good: nothing is to be had behind it.

    Raises:
      ValueError: for a number below 1.
    """
    sizes = {"num_states": num_states, "num_actions": num_actions, "horizon": horizon}
    for name, value in sizes.items():
        check_value(name, value, Count)
    shape = (num_states, num_actions)

    def draw(key: Key) -> MDP:
        for_transition, for_reward = jax.random.split(key)
        rows = jax.random.dirichlet(for_transition, jnp.ones(num_states), shape)
        return MDP(rows, 1.0 + jax.random.normal(for_reward, shape))

    def best(task: MDP) -> Array:
        def backwards(_: int, v: Array) -> Array:
            following = jnp.einsum("sat,t->sa", task.transition, v)
            return (task.reward + following).max(-1)

        v: Array = jax.lax.fori_loop(0, horizon, backwards, jnp.zeros(num_states))
        return v[0]

    spec = discrete_spec("mdp", num_actions, horizon, num_states)
    return TaskFamily(spec, RandomMDP(horizon), draw, best)
