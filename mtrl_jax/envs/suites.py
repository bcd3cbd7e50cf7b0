"""The suite table. To add a suite, write a function that returns one and give it a row here.

A suite is built, and its library imported, when `make` is called. A suite of your own needs no row:
`module:function` names it.
"""

import difflib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from mtrl_jax import by_name
from mtrl_jax.envs import pad as padding
from mtrl_jax.envs import permute
from mtrl_jax.envs.check import check_shapes
from mtrl_jax.envs.envpool_spec import PAD
from mtrl_jax.types import FunctionalSuite, HostSuite

__all__ = ["DEFAULT_SUITE", "list_suites", "make"]

DEFAULT_SUITE = "minigrid_ladder"
ENVPOOL_PREFIX = "envpool:"
ATARI42_PREFIX = "atari42:"
METAWORLD_PREFIX = "metaworld:"
DOOM_PREFIX = "doom:"
GAMES_PREFIX = "small_games:"
GYMNASIUM_PREFIX = "gymnasium:"
GYMNAX_PREFIX = "gymnax:"
JUMANJI_PREFIX = "jumanji:"

MINIGRID_LADDER = (
    "MiniGrid-Empty-Random-6x6-v0",
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-DoorKey-6x6-v0",
    "MiniGrid-DoorKey-8x8-v0",
)
# Explore, fetch, find a goal, open a locked door; a new map each episode. The smallest of each
# family, so that random play is paid in all of them (docs/distral.md).
MINIGRID_NAV4 = (
    "MiniGrid-MultiRoom-N2-S4-v0",
    "MiniGrid-KeyCorridorS3R1-v0",
    "MiniGrid-FourRooms-v0",
    "MiniGrid-ObstructedMaze-1Dl-v0",
)


class _Row(NamedTuple):
    description: str
    build: Callable[..., FunctionalSuite | HostSuite]  # takes the ids, and options by name


def _maze8() -> FunctionalSuite:
    from mtrl_jax.envs.maze import maze8

    return maze8()


def _rooms(
    split: str = "source", fold: int = 0, size: int = 32, episode_length: int = 50
) -> FunctionalSuite:
    from mtrl_jax.envs.rooms import rooms

    return rooms(split, fold, size, episode_length)


def _goal_rooms(episode_length: int = 40) -> FunctionalSuite:
    from mtrl_jax.envs.goals import goal_rooms

    return goal_rooms(episode_length)


def _goal_plane(episode_length: int = 30) -> FunctionalSuite:
    from mtrl_jax.envs.goals import goal_plane

    return goal_plane(episode_length)


def _small_games(*games: str) -> FunctionalSuite:
    from mtrl_jax.envs.games import small_games

    return small_games(games)


def _envpool(*env_ids: str, image_size: int = 0) -> HostSuite:
    from mtrl_jax.envs.pool import envpool_suite

    return envpool_suite(env_ids, image_size)


def _gymnasium(*env_ids: str, **options: Any) -> HostSuite:
    from mtrl_jax.envs.gymnasium import gymnasium_suite

    return gymnasium_suite(env_ids, **options)


def _gymnax(*env_ids: str, **params: Any) -> FunctionalSuite:
    from mtrl_jax.envs.gymnax import make_suite

    if len(env_ids) != 1:
        raise ValueError(
            f"gymnax: is of one id, whose parameters are tasks; got {len(env_ids)} ({PAD})"
        )
    return make_suite(*env_ids, **params)


def _jumanji(*env_ids: str, **options: Any) -> FunctionalSuite:
    from mtrl_jax.envs.jumanji import make_suite

    if len(env_ids) != 1:
        raise ValueError(f"jumanji: is of one id; got {len(env_ids)} ({PAD})")
    return make_suite(*env_ids, **options)


def _atari(name: str) -> HostSuite:
    from mtrl_jax.envs import atari_games

    return _envpool(*atari_games.ids(getattr(atari_games, name)))


def _procgen_maze8() -> HostSuite:
    from mtrl_jax.envs.procgen import procgen_mazes

    return procgen_mazes()


def _doom(*scenarios: str) -> HostSuite:
    from mtrl_jax.envs.doom import doom_suite

    return doom_suite(scenarios)


def _doom_tag8(image_size: int) -> HostSuite:
    from mtrl_jax.envs.doom import TAG8, doom_suite

    return doom_suite(TAG8, image_size)


def _metaworld(*tasks: str, goal: str = "visible") -> HostSuite:
    from mtrl_jax.envs.metaworld import metaworld_suite

    return metaworld_suite(tasks, goal)


def _benchmark(name: str, /, goal: str = "visible") -> HostSuite:
    from mtrl_jax.envs.metaworld import BENCHMARKS

    return _metaworld(*BENCHMARKS[name], goal=goal)


_METAWORLD_ROWS = {
    "mt10": "ten manipulation tasks of Meta-World, goals visible; continuous actions",
    "mt25": "twenty-five tasks of Meta-World",
    "mt50": "all fifty tasks of Meta-World",
    "ml10": "the ten training tasks of Meta-World's ML10, goals visible",
    "ml10_test": "the five test tasks of ML10",
    "ml45": "the forty-five training tasks of ML45, goals visible",
    "ml45_test": "the five test tasks of ML45",
}
_ATARI_ROWS = {
    "atari_amtlb": ("AMTLB", "the 59 Atari games of the AI-ON benchmark; all 18 actions"),
    "atari57": ("ATARI_57", "the 57 Atari games of the literature, with human scores"),
    "atari12": ("ATARI_12", "twelve Atari games that are in both lists"),
    "atari4": ("ATARI_4", "Pong, Breakout, Freeway and Boxing"),
}
_SUITES = {
    "minigrid_ladder": _Row(
        "four MiniGrid tasks of rising difficulty: reach the goal, then behind a locked door",
        lambda: _envpool(*MINIGRID_LADDER),
    ),
    "minigrid_nav4": _Row(
        "four MiniGrid tasks that differ: two rooms, a key to fetch, a far goal, a locked door",
        lambda: _envpool(*MINIGRID_NAV4),
    ),
    "maze8": _Row(
        "eight fixed mazes with apples, a goal and respawn; pure JAX, runs on the accelerator",
        _maze8,
    ),
    "small_games": _Row(
        "twelve small arcade games on one 8 x 8 board; pure JAX, runs on the accelerator",
        _small_games,
    ),
    "rooms": _Row(
        "rooms with good and bad objects, in RGB; :split=source, vision, target or all, :fold=, "
        ":size=32 or 64; pure JAX",
        _rooms,
    ),
    "goal_rooms": _Row(
        "eight goals in four rooms, rewards computable from what is seen; :episode_length=; "
        "pure JAX",
        _goal_rooms,
    ),
    "goal_plane": _Row(
        "four goals in the plane, continuous actions; :episode_length=; pure JAX",
        _goal_plane,
    ),
    "procgen_maze8": _Row(
        "eight fixed mazes of Procgen, seen as a close-up; needs the Qt 5 libraries",
        _procgen_maze8,
    ),
    "doom_tag8": _Row(
        "eight ViZDoom scenarios: shoot, dodge, advance, stay alive; a process an environment",
        functools.partial(_doom_tag8, 84),
    ),
    "doom_tag8_small": _Row(
        "the same seen at 42 x 42 pixels instead of 84 x 84, for training on a CPU",
        functools.partial(_doom_tag8, 42),
    ),
    **{
        name: _Row(line, functools.partial(_atari, list_name))
        for name, (list_name, line) in _ATARI_ROWS.items()
    },
    **{
        name: _Row(line, functools.partial(_benchmark, name))
        for name, line in _METAWORLD_ROWS.items()
    },
}


# Before ids with commas between them.
_PREFIXES = {
    ENVPOOL_PREFIX: _Row(
        "<id>,<id>... any envpool ids with equal observation and action spaces (others with "
        "--pad), for example envpool:Pong-v5,Breakout-v5",
        _envpool,
    ),
    ATARI42_PREFIX: _Row(
        "<id>,<id>... any Atari ids seen at 42 x 42 pixels instead of 84 x 84, for training on a "
        "CPU",
        functools.partial(_envpool, image_size=42),
    ),
    GAMES_PREFIX: _Row(
        "<game>,<game>... some of those games, for example small_games:catch,snake", _small_games
    ),
    METAWORLD_PREFIX: _Row(
        "<task>,<task>... any Meta-World tasks, for example metaworld:reach,window-open; "
        ":goal=hidden",
        _metaworld,
    ),
    DOOM_PREFIX: _Row(
        "<scenario>,<scenario>... any of ten ViZDoom scenarios, for example doom:basic,my_way_home",
        _doom,
    ),
    GYMNASIUM_PREFIX: _Row(
        "<id>,<id>... any gymnasium ids that go together (others with --pad), for example "
        "gymnasium:CartPole-v1, with options of gymnasium.make as :name=value",
        _gymnasium,
    ),
    GYMNAX_PREFIX: _Row(
        "<id> one of gymnax's environments in pure JAX (several with --pad), with lists of "
        "parameters for tasks, for example gymnax:CartPole-v1:length=[.25,.5]",
        _gymnax,
    ),
    JUMANJI_PREFIX: _Row(
        "<id> one of Jumanji's environments in pure JAX (several with --pad), for example "
        "jumanji:Snake-v1, with options of jumanji.make as :name=value",
        _jumanji,
    ),
}


