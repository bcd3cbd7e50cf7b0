"""What an agent is shown: games one after the other at random, with nothing said about which it is.

The regime of the AI-ON benchmark (AMTLB) with its faults repaired. A new game is drawn, uniformly
and by each environment for itself, after every game over. The agent gets one stream ("task") whose
name is always the same, the whole action set (what a game does not have is action 0, which stands
for no-op) and every reward, the last of an episode included, which the original never showed.
`Timestep.first` says that an episode begins, as in training on one game; it does not say of what.

On a functional suite the stream is a functional suite of one task, whose state knows the game.
Host pools: `regime_pool`.

The other track, in which an agent of K tasks is told the task, needs nothing but `subset`.
"""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import (
    Agent,
    Array,
    ArrayTree,
    EnvSpec,
    FunctionalEnv,
    FunctionalSuite,
    Key,
    Timestep,
)

__all__ = [
    "STREAM",
    "Games",
    "RandomGames",
    "blind",
    "choose",
    "each_game",
    "folds",
    "random_games",
    "stream_spec",
    "subset",
]

STREAM = "stream"  # the name of the one task that an agent is shown
SMALL = 1024  # bytes of a game's data that every step may look up


def folds(num_games: int, num_folds: int, seed: int = 0) -> np.ndarray:
    """The fold that holds each game out, int `[N]`: a random partition, sizes within 1.

    Args:
      num_games: N.
      num_folds: 2 to N.
      seed: of the draw.

    Raises:
      ValueError: for more folds than games, or fewer than two.
    """
    if not 2 <= num_folds <= num_games:
        raise ValueError(
            f"folds must be between 2 and the number of games, {num_games}; got {num_folds}"
        )
    order = np.random.default_rng([seed, num_games]).permutation(num_games)
    fold = np.empty(num_games, int)
    fold[order] = np.arange(num_games) % num_folds
    return fold


def choose(spec: EnvSpec, names: Sequence[str]) -> list[int]:
    """Numbers of the games of a suite by their names; all of them for none.

    Raises:
      ValueError: for an unknown name, with what is near and what is known, or a name twice.
    """
    for name in names:
        if name not in spec.task_names:
            near = difflib.get_close_matches(name, spec.task_names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"unknown game {name!r}{hint} (known: {', '.join(spec.task_names)})")
    if len(set(names)) != len(names):
        raise ValueError(f"a game may be named once; got {', '.join(names)}")
    return [spec.task_names.index(name) for name in names] or list(range(spec.num_tasks))


def _part(spec: EnvSpec, indices: Sequence[int]) -> EnvSpec:
    seen = spec.observation_mask
    return spec._replace(
        task_names=tuple(spec.task_names[i] for i in indices),
        action_mask=np.asarray(spec.action_mask)[list(indices)],
        episode_limit=np.asarray(spec.episode_limit)[list(indices)],
        observation_mask=None if seen is None else seen[list(indices)],
    )


def subset(suite: FunctionalSuite, indices: Sequence[int]) -> FunctionalSuite:
    """The tasks `indices` of a suite, in that order."""
    chosen = np.asarray(indices)
    # NumPy stays NumPy: a constant that programs may be specialised on (`engines.split_tasks`).
    tasks = jax.tree.map(lambda x: x[chosen], suite.tasks)
    return FunctionalSuite(_part(suite.spec, indices), suite.env, tasks)


def stream_spec(spec: EnvSpec) -> EnvSpec:
    """What an agent is told of a suite: one task, all actions, the longest of all episode limits.

    It is the same whatever games the stream holds, so that programs can be shared.
    """
    limit = np.asarray(spec.episode_limit)
    return spec._replace(
        task_names=(STREAM,),
        action_mask=np.ones((1, np.shape(spec.action_mask)[1]), bool),
        episode_limit=np.array([limit.max() if (limit > 0).all() else 0]),
        observation_mask=None,
    )


