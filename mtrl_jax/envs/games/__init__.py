"""`small_games`: twelve small arcade-like games in pure JAX, of our own design.

They share one observation (an 8 x 8 board of eight classes), one action set of six (a game ignores
those it does not have) and one limit of 100 actions, at which an episode is truncated; a game that
is lost ends before (discount 0). Rewards are points. Things mean the same in all games, so that
knowing some helps with others: goals are worth touching, hazards are not, the player is moved.

Tasks that differ in their rules cannot be one function of data. A suite therefore steps its games
one after the other inside one program (`SmallGames.step_tasks`), and a suite of one pays for one. A
single environment whose game is only known at run time (`SmallGames.step`) is a switch, of which a
vmap computes every branch: as much work as there are games in the suite, and the same result.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.envs.games import balls, base, falling, walking
from mtrl_jax.envs.games.base import ACTIONS, CLASSES, SIZE, Game, GameState
from mtrl_jax.types import Array, EnvSpec, FunctionalSuite, Key, Timestep

__all__ = ["ACTIONS", "CLASSES", "EPISODE_LIMIT", "GAMES", "SmallGames", "small_games"]

GAMES: dict[str, Game] = {
    "catch": falling.CATCH,
    "dodge": falling.DODGE,
    "rain": falling.RAIN,
    "shooter": falling.SHOOTER,
    "breakout": balls.BREAKOUT,
    "pong": balls.PONG,
    "cross": walking.CROSS,
    "snake": walking.SNAKE,
    "collect": walking.COLLECT,
    "courier": walking.COURIER,
    "signal": walking.SIGNAL,
    "cliff": walking.CLIFF,
}
EPISODE_LIMIT = 100

_COLOURS = np.array(
    [
        (30, 30, 34),
        (120, 120, 120),
        (70, 130, 230),
        (70, 190, 90),
        (215, 60, 50),
        (245, 245, 235),
        (125, 125, 150),
        (235, 190, 60),
    ],
    np.uint8,
)


class SmallGames(NamedTuple):
    """The family; a task is an int32, the place of its game in `games`."""

    games: tuple[str, ...]

    def reset(self, key: Key, task: Array) -> tuple[GameState, Timestep]:
        """A new game."""
        return self._switch(_reset, task, base.draws_of(key))

    def step(
        self, key: Key, state: GameState, action: Array, task: Array
    ) -> tuple[GameState, Timestep, Array]:
        """One action."""
        return self._switch(_step, task, base.draws_of(key), state, action)

    def _switch(self, fn: Callable[..., Any], task: Array, *args: Any) -> Any:
        branches = [lambda *args, name=name: fn(GAMES[name], *args) for name in self.games]
        if len(branches) == 1:
            return branches[0](*args)
        return jax.lax.switch(task, branches, *args)

    def reset_tasks(self, key: Key, tasks: Array) -> tuple[GameState, Timestep]:
        """`reset` with keys `[K, E]` and tasks `[K]`, each game computed for its own rows only."""
        return self._each(_reset, tasks, _draws(key))

    def step_tasks(
        self, key: Key, state: GameState, action: Array, tasks: Array
    ) -> tuple[GameState, Timestep, Array]:
        """`step` with leaves `[K, E, ...]` and tasks `[K]`."""
        return self._each(_step, tasks, _draws(key), state, action)

    def _each(self, fn: Callable[..., Any], tasks: Array, *args: Any) -> Any:
        if isinstance(tasks, jax.core.Tracer):  # which games these are is not known yet

            def one(task, *args):
                return jax.vmap(lambda *row: self._switch(fn, task, *row))(*args)

            return jax.vmap(one)(tasks, *args)
        results = []
        for k, task in enumerate(np.asarray(tasks)):
            game = GAMES[self.games[task]]
            rows = jax.tree.map(lambda x, k=k: x[k], args)
            results.append(jax.vmap(lambda *row, game=game: fn(game, *row))(*rows))
        return jax.tree.map(lambda *x: jnp.stack(x), *results)

    def render(self, state: GameState, task: Array, cell_pixels: int = 16) -> np.ndarray:
        """uint8 `[8 * cell_pixels, 8 * cell_pixels, 3]` (NumPy, not traceable)."""
        game = GAMES[self.games[int(task)]]
        seen = np.asarray(game.observe(base.unpack(game.state, state)))
        return _COLOURS[seen].repeat(cell_pixels, 0).repeat(cell_pixels, 1)


def _draws(key: Key) -> Array:
    return jax.vmap(jax.vmap(base.draws_of))(key)


def _reset(game: Game, draws: Array) -> tuple[GameState, Timestep]:
    state = game.reset(draws)
    return base.pack(state, jnp.int32(0)), restart(game.observe(state))


def _step(
    game: Game, draws: Array, state: GameState, action: Array
) -> tuple[GameState, Timestep, Array]:
    outcome = game.step(draws, base.unpack(game.state, state), action)
    time = state.time + 1
    over = jnp.asarray(outcome.over)
    timestep = transition(game.observe(outcome.state), outcome.reward, jnp.where(over, 0.0, 1.0))
    return base.pack(outcome.state, time), timestep, over | (time >= EPISODE_LIMIT)


def small_games(names: Sequence[str] = ()) -> FunctionalSuite:
    """The suite of the games named, in that order; all of them for none.

    Raises:
      ValueError: for an unknown game, or one named twice.
    """
    names = tuple(names) or tuple(GAMES)
    for name in names:
        if name not in GAMES:
            near = difflib.get_close_matches(name, GAMES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"unknown small game {name!r}{hint} (known: {', '.join(GAMES)})")
    if len(set(names)) != len(names):
        raise ValueError(f"small games must differ from each other; got {', '.join(names)}")
    mask = np.zeros((len(names), len(ACTIONS)), bool)
    for row, name in zip(mask, names, strict=True):
        row[list(GAMES[name].actions)] = True
    spec = EnvSpec(
        task_names=names,
        observation_shape=(SIZE, SIZE),
        observation_dtype=np.dtype(np.uint8),
        vocabulary=np.full((SIZE, SIZE), len(CLASSES)),
        num_actions=len(ACTIONS),
        action_mask=mask,
        episode_limit=np.full(len(names), EPISODE_LIMIT),
        has_success=False,
    )
    return FunctionalSuite(spec, SmallGames(names), np.arange(len(names), dtype=np.int32))
