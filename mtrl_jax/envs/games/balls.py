"""Games with a ball that bounces; its trail shows where it comes from."""

from typing import NamedTuple

import jax.numpy as jnp

from mtrl_jax.envs.games.base import (
    BALL,
    COLUMNS,
    DOWN,
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
    paint,
    pick,
    slide,
)
from mtrl_jax.types import Array

__all__ = ["BREAKOUT", "PONG"]

LAST = SIZE - 1


def _bounce(position: Array, speed: Array) -> tuple[Array, Array]:
    """The next coordinate and speed between two walls."""
    out = (position + speed < 0) | (position + speed > LAST)
    speed = jnp.where(out, -speed, speed)
    return position + speed, speed


def _side(draw: Array) -> Array:
    """-1 or 1."""
    return 2 * pick(draw, 2) - 1


# ---------------------------------------------------------------------------------------- breakout


class Breakout(NamedTuple):
    player: Array  # left cell of the bat, which has two
    row: Array
    column: Array
    down: Array  # 1 or -1
    right: Array  # 1 or -1
    old_row: Array
    old_column: Array
    cells: Array  # bricks


def _bricks() -> Array:
    return jnp.where((ROWS >= 1) & (ROWS <= 3), jnp.uint8(MARK), jnp.uint8(0))


def _breakout_reset(draws: Array) -> Breakout:
    row, column = jnp.int32(4), pick(draws[0], SIZE)
    player = jnp.minimum(column, SIZE - 2)
    return Breakout(player, row, column, jnp.int32(1), _side(draws[1]), row, column, _bricks())


def _breakout_step(draws: Array, state: Breakout, action: Array) -> Outcome:
    player = slide(state.player, action, LEFT, RIGHT, SIZE - 2)
    column, right = _bounce(state.column, state.right)
    down = jnp.where(state.row + state.down < 0, 1, state.down)
    row = state.row + down
    brick = (at(row, column) & (state.cells == MARK)).any()
    cells = jnp.where(brick & at(row, column), jnp.uint8(0), state.cells)
    # Which half of the bat is hit says where the ball goes: the player aims.
    low = row == LAST
    returned = low & ((column == player) | (column == player + 1))
    right = jnp.where(returned, jnp.where(column == player, -1, 1), right)
    turned = brick | returned
    row, down = jnp.where(turned, state.row, row), jnp.where(turned, -down, down)
    # New bricks when the ball is below them.
    cells = jnp.where((cells == 0).all() & (row > 3), _bricks(), cells)
    new = Breakout(player, row, column, down, right, state.row, state.column, cells)
    return Outcome(new, brick, low & ~returned)


def _breakout_observe(state: Breakout) -> Array:
    bat = (ROWS == LAST) & ((COLUMNS == state.player) | (COLUMNS == state.player + 1))
    return paint(
        (MARK, state.cells == MARK),
        (TRAIL, at(state.old_row, state.old_column)),
        (PLAYER, bat),
        (BALL, at(state.row, state.column)),
    )


BREAKOUT = Game(
    Breakout,
    _breakout_reset,
    _breakout_step,
    _breakout_observe,
    (STAY, LEFT, RIGHT),
    "a bat of two cells keeps a ball up: +1 for each mark it breaks; a ball lost ends the game",
)


# -------------------------------------------------------------------------------------------- pong


class Pong(NamedTuple):
    player: Array  # upper cell of the bat at the right
    other: Array  # of the one at the left
    row: Array
    column: Array
    down: Array
    right: Array
    old_row: Array
    old_column: Array


def _serve(draws: Array) -> tuple[Array, ...]:
    """row, column, down, right of a new ball."""
    return pick(draws[2], SIZE), 3 + pick(draws[3], 2), _side(draws[4]), _side(draws[5])


def _pong_reset(draws: Array) -> Pong:
    row, column, down, right = _serve(draws)
    middle = jnp.int32(3)
    return Pong(middle, middle, row, column, down, right, row, column)


def _pong_step(draws: Array, state: Pong, action: Array) -> Outcome:
    player = slide(state.player, action, UP, DOWN, SIZE - 2)
    # The other side follows an approaching ball, on every second step or so.
    towards = jnp.sign(state.row - state.other) * (pick(draws[0], 8) < 5) * (state.right < 0)
    other = jnp.clip(state.other + towards, 0, SIZE - 2)
    row, down = _bounce(state.row, state.down)
    column = state.column + state.right
    bat = jnp.where(state.right > 0, player, other)
    at_edge = (column == 0) | (column == LAST)
    returned = at_edge & ((row == bat) | (row == bat + 1))
    point = at_edge & ~returned
    reward = jnp.where(point, jnp.where(column == 0, 1, -1), 0)
    down = jnp.where(returned, jnp.where(row == bat, -1, 1), down)
    column = jnp.where(returned, state.column, column)
    right = jnp.where(returned, -state.right, state.right)
    flying = (row, column, down, right, state.row, state.column)
    served = _serve(draws)
    served = (*served, *served[:2])
    ball = (jnp.where(point, a, b) for a, b in zip(served, flying, strict=True))
    return Outcome(Pong(player, other, *ball), reward)


def _pong_observe(state: Pong) -> Array:
    def bat(column: int, top: Array) -> Array:
        return (COLUMNS == column) & ((ROWS == top) | (ROWS == top + 1))

    return paint(
        (WALL, bat(0, state.other)),
        (PLAYER, bat(LAST, state.player)),
        (TRAIL, at(state.old_row, state.old_column)),
        (BALL, at(state.row, state.column)),
    )


PONG = Game(
    Pong,
    _pong_reset,
    _pong_step,
    _pong_observe,
    (STAY, UP, DOWN),
    "a ball between two bats: +1 for one the other side misses, -1 for one missed",
)
