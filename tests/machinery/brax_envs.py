"""A push along a line with brax's interface."""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class State:
    place: Any
    obs: Any
    reward: Any
    done: Any
    metrics: Any
    info: Any


class Push(NamedTuple):
    """From a random start in [-1, 1) to a goal; too far to the other side is an end as well."""

    goal: float = 2.0
    observation_size: int = 2
    action_size: int = 1

    def reset(self, rng):
        rng, start = jax.random.split(rng)
        place = jax.random.uniform(start, (), minval=-1.0)
        zero = jnp.zeros(())
        metrics = {"success": zero}
        return State(place, self._observe(place), zero, zero, metrics, {"rng": rng, "steps": 0})

    def _observe(self, place):
        return jnp.stack([place, jnp.abs(place)])

    def step(self, state, action):
        rng, noise = jax.random.split(state.info["rng"])
        place = state.place + action[0] + 0.01 * jax.random.normal(noise)
        there = place * self.goal > self.goal**2
        return state.replace(
            place=place,
            obs=self._observe(place),
            reward=jnp.where(there, 1.0, -jnp.abs(place)),
            done=jnp.where(there | (jnp.abs(place) > 3.0), 1.0, 0.0),
            metrics={"success": jnp.where(there, 1.0, 0.0)},
            info={"rng": rng, "steps": state.info["steps"] + 1},
        )


class Two(Push):
    """Two kinds of observation."""

    def _observe(self, place):
        return {"state": place[None], "privileged": place[None]}
