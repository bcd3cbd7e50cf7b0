"""Tasks that differ in a goal alone and whose rewards anyone can compute from what was seen.

What is recorded for one goal can be relabelled for another: both environments have::

    relabel(observation, action, next_observation, task) -> (reward, discount)
    least_reward     the smallest reward that any task pays

and `step` pays by `relabel`, so that recorded and relabelled rewards are the same numbers. Reaching
the goal is worth 1 and ends the episode for good; everything else is worth 0. Episodes begin
anywhere and are truncated after `episode_length` actions.

`goal_rooms`: four rooms, eight goals, discrete actions 0 up, 1 down, 2 left, 3 right; walking into
a wall does nothing. `goal_plane`: the square [-1, 1]^2, four goals, velocities of two coordinates.
The numbers are this library's choice.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, EnvSpec, FunctionalSuite, Key, Timestep

__all__ = ["MAP", "GoalPlane", "GoalRooms", "GoalState", "goal_plane", "goal_rooms"]

MAP = """
....#....
....#....
.........
....#....
#.#####.#
....#....
.........
....#....
....#....
"""
_FREE = np.array([[x == "." for x in row] for row in MAP.split()])
_CELLS = np.argwhere(_FREE).astype(np.int32)  # [N, 2], row and column
_MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)], np.int32)
# Row and column; two in each room, one of them in its outer corner.
_ROOM_GOALS = ((0, 0), (3, 2), (0, 8), (2, 5), (8, 0), (6, 3), (8, 8), (5, 6))
_PLANE_GOALS = ((-0.7, -0.7), (-0.7, 0.7), (0.7, -0.7), (0.7, 0.7))
STEP, RADIUS = 0.15, 0.2  # of the plane: the longest step in a coordinate, the size of a goal


class GoalState(NamedTuple):
    """`place` is the observation, `time` (actions so far) int32."""

    place: Array
    time: Array


class GoalRooms(NamedTuple):
    """Four rooms; a task is the goal's row and column, int32 `[2]`, an observation the agent's."""

    episode_length: int = 40

    @property
    def least_reward(self) -> float:
        return 0.0

    def reset(self, key: Key, task: Array) -> tuple[GoalState, Timestep]:
        """A free cell other than the goal."""
        cells = jnp.asarray(_CELLS)
        goal = (cells == jnp.broadcast_to(task, cells.shape)).all(-1).argmax()
        drawn = jax.random.randint(key, (), 1, len(_CELLS))
        place = cells[(goal + drawn) % len(_CELLS)]
        return GoalState(place, jnp.int32(0)), restart(place)

    def step(
        self, key: Key, state: GoalState, action: Array, task: Array
    ) -> tuple[GoalState, Timestep, Array]:
        """Moves the agent; deterministic."""
        ahead = jnp.clip(state.place + jnp.asarray(_MOVES)[action], 0, len(_FREE) - 1)
        place = jnp.where(jnp.asarray(_FREE)[ahead[0], ahead[1]], ahead, state.place)
        return _arrive(self, state, action, place, task)

    def relabel(
        self, observation: Array, action: Array, next_observation: Array, task: Array
    ) -> tuple[Array, Array]:
        """Reward and discount of a transition, whichever task it was recorded for."""
        return _paid((next_observation == task).all())


class GoalPlane(NamedTuple):
    """The plane; a task is the goal's place, float32 `[2]`, an observation the agent's."""

    episode_length: int = 30

    @property
    def least_reward(self) -> float:
        return 0.0

    def reset(self, key: Key, task: Array) -> tuple[GoalState, Timestep]:
        """Anywhere in the square."""
        place = jax.random.uniform(key, (2,), minval=-1.0)
        return GoalState(place, jnp.int32(0)), restart(place)

    def step(
        self, key: Key, state: GoalState, action: Array, task: Array
    ) -> tuple[GoalState, Timestep, Array]:
        """Moves the point, which stays in the square; deterministic."""
        place = jnp.clip(state.place + STEP * jnp.clip(action, -1.0, 1.0), -1.0, 1.0)
        return _arrive(self, state, action, place, task)

    def relabel(
        self, observation: Array, action: Array, next_observation: Array, task: Array
    ) -> tuple[Array, Array]:
        """Reward and discount of a transition, whichever task it was recorded for."""
        return _paid(jnp.sum(jnp.square(next_observation - task)) < RADIUS**2)


def _paid(at_goal: Array) -> tuple[Array, Array]:
    reward = at_goal.astype(jnp.float32)
    return reward, 1.0 - reward


def _arrive(
    env: GoalRooms | GoalPlane, state: GoalState, action: Array, place: Array, task: Array
) -> tuple[GoalState, Timestep, Array]:
    reward, discount = env.relabel(state.place, action, place, task)
    time, at_goal = state.time + 1, discount == 0
    row = transition(place, reward, discount, success=at_goal)
    return GoalState(place, time), row, at_goal | (time >= env.episode_length)


def goal_rooms(episode_length: int = 40) -> FunctionalSuite:
    """Eight goals in four rooms.

    Raises:
      ValueError: `episode_length` below 1.
    """
    vocabulary = np.array(_FREE.shape)
    rest: dict[str, Any] = {"vocabulary": vocabulary, "num_actions": len(_MOVES)}
    spec = _spec("room", len(_ROOM_GOALS), episode_length, np.int32, rest)
    return FunctionalSuite(spec, GoalRooms(episode_length), np.array(_ROOM_GOALS, np.int32))


def goal_plane(episode_length: int = 30) -> FunctionalSuite:
    """Four goals in the plane.

    Raises:
      ValueError: `episode_length` below 1.
    """
    rest: dict[str, Any] = {"vocabulary": None, "num_actions": 0, "action_size": 2}
    spec = _spec("corner", len(_PLANE_GOALS), episode_length, np.float32, rest)
    return FunctionalSuite(spec, GoalPlane(episode_length), np.array(_PLANE_GOALS, np.float32))


def _spec(name: str, count: int, episode_length: int, dtype: Any, rest: dict[str, Any]) -> EnvSpec:
    check_value("episode_length", episode_length, Count)
    return EnvSpec(
        task_names=tuple(f"{name}{k}" for k in range(count)),
        observation_shape=(2,),
        observation_dtype=np.dtype(dtype),
        action_mask=np.ones((count, rest["num_actions"]), bool),
        episode_limit=np.full(count, episode_length),
        has_success=True,
        **rest,
    )
