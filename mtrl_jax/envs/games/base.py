"""What the small games share: an 8 x 8 board, eight classes of things, six actions, one state.

A game is four pure functions of NamedTuples of int32 scalars (and at most one board of bytes). All
randomness comes as `draws`, int32 `[NUM_DRAWS]`, each uniform in [0, 2^16): one call of the random
generator serves all games of a batch. Nothing here is batched.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import Array, Key

__all__ = [
    "ACT",
    "ACTIONS",
    "BALL",
    "CLASSES",
    "DOWN",
    "FLOOR",
    "GOAL",
    "HAZARD",
    "LEFT",
    "MARK",
    "PLAYER",
    "RIGHT",
    "SIZE",
    "STAY",
    "TRAIL",
    "UP",
    "WALL",
    "Game",
    "GameState",
    "Outcome",
    "board",
    "draws_of",
    "free_cell",
    "move",
    "pack",
    "paint",
    "pick",
    "slide",
    "unpack",
]

SIZE = 8

# A cell shows one thing, and a thing means the same in every game: goals are to be touched, hazards
# to be avoided, walls block, balls and trails move by themselves; a mark is what the game makes it.
CLASSES = ("floor", "wall", "player", "goal", "hazard", "ball", "trail", "mark")
FLOOR, WALL, PLAYER, GOAL, HAZARD, BALL, TRAIL, MARK = range(len(CLASSES))
ACTIONS = ("stay", "up", "down", "left", "right", "act")
STAY, UP, DOWN, LEFT, RIGHT, ACT = range(len(ACTIONS))

NUM_DRAWS = 8
NUM_NUMBERS = 12  # int32 scalars of the largest game

ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE].astype(np.int32)


class GameState(NamedTuple):
    """Any game's state, of one shape for all.

    Attributes:
      numbers: int32 `[NUM_NUMBERS]`, the game's scalars, then zeros.
      cells: uint8 `[8, 8]`, the game's own board, zeros where it has none.
      time: int32, actions so far.
    """

    numbers: Array
    cells: Array
    time: Array


class Outcome(NamedTuple):
    """What an action leads to: the game's state, the reward, and whether the game is over."""

    state: Any
    reward: Array
    over: Array | bool = False


class Game(NamedTuple):
    """One game.

    Attributes:
      state: its NamedTuple; a field `cells`, if any, is the last one.
      reset: `(draws) -> state`.
      step: `(draws, state, action) -> Outcome`; an action that the game does not have does nothing.
      observe: `(state) -> uint8 [8, 8]`, classes.
      actions: that it has, STAY among them.
      rules: one line.
    """

    state: type
    reset: Callable[[Array], Any]
    step: Callable[[Array, Any, Array], Outcome]
    observe: Callable[[Any], Array]
    actions: tuple[int, ...]
    rules: str


# ------------------------------------------------------------------------------------------- state


def pack(state: Any, time: Array) -> GameState:
    """A game's own state as a `GameState`."""
    fields = state._asdict()
    cells = fields.pop("cells", jnp.zeros((SIZE, SIZE), jnp.uint8))
    numbers = jnp.stack([jnp.asarray(x).astype(jnp.int32) for x in fields.values()])
    return GameState(jnp.pad(numbers, (0, NUM_NUMBERS - len(fields))), cells, time)


def unpack(kind: type, packed: GameState) -> Any:
    """The inverse of `pack`."""
    names: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    fields = {n: packed.numbers[i] for i, n in enumerate(names) if n != "cells"}
    return kind(**fields, **({"cells": packed.cells} if "cells" in names else {}))


# ------------------------------------------------------------------------------------------ chance


def draws_of(key: Key) -> Array:
    """int32 `[NUM_DRAWS]`, uniform in [0, 2^16): two from each random word, which is what costs."""
    words = jax.random.bits(key, (NUM_DRAWS // 2,), jnp.uint32)
    return jnp.concatenate([words >> 16, words & 0xFFFF]).astype(jnp.int32)


def pick(draw: Array, n: Array | int) -> Array:
    """A draw as an integer in [0, n), n at most 64: none is favoured by more than 0.1 %."""
    return draw * n >> 16


def free_cell(draw: Array, free: Array | np.ndarray) -> tuple[Array, Array]:
    """Row and column of a uniformly drawn cell of `free`, bool `[8, 8]` (not all False)."""
    order = jnp.cumsum(jnp.reshape(free, -1), dtype=jnp.int32)
    cell = (order <= pick(draw, order[-1])).sum(dtype=jnp.int32)
    return cell // SIZE, cell % SIZE


# ------------------------------------------------------------------------------------------- board


def at(row: Array | int, column: Array | int) -> Array:
    """bool `[8, 8]`, True at one cell; nowhere for a row or column off the board."""
    return (ROWS == row) & (COLUMNS == column)


def board(*cells: tuple[int, int]) -> np.ndarray:
    """bool `[8, 8]`, True at fixed cells."""
    mask = np.zeros((SIZE, SIZE), bool)
    for cell in cells:
        mask[cell] = True
    return mask


def paint(*layers: tuple[int, Array | np.ndarray]) -> Array:
    """uint8 `[8, 8]` of (class, bool `[8, 8]`) pairs, later ones over earlier ones."""
    picture = jnp.zeros((SIZE, SIZE), jnp.uint8)
    for kind, mask in layers:
        picture = jnp.where(mask, jnp.uint8(kind), picture)
    return picture


def slide(position: Array, action: Array, less: int, more: int, last: int = SIZE - 1) -> Array:
    """A coordinate after `action`: one less, one more, or the same; stays in [0, last]."""
    step = (action == more).astype(jnp.int32) - (action == less)
    return jnp.clip(position + step, 0, last)


def move(
    row: Array, column: Array, action: Array, walls: Array | np.ndarray | None = None
) -> tuple[Array, Array]:
    """A step up, down, left or right; the border and `walls`, bool `[8, 8]`, block."""
    to_row, to_column = slide(row, action, UP, DOWN), slide(column, action, LEFT, RIGHT)
    if walls is None:
        return to_row, to_column
    blocked = (at(to_row, to_column) & walls).any()
    return jnp.where(blocked, row, to_row), jnp.where(blocked, column, to_column)
