"""The small games: their rules, move by move; one game alone and among others; pictures, names."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import record
from mtrl_jax.envs import functional, suites
from mtrl_jax.envs.games import GAMES, base, small_games
from mtrl_jax.envs.games.base import ACT, DOWN, LEFT, RIGHT, SIZE, STAY, UP
from mtrl_jax.types import FunctionalSuite
from tests.machinery import tiny

LAST = SIZE - 1
MANY = ("snake", "pong")


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


# ------------------------------------------------------------------------------------------- rules


@functools.cache
def stepper(name: str) -> Any:
    return jax.jit(GAMES[name].step), jax.jit(GAMES[name].observe)


def ints(values: dict[str, Any]) -> dict[str, Any]:
    return {k: jnp.int32(v) if np.ndim(v) == 0 else jnp.asarray(v) for k, v in values.items()}


def cells(**kinds: list[tuple[int, int]]) -> np.ndarray:
    """A board with things at (row, column)."""
    found = np.zeros((SIZE, SIZE), np.uint8)
    for kind, places in kinds.items():
        for place in places:
            found[place] = base.CLASSES.index(kind)
    return found


def ages(**at: int) -> np.ndarray:
    """A snake's body: `r4c2=1` leaves (4, 2) after one step."""
    body = np.zeros((SIZE, SIZE), np.uint8)
    for place, age in at.items():
        body[int(place[1]), int(place[3])] = age
    return body


BALL_DOWN = {"row": 6, "column": 3, "down": 1, "right": 1, "old_row": 5, "old_column": 2}
BALL_UP = {"row": 4, "column": 3, "down": -1, "right": 1, "old_row": 5, "old_column": 2}
BRICKS = cells(mark=[(3, 4), (3, 0)])
PONG_LEFT = {"row": 3, "column": 1, "down": 1, "right": -1, "old_row": 2, "old_column": 2}
PONG_RIGHT = {"row": 3, "column": 6, "down": 1, "right": 1, "old_row": 2, "old_column": 5}
BODY = ages(r4c2=1, r4c3=2, r4c4=3)
CURLED = ages(r3c4=2, r3c3=3, r4c3=4, r4c4=5, r5c4=1)
SNAKE = {"row": 4, "column": 4, "heading": RIGHT, "length": 3, "goal_row": 0, "goal_column": 0}
COLLECT = {
    "row": 5,
    "column": 3,
    "chaser_row": 1,
    "chaser_column": 3,
    "goal_row": 5,
    "goal_column": 2,
    "second_row": 1,
    "second_column": 1,
}
COURIER = {"row": 4, "column": 2, "carries": 0, "parcel_row": 4, "goal_row": 6, "gap": 2}
SIGNAL = {"row": 4, "column": 1, "side": 0, "since": 2}

