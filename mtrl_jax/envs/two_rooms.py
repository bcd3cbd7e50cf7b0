"""Two rooms joined by a corridor, in pure JAX: a grid world for tabular multi-task learning.

In the manner of Teh et al. 2017, arXiv 1707.04175, section 4.1. Tasks differ in the cell of the
goal only, which is fixed for a task; every episode starts at a cell drawn uniformly::

    ####____####        4 x 5 cells a room, a corridor of 4 cells in the middle row
    ############
    ####____####

The rules:
  * Actions: 0 stay, 1 up, 2 down, 3 left, 4 right. Walking into a wall leaves the agent where it
    is.
  * Every action costs 0.1, one that runs into a wall 0.5 more; reaching the goal is worth 1 and
    ends the episode for good. Rewards add up.
  * After `episode_length` actions the episode is truncated.
  * The agent sees its cell, its previous action and what kind of reward that brought.

The numbers are this library's choice: sizes of rooms and corridor, rewards and time limit.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, EnvSpec, FunctionalSuite, Key, Timestep

__all__ = [
    "ACTIONS",
    "REWARDS",
    "STATES",
    "TwoRooms",
    "TwoRoomsState",
    "corridor",
    "num_states",
    "positions",
    "random_goals",
    "state_index",
    "two_rooms",
]

ROOM_WIDTH, ROOM_HEIGHT, CORRIDOR_LENGTH = 4, 5, 4
ACTIONS = ("stay", "up", "down", "left", "right")
REWARDS = ("none", "step", "wall", "goal")  # kinds of previous reward; "none" on the first row
STATES = ("full", "no_action", "cell")  # what of an observation a table may look at
_MOVES = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])  # (row, column)


def positions() -> np.ndarray:
    """int [N, 2], row and column of each cell: left room, corridor and right room, row by row."""
    width = 2 * ROOM_WIDTH + CORRIDOR_LENGTH
    free = np.ones((ROOM_HEIGHT, width), bool)
    free[:, ROOM_WIDTH:-ROOM_WIDTH] = False
    free[ROOM_HEIGHT // 2] = True
    return np.argwhere(free)


def _successors() -> np.ndarray:
    """int32 [N, A], the cell that each action leads to; the same cell at a wall."""
    cells = positions()
    number = {tuple(cell): n for n, cell in enumerate(cells)}
    return np.array(
        [[number.get(tuple(cell + move), n) for move in _MOVES] for n, cell in enumerate(cells)],
        np.int32,
    )


_AHEAD = _successors()
NUM_CELLS = len(_AHEAD)


class TwoRoomsState(NamedTuple):
    """`cell` and `time` (actions so far), int32."""

    cell: Array
    time: Array


class TwoRooms(NamedTuple):
    """The family; a task is the cell of its goal, int32. Observations are int32 `[3]`.

    The elements of an observation: cell in [0, N), previous action + 1 or 0 for none, index into
    `REWARDS`.
    """

    episode_length: int = 200

    def reset(self, key: Key, task: Array) -> tuple[TwoRoomsState, Timestep]:
        """Draws a cell other than the goal."""
        # Sixteen random bits, scaled: `randint` draws four times as many, and resets are computed
        # on every row. The bias is below 0.1 %.
        draw = jax.random.bits(key, (), jnp.uint16).astype(jnp.int32) * (NUM_CELLS - 1) >> 16
        cell = (task + 1 + draw) % NUM_CELLS
        return TwoRoomsState(cell, jnp.int32(0)), restart(jnp.stack([cell, 0, 0]).astype(jnp.int32))

    def step(
        self, key: Key, state: TwoRoomsState, action: Array, task: Array
    ) -> tuple[TwoRoomsState, Timestep, Array]:
        """Moves the agent; deterministic."""
        cell = jnp.asarray(_AHEAD)[state.cell, action]
        at_goal = cell == task
        at_wall = (cell == state.cell) & (action != 0)
        kind = jnp.where(at_goal, 3, jnp.where(at_wall, 2, 1))
        reward = -0.1 - 0.5 * at_wall + 1.0 * at_goal
        time = state.time + 1
        observation = jnp.stack([cell, action + 1, kind]).astype(jnp.int32)
        timestep = transition(observation, reward, 1.0 - at_goal, success=at_goal)
        return TwoRoomsState(cell, time), timestep, at_goal | (time >= self.episode_length)

    def render(self, state: TwoRoomsState, task: Any, cell_pixels: int = 16) -> np.ndarray:
        """Draws rooms, goal and agent; uint8 `[rows * cell_pixels, columns * cell_pixels, 3]`."""
        cells = positions() + 1
        image = np.full((*(cells.max(0) + 2), 3), 60, np.uint8)
        image[tuple(cells.T)] = (235, 235, 215)
        image[tuple(cells[int(task)])] = (40, 160, 60)
        image[tuple(cells[int(state.cell)])] = (40, 70, 200)
        return image.repeat(cell_pixels, 0).repeat(cell_pixels, 1)


def corridor() -> np.ndarray:
    """int [CORRIDOR_LENGTH], the numbers of the corridor's cells from left to right."""
    columns = positions()[:, 1]
    return np.flatnonzero((columns >= ROOM_WIDTH) & (columns < ROOM_WIDTH + CORRIDOR_LENGTH))


def num_states(state: str = "full") -> int:
    """Rows of a table over `state_index`."""
    actions, rewards = len(ACTIONS) + 1, len(REWARDS)
    sizes = {"full": actions * rewards, "no_action": rewards, "cell": 1}
    if state not in sizes:
        raise ValueError(f"state must be one of {', '.join(STATES)}, got {state!r}")
    return NUM_CELLS * sizes[state]


def state_index(observation: Array, state: str = "full") -> Array:
    """Number of a state in [0, num_states(state)).

    Args:
      observation: int [3], from the environment.
      state: "full" for all of it, "no_action" without the previous action, "cell" for the cell
        alone.

    Raises:
      ValueError: for an unknown `state`.
    """
    num_states(state)
    index = observation[0]
    if state == "full":
        index = index * (len(ACTIONS) + 1) + observation[1]
    if state != "cell":
        index = index * len(REWARDS) + observation[2]
    return index


def random_goals(key: Key, num_tasks: int) -> Array:
    """int32 `[K]` goal cells, each uniform over all cells."""
    return jax.random.randint(key, (num_tasks,), 0, NUM_CELLS)


def two_rooms(num_tasks: int = 10, seed: int = 0, episode_length: int = 200) -> FunctionalSuite:
    """A suite of tasks with random goals.

    Args:
      num_tasks: K.
      seed: of the goals.
      episode_length: most actions in an episode.

    Raises:
      ValueError: `num_tasks` or `episode_length` below 1.
    """
    for name, value in (("num_tasks", num_tasks), ("episode_length", episode_length)):
        check_value(name, value, Count)
    goals = random_goals(jax.random.key(seed), num_tasks)
    spec = EnvSpec(
        task_names=tuple(f"goal{k}" for k in range(num_tasks)),
        observation_shape=(3,),
        observation_dtype=np.dtype(np.int32),
        vocabulary=np.array([NUM_CELLS, len(ACTIONS) + 1, len(REWARDS)]),
        num_actions=len(ACTIONS),
        action_mask=np.ones((num_tasks, len(ACTIONS)), bool),
        episode_limit=np.full(num_tasks, episode_length),
        has_success=True,
    )
    return FunctionalSuite(spec, TwoRooms(episode_length), goals)
