"""Games in which things come down from the top and the player moves along the bottom row."""

from typing import NamedTuple

import jax.numpy as jnp

from mtrl_jax.envs.games.base import (
    ACT,
    GOAL,
    HAZARD,
    LEFT,
    PLAYER,
    RIGHT,
    ROWS,
    SIZE,
    STAY,
    Game,
    Outcome,
    at,
    paint,
    pick,
    slide,
)
from mtrl_jax.types import Array

__all__ = ["CATCH", "DODGE", "RAIN", "SHOOTER"]

BOTTOM = SIZE - 1


def _down(cells: Array, top: Array) -> Array:
    """The board one row further down, with a new top row `[8]`."""
    return jnp.concatenate([top[None].astype(jnp.uint8), cells[:-1]])


def _one(draw: Array, kind: Array | int) -> Array:
    """A row with one thing at a random column."""
    columns = jnp.arange(SIZE, dtype=jnp.int32)
    return jnp.where(columns == pick(draw, SIZE), kind, 0)


# ------------------------------------------------------------------------------------------- catch


class Catch(NamedTuple):
    player: Array
    row: Array
    column: Array


def _catch_reset(draws: Array) -> Catch:
    return Catch(pick(draws[0], SIZE), jnp.int32(0), pick(draws[1], SIZE))


def _catch_step(draws: Array, state: Catch, action: Array) -> Outcome:
    player, row = slide(state.player, action, LEFT, RIGHT), state.row + 1
    landed = row == BOTTOM
    caught = landed & (player == state.column)
    column = jnp.where(landed, pick(draws[0], SIZE), state.column)
    return Outcome(Catch(player, jnp.where(landed, 0, row), column), caught, landed & ~caught)


def _catch_observe(state: Catch) -> Array:
    return paint((GOAL, at(state.row, state.column)), (PLAYER, at(BOTTOM, state.player)))


CATCH = Game(
    Catch,
    _catch_reset,
    _catch_step,
    _catch_observe,
    (STAY, LEFT, RIGHT),
    "goals fall one by one: +1 for each caught; one missed ends the game",
)


# ------------------------------------------------------------------------------------------- dodge

DODGE_EVERY = 3  # rows between hazards: three in a row can always be got round


class Dodge(NamedTuple):
    player: Array
    wait: Array  # rows until the next hazards
    cells: Array


def _dodge_reset(draws: Array) -> Dodge:
    return Dodge(pick(draws[0], SIZE), jnp.int32(0), jnp.zeros((SIZE, SIZE), jnp.uint8))


def _dodge_step(draws: Array, state: Dodge, action: Array) -> Outcome:
    player = slide(state.player, action, LEFT, RIGHT)
    due = state.wait == 0
    top = jnp.maximum(_one(draws[0], HAZARD), _one(draws[1], HAZARD))
    top = jnp.where(due, jnp.maximum(top, _one(draws[2], HAZARD)), 0)
    cells = _down(state.cells, top)
    hit = cells[BOTTOM, player] == HAZARD
    passed = (cells[BOTTOM] == HAZARD).any() & ~hit
    wait = jnp.where(due, DODGE_EVERY - 1, state.wait - 1)
    return Outcome(Dodge(player, wait, cells), passed, hit)


def _dodge_observe(state: Dodge) -> Array:
    return jnp.where(at(BOTTOM, state.player), jnp.uint8(PLAYER), state.cells)


DODGE = Game(
    Dodge,
    _dodge_reset,
    _dodge_step,
    _dodge_observe,
    (STAY, LEFT, RIGHT),
    "rows of hazards fall: +1 for each that passes; one that hits ends the game",
)


# -------------------------------------------------------------------------------------------- rain


class Rain(NamedTuple):
    player: Array
    wait: Array
    cells: Array


def _rain_reset(draws: Array) -> Rain:
    return Rain(pick(draws[0], SIZE), jnp.int32(0), jnp.zeros((SIZE, SIZE), jnp.uint8))


def _rain_step(draws: Array, state: Rain, action: Array) -> Outcome:
    player = slide(state.player, action, LEFT, RIGHT)
    due = state.wait == 0
    kind = jnp.where(pick(draws[1], 2) == 0, GOAL, HAZARD)
    cells = _down(state.cells, jnp.where(due, _one(draws[0], kind), 0))
    touched = cells[BOTTOM, player]
    wait = jnp.where(due, 1, 0)
    return Outcome(Rain(player, wait, cells), touched == GOAL, touched == HAZARD)


RAIN = Game(
    Rain,
    _rain_reset,
    _rain_step,
    _dodge_observe,
    (STAY, LEFT, RIGHT),
    "goals and hazards fall: +1 for each goal caught; a hazard ends the game",
)


# ----------------------------------------------------------------------------------------- shooter


class Shooter(NamedTuple):
    player: Array
    cells: Array


def _shooter_reset(draws: Array) -> Shooter:
    cells = jnp.where(ROWS == 1, _one(draws[1], HAZARD)[None, :], 0).astype(jnp.uint8)
    return Shooter(pick(draws[0], SIZE), cells)


def _shooter_step(draws: Array, state: Shooter, action: Array) -> Outcome:
    player = slide(state.player, action, LEFT, RIGHT)
    column = state.cells[:, player] == HAZARD
    lowest = jnp.where(column, ROWS[:, 0], -1).max()
    hit = (action == ACT) & (lowest >= 0)
    cells = jnp.where(hit & at(lowest, player), jnp.uint8(0), state.cells)
    # By chance, not by a clock that nobody sees.
    cells = jnp.where(pick(draws[1], 4) == 0, _down(cells, _one(draws[0], HAZARD)), cells)
    return Outcome(Shooter(player, cells), hit, (cells[BOTTOM] == HAZARD).any())


SHOOTER = Game(
    Shooter,
    _shooter_reset,
    _shooter_step,
    _dodge_observe,
    (STAY, LEFT, RIGHT, ACT),
    "hazards come down: +1 for each shot straight above; one that lands ends the game",
)
