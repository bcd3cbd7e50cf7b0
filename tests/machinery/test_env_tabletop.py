"""The tabletop against one of sets of pixels, and the oracle on every composition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.envs import tabletop, tabletop_tasks
from tests.machinery import tiny

N = 240  # problems, forty of each composition


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@functools.cache
def problems():
    """Problems and what the oracle makes of them, leaves `[N, ...]` in NumPy."""

    def one(key, composition):
        problem = tabletop_tasks.draw(key, composition)
        return problem, tabletop_tasks.demonstrate(problem)

    keys = jax.random.split(jax.random.key(0), N)
    return jax.device_get(jax.jit(jax.vmap(one))(keys, jnp.arange(N) % 6))


def row(tree, n):
    return jax.tree.map(lambda x: x[n], tree)


# ------------------------------------------------------------------- a table of sets of pixels


def pixels(table, i):
    """Row and column of each pixel that thing i covers; the drawing is turned by hand."""
    found = set()
    for r, line in enumerate(tabletop._DRAWN[table.shape[i]]):
        for c, cell in enumerate(line):
            y, x = r - 2, c - 2
            for _ in range(table.turn[i]):
                y, x = -x, y
            if cell == "#":
                found.add((int(table.place[i][0] + y), int(table.place[i][1] + x)))
    return found


def on_table(cells):
    return {(r, c) for r, c in cells if 0 <= r < 32 and 0 <= c < 32}


def uppermost(table, skip=()):
    """Of each covered pixel the thing on top; of equal ones the first."""
    top = {}
    for i in sorted(set(range(6)) - set(skip), key=lambda i: (table.level[i], -i)):
        top |= dict.fromkeys(on_table(pixels(table, i)), i)
    return top


def step(table, action):
    """The rules of `tabletop`'s docstring once more."""
    i = uppermost(table).get(tuple(int(x) for x in action.pick))
    if action.stop or i is None:
        return table, False
    mine = pixels(table, i)
    if any(table.level[j] > table.level[i] and pixels(table, j) & mine for j in range(6)):
        return table, False
    y, x = table.place[i] - action.pick
    for _ in range(action.turn):
        y, x = -x, y
    new = jax.tree.map(np.copy, table)
    new.place[i] = action.place + np.array([y, x])
    new.turn[i] = (table.turn[i] + action.turn) % 4
    cells = pixels(new, i)
    if cells != on_table(cells):
        return table, False
    below = uppermost(table, skip=[i])
    heights = [table.level[below[cell]] for cell in cells if cell in below]
    if len(heights) <= 0.1 * len(cells):
        new.level[i] = 1
        return new, True
    blocks = [cell for cell in cells if cell in below and table.shape[below[cell]] == 1]
    borne = sum(table.level[below[cell]] == max(heights) for cell in blocks)
    if table.shape[i] != 1 or max(heights) >= 3 or borne < 0.6 * len(cells):
        return table, False
    new.level[i] = max(heights) + 1
    return new, True


@functools.cache
def walks():
    """Eight actions on each of many tables, near things rather than anywhere: what was done and
    what came of it, leaves `[N, 8, ...]`."""

    def one(key, problem):
        def act(table, key):
            keys = jax.random.split(key, 6)
            i, j = jax.random.randint(keys[0], (2,), 0, 6)
            near = jnp.where(jax.random.bernoulli(keys[1], 0.5), 1, 4)
            offset = jnp.clip(jax.random.randint(keys[2], (2,), -2, 3), -near, near)
            beside = jnp.clip(jax.random.randint(keys[3], (2,), -9, 10), -near, near)
            anywhere = jax.random.randint(keys[4], (2,), 0, 32)
            free = jax.random.bernoulli(keys[5], 0.4)
            place = jnp.where(free, anywhere, jnp.clip(table.place[j] + beside, 0, 31))
            pick = jnp.clip(table.place[i] + offset, 0, 31)
            action = tabletop.Action(jnp.bool_(False), pick, place, (i + j) % 4)
            after, moved = tabletop.step(table, action)
            return after, (table, action, after, moved, tabletop.render(after))

        return jax.lax.scan(act, problem.start, jax.random.split(key, 8))[1]

    keys = jax.random.split(jax.random.key(1), N)
    return jax.device_get(jax.jit(jax.vmap(one))(keys, problems()[0]))


def test_a_step_does_what_sets_of_pixels_do():
    table, action, after, moved, _ = walks()
    towers = 0
    for n in range(0, N, 2):
        for t in range(8):
            expected, did = step(row(row(table, n), t), row(row(action, n), t))
            assert did == moved[n, t]
            tiny.assert_trees_equal(row(row(after, n), t), expected)
            towers += int(expected.level.max() > 1 and did)
    assert 0.3 < moved.mean() < 0.9 and towers > 20


