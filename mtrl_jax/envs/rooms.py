"""`rooms`: collect what is good, leave what is bad, in rooms that look different; pure JAX, RGB.

In the manner of the domain pair of Higgins, Pal et al. 2017 (*DARLA*, arXiv 1707.08475), where a
policy learnt in some conjunctions of room and objects is to act in one that it has never seen. A
task is a conjunction of a palette of the room, A or B, and a set of objects, 1 or 2; all else is
drawn for each episode and seen from above::

    split     fold 0            fold 1
    source    A1 B2             A1 B2          reinforcement learning
    vision    A1 B2 A2          A1 B2 B1       unlabelled frames: every value of every factor
    target    B1                A2             seen by neither
    all       A1 A2 B1 B2

The rules:
  * Actions: 0 stay, 1 up, 2 down, 3 left, 4 right, by a step whose length varies.
  * 4 to 6 objects lie on the floor, every second one good. Touching one takes it away: +1 if it is
    good, -1 if it is bad. Each set has its own good and its own bad thing.
  * Once no good thing is left the episode is over for good; after `episode_length` actions it is
    truncated. The best return is the number of good things, 2 or 3.
  * Hue and brightness of the light are of the episode and colour all that is seen.

Edges are soft by a pixel, so that an image says where things are to a part of a pixel. The numbers
are this library's choice.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, EnvSpec, FunctionalSuite, Key, Timestep

__all__ = [
    "ACTIONS",
    "FACTORS",
    "SIZES",
    "SPLITS",
    "Rooms",
    "RoomsState",
    "conjunctions",
    "draw",
    "factors_of",
    "frames",
    "rooms",
    "scene",
]

ACTIONS = ("stay", "up", "down", "left", "right")
FACTORS = ("palette", "objects", "x", "y", "count", "hue", "brightness")
SPLITS = ("source", "vision", "target", "all")
SIZES = (32, 64)  # pixels of a side

_MOVES = np.array([(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)], np.float32)  # (x right, y down)
MOST, FEWEST = 6, 4  # objects
WALL, RADIUS = 0.0625, 0.07  # of an image's side; of the agent
LOW, HIGH = WALL + RADIUS, 1.0 - WALL - RADIUS  # where the agent's centre can be
STEP, TOUCH = 0.08, 0.13
HUE, BRIGHTNESS = (-0.03, 0.03), (0.75, 1.1)  # in turns, and as a factor

# Colours of wall and floor, and of the good and the bad thing of a set.
_ROOM = np.array(
    [[(0.38, 0.12, 0.20), (0.62, 0.42, 0.47)], [(0.08, 0.30, 0.20), (0.36, 0.54, 0.42)]], np.float32
)
_THINGS = np.array(
    [[(0.95, 0.80, 0.20), (0.30, 0.28, 0.85)], [(0.15, 0.85, 0.90), (0.95, 0.38, 0.12)]], np.float32
)
_AGENT = np.array((0.96, 0.96, 0.96), np.float32)
# A shape is where max(|dx|, |dy|) + c min(|dx|, |dy|) < r: disc and square, diamond and star.
_SHAPES = np.array([[(0.41, 0.075), (0.0, 0.066)], [(1.0, 0.095), (3.0, 0.115)]], np.float32)
_AGENT_SHAPE = (0.41, RADIUS)
_CELLS = np.stack(np.meshgrid(*[np.arange(3)] * 2), -1).reshape(9, 2).astype(np.float32)


class RoomsState(NamedTuple):
    """One room.

    Attributes:
      agent: float32 `[2]`, x to the right and y down, as parts of the image's side.
      places: float32 `[6, 2]`, of the objects; even ones are good.
      there: bool `[6]`, not taken.
      num_objects: int32, 4 to 6, objects at the start: the first ones.
      hue: float32, in turns.
      brightness: float32, a factor.
      time: int32, actions so far.
    """

    agent: Array
    places: Array
    there: Array
    num_objects: Array
    hue: Array
    brightness: Array
    time: Array


class Rooms(NamedTuple):
    """The family; a task is int32 `[2]`, palette and set. It is seen as uint8 `[3, size, size]`."""

    size: int = 32
    episode_length: int = 50

    def reset(self, key: Key, task: Array) -> tuple[RoomsState, Timestep]:
        """A new room."""
        state = draw(key)
        return state, restart(self.observe(state, task))

    def step(
        self, key: Key, state: RoomsState, action: Array, task: Array
    ) -> tuple[RoomsState, Timestep, Array]:
        """Moves the agent, and takes what it touches."""
        length = STEP * (0.75 + 0.5 * _uniform(key, 1)[0])
        agent = jnp.clip(state.agent + length * jnp.asarray(_MOVES)[action], LOW, HIGH)
        touched = state.there & (_distance(agent, state.places) < TOUCH)
        good = jnp.arange(MOST) % 2 == 0
        reward = (touched & good).sum() - (touched & ~good).sum()
        there = state.there & ~touched
        time = state.time + 1
        state = state._replace(agent=agent, there=there, time=time)
        solved = ~(there & good).any()
        row = transition(self.observe(state, task), reward, jnp.where(solved, 0.0, 1.0), solved)
        return state, row, solved | (time >= self.episode_length)

    def observe(self, state: RoomsState, task: Array) -> Array:
        """uint8 `[3, size, size]`."""
        n = self.size
        centre = jnp.arange(n, dtype=jnp.float32) + 0.5  # all lengths are in pixels here
        light = _light(state.hue, state.brightness)
        wall, floor = jnp.asarray(_ROOM)[task[0]] @ light
        colours = jnp.asarray(_THINGS)[task[1]] @ light
        shapes = jnp.asarray(_SHAPES)[task[1]]
        things = [
            (state.places[i], *shapes[i % 2], colours[i % 2], state.there[i]) for i in range(MOST)
        ]
        things.append((state.agent, *_AGENT_SHAPE, jnp.asarray(_AGENT) @ light, jnp.bool_(True)))
        from_middle = jnp.abs(centre - n / 2)
        border = jnp.maximum(from_middle[None, :, None], from_middle[None, None, :])
        image = _over(wall[:, None, None], floor[:, None, None], n * (0.5 - WALL) - border)
        for place, bend, radius, colour, there in things:
            dx = jnp.abs(centre - n * place[0])[None, None, :]
            dy = jnp.abs(centre - n * place[1])[None, :, None]
            apart = jnp.maximum(dx, dy) + bend * jnp.minimum(dx, dy)
            radius = jnp.where(there, n * radius, -1.0)  # below 0 is nowhere
            image = _over(image, colour[:, None, None], radius - apart)
        return (255.0 * jnp.clip(image, 0.0, 1.0) + 0.5).astype(jnp.uint8)

    def render(self, state: RoomsState, task: Any, side: int = 128) -> np.ndarray:
        """What the agent sees, larger: uint8 `[side, side, 3]`, `side` a multiple of the size."""
        image = np.asarray(jax.jit(self.observe)(state, task))
        times = side // self.size
        return np.moveaxis(image, 0, -1).repeat(times, 0).repeat(times, 1)


# ----------------------------------------------------------------------------------------- factors


def draw(key: Key) -> RoomsState:
    """A room with all its factors at random: uniform, and independent of each other."""
    u = _uniform(key, 5 + 9 + 2 * MOST)
    agent = LOW + (HIGH - LOW) * u[:2]
    count = FEWEST + (u[2] * (MOST + 1 - FEWEST)).astype(jnp.int32)
    hue = HUE[0] + (HUE[1] - HUE[0]) * u[3]
    brightness = BRIGHTNESS[0] + (BRIGHTNESS[1] - BRIGHTNESS[0]) * u[4]
    return _furnish(agent, count, hue, brightness, u[5:14], u[14:].reshape(MOST, 2))


def scene(key: Key, factors: Array) -> tuple[RoomsState, Array]:
    """A room with given factors; where the objects lie is drawn.

    Args:
      key: consumed.
      factors: float `[7]`, as `FACTORS` names them.

    Returns:
      The state, and the task int32 `[2]`.
    """
    u = _uniform(key, 9 + 2 * MOST)
    agent, count = factors[2:4].astype(jnp.float32), factors[4].astype(jnp.int32)
    state = _furnish(agent, count, factors[5], factors[6], u[:9], u[9:].reshape(MOST, 2))
    return state, factors[:2].astype(jnp.int32)


def factors_of(state: RoomsState, task: Array) -> Array:
    """float32 `[7]`, the ground truth behind an image, as `FACTORS` names it."""
    rest = jnp.stack([state.num_objects.astype(jnp.float32), state.hue, state.brightness])
    return jnp.concatenate([task.astype(jnp.float32), state.agent, rest])


@functools.partial(jax.jit, static_argnames=("num_frames", "size"))
def frames(key: Key, tasks: Array, num_frames: int, size: int = 32) -> tuple[Array, Array]:
    """Unlabelled images of some tasks, each as likely, and their factors for whoever may know.

    Args:
      key: consumed.
      tasks: int32 `[K, 2]`, as `conjunctions` gives them.
      num_frames: N.
      size: of `SIZES`.

    Returns:
      uint8 `[N, 3, size, size]` and float32 `[N, 7]`.
    """
    tasks = jnp.asarray(tasks)

    def one(key: Key) -> tuple[Array, Array]:
        for_task, for_room = jax.random.split(key)
        task, state = tasks[jax.random.randint(for_task, (), 0, len(tasks))], draw(for_room)
        return Rooms(size).observe(state, task), factors_of(state, task)

    return jax.vmap(one)(jax.random.split(key, num_frames))


def conjunctions(split: str, fold: int = 0) -> np.ndarray:
    """int32 `[K, 2]`, palette and set of each task of a split.

    Raises:
      ValueError: for an unknown split, or a fold that is not 0 or 1.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    if isinstance(fold, bool) or fold not in (0, 1):
        raise ValueError(f"fold must be 0 or 1; got {fold!r}")
    source, others = [(0, 0), (1, 1)], [(0, 1), (1, 0)]
    which = {
        "source": source,
        "vision": [*source, others[fold]],
        "target": [others[1 - fold]],
        "all": [(0, 0), (0, 1), (1, 0), (1, 1)],
    }
    return np.array(which[split], np.int32)


def rooms(
    split: str = "source", fold: int = 0, size: int = 32, episode_length: int = 50
) -> FunctionalSuite:
    """The suite of a split.

    Args:
      split: of `SPLITS`.
      fold: 0 or 1, which of the two mixed conjunctions is the target.
      size: of the image's sides, one of `SIZES`.
      episode_length: most actions in an episode.

    Raises:
      ValueError: naming the argument, what came and what is allowed.
    """
    tasks = conjunctions(split, fold)
    if isinstance(size, bool) or size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(map(str, SIZES))}; got {size!r}")
    check_value("episode_length", episode_length, Count)
    spec = EnvSpec(
        task_names=tuple(f"{'AB'[p]}{s + 1}" for p, s in tasks),
        observation_shape=(3, size, size),
        observation_dtype=np.dtype(np.uint8),
        vocabulary=None,
        num_actions=len(ACTIONS),
        action_mask=np.ones((len(tasks), len(ACTIONS)), bool),
        episode_limit=np.full(len(tasks), episode_length),
        has_success=True,
    )
    return FunctionalSuite(spec, Rooms(size, episode_length), jnp.asarray(tasks))


# ------------------------------------------------------------------------------------------ inside


def _furnish(
    agent: Array, count: Array, hue: Array, brightness: Array, priority: Array, offset: Array
) -> RoomsState:
    """Objects in cells of a 3 x 3 grid that differ from each other and from the agent's, off the
    cells' centres, and beyond the agent's touch."""
    width = (HIGH - LOW) / 3
    cell = jnp.minimum((agent - LOW) // width, 2.0)
    own = (jnp.asarray(_CELLS) == cell[None]).all(1)
    priority = jnp.where(own, 2.0, priority)
    rank = (priority[None, :] < priority[:, None]).sum(1)
    chosen = (rank[None, :] == jnp.arange(MOST)[:, None]).astype(jnp.float32)
    places = LOW + width * (chosen @ jnp.asarray(_CELLS) + 0.5) + 0.12 * (offset - 0.5)
    distance = _distance(agent, places)[:, None]
    near = distance < TOUCH + 0.01
    away = agent[None] + (places - agent[None]) * ((TOUCH + 0.01) / jnp.maximum(distance, 1e-6))
    places = jnp.where(near, away, places)
    there = jnp.arange(MOST) < count
    return RoomsState(agent, places, there, count, hue, brightness, jnp.int32(0))


def _uniform(key: Key, n: int) -> Array:
    """float32 `[n]` in [0, 1), sixteen bits each: half as many words as `jax.random.uniform`."""
    words = jax.random.bits(key, ((n + 1) // 2,), jnp.uint32)
    halves = jnp.concatenate([words >> 16, words & 0xFFFF])[:n]
    return halves.astype(jnp.float32) * 2.0**-16


def _distance(place: Array, places: Array) -> Array:
    return jnp.sqrt(jnp.square(places - place[None]).sum(-1))


def _over(image: Array, colour: Array, inside: Array) -> Array:
    """`colour` over an image `[3, H, W]` where `inside` (pixels from an edge) is positive, with a
    slope of one pixel at the edge."""
    mask = jnp.clip(inside + 0.5, 0.0, 1.0)
    # `image` stands here once: XLA:CPU makes one loop of it all, at six times the frames a second.
    return image * (1.0 - mask) + mask * colour


def _light(hue: Array, brightness: Array) -> Array:
    """float32 `[3, 3]`, colours (rows) turned about grey by `hue`, times the brightness."""
    angle = 2.0 * jnp.pi * hue
    about = jnp.asarray([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]]) / np.sqrt(3.0)
    grey = jnp.full((3, 3), 1.0 / 3.0)
    turned = jnp.cos(angle) * (jnp.eye(3) - grey) + grey + jnp.sin(angle) * about
    return brightness * turned
