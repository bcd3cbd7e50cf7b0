"""One rule of sharing, all seeds as one program, and its directory.

config.json                     what it is, with a checksum of each data file
checkpoints/, metrics.jsonl     of learning
scores.json                     of whole episodes at the end, a number a task and seed
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import evaluate, recorded
from mtrl_jax.algorithms import offline, offline_data
from mtrl_jax.types import FunctionalSuite

from ..common import steps
from . import record
from .split import Files, Own, splits

__all__ = ["Asked", "Loaded", "check", "load", "run"]

CHECKPOINT_EVERY = 4  # blocks of `refresh_every` steps
EPISODES = 32  # of a task, at each point of a curve


class Asked(NamedTuple):
    """One rule of a command.

    Attributes:
      suite: its name.
      config: of the agent, with base and rule.
      own: what tasks have of their own.
      updates: gradient steps.
      episodes: of each task, for the scores at the end.
      seed, num_seeds: the first seed, and how many follow from it.
    """

    suite: str
    config: offline.Config
    own: Own
    updates: int
    episodes: int
    seed: int
    num_seeds: int

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.num_seeds)


class Loaded(NamedTuple):
    """What a command has read: the suite, the files, and all their transitions with labels."""

    suite: FunctionalSuite
    files: Files
    data: offline_data.Data
    digests: dict[str, str]


def load(suite: FunctionalSuite, folder: pathlib.Path, files: Files) -> Loaded:
    """Labels for every task.

    Raises:
      ValueError: as `recorded.relabel`.
    """
    paths = {level: record.path_of(folder, level) for level in files}
    parts = [(one, recorded.relabel(suite, one, str(paths[n]))) for n, one in files.items()]
    digests = {n: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for n, path in paths.items()}
    return Loaded(suite, files, offline_data.join(parts), digests)


def settings(asked: Asked, loaded: Loaded) -> dict[str, Any]:
    """What config.json is to hold."""
    plain = {k: v for k, v in asked._asdict().items() if k not in ("config", "own")}
    found = {"binary": "offline", **plain, **asked.own._asdict(), "data": loaded.digests}
    return json.loads(json.dumps({**found, **dataclasses.asdict(asked.config)}))


def check(asked: Asked, loaded: Loaded, folder: pathlib.Path) -> bool:
    """Whether `folder` holds this very run, finished.

    Raises:
      ValueError: for numbers that cannot be, or a folder of another run; nothing is written.
    """
    offline.check(loaded.suite.spec, asked.config)
    if asked.updates % asked.config.refresh_every:
        raise ValueError(
            f"--updates must be a multiple of refresh_every = {asked.config.refresh_every}; got "
            f"{asked.updates}"
        )
    return steps.finished(folder, settings(asked, loaded))


def run(asked: Asked, loaded: Loaded, folder: pathlib.Path) -> dict[str, Any]:
    """What scores.json holds; learns and scores what is left.

    Raises:
      ValueError: as `check`.
    """
    check(asked, loaded, folder)

    def make() -> dict[str, Any]:
        env: Any = loaded.suite.env
        made = offline.learner_of(loaded.suite.spec, asked.config, env.least_reward)
        state = _learn(asked, loaded, made, folder)
        score = evaluate.scorer(loaded.suite, made.player, asked.episodes)
        played = jax.jit(jax.vmap(score))(state.params, _keys(asked, 2))
        returns = np.asarray(played.episode_return).mean(-1)
        return {"return": np.round(returns.T, 5).tolist()}

    return steps.scores(folder, settings(asked, loaded), make)


def _keys(asked: Asked, stream: int) -> jax.Array:
    """One a seed; streams are of the start, of learning and of scores."""
    seeds = jnp.asarray(asked.seeds)
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), stream))(seeds)


def _learn(
    asked: Asked, loaded: Loaded, made: offline.Learner, folder: pathlib.Path
) -> offline.State:
    """States `[S, ...]` after the last update, from the newest checkpoint on."""
    own = splits(loaded.files, loaded.suite.spec.num_tasks, asked.own, asked.seeds)
    data, own = jax.device_put((loaded.data, own))
    keys, states = _keys(asked, 1), jax.jit(jax.vmap(made.init))(_keys(asked, 0))
    score = evaluate.scorer(loaded.suite, made.player, EPISODES)

    @functools.partial(jax.jit, donate_argnums=0)
    def block(states: Any, data: Any, own: Any, count: Any) -> Any:
        def one(state: Any, own: Any, key: Any) -> Any:
            return made.learn(state, data, own, key, count)

        states, values = jax.vmap(one)(states, own, keys)
        played = jax.vmap(score)(states.params, keys)
        return states, {**values, "return": played.episode_return.mean(-1)}

    def advance(states: Any, begin: int, end: int) -> Any:
        return block(states, data, own, jnp.int32(end - begin))

    every = asked.config.refresh_every
    return steps.learn(
        f"{asked.config.base}, {asked.config.rule}",
        folder,
        states,
        asked.updates,
        advance,
        log_every=every,
        checkpoint_every=CHECKPOINT_EVERY * every,
        unit="update",
    )
