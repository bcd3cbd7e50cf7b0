"""`maze8`: eight fixed mazes with apples, a goal and respawn, in pure JAX; the layout is data.

The stand-in for the 3D maze tasks of Teh et al. 2017 (arXiv:1707.04175, section 4.2): one layout a
task, a partial egocentric view, apples and a goal at places drawn for each episode, the agent put
back at a random cell when it reaches the goal, episodes of fixed length.

The rules:
  * Actions: 0 turn left, 1 turn right, 2 forward, 3 back. Walking into a wall does nothing.
  * An apple is worth +1 and is gone until the episode ends. The free cells are cut into
    `num_apples` equal parts and each part gets one, so that no two share a cell; one that would
    lie under the agent or the goal is left out.
  * The goal is worth +10 and is a success; it stays, and the agent goes on from a random cell.
  * After `episode_length` actions the episode is truncated (discount 1): a time limit that the
    agent cannot see is no property of the state.

A step must cost far less than the network that chooses its action, so what depends on the layout
alone is computed beforehand: what each cell of the view shows from each place and heading,
occlusion included, and which cell lies ahead. A step looks up one row of each table and compares
cell numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.envs.maze_layouts import LAYOUTS
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, EnvSpec, FunctionalSuite, Key, Timestep

__all__ = ["VIEW_CLASSES", "Maze", "MazeState", "MazeTask", "layout_task", "maze8"]

VIEW = 7  # rows and columns of the view; the agent looks up from the middle of the last row
VIEW_CLASSES = ("unseen", "wall", "floor", "apple", "goal")
NUM_ACTIONS = 4

# Cell numbers are uint8; these are not cells.
_NONE, _WALL, _UNSEEN = 253, 254, 255
_FORWARD = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # (row, column) of north, east, south, west


class MazeTask(NamedTuple):
    """One layout with N free cells, numbered row by row. Tables are padded so that layouts stack.

    Attributes:
      num_cells: int32, N.
      ahead: uint8 `[N, 4]`, the cell one step in each heading; the same cell at a wall.
      view: uint8 `[N, 4, 49]`, the cell number behind each element of the view, or a wall, or
        unseen.
      goal: int32, the cell of the goal, or -1: drawn anew for each episode.
      position: uint8 `[N, 2]`, row and column of each cell (for pictures).
      walls: bool `[H, W]` (for pictures).
    """

    num_cells: Any
    ahead: Any
    view: Any
    goal: Any
    position: Any
    walls: Any


class MazeState(NamedTuple):
    """Cells and heading int32; `apples` uint8 `[num_apples]`; `time` int32, actions so far."""

    cell: Array
    heading: Array
    goal: Array
    apples: Array
    time: Array


class Maze(NamedTuple):
    """The maze family; observations are uint8 `[49]`, a 7 x 7 view row by row (`VIEW_CLASSES`)."""

    num_apples: int = 8
    episode_length: int = 200
    apple_reward: float = 1.0
    goal_reward: float = 10.0

    def reset(self, key: Key, task: MazeTask) -> tuple[MazeState, Timestep]:
        """Draws goal, apples, place and heading of the agent."""
        draws = _draws(key, self.num_apples + 3)
        goal = jnp.where(task.goal < 0, _index(draws[2], task.num_cells), task.goal)
        cell, heading = _spawn(draws[:2], goal, task.num_cells)
        part = jnp.arange(self.num_apples + 1) * task.num_cells // self.num_apples
        apples = part[:-1] + _index(draws[3:], part[1:] - part[:-1])
        apples = jnp.where((apples == goal) | (apples == cell), _NONE, apples).astype(jnp.uint8)
        state = MazeState(cell, heading, goal, apples, jnp.int32(0))
        return state, restart(_observe(state, task))

    def step(
        self, key: Key, state: MazeState, action: Array, task: MazeTask
    ) -> tuple[MazeState, Timestep, Array]:
        """Moves the agent one action on."""
        turn = (action == 1).astype(jnp.int32) - (action == 0)
        heading = (state.heading + turn) % 4
        moved = task.ahead[state.cell, jnp.where(action == 3, heading + 2, heading) % 4]
        cell = jnp.where(action >= 2, moved.astype(jnp.int32), state.cell)

        eaten = state.apples == cell.astype(jnp.uint8)
        apples = jnp.where(eaten, jnp.uint8(_NONE), state.apples)
        at_goal = cell == state.goal
        reward = self.apple_reward * eaten.any() + self.goal_reward * at_goal

        new_cell, new_heading = _spawn(_draws(key, 2), state.goal, task.num_cells)
        time = state.time + 1
        state = MazeState(
            cell=jnp.where(at_goal, new_cell, cell),
            heading=jnp.where(at_goal, new_heading, heading),
            goal=state.goal,
            apples=apples,
            time=time,
        )
        timestep = transition(_observe(state, task), reward, success=at_goal)
        return state, timestep, time >= self.episode_length

    def render(self, state: MazeState, task: MazeTask, cell_pixels: int = 16) -> np.ndarray:
        """Draws the whole maze, what the agent sees of it, and the agent (NumPy, not traceable).

        Args:
          state: of one environment.
          task: its layout.
          cell_pixels: side of a cell, in pixels.

        Returns:
          uint8 `[H * cell_pixels, W * cell_pixels, 3]`.
        """
        s = cell_pixels
        walls, position = np.asarray(task.walls), np.asarray(task.position)
        image = np.where(walls[..., None], np.uint8(60), np.uint8(170)).repeat(3, -1)
        seen = np.asarray(task.view)[int(state.cell), int(state.heading)]
        for row, column in position[seen[seen < _NONE]]:
            image[row, column] = (235, 235, 215)
        image = image.repeat(s, 0).repeat(s, 1)
        y, x = (np.mgrid[:s, :s] + 0.5) / s - 0.5  # of a pixel in its cell, in [-0.5, 0.5]

        def draw(cell: int, shape: np.ndarray, colour: tuple[int, int, int]) -> None:
            row, column = position[cell].astype(int) * s
            image[row : row + s, column : column + s][shape] = colour

        for apple in np.asarray(state.apples):
            if apple < _NONE:
                draw(int(apple), x**2 + y**2 < 0.09, (200, 40, 40))
        draw(int(state.goal), np.maximum(abs(x), abs(y)) < 0.4, (40, 160, 60))
        dy, dx = _FORWARD[int(state.heading)]
        along, across = dy * y + dx * x, dx * y - dy * x
        draw(int(state.cell), (abs(across) < 0.2 - 0.5 * along) & (along > -0.35), (40, 70, 200))
        return image


def maze8(
    num_apples: int = 8, episode_length: int = 200, random_goal: bool = True
) -> FunctionalSuite:
    """The suite of all eight layouts.

    Args:
      num_apples: in each episode.
      episode_length: actions.
      random_goal: draw the goal for each episode; else it stays at one cell of its layout, so that
        an agent that knows the layout can walk straight to it.

    Raises:
      ValueError: `num_apples` or `episode_length` out of range.
    """
    fewest = min(layout.count(".") for layout in LAYOUTS.values())
    if not 1 <= num_apples <= fewest:
        raise ValueError(f"num_apples must be in 1..{fewest}, got {num_apples}")
    check_value("episode_length", episode_length, Count)
    size = max(layout.count(".") for layout in LAYOUTS.values())
    tasks = [layout_task(layout, random_goal, size) for layout in LAYOUTS.values()]
    num_tasks = len(tasks)
    spec = EnvSpec(
        task_names=tuple(LAYOUTS),
        observation_shape=(VIEW * VIEW,),
        observation_dtype=np.dtype(np.uint8),
        vocabulary=np.full(VIEW * VIEW, len(VIEW_CLASSES)),
        num_actions=NUM_ACTIONS,
        action_mask=np.ones((num_tasks, NUM_ACTIONS), bool),
        episode_limit=np.full(num_tasks, episode_length),
        has_success=True,
    )
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *tasks)
    return FunctionalSuite(spec, Maze(num_apples, episode_length), stacked)


def layout_task(layout: str, random_goal: bool = True, size: int | None = None) -> MazeTask:
    """The tables of one layout, as NumPy.

    Args:
      layout: rows of `#` (wall) and `.` (floor), closed by walls all around.
      random_goal: else the goal is the free cell farthest from the first one, on foot.
      size: pad the tables to so many cells.

    Raises:
      ValueError: rows of unequal length, an open border, other characters, cells that cannot be
        reached, or a number of cells that does not fit.
    """
    rows = layout.split()
    if len({len(row) for row in rows}) != 1 or set("".join(rows)) - set("#."):
        raise ValueError(f"layout must be rows of equal length of '#' and '.', got {rows}")
    walls = np.array([[c == "#" for c in row] for row in rows])
    if not (walls[[0, -1]].all() and walls[:, [0, -1]].all()):
        raise ValueError("layout must be closed by walls all around")
    position = np.argwhere(~walls)
    size = len(position) if size is None else size
    if not 2 <= len(position) <= size <= _NONE:
        raise ValueError(f"layout must have 2..{_NONE} free cells, got {len(position)}")

    cell_at = np.full(walls.shape, _WALL)
    cell_at[tuple(position.T)] = np.arange(len(position))
    ahead = np.stack([cell_at[tuple((position + step).T)] for step in _FORWARD], axis=1)
    ahead = np.where(ahead == _WALL, np.arange(len(position))[:, None], ahead)
    goal = _farthest(ahead)
    view = np.stack([_view_table(cell_at, position, heading) for heading in range(4)], axis=1)

    def pad(table: np.ndarray) -> np.ndarray:
        return np.pad(table, [(0, size - len(table))] + [(0, 0)] * (table.ndim - 1)).astype(
            np.uint8
        )

    return MazeTask(
        num_cells=np.int32(len(position)),
        ahead=pad(ahead),
        view=pad(view),
        goal=np.int32(-1 if random_goal else goal),
        position=pad(position),
        walls=walls,
    )


def _view_table(cell_at: np.ndarray, position: np.ndarray, heading: int) -> np.ndarray:
    """`[N, 49]`: what each element of the view is, from every cell, looking along `heading`."""
    padded = np.pad(cell_at, VIEW, constant_values=_WALL)
    forward, right = _FORWARD[heading], _FORWARD[(heading + 1) % 4]
    columns = []
    for row in range(VIEW):
        for column in range(VIEW):
            ahead, aside = VIEW - 1 - row, column - VIEW // 2
            here = position + VIEW + ahead * forward + aside * right
            hidden = np.zeros(len(position), bool)
            # A cell is seen if no wall lies on the straight line to it.
            distance = max(ahead, abs(aside))
            for i in range(1, distance):
                a, b = round(ahead * i / distance), round(aside * i / distance)
                between = position + VIEW + a * forward + b * right
                hidden |= padded[tuple(between.T)] == _WALL
            columns.append(np.where(hidden, _UNSEEN, padded[tuple(here.T)]))
    return np.stack(columns, axis=1)


def _farthest(ahead: np.ndarray) -> int:
    """The cell that takes the most steps from cell 0; also checks that all can be reached."""
    distance = np.full(len(ahead), -1)
    distance[0], frontier = 0, [0]
    while frontier:
        cell = frontier.pop(0)
        for neighbour in ahead[cell]:
            if distance[neighbour] < 0:
                distance[neighbour] = distance[cell] + 1
                frontier.append(neighbour)
    if (distance < 0).any():
        raise ValueError("layout has cells that cannot be reached")
    return int(distance.argmax())


def _draws(key: Key, n: int) -> Array:
    """int32 `[n]`, uniform in [0, 2^16): two from each random word, for words are what costs."""
    words = jax.random.bits(key, (-(-n // 2),), jnp.uint32)
    return jnp.concatenate([words >> 16, words & 0xFFFF]).astype(jnp.int32)[:n]


def _index(draw: Array, n: Array) -> Array:
    """A draw as an integer in [0, n); n is at most 253, so no value is favoured by over 0.4 %."""
    return draw * n >> 16


def _spawn(draws: Array, goal: Array, num_cells: Array) -> tuple[Array, Array]:
    """A cell other than the goal and a heading, both uniform."""
    cell = (goal + 1 + _index(draws[0], num_cells - 1)) % num_cells
    return cell, draws[1] >> 14


def _observe(state: MazeState, task: MazeTask) -> Array:
    """uint8 `[49]`, indices into `VIEW_CLASSES`."""
    seen = task.view[state.cell, state.heading]
    apple = (seen[:, None] == state.apples[None, :]).any(axis=1)
    ground = jnp.where(
        seen == _UNSEEN, jnp.uint8(0), jnp.where(seen == _WALL, 1, 2).astype(jnp.uint8)
    )
    ground = jnp.where(apple, jnp.uint8(3), ground)
    return jnp.where(seen == state.goal.astype(jnp.uint8), jnp.uint8(4), ground)
