"""A point in the plane that is to go to a goal that it does not see.

Finn et al. 2017, *Model-agnostic meta-learning*, arXiv 1703.03400, section 5.3.1: goals are uniform
on the unit square around the start, actions are velocities cut off at 0.1 in each coordinate, and
a reward is minus the squared distance to the goal. The paper's episodes have up to 100 actions and
end within 0.01 of the goal; here they have ten, twice what the farthest corner takes, and no end
before.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.envs.task_family import TaskFamily
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, EnvSpec, Key, Timestep

__all__ = ["PointNavigation", "PointState", "point_navigation"]

STEP, REACH = 0.1, 0.5  # the longest step and the farthest goal, in each coordinate


class PointState(NamedTuple):
    """`position` float32 `[2]`, and `time` (actions so far), int32."""

    position: Array
    time: Array


class PointNavigation(NamedTuple):
    """The family; a task is the goal, float32 `[2]`. Observations are the position, float32 `[2]`.

    Actions are float32 `[2]` in [-1, 1], which is 0.1 of the plane.
    """

    horizon: int = 10

    def reset(self, key: Key, task: Array) -> tuple[PointState, Timestep]:
        """The origin."""
        return PointState(jnp.zeros(2), jnp.int32(0)), restart(jnp.zeros(2))

    def step(
        self, key: Key, state: PointState, action: Array, task: Array
    ) -> tuple[PointState, Timestep, Array]:
        """Moves the point; deterministic."""
        position = state.position + STEP * jnp.clip(action, -1.0, 1.0)
        reward = -jnp.sum(jnp.square(position - task))
        time = state.time + 1
        ended = time >= self.horizon
        return PointState(position, time), transition(position, reward, 1.0 - ended), ended


def point_navigation(horizon: int = 10) -> TaskFamily:
    """Goals anywhere in the square. The horizon ends an episode for good.

    Raises:
      ValueError: `horizon` below 1.
    """
    check_value("horizon", horizon, Count)
    spec = EnvSpec(
        task_names=("goal",),
        observation_shape=(2,),
        observation_dtype=np.dtype(np.float32),
        vocabulary=None,
        num_actions=0,
        action_mask=np.ones((1, 0), bool),
        episode_limit=np.array([horizon]),
        has_success=False,
        action_size=2,
    )

    def draw(key: Key) -> Array:
        return jax.random.uniform(key, (2,), minval=-REACH, maxval=REACH)

    def best(task: Array) -> Array:
        walked = STEP * jnp.arange(1, horizon + 1, dtype=jnp.float32)[:, None]
        left = jnp.maximum(jnp.abs(task)[None] - walked, 0.0)
        return -jnp.sum(jnp.square(left))

    return TaskFamily(spec, PointNavigation(horizon), draw, best)