# game, state, action, draws (one number for all), reward, over, what must hold of the new state
RULES: list[tuple[str, dict[str, Any], int, int, float, bool, dict[str, Any]]] = [
    ("catch", {"player": 2, "row": 6, "column": 3}, RIGHT, 0, 1, False, {"row": 0, "player": 3}),
    ("catch", {"player": 2, "row": 6, "column": 3}, STAY, 0, 0, True, {}),
    ("catch", {"player": 0, "row": 2, "column": 3}, LEFT, 0, 0, False, {"row": 3, "player": 0}),
    (
        "dodge",
        {"player": 2, "wait": 1, "cells": cells(hazard=[(6, 3)])},
        STAY,
        0,
        1,
        False,
        {"wait": 0, "cells": cells(hazard=[(7, 3)])},
    ),
    ("dodge", {"player": 2, "wait": 1, "cells": cells(hazard=[(6, 3)])}, RIGHT, 0, 0, True, {}),
    (
        "dodge",
        {"player": 2, "wait": 0, "cells": cells()},
        RIGHT,
        0,
        0,
        False,
        {"wait": 2, "cells": cells(hazard=[(0, 0)])},
    ),
    ("rain", {"player": 2, "wait": 1, "cells": cells(goal=[(6, 3)])}, RIGHT, 0, 1, False, {}),
    ("rain", {"player": 2, "wait": 1, "cells": cells(hazard=[(6, 3)])}, RIGHT, 0, 0, True, {}),
    ("rain", {"player": 2, "wait": 1, "cells": cells(goal=[(6, 3)])}, LEFT, 0, 0, False, {}),
    (
        "rain",
        {"player": 2, "wait": 0, "cells": cells()},
        STAY,
        0,
        0,
        False,
        {"wait": 1, "cells": cells(goal=[(0, 0)])},
    ),
    # A draw of 0 moves the hazards down and brings a new one; a large one does neither.
    (
        "shooter",
        {"player": 2, "cells": cells(hazard=[(1, 2), (4, 2)])},
        ACT,
        65535,
        1,
        False,
        {"cells": cells(hazard=[(1, 2)])},
    ),
    (
        "shooter",
        {"player": 2, "cells": cells(hazard=[(1, 3)])},
        ACT,
        65535,
        0,
        False,
        {"cells": cells(hazard=[(1, 3)])},
    ),
    ("shooter", {"player": 2, "cells": cells(hazard=[(6, 3)])}, STAY, 0, 0, True, {}),
    (
        "shooter",
        {"player": 3, "cells": cells(hazard=[(6, 3)])},
        ACT,
        0,
        1,
        False,
        {"cells": cells(hazard=[(0, 0)])},
    ),
    # The ball would come to (7, 4): the right half of a bat at 3 sends it right, the left of one
    # at 4 left; a bat at 5 misses it.
    (
        "breakout",
        {"player": 3, **BALL_DOWN, "cells": BRICKS},
        STAY,
        0,
        0,
        False,
        {"row": 6, "column": 4, "down": -1, "right": 1},
    ),
    ("breakout", {"player": 3, **BALL_DOWN, "cells": BRICKS}, RIGHT, 0, 0, False, {"right": -1}),
    ("breakout", {"player": 5, **BALL_DOWN, "cells": BRICKS}, STAY, 0, 0, True, {}),
    (
        "breakout",
        {"player": 3, **BALL_UP, "cells": BRICKS},
        STAY,
        0,
        1,
        False,
        {"row": 4, "column": 4, "down": 1, "cells": cells(mark=[(3, 0)])},
    ),
    (
        "breakout",
        {"player": 3, **BALL_UP, "cells": cells(mark=[(3, 4)])},
        STAY,
        0,
        1,
        False,
        {"cells": cells(mark=[(r, c) for r in (1, 2, 3) for c in range(8)])},
    ),
    (
        "breakout",
        {"player": 0, **BALL_UP, "row": 0, "column": 7, "cells": BRICKS},
        STAY,
        0,
        0,
        False,
        {"row": 1, "column": 6, "down": 1, "right": -1},
    ),
    (
        "pong",
        {"player": 0, "other": 4, **PONG_LEFT},
        STAY,
        65535,
        0,
        False,
        {"column": 1, "right": 1, "down": -1},
    ),
    (
        "pong",
        {"player": 0, "other": 0, **PONG_LEFT},
        STAY,
        65535,
        1,
        False,
        {"column": 4, "row": 7, "right": 1},
    ),
    ("pong", {"player": 0, "other": 3, **PONG_LEFT}, STAY, 0, 0, False, {"down": 1, "right": 1}),
    (
        "pong",
        {"player": 3, "other": 0, **PONG_RIGHT},
        STAY,
        65535,
        0,
        False,
        {"column": 6, "right": -1, "down": 1},
    ),
    ("pong", {"player": 2, "other": 0, **PONG_RIGHT}, STAY, 65535, -1, False, {"column": 4}),
    ("pong", {"player": 2, "other": 0, **PONG_RIGHT}, DOWN, 65535, 0, False, {"player": 3}),
    ("cross", {"row": 3, "column": 3, "cells": cells(hazard=[(2, 2)])}, UP, 0, 0, True, {}),
    (
        "cross",
        {"row": 3, "column": 3, "cells": cells(hazard=[(2, 3)])},
        UP,
        0,
        0,
        False,
        {"row": 2, "cells": cells(hazard=[(2, 4)])},
    ),
    (
        "cross",
        {"row": 2, "column": 3, "cells": cells(hazard=[(1, 0)])},
        UP,
        0,
        0,
        False,
        {"row": 1, "cells": cells(hazard=[(1, 7)])},
    ),
    ("cross", {"row": 1, "column": 3, "cells": cells()}, UP, 0, 1, False, {"row": 7, "column": 3}),
    (
        "snake",
        {**SNAKE, "cells": BODY},
        STAY,
        0,
        0,
        False,
        {"column": 5, "cells": ages(r4c3=1, r4c4=2, r4c5=3)},
    ),
    ("snake", {**SNAKE, "cells": BODY}, LEFT, 0, 0, False, {"column": 5, "heading": RIGHT}),
    ("snake", {**SNAKE, "cells": BODY}, UP, 0, 0, False, {"row": 3, "heading": UP}),
    (
        "snake",
        {**SNAKE, "cells": BODY, "goal_row": 4, "goal_column": 5},
        STAY,
        0,
        1,
        False,
        {"length": 4, "cells": ages(r4c2=1, r4c3=2, r4c4=3, r4c5=4), "goal_row": 1},
    ),
    ("snake", {**SNAKE, "column": 6, "cells": ages(r4c6=3, r4c5=2, r4c4=1)}, STAY, 0, 0, True, {}),
    ("snake", {**SNAKE, "heading": RIGHT, "length": 5, "cells": CURLED}, UP, 0, 0, True, {}),
    ("snake", {**SNAKE, "heading": RIGHT, "length": 5, "cells": CURLED}, DOWN, 0, 0, False, {}),
    # A draw of 0 lets the chaser move at random, which is up; a large one leaves it.
    ("collect", COLLECT, LEFT, 65535, 1, False, {"column": 2, "goal_row": 6, "chaser_row": 1}),
    ("collect", {**COLLECT, "chaser_row": 4}, UP, 65535, 0, True, {}),
    ("collect", {**COLLECT, "chaser_row": 6}, STAY, 0, 0, True, {}),
    ("collect", {**COLLECT, "chaser_row": 6}, DOWN, 0, 0, True, {}),  # they change places
    ("collect", {**COLLECT, "row": 4}, RIGHT, 65535, 0, False, {"column": 3}),
    ("collect", {**COLLECT, "column": 1}, LEFT, 65535, 0, False, {"column": 1}),
    ("collect", {**COLLECT, "second_row": 5, "second_column": 2}, LEFT, 65535, 2, False, {}),
    ("courier", COURIER, LEFT, 0, 0.5, False, {"carries": 1, "column": 1}),
    ("courier", {**COURIER, "column": 3}, RIGHT, 0, 0, False, {"column": 3}),
    ("courier", {**COURIER, "row": 3, "column": 3}, RIGHT, 0, 0, False, {"column": 4}),
    (
        "courier",
        {**COURIER, "row": 6, "column": 5, "carries": 1},
        RIGHT,
        0,
        0.5,
        False,
        {"carries": 0, "parcel_row": 1, "goal_row": 1},
    ),
    ("courier", {**COURIER, "row": 6, "column": 5}, RIGHT, 0, 0, False, {"carries": 0}),
    ("signal", SIGNAL, LEFT, 0, 1, False, {"row": 4, "column": 3, "since": 0}),
    ("signal", {**SIGNAL, "side": 1}, LEFT, 65535, -1, False, {"column": 4, "side": 1}),
    ("signal", {**SIGNAL, "row": 5, "since": 0}, LEFT, 0, 0, False, {"column": 0, "since": 1}),
    ("cliff", {"row": 6, "column": 6}, RIGHT, 65535, 0, False, {"row": 6, "column": 7}),
    ("cliff", {"row": 6, "column": 7}, DOWN, 65535, 1, False, {"row": 7, "column": 0}),
    ("cliff", {"row": 6, "column": 4}, RIGHT, 0, 0, True, {}),
    ("cliff", {"row": 5, "column": 4}, RIGHT, 0, 0, False, {"row": 6}),
]


@pytest.mark.parametrize("rule", RULES, ids=[f"{rule[0]}-{i}" for i, rule in enumerate(RULES)])
def test_rules(rule):
    name, state, action, draw, reward, over, expected = rule
    before = GAMES[name].state(**ints(state))
    outcome = stepper(name)[0](jnp.full(base.NUM_DRAWS, draw), before, jnp.int32(action))
    assert (float(outcome.reward), bool(outcome.over)) == (reward, over)
    after = outcome.state._asdict()
    for field, value in expected.items():
        np.testing.assert_array_equal(after[field], value, err_msg=field)


def test_every_game_has_rules_tested():
    assert {rule[0] for rule in RULES} == set(GAMES)


def test_what_is_seen():
    def see(name, state):
        return np.asarray(stepper(name)[1](GAMES[name].state(**ints(state))))

    np.testing.assert_array_equal(
        see("catch", {"player": 2, "row": 3, "column": 5}), cells(player=[(7, 2)], goal=[(3, 5)])
    )
    np.testing.assert_array_equal(
        see("breakout", {"player": 3, **BALL_UP, "cells": BRICKS}),
        cells(player=[(7, 3), (7, 4)], mark=[(3, 4), (3, 0)], ball=[(4, 3)], trail=[(5, 2)]),
    )
    told = {**SIGNAL, "row": 6, "since": 0}
    np.testing.assert_array_equal(
        see("signal", told), cells(player=[(6, 1)], goal=[(4, 0)], mark=[(4, 7)])
    )
    # After two steps nothing tells the sides apart.
    hidden = [see("signal", {**told, "since": 2, "side": side}) for side in (0, 1)]
    np.testing.assert_array_equal(*hidden)


# ------------------------------------------------------------------------------------------- suite


def play(suite: FunctionalSuite, keys: Any, actions: np.ndarray, step: Any = None) -> Any:
    """Rows of whole episodes with the given keys `[T + 1, K, E]`; batched, tasks known or not."""
    reset, auto = functional.auto_reset_batch(suite.env)

    def run(keys, actions, tasks):
        state, first = reset(keys[0], tasks)

        def body(state, x):
            return auto(x[0], state, x[1], tasks)

        _, rows = jax.lax.scan(body, state, (keys[1:], actions))
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rows)

    if step == "switch":
        return jax.jit(run)(keys, actions, jnp.asarray(suite.tasks))
    return jax.jit(lambda keys, actions: run(keys, actions, suite.tasks))(keys, actions)


def test_a_game_alone_is_the_game_among_others_to_the_bit():
    t, e = 120, 3
    suite = small_games(MANY)
    keys = jax.random.split(jax.random.key(1), (t + 1, len(MANY), e))
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 6, (t, len(MANY), e), dtype=np.int32)
    together = play(suite, keys, actions)
    assert np.asarray(together.first).sum() > 20 * e
    jax.tree.map(np.testing.assert_array_equal, together, play(suite, keys, actions, "switch"))
    for k, name in enumerate(MANY):
        alone = play(small_games((name,)), keys[:, k : k + 1], actions[:, k : k + 1])
        one = jax.tree.map(lambda x, k=k: x[:, k : k + 1], together)
        jax.tree.map(np.testing.assert_array_equal, alone, one)


