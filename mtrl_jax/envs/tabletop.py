"""A table from above on which shapes are picked, turned and placed; pure JAX, no contact physics.

Inspired by the tabletop of Zeng et al. 2020, *Transporter Networks*, arXiv 2010.14406, and of Lim
et al. 2021, *Multi-Task Learning with Sequence-Conditioned Transporter Networks*, arXiv 2109.07578
(MultiRavens). It reproduces neither: there is no physics, no cable and no camera, and no score on
it compares with a published one. `envs/tabletop_tasks.py` has the tasks.

An image is uint8 `[32, 32, 4]`: red, green, blue, and height. An action picks what lies uppermost
at one pixel (of equal ones, which may overlap a little, the first), turns it about that pixel by
quarter turns and puts that pixel on another one, at once. It is refused, and nothing moves, where

  * there is nothing at the pixel, or something lies on what is there;
  * the shape would stick out of the table;
  * more than a tenth of it would overlap others, unless it is a block that comes to lie on a block
    with three fifths of itself at least; three blocks are the highest tower.

Turns are four, so that they are exact on pixels: a quarter turn takes (row, column) to (-column,
row), as `numpy.rot90` does. Everything is of one table; the caller vmaps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import Array

__all__ = [
    "BLOCK",
    "COLOURS",
    "FLOOR",
    "ORDERS",
    "SHAPES",
    "SIZE",
    "TURNED",
    "Action",
    "Goal",
    "Table",
    "done",
    "masks",
    "picture",
    "render",
    "stamp",
    "step",
    "turned",
]

SIZE = 32  # pixels of a side
LAYERS = 3  # of a tower
OVERLAP, SUPPORT = 0.1, 0.6  # parts of a footprint
SHAPES = ("corner", "block", "bar", "cube")
BLOCK = 1
ORDERS = np.array([4, 1, 2, 1], np.int32)  # quarter turns after which a shape looks as before
FLOOR = (40, 40, 40)
COLOURS = np.array(
    [(230, 50, 50), (60, 200, 70), (70, 100, 250), (240, 220, 60), (220, 80, 230), (70, 220, 230)],
    np.uint8,
)

_DRAWN = (
    ("###..", "###..", "#####", "#####", "#####"),
    ("#####", "#####", "#####", "#####", "#####"),
    (".....", "#####", "#####", "#####", "....."),
    (".....", ".###.", ".###.", ".###.", "....."),
)
_SHAPE = np.array([[[c == "#" for c in row] for row in rows] for rows in _DRAWN])
TURNED = np.stack([np.rot90(_SHAPE, t, (1, 2)) for t in range(4)], 1)  # [4, 4, 5, 5]
REACH = TURNED.shape[-1] // 2  # from a shape's centre to its border


class Table(NamedTuple):
    """N things on a table.

    Attributes:
      shape: int32 `[N]`, of `SHAPES`.
      colour: int32 `[N]`, of `COLOURS`.
      place: int32 `[N, 2]`, row and column of the centre.
      turn: int32 `[N]`, quarter turns, 0 to 3.
      level: int32 `[N]`, 1 on the table, 2 and 3 on blocks.
      floor: uint8 `[32, 32, 3]`, what is painted on the table.
    """

    shape: Array
    colour: Array
    place: Array
    turn: Array
    level: Array
    floor: Array


class Goal(NamedTuple):
    """Where each thing is to be: `place` int32 `[N, 2]`, `turn` and `level` int32 `[N]`."""

    place: Array
    turn: Array
    level: Array


class Action(NamedTuple):
    """What is done with a table.

    Attributes:
      stop: bool, nothing is to be done; the rest is then ignored.
      pick: int32 `[2]`, row and column of the pixel that is taken.
      place: int32 `[2]`, of the pixel where it goes.
      turn: int32, quarter turns about it.
    """

    stop: Array
    pick: Array
    place: Array
    turn: Array


def turned(offset: Array, turn: Array) -> Array:
    """Offsets `[..., 2]` (row, column) after quarter turns `[...]`, each (r, c) to (-c, r)."""
    r, c = offset[..., 0], offset[..., 1]
    rows = jnp.stack([r, -c, -r, c], -1)
    columns = jnp.stack([c, r, -c, -r], -1)
    at = turn[..., None]
    return jnp.concatenate(
        [jnp.take_along_axis(rows, at, -1), jnp.take_along_axis(columns, at, -1)], -1
    )


def masks(table: Table) -> Array:
    """Which pixels each thing covers, bool `[N, 32, 32]`."""
    return jax.vmap(_mask)(table.shape, table.turn, table.place)


def _mask(shape: Array, turn: Array, place: Array) -> Array:
    """What is outside of the table is cut off."""
    small = jnp.asarray(TURNED, jnp.float32)[shape, turn]
    return stamp(small, place - REACH) > 0


def stamp(small: Array, corner: Array) -> Array:
    """A picture `[n, m]` with its upper left corner at `corner` of an empty table, `[32, 32]`."""
    rows = jnp.arange(SIZE)[:, None] == corner[0] + jnp.arange(small.shape[0])[None]
    columns = jnp.arange(SIZE)[:, None] == corner[1] + jnp.arange(small.shape[1])[None]
    return rows.astype(jnp.float32) @ small @ columns.astype(jnp.float32).T


def render(table: Table) -> Array:
    """The table from above, uint8 `[32, 32, 4]`; height is 85 a level."""
    height = masks(table) * table.level[:, None, None]
    top, highest = height.argmax(0), height.max(0)
    colour = jnp.asarray(COLOURS)[table.colour][top]
    seen = jnp.where(highest[..., None] > 0, colour, table.floor)
    tall = (highest * (255 // LAYERS)).astype(jnp.uint8)
    return jnp.concatenate([seen, tall[..., None]], -1)


def step(table: Table, action: Action) -> tuple[Table, Array]:
    """The table after an action, and whether anything moved."""
    covered = masks(table)
    height = covered * table.level[:, None, None]
    at_pick = height[:, action.pick[0], action.pick[1]]
    i = at_pick.argmax()  # the uppermost; of none, the first
    mine, others = covered[i], jnp.arange(len(table.level)) != i
    above = others & (table.level > table.level[i]) & (covered & mine[None]).any((1, 2))
    can_pick = (at_pick[i] > 0) & ~above.any() & ~action.stop

    shape, turn = table.shape[i], (table.turn[i] + action.turn) % 4
    place = action.place + turned(table.place[i] - action.pick, action.turn)
    footprint = _mask(shape, turn, place)
    area = jnp.asarray(_SHAPE.sum((1, 2)))[shape]
    inside = footprint.sum() == area

    height = height * others[:, None, None]
    below = height.max(0)
    on_block = ((height == below[None]) & (table.shape == BLOCK)[:, None, None]).any(0)
    highest = (footprint * below).max()
    borne = (footprint & on_block & (below == highest)).sum() / area
    rests = (shape == BLOCK) & (highest > 0) & (highest < LAYERS) & (borne >= SUPPORT)
    lies = (footprint & (below > 0)).sum() <= OVERLAP * area
    moved = can_pick & inside & (rests | lies)

    def put(old: Array, new: Array) -> Array:
        return old.at[i].set(jnp.where(moved, new, old[i]))

    return table._replace(
        place=put(table.place, place),
        turn=put(table.turn, turn),
        level=put(table.level, jnp.where(rests, highest + 1, 1)),
    ), moved


def done(table: Table, goal: Goal) -> Array:
    """Which of the N goals are met, bool `[N]`: something of the thing's shape and colour is a
    pixel away at most (in each coordinate), on the right level, and looks turned as it should."""
    near = jnp.abs(table.place[:, None] - goal.place[None]).max(-1) <= 1
    order = jnp.asarray(ORDERS)[table.shape][None]
    alike = (table.shape[:, None] == table.shape[None]) & (
        table.colour[:, None] == table.colour[None]
    )
    fits = (table.turn[:, None] - goal.turn[None]) % order == 0
    return (near & alike & fits & (table.level[:, None] == goal.level[None])).any(0)


def picture(image: np.ndarray, scale: int = 6) -> np.ndarray:
    """An image `[32, 32, 4]` for people, uint8 `[32 scale, 32 scale, 3]`: what is higher is framed,
    once a level."""
    large = np.asarray(image).repeat(scale, 0).repeat(scale, 1)
    seen, level = large[..., :3].copy(), large[..., 3].astype(int) // (255 // LAYERS)
    for n in range(1, LAYERS + 1):  # frames of a tower stand one within the other
        outer = _shrunk(level >= n, 2 * n - 1)
        seen[outer & ~_shrunk(outer, 1)] //= 2
    return seen


def _shrunk(mask: np.ndarray, pixels: int) -> np.ndarray:
    for _ in range(pixels):
        wide = np.pad(mask, 1)
        mask = mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask
