"""Tasks on the tabletop: four modules, their six compositions, and a scripted oracle.

Each module has three things and a zone, painted on the table, for them::

    place    corners, into three of the four places of a square, each turned as the goal has it
    stack    blocks, into a tower; which is below is drawn
    line     bars, side by side along a track
    sort     cubes, two of one colour into one tray and one of another into the other

A composition is two modules: six goals, of which those of the first module stand first. Zones,
turns and colours are drawn, and where things lie at first: anywhere but where the goal of its own
or of an *earlier* thing is. It may be where a later thing is to go, so the order matters: goals met
in their order find their places free, in another order often not. A picture of the end shows
neither the order nor what is inside a tower; pictures of the way there show both.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs import tabletop
from mtrl_jax.envs.tabletop import Action, Goal, Table
from mtrl_jax.types import Array, Key

__all__ = [
    "COMPOSITIONS",
    "MODULES",
    "NUM_GOALS",
    "Demonstration",
    "Problem",
    "composition_name",
    "demonstrate",
    "draw",
    "oracle",
    "successes",
]

MODULES = ("place", "stack", "line", "sort")
COMPOSITIONS = np.array(list(itertools.combinations(range(4), 2)), np.int32)  # [6, 2]
NUM_GOALS = 6  # three of each of two modules
ZONE = 11  # pixels of a side
APART = 6  # centres so far from each other, in one coordinate, do not touch

# Of each module, row, column and level of its places; of four for `place` three are used.
_SLOTS = np.array(
    [
        [(-3, -3, 1), (-3, 3, 1), (3, -3, 1), (3, 3, 1)],
        [(0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 1)],
        [(-4, 0, 1), (0, 0, 1), (4, 0, 1), (0, 0, 1)],
        [(-3, -3, 1), (-3, 3, 1), (3, 0, 1), (0, 0, 1)],
    ],
    np.int32,
)


def _marks() -> np.ndarray:
    """What is painted, `[4, 4, 11, 11]` of module and turn: 0 nothing, 1 grey, 2 and 3 dark colours
    of the first and of the last thing."""
    flat = np.zeros((4, ZONE, ZONE), np.int32)
    flat[0] = 1
    flat[1, 2:9, 2:9] = 1
    flat[2, :, 2:9] = 1
    flat[3, :5], flat[3, 6:] = 2, 3
    return np.stack([np.rot90(flat, t, (1, 2)) for t in range(4)], 1)


_MARKS = _marks()


class Problem(NamedTuple):
    """One drawn task: the table at first, and where its things are to go, in this order.

    Attributes:
      start: of N = 6 things.
      goal: of thing n.
    """

    start: Table
    goal: Goal


class Demonstration(NamedTuple):
    """What the oracle did.

    Attributes:
      images: uint8 `[N + 1, 32, 32, 4]`, before each action and at the end. All but the first are
        the sub-goals: each action meets one more goal, so the reward changes at each.
      actions: leaves `[N + 1, ...]`, the last one to stop.
      done: bool `[N]`, of the goals at the end.
    """

    images: Array
    actions: Action
    done: Array


def composition_name(n: int) -> str:
    """As in `place+stack`."""
    return "+".join(MODULES[m] for m in COMPOSITIONS[n])


def draw(key: Key, composition: Array) -> Problem:
    """A problem.

    Args:
      key: of all that is drawn.
      composition: int32, of `COMPOSITIONS`.
    """
    keys = jax.random.split(key, 4)
    modules = jnp.asarray(COMPOSITIONS)[composition]
    colour = jax.random.permutation(keys[0], len(tabletop.COLOURS)).reshape(2, 3)
    colour = colour.at[:, 1].set(jnp.where(modules == 3, colour[:, 0], colour[:, 1]))
    corners, turns = _zones(keys[1])
    goals = jax.vmap(_module_goal)(jax.random.split(keys[2]), modules, corners, turns)
    goal = jax.tree.map(lambda x: x.reshape(NUM_GOALS, *x.shape[2:]), goals)
    floor = jnp.broadcast_to(jnp.asarray(tabletop.FLOOR, jnp.uint8), (tabletop.SIZE,) * 2 + (3,))
    for n in range(2):
        floor = _paint(floor, modules[n], corners[n], turns[n], colour[n])
    place, turn = _scatter(keys[3], goal.place)
    shape = jnp.repeat(modules, 3)  # a module's number is its shape's
    start = Table(shape, colour.reshape(-1), place, turn, jnp.ones(NUM_GOALS, jnp.int32), floor)
    return Problem(start, goal)


def _zones(key: Key) -> tuple[Array, Array]:
    """Corners `[2, 2]` of two squares that do not overlap, and quarter turns `[2]`."""
    most = tabletop.SIZE - ZONE + 1
    for_first, for_second, for_turns = jax.random.split(key, 3)
    first = jax.random.randint(for_first, (2,), 0, most)
    grid = _grid(most)
    free = (jnp.abs(grid - first[None]) >= ZONE).any(-1)  # wherever the first is, some are
    second = grid[_one_of(jax.random.uniform(for_second, free.shape), free)]
    return jnp.stack([first, second]), jax.random.randint(for_turns, (2,), 0, 4)


def _module_goal(key: Key, module: Array, corner: Array, turn: Array) -> Goal:
    """Of three things."""
    for_slots, for_turns = jax.random.split(key)
    slots, is_place = jnp.asarray(_SLOTS)[module], module == 0
    mixed = jax.random.permutation(for_slots, slots)
    slots = jnp.where(is_place, mixed, slots)[:3]
    own = jnp.where(is_place, jax.random.randint(for_turns, (3,), 0, 4), 0)
    turns = jnp.broadcast_to(turn, (3,))
    place = corner[None] + ZONE // 2 + tabletop.turned(slots[:, :2], turns)
    return Goal(place, (turns + own) % 4, slots[:, 2])


def _paint(floor: Array, module: Array, corner: Array, turn: Array, colour: Array) -> Array:
    mark = jnp.asarray(_MARKS)[module, turn].astype(jnp.float32)
    mark = tabletop.stamp(mark, corner).astype(jnp.int32)
    dark = jnp.asarray(tabletop.COLOURS)[colour[jnp.array([0, 2])]] // 3
    paints = jnp.concatenate([jnp.full((2, 3), 90, jnp.uint8), dark])
    return jnp.where(mark[..., None] > 0, paints[mark], floor)


def _scatter(key: Key, goal: Array) -> tuple[Array, Array]:
    """Places `[N, 2]` and turns `[N]` at first, the last thing's first, which may be at the fewest.

    There always is a place: of 784 the goals and things before take 726 at most.
    """
    for_place, for_turn = jax.random.split(key)
    grid = _grid(tabletop.SIZE - 2 * tabletop.REACH) + tabletop.REACH
    noise = jax.random.uniform(for_place, (NUM_GOALS, len(grid)))

    def near(centre: Array) -> Array:
        return jnp.abs(grid - centre[None]).max(-1) < APART

    def one(taken: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
        goals, noise = given  # of things up to this one
        place = grid[_one_of(noise, ~(taken | goals))]
        return taken | near(place), place

    until = jax.lax.associative_scan(jnp.logical_or, jax.vmap(near)(goal))
    nowhere = jnp.zeros(len(grid), bool)
    _, place = jax.lax.scan(one, nowhere, (until, noise), reverse=True)
    return place, jax.random.randint(for_turn, (NUM_GOALS,), 0, 4)


def _grid(n: int) -> Array:
    """int32 `[n * n, 2]`, rows and columns below n."""
    return jnp.stack(jnp.meshgrid(jnp.arange(n), jnp.arange(n), indexing="ij"), -1).reshape(-1, 2)


def _one_of(noise: Array, free: Array) -> Array:
    """The index of a free one, all alike; `noise` `[n]` is uniform."""
    return jnp.where(free, noise, -1.0).argmax()


def oracle(table: Table, goal: Goal) -> Action:
    """Takes the first thing whose goal is not met by its middle to its goal; stops after the last.

    Of turns that look alike it makes the smallest.
    """
    met = tabletop.done(table, goal)
    n = (~met).argmax()
    turn = (goal.turn[n] - table.turn[n]) % jnp.asarray(tabletop.ORDERS)[table.shape[n]]
    return Action(met.all(), table.place[n], goal.place[n], turn)


def demonstrate(problem: Problem) -> Demonstration:
    """The oracle's way through a problem."""

    def one(table: Table, _: None) -> tuple[Table, tuple[Array, Action]]:
        action = oracle(table, problem.goal)
        return tabletop.step(table, action)[0], (tabletop.render(table), action)

    end, (images, actions) = jax.lax.scan(one, problem.start, None, length=NUM_GOALS + 1)
    return Demonstration(images, actions, tabletop.done(end, problem.goal))


def successes(table: Table, goal: Goal) -> Array:
    """Whether each module is finished, bool `[2]`; their mean is the score of an episode."""
    return tabletop.done(table, goal).reshape(2, 3).all(1)
