"""Games in which the player walks about the board."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.games.base import (
    COLUMNS,
    DOWN,
    FLOOR,
    GOAL,
    HAZARD,
    LEFT,
    MARK,
    PLAYER,
    RIGHT,
    ROWS,
    SIZE,
    STAY,
    TRAIL,
    UP,
    WALL,
    Game,
    Outcome,
    at,
    board,
    free_cell,
    move,
    paint,
    pick,
)
from mtrl_jax.types import Array

__all__ = ["CLIFF", "COLLECT", "COURIER", "CROSS", "SIGNAL", "SNAKE"]

LAST = SIZE - 1
WALKING = (STAY, UP, DOWN, LEFT, RIGHT)
BORDER = (ROWS == 0) | (ROWS == LAST) | (COLUMNS == 0) | (COLUMNS == LAST)
INSIDE = SIZE - 2  # cells in a row of the room that it leaves


# ------------------------------------------------------------------------------------------- cross


LANES = np.isin(ROWS, (1, 2, 4, 5))


class Cross(NamedTuple):
    row: Array
    column: Array
    cells: Array  # hazards


def _cross_reset(draws: Array) -> Cross:
    lane = jnp.arange(SIZE, dtype=jnp.int32)
    place = draws[0] >> (2 * lane) & 7  # 16 bits for eight rows: neighbours overlap in one bit
    # One a lane: with two, chance hardly ever gets across, and there is nothing to learn from.
    cars = LANES & (COLUMNS == place[:, None])
    cells = jnp.where(cars, jnp.uint8(HAZARD), jnp.uint8(FLOOR))
    return Cross(jnp.int32(LAST), pick(draws[1], SIZE), cells)


def _cross_step(draws: Array, state: Cross, action: Array) -> Outcome:
    row, column = move(state.row, state.column, action)
    even = ROWS % 2 == 0
    cells = jnp.where(even, jnp.roll(state.cells, 1, 1), jnp.roll(state.cells, -1, 1))
    hit = (at(row, column) & (cells == HAZARD)).any()
    over_there = row == 0
    return Outcome(Cross(jnp.where(over_there, LAST, row), column, cells), over_there, hit)


def _cross_observe(state: Cross) -> Array:
    return paint(
        (GOAL, ROWS == 0), (HAZARD, state.cells == HAZARD), (PLAYER, at(state.row, state.column))
    )


CROSS = Game(
    Cross,
    _cross_reset,
    _cross_step,
    _cross_observe,
    WALKING,
    "four lanes, a hazard in each, going either way: +1 for each crossing; a hit ends the game",
)


# ------------------------------------------------------------------------------------------- snake


class Snake(NamedTuple):
    row: Array
    column: Array
    heading: Array  # the action that keeps going
    length: Array
    goal_row: Array
    goal_column: Array
    cells: Array  # steps until the body leaves a cell


_START = board((4, 2), (4, 3), (4, 4))
_AGES = (_START * (COLUMNS - 1)).astype("uint8")


def _snake_reset(draws: Array) -> Snake:
    goal = free_cell(draws[0], ~_START & ~BORDER)
    four, three, right = jnp.int32(4), jnp.int32(3), jnp.int32(RIGHT)
    return Snake(four, four, right, three, *goal, jnp.asarray(_AGES))


def _snake_step(draws: Array, state: Snake, action: Array) -> Outcome:
    # UP and DOWN are 1 and 2, LEFT and RIGHT 3 and 4: opposites differ by exchanging within a pair.
    opposite = (state.heading - 1 ^ 1) + 1
    turns = (action >= UP) & (action <= RIGHT) & (action != opposite)
    heading = jnp.where(turns, action, state.heading)
    row = state.row + (heading == DOWN) - (heading == UP)
    column = state.column + (heading == RIGHT) - (heading == LEFT)
    eats = (row == state.goal_row) & (column == state.goal_column)
    # The body follows, but for a step on which it grows.
    shrunk = jnp.where(state.cells > 0, state.cells - 1, state.cells)
    cells = jnp.where(eats, state.cells, shrunk)
    head = at(row, column)
    crash = (head & (BORDER | (cells > 0))).any()
    length = state.length + eats
    cells = jnp.where(head, length.astype(jnp.uint8), cells)
    goal = free_cell(draws[0], (cells == 0) & ~BORDER)
    goal_row, goal_column = (
        jnp.where(eats, new, old)
        for new, old in zip(goal, (state.goal_row, state.goal_column), strict=True)
    )
    return Outcome(Snake(row, column, heading, length, goal_row, goal_column, cells), eats, crash)


def _snake_observe(state: Snake) -> Array:
    return paint(
        (HAZARD, BORDER),
        (GOAL, at(state.goal_row, state.goal_column)),
        (TRAIL, state.cells > 0),
        (PLAYER, at(state.row, state.column)),
    )


SNAKE = Game(
    Snake,
    _snake_reset,
    _snake_step,
    _snake_observe,
    WALKING,
    "a body that follows and grows: +1 for each goal; the border or the body ends the game",
)


# ----------------------------------------------------------------------------------------- collect

PILLARS = BORDER | board((3, 3), (4, 4))


class Collect(NamedTuple):
    row: Array
    column: Array
    chaser_row: Array
    chaser_column: Array
    goal_row: Array
    goal_column: Array
    second_row: Array
    second_column: Array


def _collect_reset(draws: Array) -> Collect:
    row, column = jnp.int32(LAST - 1), 1 + pick(draws[2], INSIDE)
    free = ~PILLARS & ~at(row, column)
    goals = (*free_cell(draws[0], free), *free_cell(draws[1], free))
    return Collect(row, column, jnp.int32(1), 1 + pick(draws[3], INSIDE), *goals)


def _collect_step(draws: Array, state: Collect, action: Array) -> Outcome:
    row, column = move(state.row, state.column, action, PILLARS)
    # The chaser takes the longer way first, on every second step or so.
    by_row, by_column = row - state.chaser_row, column - state.chaser_column
    upright = jnp.abs(by_row) >= jnp.abs(by_column)
    chase = jnp.where(
        upright, jnp.where(by_row < 0, UP, DOWN), jnp.where(by_column < 0, LEFT, RIGHT)
    )
    chase = jnp.where(pick(draws[0], 2) == 0, chase, STAY)
    # A pillar in the way is passed at random.
    chase = jnp.where(pick(draws[1], 8) == 0, 1 + pick(draws[2], 4), chase)
    chaser = move(state.chaser_row, state.chaser_column, chase, PILLARS)
    # Also where the chaser was: they may not change places unharmed.
    hit = (row == chaser[0]) & (column == chaser[1])
    hit |= (row == state.chaser_row) & (column == state.chaser_column)
    here = at(row, column)
    free = ~here & ~PILLARS
    reward, goals = jnp.int32(0), []
    for place, draw in (
        ((state.goal_row, state.goal_column), draws[3]),
        ((state.second_row, state.second_column), draws[4]),
    ):
        got = (row == place[0]) & (column == place[1])
        reward = reward + got
        goals += [jnp.where(got, n, o) for n, o in zip(free_cell(draw, free), place, strict=True)]
    return Outcome(Collect(row, column, *chaser, *goals), reward, hit)


def _collect_observe(state: Collect) -> Array:
    return paint(
        (WALL, PILLARS),
        (GOAL, at(state.goal_row, state.goal_column)),
        (GOAL, at(state.second_row, state.second_column)),
        (PLAYER, at(state.row, state.column)),
        (HAZARD, at(state.chaser_row, state.chaser_column)),
    )


COLLECT = Game(
    Collect,
    _collect_reset,
    _collect_step,
    _collect_observe,
    WALKING,
    "two goals among pillars, one who follows: +1 for each goal; being caught ends the game",
)


# ----------------------------------------------------------------------------------------- courier


class Courier(NamedTuple):
    row: Array
    column: Array
    carries: Array
    parcel_row: Array
    goal_row: Array
    gap: Array


def _courier_walls(gap: Array) -> Array:
    """A wall around, and one down the middle with a gap of two cells."""
    return BORDER | ((COLUMNS == 4) & (ROWS != gap) & (ROWS != gap + 1))


def _courier_reset(draws: Array) -> Courier:
    parcel, goal, row = (1 + pick(draw, INSIDE) for draw in draws[:3])
    gap = 1 + pick(draws[4], INSIDE - 1)
    return Courier(row, 1 + pick(draws[3], 3), jnp.int32(0), parcel, goal, gap)


def _courier_step(draws: Array, state: Courier, action: Array) -> Outcome:
    row, column = move(state.row, state.column, action, _courier_walls(state.gap))
    takes = (state.carries == 0) & (row == state.parcel_row) & (column == 1)
    brings = (state.carries == 1) & (row == state.goal_row) & (column == LAST - 1)
    carries = (state.carries | takes) & ~brings
    parcel = jnp.where(brings, 1 + pick(draws[0], INSIDE), state.parcel_row)
    goal = jnp.where(brings, 1 + pick(draws[1], INSIDE), state.goal_row)
    reward = 0.5 * takes + 0.5 * brings
    return Outcome(Courier(row, column, carries, parcel, goal, state.gap), reward)


def _courier_observe(state: Courier) -> Array:
    # A goal is one only while there is something to bring.
    return paint(
        (WALL, _courier_walls(state.gap)),
        (GOAL, (state.carries == 0) & at(state.parcel_row, 1)),
        (MARK, (state.carries == 0) & at(state.goal_row, LAST - 1)),
        (GOAL, (state.carries == 1) & at(state.goal_row, LAST - 1)),
        (PLAYER, at(state.row, state.column)),
    )


COURIER = Game(
    Courier,
    _courier_reset,
    _courier_step,
    _courier_observe,
    WALKING,
    "a parcel left of a wall with a gap, its place at the right: +0.5 to take, +0.5 to bring",
)


# ------------------------------------------------------------------------------------------ signal

SHOWN = 2  # steps; a player who has set out by then knows from its place which side it was
PAD_ROW = 4


class Signal(NamedTuple):
    row: Array
    column: Array
    side: Array  # 0 left, 1 right
    since: Array  # steps since it was shown


def _signal_reset(draws: Array) -> Signal:
    return Signal(jnp.int32(PAD_ROW), 3 + pick(draws[0], 2), pick(draws[1], 2), jnp.int32(0))


def _signal_step(draws: Array, state: Signal, action: Array) -> Outcome:
    row, column = move(state.row, state.column, action)
    at_pad = (row == PAD_ROW) & ((column == 0) | (column == LAST))
    right = at_pad & ((column == LAST) == (state.side == 1))
    fresh = _signal_reset(draws)
    old = Signal(row, column, state.side, jnp.minimum(state.since + 1, SHOWN))
    new = Signal(*(jnp.where(at_pad, a, b) for a, b in zip(fresh, old, strict=True)))
    return Outcome(new, jnp.where(at_pad, jnp.where(right, 1, -1), 0))


def _signal_observe(state: Signal) -> Array:
    left, right = at(PAD_ROW, 0), at(PAD_ROW, LAST)
    told = state.since < SHOWN
    return paint(
        (MARK, left | right),
        (GOAL, told & jnp.where(state.side == 1, right, left)),
        (PLAYER, at(state.row, state.column)),
    )


SIGNAL = Game(
    Signal,
    _signal_reset,
    _signal_step,
    _signal_observe,
    WALKING,
    "which of two marks is the goal is shown for two steps: +1 for going there, -1 for the other",
)


# ------------------------------------------------------------------------------------------- cliff


class Cliff(NamedTuple):
    row: Array
    column: Array


CHASM = (ROWS == LAST) & (COLUMNS > 0) & (COLUMNS < LAST)


def _cliff_reset(draws: Array) -> Cliff:
    return Cliff(jnp.int32(LAST), jnp.int32(0))


def _cliff_step(draws: Array, state: Cliff, action: Array) -> Outcome:
    row, column = move(state.row, state.column, action)
    row = jnp.where(pick(draws[0], 8) == 0, jnp.minimum(row + 1, LAST), row)
    across = (row == LAST) & (column == LAST)
    fell = (at(row, column) & CHASM).any()
    return Outcome(Cliff(row, jnp.where(across, 0, column)), across, fell)


def _cliff_observe(state: Cliff) -> Array:
    return paint(
        (HAZARD, CHASM), (GOAL, board((LAST, LAST))), (PLAYER, at(state.row, state.column))
    )


CLIFF = Game(
    Cliff,
    _cliff_reset,
    _cliff_step,
    _cliff_observe,
    WALKING,
    "round a chasm while wind blows down: +1 for each time across; a fall ends the game",
)