class Games(NamedTuple):
    """What the stream draws from.

    Attributes:
      tasks: leaves `[N, ...]`.
      mask: bool `[N, A]`, the actions that each has.
      drawn: int32 `[N]`, whose first `size` are the games of the stream, as places in `tasks`.
      size: int32.
    """

    tasks: ArrayTree
    mask: Array
    drawn: Array
    size: Array


class StreamState(NamedTuple):
    """The game that is being played, int32, and its state."""

    game: Array
    env: ArrayTree


class RandomGames(NamedTuple):
    """A `FunctionalEnv` whose task is all of `Games`: each reset draws one of them."""

    env: FunctionalEnv
    discrete: bool = True

    def reset(self, key: Key, task: Games) -> tuple[StreamState, Timestep]:
        draw, start = jax.random.split(key)
        game = task.drawn[jax.random.randint(draw, (), 0, task.size)]
        state, timestep = self.env.reset(start, _game(task, game))
        return StreamState(game, state), timestep

    def step(
        self, key: Key, state: StreamState, action: Array, task: Games
    ) -> tuple[StreamState, Timestep, Array]:
        if self.discrete:
            action = jnp.where(task.mask[state.game, action], action, 0)
        env, timestep, ended = self.env.step(key, state.env, action, _game(task, state.game))
        return StreamState(state.game, env), timestep, ended


def _game(task: Games, game: Array) -> ArrayTree:
    # A single game is looked up by no environment: with one index for all, tables stay unbatched.
    return jax.tree.map(lambda x: x[0] if x.shape[0] == 1 else x[game], task.tasks)


def random_games(suite: FunctionalSuite, indices: Sequence[int]) -> FunctionalSuite:
    """The stream of the games `indices` of a suite; of one game, that game under no name.

    Where a game is little data, all games of the suite are in it and the rest are never drawn: so
    the streams of any games have the same shapes, and share one program.
    """
    spec, mask = suite.spec, np.asarray(suite.spec.action_mask)
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(suite.tasks)]
    small = sum(x.nbytes for x in leaves) <= SMALL * spec.num_tasks
    kept = np.arange(spec.num_tasks) if small else np.asarray(indices)
    drawn = np.searchsorted(kept, indices) if small else np.arange(len(kept))
    one = jax.tree.map(lambda x: jnp.asarray(x)[kept][None], suite.tasks)
    padded = np.resize(drawn, len(kept)).astype(np.int32)
    games = Games(
        one,
        jnp.asarray(mask[kept][None]),
        jnp.asarray(padded[None]),
        jnp.asarray([len(drawn)], jnp.int32),
    )
    return FunctionalSuite(stream_spec(spec), RandomGames(suite.env, not spec.action_size), games)


def each_game(suite: FunctionalSuite, indices: Sequence[int]) -> FunctionalSuite:
    """The games `indices` side by side as tasks, under the rules of the stream: all actions."""
    alone = [random_games(suite, [i]) for i in indices]
    spec = suite.spec
    n = len(alone)
    part = _part(spec, indices)._replace(
        action_mask=np.ones((n, np.shape(spec.action_mask)[1]), bool),
        episode_limit=np.repeat(alone[0].spec.episode_limit, n),
        observation_mask=None,
    )
    tasks = jax.tree.map(lambda *x: jnp.concatenate(x), *(one.tasks for one in alone))
    return FunctionalSuite(part, alone[0].env, tasks)


def blind(agent: Agent, num_games: int) -> Agent:
    """An agent of one stream as one of N tasks, to score it on each: nothing tells it which.

    Every task is a batch of its own, with the same policy; it is not for training.
    """

    def init_actor(num_envs: int) -> ArrayTree:
        return jax.tree.map(lambda x: jnp.repeat(x, num_games, axis=0), agent.init_actor(num_envs))

    def act(policy: ArrayTree, actor: ArrayTree, timestep: Timestep, keys: Key, **options: Any):
        def one_game(*rows: ArrayTree) -> Any:
            alone = jax.tree.map(lambda x: x[None], rows)
            return jax.tree.map(lambda x: x[0], agent.act(policy, *alone, **options))

        return jax.vmap(one_game)(actor, timestep, keys)

    return agent._replace(init_actor=init_actor, act=act)
