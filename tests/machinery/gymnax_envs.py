"""A walk with gymnax's interface, as it is since version 1.0 and as it was before."""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Params:
    goal: int = 4
    step: float = 1.0
    max_steps_in_episode: int = 6


@flax.struct.dataclass
class State:
    place: Any
    time: Any


class Box(NamedTuple):
    low: Any
    high: Any
    shape: Any


class Discrete(NamedTuple):
    n: int


class Walk:
    """To the left or to the right of a random start in [0, 3], to a goal."""

    name = "walk"
    observations: Any = Box(-9.0, 9.0, (2,))
    actions: Any = Discrete(2)
    default_params = Params()

    def observation_space(self, params):
        return self.observations

    def action_space(self, params):
        return self.actions

    def reset_env(self, key, params):
        state = State(jax.random.randint(key, (), 0, 4), 0)  # a number of Python's, as they have it
        return self._observe(state, params), state

    def _observe(self, state, params):
        return jnp.stack([state.place * params.step, jnp.asarray(state.time, jnp.float32)])

    def _there(self, state, params):
        return state.place >= params.goal

    def _walk(self, state, action, params):
        state = State(state.place + 2 * action - 1, state.time + 1)
        there = self._there(state, params)
        return state, jnp.where(there, 1.0, -0.1) * params.step, {"success": there}


class New(Walk):
    def step_env(self, key, state, action, params):
        state, reward, info = self._walk(state, action, params)
        return self._observe(state, params), state, reward, self._there(state, params), info

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode


class Old(Walk):
    def step_env(self, key, state, action, params):
        state, reward, info = self._walk(state, action, params)
        ended = self.is_terminal(state, params)
        return self._observe(state, params), state, reward, ended, info

    def is_terminal(self, state, params):
        return self._there(state, params) | (state.time >= params.max_steps_in_episode)


class Pushed(New):
    """Continuous: how far it goes is the action's sum."""

    actions: Any = Box(0.0, 4.0, (1, 2))

    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return observation, State(jnp.float32(state.place), state.time)

    def _walk(self, state, action, params):
        state = State(state.place + action.sum(), state.time + 1)
        return state, action.sum(), {}


TASKS = (Params(), Params(goal=5, step=0.5), Params(goal=99, max_steps_in_episode=3))
NAMES = ("near", "far", "never")


class Wide(New):
    """Three observations, and a third action, to stand still."""

    observations: Any = Box(-9.0, 9.0, (3,))
    actions: Any = Discrete(3)

    def _observe(self, state, params):
        return jnp.append(super()._observe(state, params), params.goal * 1.0)

    def _walk(self, state, action, params):
        after, reward, info = super()._walk(state, action, params)
        return after.replace(place=jnp.where(action == 2, state.place, after.place)), reward, info