def list_suites() -> dict[str, str]:
    """Every name that `make` takes, with one line on what it is."""
    described = {name: row.description for name, row in _SUITES.items()}
    for prefix, row in _PREFIXES.items():
        ids, _, line = row.description.partition(" ")
        described[prefix + ids] = line
    described["<module>:<function>"] = (
        "a suite of your own, for example my_pkg.corridor:make_suite:length=7"
    )
    return described


def make(
    name: str, permute_actions: int | None = None, pad: bool = False
) -> FunctionalSuite | HostSuite:
    """Builds a suite's description; pools are built by its `make_pool` only.

    Args:
      name: a key of `list_suites`, or `envpool:` (`atari42:`, `metaworld:`, `doom:`,
        `small_games:`, `gymnasium:`) and ids (tasks, scenarios, games) with commas between them,
        or `module:function` of a function that returns a suite; with options behind it, each as
        `:name=value` (`mtrl_jax.by_name`).
      permute_actions: None, or the seed of a permutation of the actions for each task.
      pad: whether ids that do not go together, or several suites of a function of your own, are
        padded to one shape (`envs/pad.py`). What needs none of it is as without.

    Raises:
      ValueError: unknown name, id or option, ids that do not go together, or a function that
        fails, or returns something else or a suite that is not what its spec says.
      ImportError: the suite's library, or a system library that it needs, is not installed.
    """
    head, options = by_name.parse(name)
    prefix, colon, listed = head.partition(":")
    ids = tuple(filter(None, (part.strip() for part in listed.split(","))))
    if head in _SUITES:
        suite = _build(name, _SUITES[head], (), options)
    elif prefix + colon in _PREFIXES and (ids or prefix + colon != GAMES_PREFIX):
        suite = _listed(name, _PREFIXES[prefix + colon], ids, options, pad)
    elif listed:
        suite = _own(name, head, options, pad)
    else:
        near = difflib.get_close_matches(head, _SUITES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown suite {name!r}{hint} (known: {', '.join(list_suites())})")
    return suite if permute_actions is None else permute.permute_actions(suite, permute_actions)


def _build(
    name: str, row: _Row, ids: tuple[str, ...], options: dict[str, Any]
) -> FunctionalSuite | HostSuite:
    if options:
        by_name.check_options(name, "suite", row.build, options)
    return row.build(*ids, **options)


def _listed(
    name: str, row: _Row, ids: tuple[str, ...], options: dict[str, Any], pad: bool
) -> FunctionalSuite | HostSuite:
    """The suite of ids with commas between them."""
    try:
        return _build(name, row, ids, options)
    except ValueError:
        if not pad or len(ids) < 2:
            raise
    return padding.join([_build(name, row, (one,), options) for one in ids])


def _own(name: str, path: str, options: dict[str, Any], pad: bool) -> FunctionalSuite | HostSuite:
    """The suite that a user's function returns, or one of several, if they are to be padded."""
    near = difflib.get_close_matches(path.partition(":")[0] + ":", _PREFIXES, n=1)
    try:
        function = by_name.load(path, "suite")
    except ValueError as error:
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"{error}{hint}") from error
    suite = by_name.call(name, "suite", function, **options)
    several = isinstance(suite, list) or type(suite) is tuple
    if pad and several:
        for one in suite:
            check_shapes(one, name)
        suite = padding.join(suite)
    if not isinstance(suite, FunctionalSuite | HostSuite):
        raise ValueError(
            f"suite {name!r} must return a FunctionalSuite or a HostSuite; got a "
            f"{type(suite).__name__}{f' ({PAD})' * several}"
        )
    check_shapes(suite, name)  # now, since agents are made of its spec
    return suite