@pytest.mark.parametrize("name", GAMES)
def test_an_action_that_a_game_lacks_does_nothing(name):
    game, (step, _) = GAMES[name], stepper(name)
    lacks = [a for a in range(len(base.ACTIONS)) if a not in game.actions]
    rng = np.random.default_rng(0)

    def draw():
        return jnp.asarray(rng.integers(0, 2**16, base.NUM_DRAWS, dtype=np.int32))

    state = jax.jit(game.reset)(draw())
    for _ in range(12):
        draws, chosen = draw(), rng.choice(game.actions)
        same = step(draws, state, jnp.int32(STAY))
        for action in lacks:
            other = step(draws, state, jnp.int32(action))
            jax.tree.map(np.testing.assert_array_equal, same, other)
        outcome = step(draws, state, jnp.int32(chosen))
        state = jax.jit(game.reset)(draw()) if outcome.over else outcome.state
    assert lacks and small_games((name,)).spec.action_mask[0].sum() == 6 - len(lacks)


def count_operations(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        total += 1
        for value in eqn.params.values():
            for sub in value if isinstance(value, tuple | list) else (value,):
                if hasattr(sub, "eqns") or hasattr(sub, "jaxpr"):
                    total += count_operations(getattr(sub, "jaxpr", sub))
    return total


def test_a_suite_of_one_game_pays_for_one():
    def operations(names):
        suite = small_games(names)
        k = suite.spec.num_tasks
        keys = jax.random.split(jax.random.key(0), (k, 2))
        state, _ = jax.eval_shape(lambda keys: suite.env.reset_tasks(keys, suite.tasks), keys)

        def step(*args):
            return suite.env.step_tasks(*args, suite.tasks)

        return count_operations(jax.make_jaxpr(step)(keys, state, jnp.zeros((k, 2), int)).jaxpr)

    some = ("catch", "snake", "pong", "collect")
    alone = {name: operations((name,)) for name in some}
    assert operations(some) > 0.8 * sum(alone.values())
    assert max(alone.values()) < 0.5 * operations(some)


def test_chance_is_fair():
    draws = jax.vmap(base.draws_of)(jax.random.split(jax.random.key(0), 4000))
    assert draws.shape == (4000, base.NUM_DRAWS) and draws.dtype == jnp.int32
    counts = np.stack([np.bincount(base.pick(draws[:, i], 8), minlength=8) for i in range(8)])
    assert abs(counts / 500 - 1).max() < 0.2
    free = np.zeros((SIZE, SIZE), bool)
    free[2, 3] = free[7, 7] = free[0, 1] = True
    rows, columns = jax.vmap(lambda d: base.free_cell(d, jnp.asarray(free)))(draws[:, 0])
    places, counts = np.unique(np.stack([rows, columns]), axis=1, return_counts=True)
    assert places.T.tolist() == [[0, 1], [2, 3], [7, 7]]
    assert abs(counts / (4000 / 3) - 1).max() < 0.1


def test_pictures_and_names():
    suite = suites.make("small_games:catch, snake")
    assert suite.spec.task_names == ("catch", "snake")
    assert record.can_render(suite)
    reset = suite.env.reset_tasks(jax.random.split(jax.random.key(0), (2, 1)), suite.tasks)[0]
    one = jax.tree.map(lambda x: x[1, 0], reset)
    picture = suite.env.render(one, suite.tasks[1], cell_pixels=4)
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 5  # floor, border, body, head, goal
    assert suites.make("small_games").spec.task_names == tuple(GAMES)
    with pytest.raises(ValueError, match=r"unknown small game 'snakes'; did you mean snake\?"):
        suites.make("small_games:snakes")
    with pytest.raises(ValueError, match="must differ"):
        small_games(("catch", "catch"))
    with pytest.raises(ValueError, match="unknown suite 'small_games:'"):
        suites.make("small_games:")
