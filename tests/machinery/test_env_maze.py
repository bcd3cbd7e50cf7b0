"""`maze8` against the rules played on the map itself, without its tables."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.envs.functional import environment_keys
from mtrl_jax.envs.maze import VIEW_CLASSES, Maze, MazeState, MazeTask, layout_task, maze8
from mtrl_jax.envs.maze_layouts import LAYOUTS
from mtrl_jax.envs.permute import permutation, permute_actions

UNSEEN, WALL, FLOOR, APPLE, GOAL = range(len(VIEW_CLASSES))
STEPS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])


@functools.cache
def _compiled() -> tuple[Any, Any]:
    return jax.jit(Maze.reset, static_argnums=0), jax.jit(Maze.step, static_argnums=0)


def map_of(state: MazeState, task: MazeTask) -> np.ndarray:
    """The whole maze in view classes."""
    classes = np.where(task.walls, WALL, FLOOR)
    for apple in np.asarray(state.apples):
        if apple < 253:
            classes[tuple(task.position[apple])] = APPLE
    classes[tuple(task.position[int(state.goal)])] = GOAL
    return classes


def crop(classes: np.ndarray, place: np.ndarray, heading: int) -> np.ndarray:
    """The 7 x 7 cells in front of a place, looking up, without occlusion."""
    padded = np.pad(classes, 7, constant_values=WALL)
    window = padded[place[0] + 1 : place[0] + 14, place[1] + 1 : place[1] + 14]  # 13 x 13
    return np.rot90(window, heading)[:7, 3:10]


@pytest.mark.parametrize("name", LAYOUTS)
def test_rules_and_view_against_the_map(name: str) -> None:
    task = layout_task(LAYOUTS[name], size=81)  # one size, so that one program serves all
    env = Maze(num_apples=6, episode_length=150)
    reset, step = _compiled()
    rng = np.random.default_rng(0)
    state, row = reset(env, jax.random.key(1), task)
    apples = set(np.asarray(state.apples).tolist()) - {253}
    assert len(apples) == (np.asarray(state.apples) != 253).sum()  # no two share a cell
    assert int(state.goal) not in apples | {int(state.cell)} and int(state.cell) not in apples
    seen_classes = set()
    for t in range(150):
        classes = map_of(state, task)
        view = np.asarray(row.observation).reshape(7, 7)
        truth = crop(classes, task.position[int(state.cell)], int(state.heading))
        shown = view != UNSEEN
        np.testing.assert_array_equal(view[shown], truth[shown])
        assert shown[6, 2:5].all() and shown[5, 2:5].all()  # the neighbours are never hidden
        # Straight ahead one sees up to the first wall, and not beyond it.
        ahead = truth[::-1, 3]
        walls = np.flatnonzero(ahead == WALL)
        first_wall = walls[0] if len(walls) else 6
        assert shown[::-1, 3][: first_wall + 1].all()
        assert not shown[::-1, 3][first_wall + 1 :].any()
        seen_classes |= set(view.ravel().tolist())

        action = int(rng.choice(4, p=(0.15, 0.15, 0.55, 0.15)))
        place, heading = task.position[int(state.cell)].astype(int), int(state.heading)
        heading = (heading + {0: -1, 1: 1}.get(action, 0)) % 4
        to = place + {2: 1, 3: -1}.get(action, 0) * STEPS[heading]
        place = place if classes[tuple(to)] == WALL else to
        state, row, ended = step(env, jax.random.key(t), state, action, task)
        reward = {FLOOR: 0.0, APPLE: 1.0, GOAL: 10.0}[int(classes[tuple(place)])]
        assert float(row.reward) == reward
        assert bool(row.success) == (reward == 10.0)
        assert float(row.discount) == 1.0 and bool(ended) == (t == 149)
        cell = int(state.cell)
        if reward == 10.0:
            assert cell != int(state.goal)
        else:
            np.testing.assert_array_equal(task.position[cell], place)
            assert int(state.heading) == heading
        left = set(np.asarray(state.apples).tolist()) - {253}
        assert len(left) == len(apples) - (reward == 1.0)
        apples = left
    assert seen_classes >= {UNSEEN, WALL, FLOOR, APPLE}


def test_draws_cover_the_maze_evenly() -> None:
    """Goal, place and heading of the agent are uniform; each apple covers its part of the maze."""
    task = jax.tree.map(jnp.asarray, layout_task(LAYOUTS["spiral"]))
    n = int(task.num_cells)
    env = Maze(num_apples=4)
    draws = 20_000
    keys = jax.random.split(jax.random.key(0), draws)
    state, _ = jax.jit(jax.vmap(lambda key: env.reset(key, task)))(keys)
    for values, size in ((state.goal, n), (state.cell, n), (state.heading, 4)):
        count = np.bincount(np.asarray(values), minlength=size)
        assert len(count) == size
        # Within five standard deviations of a fair draw.
        assert (abs(count - draws / size) < 5 * np.sqrt(draws / size)).all()
    apples = np.asarray(state.apples)
    for part in range(4):
        low, high = part * n // 4, (part + 1) * n // 4
        mine = apples[:, part]
        assert set(mine[mine != 253].tolist()) == set(range(low, high))


def test_respawn_is_uniform_over_the_other_cells() -> None:
    task = jax.tree.map(jnp.asarray, layout_task(LAYOUTS["ring"]))
    n, goal = int(task.num_cells), 7
    beside = int(np.flatnonzero((task.ahead[:n, 1] == goal) & (np.arange(n) != goal))[0])
    env = Maze(num_apples=1)
    state = MazeState(*(np.int32(x) for x in (beside, 1, goal)), np.uint8([253]), np.int32(0))
    keys = jax.random.split(jax.random.key(0), 20_000)
    state, row, _ = jax.jit(jax.vmap(lambda key: env.step(key, state, jnp.int32(2), task)))(keys)
    assert (np.asarray(row.reward) == 10.0).all()
    count = np.bincount(np.asarray(state.cell), minlength=n)
    assert count[goal] == 0
    others, fair = np.delete(count, goal), 20_000 / (n - 1)
    assert (abs(others - fair) < 5 * np.sqrt(fair)).all()


def test_a_fixed_goal_is_the_same_in_every_episode() -> None:
    suite = maze8(random_goal=False)
    goals = []
    for seed in range(3):
        keys = jax.random.split(jax.random.key(seed), 8)
        state, _ = jax.jit(jax.vmap(suite.env.reset))(keys, suite.tasks)
        goals.append(np.asarray(state.goal))
        assert (np.asarray(state.cell) != goals[-1]).all()
    np.testing.assert_array_equal(goals, [goals[0]] * 3)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("###\n#.#\n###", "2..253 free cells, got 1"),
        ("####\n#..#\n###", "equal length"),
        ("####\n#.x#\n####", "'#' and '.'"),
        ("####\n#...\n####", "closed"),
        ("#####\n#.#.#\n#####", "cannot be reached"),
    ],
)
def test_bad_layouts(layout: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layout_task(layout)


@pytest.mark.parametrize("arguments", [{"num_apples": 0}, {"num_apples": 99}])
def test_bad_number_of_apples(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="num_apples must be in 1"):
        maze8(**arguments)
    with pytest.raises(ValueError, match="episode_length must be at least 1; got 0"):
        maze8(episode_length=0)


def test_picture() -> None:
    task = layout_task(LAYOUTS["four_rooms"])
    env = Maze()
    state, _ = _compiled()[0](env, jax.random.key(0), task)
    image = env.render(state, task, cell_pixels=8)
    assert image.shape == (88, 88, 3) and image.dtype == np.uint8
    cells = image.reshape(11, 8, 11, 8, 3).transpose(0, 2, 1, 3, 4).reshape(11, 11, -1)
    plain = np.ptp(cells.reshape(11, 11, 64, 3), axis=2).max(-1) == 0
    drawn = (np.asarray(state.apples) != 253).sum() + 2  # goal, agent
    assert (~plain).sum() == drawn
    assert plain[task.walls].all()


def test_keys_do_not_depend_on_how_environments_are_split() -> None:
    index = np.arange(12).reshape(2, 6)
    whole = environment_keys(jax.random.key(5), index)
    halves = [environment_keys(jax.random.key(5), part) for part in np.split(index, 2, axis=1)]
    data = [np.asarray(jax.random.key_data(keys)) for keys in (whole, *halves)]
    np.testing.assert_array_equal(data[0], np.concatenate(data[1:], axis=1))
    assert len(np.unique(data[0].reshape(12, -1), axis=0)) == 12


def test_permuted_actions_on_a_functional_suite() -> None:
    suite = maze8()
    permuted = permute_actions(suite, 2)
    table = permutation(2, 8, 4)
    np.testing.assert_array_equal(permuted.tasks.action, table)
    key, every_action = jax.random.key(0), jnp.arange(4)
    task = jax.tree.map(lambda x: x[3], suite.tasks)
    state, _ = suite.env.reset(key, task)
    step = jax.jit(jax.vmap(suite.env.step, (None, None, 0, None)))
    plain = step(key, state, table[3], task)
    step = jax.jit(jax.vmap(permuted.env.step, (None, None, 0, None)))
    renamed = step(key, state, every_action, jax.tree.map(lambda x: x[3], permuted.tasks))
    assert len({(int(c), int(h)) for c, h in zip(*plain[0][:2], strict=True)}) > 2
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(renamed), strict=True):
        np.testing.assert_array_equal(a, b)