def test_a_picture_shows_what_lies_uppermost():
    _, _, after, _, image = walks()
    for n in range(0, N, 24):
        table = row(row(after, n), 7)
        expected = np.zeros((32, 32, 4), np.uint8)
        expected[..., :3] = table.floor
        for (r, c), i in uppermost(table).items():
            expected[r, c] = [*tabletop.COLOURS[table.colour[i]], 85 * table.level[i]]
        np.testing.assert_array_equal(image[n, 7], expected)
    assert tabletop.picture(image[0, 7]).shape == (192, 192, 3)


def test_the_oracle_solves_every_composition_in_six_actions():
    problem, demo = problems()
    assert demo.done.all() and set(map(tuple, problem.start.shape)) == {
        tuple(np.repeat(pair, 3)) for pair in tabletop_tasks.COMPOSITIONS
    }
    assert (~demo.actions.stop[:, :6]).all() and demo.actions.stop[:, 6].all()
    changed = (demo.images[:, 1:] != demo.images[:, :-1]).any((2, 3, 4))
    assert changed.all()  # each sub-goal looks different from the one before


def test_things_lie_apart_and_never_where_an_earlier_one_is_to_go():
    problem, _ = problems()
    start, goal = problem.start.place, problem.goal.place
    far = np.abs(start[:, :, None] - start[:, None]).max(-1) >= 6
    assert (far | np.eye(6, dtype=bool)).all() and start.min() >= 2 and start.max() <= 29
    free = np.abs(start[:, :, None] - goal[:, None]).max(-1) >= 6  # [N, thing, goal]
    assert free[:, np.tril_indices(6)[0], np.tril_indices(6)[1]].all()
    assert 0.3 < (~free).any((1, 2)).mean() < 0.95  # a later one's place is often taken
    assert goal.min() >= 1 and goal.max() <= 30


def test_the_end_does_not_show_the_order_and_the_other_way_round_fails():
    """What a picture of the end cannot tell, and why it would matter."""
    problem, demo = problems()
    stacks = [n for n in range(N) if 1 in tabletop_tasks.COMPOSITIONS[n % 6]]
    problem, demo = row(problem, np.array(stacks)), row(demo, np.array(stacks))
    first = np.array([int(np.flatnonzero(s == 1)[0]) for s in problem.start.shape])
    level = problem.goal.level.copy()
    rows = np.arange(len(stacks))
    level[rows, first], level[rows, first + 1] = 2, 1  # the two that end below are exchanged
    order = np.tile(np.arange(6), (len(stacks), 1))
    order[rows, first], order[rows, first + 1] = first + 1, first

    def follow(problem, order):
        def one(table, n):
            turn = (problem.goal.turn[n] - table.turn[n]) % 4
            action = tabletop.Action(False, table.place[n], problem.goal.place[n], turn)
            return tabletop.step(table, action)[0], None

        end, _ = jax.lax.scan(one, problem.start, order)
        return tabletop.render(end), tabletop.done(end, problem.goal)

    run = jax.jit(jax.vmap(follow))
    swapped = problem._replace(goal=problem.goal._replace(level=level))
    image, done = jax.device_get(run(swapped, order))
    free = done.all(1)  # where no other thing of the two was in the way
    assert free.mean() > 0.7
    np.testing.assert_array_equal(image[free], demo.images[free, -1])
    _, backwards = jax.device_get(run(problem, np.tile(np.arange(6)[::-1], (len(stacks), 1))))
    assert backwards.all(1).mean() == 0.0


def test_looks_that_are_alike_count_as_done():
    shape, zero = jnp.arange(4), jnp.zeros(4, jnp.int32)
    place = jnp.array([(5, 5), (5, 15), (15, 5), (15, 15)])
    table = tabletop.Table(shape, zero, place, zero, zero + 1, None)

    @jax.jit
    def met(turn, shift, level):
        return tabletop.done(table, tabletop.Goal(place + shift, zero + turn, zero + level))

    np.testing.assert_array_equal(met(0, 1, 1), [True] * 4)
    np.testing.assert_array_equal(met(1, 0, 1), [False, True, False, True])
    np.testing.assert_array_equal(met(2, 0, 1), [False, True, True, True])
    assert not met(0, 2, 1).any() and not met(0, 0, 2).any()
    two = table._replace(shape=zero + 3)  # four cubes of one colour: any may be anywhere
    goal = tabletop.Goal(place[::-1], zero, zero + 1)
    assert jax.jit(tabletop.done)(two, goal).all()
