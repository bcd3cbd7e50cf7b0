"""The two-room grid world against its map, walked by plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.envs import two_rooms

MAP = """
....    ....
....    ....
............
....    ....
....    ....
""".strip("\n").split("\n")
CELLS = [(r, c) for r, row in enumerate(MAP) for c, x in enumerate(row) if x == "."]
MOVES = {"stay": (0, 0), "up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def _walk(cell, action, goal, time, limit):
    """(cell, reward, discount, kind of reward, ended) by the rules."""
    row, column = CELLS[cell]
    down, right = MOVES[two_rooms.ACTIONS[action]]
    ahead = (row + down, column + right)
    new = CELLS.index(ahead) if ahead in CELLS else cell
    reward, kind = -0.1, "step"
    if ahead not in CELLS:
        reward, kind = reward - 0.5, "wall"
    if new == goal:
        reward, kind = reward + 1.0, "goal"
    return new, reward, 0.0 if new == goal else 1.0, kind, new == goal or time + 1 >= limit


def test_map():
    np.testing.assert_array_equal(two_rooms.positions(), CELLS)
    corridor = [CELLS[n] for n in two_rooms.corridor()]
    assert corridor == [(2, 4), (2, 5), (2, 6), (2, 7)]


def test_every_transition_against_the_rules():
    env = two_rooms.TwoRooms(episode_length=7)
    cell, action, goal = (x.ravel() for x in np.meshgrid(np.arange(44), np.arange(5), [3, 20, 43]))
    time = np.arange(len(cell)) % 7

    def step(cell, action, goal, time):
        return env.step(jax.random.key(0), two_rooms.TwoRoomsState(cell, time), action, goal)

    state, row, ended = jax.jit(jax.vmap(step))(*map(jnp.int32, (cell, action, goal, time)))
    for i in range(len(cell)):
        if cell[i] == goal[i]:
            continue  # an episode never stands there
        new, reward, discount, kind, over = _walk(cell[i], action[i], goal[i], time[i], 7)
        observation = [new, action[i] + 1, two_rooms.REWARDS.index(kind)]
        np.testing.assert_array_equal(row.observation[i], observation)
        np.testing.assert_allclose(row.reward[i], reward, rtol=1e-6)
        assert (row.discount[i], ended[i], row.success[i]) == (discount, over, new == goal[i])
        assert (state.cell[i], state.time[i]) == (new, time[i] + 1)


def test_start_is_any_cell_but_the_goal():
    env = two_rooms.TwoRooms()
    keys = jax.random.split(jax.random.key(0), 4300)
    state, row = jax.jit(jax.vmap(env.reset, (0, None)))(keys, jnp.int32(17))
    counts = np.bincount(state.cell, minlength=44)
    assert counts[17] == 0 and counts.sum() == 4300
    assert np.delete(counts, 17).min() > 50  # 100 in the mean, standard deviation 10
    np.testing.assert_array_equal(row.observation[:, 0], state.cell)
    np.testing.assert_array_equal(row.observation[:, 1:], 0)
    assert row.first.all() and not row.valid.any()


@pytest.mark.parametrize(
    ("state", "size"), [("full", 44 * 24), ("no_action", 44 * 4), ("cell", 44)]
)
def test_states_are_numbered_without_gaps(state, size):
    observations = np.stack(np.meshgrid(np.arange(44), np.arange(6), np.arange(4)), -1).reshape(
        -1, 3
    )
    index = jax.vmap(lambda o: two_rooms.state_index(o, state))(observations)
    assert two_rooms.num_states(state) == size
    np.testing.assert_array_equal(np.unique(index), np.arange(size))


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="num_tasks must be at least 1; got 0"):
        two_rooms.two_rooms(num_tasks=0)
    with pytest.raises(ValueError, match="state must be one of full, no_action, cell, got 'all'"):
        two_rooms.num_states("all")


def test_suite_has_one_goal_a_task():
    suite = two_rooms.two_rooms(num_tasks=5, seed=3)
    assert suite.spec.num_tasks == 5 and suite.tasks.shape == (5,)
    assert np.all((suite.tasks >= 0) & (suite.tasks < 44))
    picture = suite.env.render(two_rooms.TwoRoomsState(0, 0), suite.tasks[0], 8)
    assert picture.shape == (7 * 8, 14 * 8, 3) and picture.dtype == np.uint8
