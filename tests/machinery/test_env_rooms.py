"""The rooms: rules by plain Python, images by a loop over pixels, factors, and what vision sees."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.envs import rooms, suites
from mtrl_jax.envs.rooms import Rooms
from tests.machinery import tiny

ALL = rooms.conjunctions("all")


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.fixture(scope="module")
def seen():
    """A thousand frames of all conjunctions, and their factors."""
    images, factors = jax.jit(rooms.frames, static_argnums=(2, 3))(jax.random.key(0), ALL, 1000, 32)
    return np.asarray(images), np.asarray(factors)


def _conjunctions(split, fold):
    return set(map(tuple, rooms.conjunctions(split, fold).tolist()))


@pytest.mark.parametrize("fold", [0, 1])
def test_splits_hold_every_value_and_not_every_combination(fold):
    source, vision, target = (_conjunctions(s, fold) for s in ("source", "vision", "target"))
    assert source < vision and not target & vision and vision | target == _conjunctions("all", fold)
    for factor in (0, 1):  # or no method could know it
        assert {c[factor] for c in target} <= {c[factor] for c in source}
    other = _conjunctions("target", 1 - fold)
    assert other < vision and other != target


@pytest.mark.parametrize("fold", [0, 1])
def test_no_target_conjunction_in_a_million_draws_of_vision(fold):
    tasks = rooms.conjunctions("vision", fold)
    draw = jax.jit(lambda key: rooms.frames(key, tasks, 2**20)[1][:, :2])  # images are not made
    pairs, counts = np.unique(np.asarray(draw(jax.random.key(fold))), axis=0, return_counts=True)
    assert counts.sum() == 2**20
    assert set(map(tuple, pairs.astype(int).tolist())) == set(map(tuple, tasks.tolist()))
    assert counts.min() > 2**20 / 3 - 2000
    assert set(map(tuple, pairs.astype(int).tolist())).isdisjoint(_conjunctions("target", fold))


# ------------------------------------------------------------------------------------------- images


def _colour(rgb, hue, brightness):
    """By a rotation about the grey axis, written with vectors."""
    rgb, axis = np.float64(rgb), np.ones(3) / np.sqrt(3)
    a = 2 * np.pi * hue
    along = axis * (axis @ rgb)
    turned = along + np.cos(a) * (rgb - along) + np.sin(a) * np.cross(axis, rgb)
    return brightness * turned


def _paint(state, task, size):
    """One pixel at a time."""
    image = np.zeros((3, size, size))
    light = (float(state.hue), float(state.brightness))
    wall, floor = rooms._ROOM[task[0]]
    layers = [
        (state.places[i], *rooms._SHAPES[task[1]][i % 2], rooms._THINGS[task[1]][i % 2])
        for i in range(6)
        if state.there[i]
    ]
    layers.append((state.agent, 0.41, rooms.RADIUS, rooms._AGENT))
    for row, column in itertools.product(range(size), repeat=2):
        x, y = (column + 0.5) / size, (row + 0.5) / size
        inside = min(x, 1 - x, y, 1 - y) - rooms.WALL
        a = np.clip(inside * size + 0.5, 0, 1)
        colour = (1 - a) * _colour(wall, *light) + a * _colour(floor, *light)
        for place, bend, radius, own in layers:
            dx, dy = abs(x - place[0]), abs(y - place[1])
            apart = max(dx, dy) + bend * min(dx, dy)
            a = np.clip((radius - apart) * size + 0.5, 0, 1)
            colour = (1 - a) * colour + a * _colour(own, *light)
        image[:, row, column] = colour
    return np.clip(image, 0, 1) * 255


@pytest.mark.parametrize("size", rooms.SIZES)
def test_an_image_is_painted_as_a_loop_over_pixels_does(size):
    observe = jax.jit(
        lambda key, task: (rooms.draw(key), Rooms(size).observe(rooms.draw(key), task))
    )
    for seed, task in enumerate(ALL if size == 32 else ALL[:1]):
        state, image = observe(jax.random.key(seed), task)
        assert image.shape == (3, size, size) and image.dtype == jnp.uint8
        want = _paint(jax.tree.map(np.asarray, state), task, size)
        assert np.abs(np.float64(image) - want).max() <= 0.51


def test_every_factor_is_in_the_image_and_positions_to_a_part_of_a_pixel():
    @jax.jit
    def look(factors):
        state, task = rooms.scene(jax.random.key(1), factors)
        return Rooms().observe(state, task), rooms.factors_of(state, task)

    def image(**changes):
        factors = {
            "palette": 0,
            "objects": 0,
            "x": 0.4,
            "y": 0.6,
            "count": 5,
            "hue": 0.0,
            "brightness": 1.0,
        } | changes
        seen, again = look(np.float32(list(factors.values())))
        np.testing.assert_allclose(again, list(factors.values()), rtol=1e-6)
        return np.asarray(seen).astype(int)

    plain = image()
    tenth = 0.1 / 32
    changes = [
        {"palette": 1},
        {"objects": 1},
        {"x": 0.4 + tenth},
        {"y": 0.6 + tenth},
        {"count": 4},
        {"hue": 0.02},
        {"brightness": 0.9},
    ]
    for change in changes:
        assert (image(**change) != plain).any(), change
    assert np.abs(image(x=0.4 + tenth) - plain).max() < 40  # by parts, not by whole pixels


def test_palettes_and_sets_can_be_told_from_frames(seen):
    """What a factor does to the image is there whatever the other factors are."""
    images, factors = seen
    floor = np.median(images[:, :, 4:-4, 4:-4].reshape(len(images), 3, -1), axis=2)
    green = floor[:, 1] > floor[:, 0]
    np.testing.assert_array_equal(green, factors[:, 0] == 1)
    # The bad thing of set 1 is bluer than anything else under any light.
    red, green, blue = np.moveaxis(images.astype(float), 1, 0)
    indigo = ((blue > 1.5 * red) & (blue > 1.5 * green)).sum((1, 2)) > 3
    np.testing.assert_array_equal(indigo, factors[:, 1] == 0)


def test_factors_are_uniform_and_independent(seen):
    factors = seen[1]
    assert np.abs(np.corrcoef(factors.T) - np.eye(7)).max() < 0.12
    low = [0, 0, rooms.LOW, rooms.LOW, 4, rooms.HUE[0], rooms.BRIGHTNESS[0]]
    high = [1, 1, rooms.HIGH, rooms.HIGH, 6, rooms.HUE[1], rooms.BRIGHTNESS[1]]
    span = np.subtract(high, low)
    assert (factors >= np.float32(low) - 1e-6).all() and (factors <= np.float32(high) + 1e-6).all()
    np.testing.assert_allclose(
        factors.mean(0), np.add(low, high) / 2, atol=0.06 * span.max(), rtol=0
    )
    assert np.unique(factors[:, 4]).tolist() == [4, 5, 6]
    assert all(len(np.unique(factors[:, f])) > 900 for f in (2, 3, 5, 6))  # continuous ones


# -------------------------------------------------------------------------------------------- rules


def test_rooms_begin_beyond_the_agents_touch_and_without_heaps():
    state = jax.jit(jax.vmap(rooms.draw))(jax.random.split(jax.random.key(2), 5000))
    agent, places, there = (np.asarray(x) for x in (state.agent, state.places, state.there))
    np.testing.assert_array_equal(there.sum(1), state.num_objects)
    apart = np.linalg.norm(places - agent[:, None], axis=-1)
    assert apart[there].min() > rooms.TOUCH
    cell, cells = (
        ((x - rooms.LOW) // ((rooms.HIGH - rooms.LOW) / 3)).clip(0, 2) for x in (agent, places)
    )
    assert not (cell[:, None] == cells).all(2).any()  # a third of the floor each way is the agent's
    assert (places > 0.05).all() and (places < 0.95).all()
    between = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)
    between = between[:, *np.triu_indices(6, 1)]
    assert (between > 0.1).mean() > 0.99


def test_episodes_against_plain_python():
    env, limit = Rooms(episode_length=20), 20
    step, reset = jax.jit(env.step), jax.jit(env.reset)
    rng, endings = np.random.default_rng(0), set()
    for seed in range(40):
        task = ALL[seed % 4]
        state, row = reset(jax.random.key(seed), task)
        assert bool(row.first) and not bool(row.valid)
        here, there = np.array(state.agent), np.array(state.there)
        for t in itertools.count(1):
            # Towards the nearest good thing, or anywhere.
            goal = min(
                np.flatnonzero(there[::2]) * 2,
                key=lambda i: np.abs(np.asarray(state.places[i]) - here).sum(),
            )
            dx, dy = np.asarray(state.places[goal]) - here
            best = (3 + (dx > 0)) if abs(dx) > abs(dy) else (1 + (dy > 0))
            action = int(best if rng.random() < 0.8 else rng.integers(0, 5))
            before = state
            state, row, ended = step(jax.random.key(1000 * seed + t), state, action, task)
            new = np.asarray(state.agent)
            move = np.array([(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)])[action]
            length = np.abs(new - here).sum()
            assert (np.sign(new - here) * np.sign(move) >= 0).all() and length < 0.1 + 1e-6
            inside = (here + 0.1 * move >= rooms.LOW).all() and (
                here + 0.1 * move <= rooms.HIGH
            ).all()
            assert not inside or action == 0 or length > 0.06 - 1e-6
            here = new
            touched = there & (np.linalg.norm(np.asarray(state.places) - here, axis=1) < 0.13)
            reward = touched[::2].sum() - touched[1::2].sum()
            there &= ~touched
            np.testing.assert_array_equal(state.there, there)
            assert float(row.reward) == reward
            solved = not there[::2].any()
            assert bool(row.success) == solved and float(row.discount) == 1.0 - solved
            assert bool(ended) == (solved or t == limit)
            for name in ("places", "num_objects", "hue", "brightness"):
                np.testing.assert_array_equal(getattr(state, name), getattr(before, name))
            if ended:
                endings.add("solved" if solved else "limit")
                break
    assert endings == {"solved", "limit"}


def test_suite_and_options():
    suite = suites.make("rooms:split=target:fold=1:size=64:episode_length=9")
    assert suite.spec.task_names == ("A2",) and suite.spec.observation_shape == (3, 64, 64)
    assert suite.spec.episode_limit.tolist() == [9]
    assert suites.make("rooms").spec.task_names == ("A1", "B2")
    state = rooms.draw(jax.random.key(0))
    picture = Rooms().render(state, np.array([0, 1]))
    assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rooms:split=test", "split must be one of source, vision, target, all; got 'test'"),
        ("rooms:fold=2", "fold must be 0 or 1; got 2"),
        ("rooms:fold=True", "fold must be 0 or 1; got True"),
        ("rooms:size=84", "size must be one of 32, 64; got 84"),
        ("rooms:size=None", "size must be one of 32, 64; got None"),
        ("rooms:episode_length=0", "episode_length must be at least 1; got 0"),
        ("rooms:colour=red", "takes split, fold, size, episode_length; got colour"),
    ],
)
def test_bad_options_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        suites.make(name)
