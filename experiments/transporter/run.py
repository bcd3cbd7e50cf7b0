"""One kind of network, all seeds in one program, and its directory.

config.json                     what it is
checkpoints/, metrics.jsonl     of learning
scores.json                     what came of the test episodes, a number a seed
episodes.npz                    pictures of one episode of each composition, of the first seed

Demonstrations are not kept: they are drawn again from their key. Test problems are the same for
all seeds and kinds, and nobody learns from them.
"""

import dataclasses
import functools
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import ranges
from mtrl_jax.algorithms import transporter
from mtrl_jax.algorithms.transporter import Config, Episode
from mtrl_jax.envs import tabletop_tasks

from ..common import steps

__all__ = ["EPISODES", "NAMES", "Arm", "check", "run"]

LOG_EVERY, CHECKPOINT_EVERY = 25, 100  # optimiser steps
EPISODES = "episodes.npz"
NAMES = tuple(map(tabletop_tasks.composition_name, range(transporter.K)))
_TEST_SEED = 2**31 - 1


class Arm(NamedTuple):
    """One kind of network: `config`, optimiser `steps`, `test_episodes` of each composition, and
    the first `seed` of `num_seeds`."""

    config: Config
    steps: int
    test_episodes: int
    seed: int
    num_seeds: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.config.condition}-{self.config.sampling}"

    def settings(self) -> dict[str, Any]:
        """What config.json is to hold."""
        numbers = {k: v for k, v in self._asdict().items() if k != "config"}
        return {"binary": "transporter", **numbers, **dataclasses.asdict(self.config)}


def check(arm: Arm, folder: pathlib.Path) -> bool:
    """Whether `folder` holds this very run, finished.

    Raises:
      ValueError: for numbers that cannot be, or a folder of another run; nothing is written.
    """
    ranges.check(arm.config)
    return steps.finished(folder, arm.settings())


def run(arm: Arm, folder: pathlib.Path) -> dict[str, Any]:
    """What scores.json holds; learns and plays what is left.

    Raises:
      ValueError: as `check`.
    """
    check(arm, folder)

    def make() -> dict[str, Any]:
        params = _learn(arm, folder).params
        episodes = jax.device_get(_play(arm.config, arm.test_episodes, params))
        _keep(folder, episodes)
        return _scores(episodes)

    return steps.scores(folder, arm.settings(), make)


def _keys(arm: Arm, stream: int) -> jax.Array:
    """One a seed; streams are of demonstrations, of the start and of steps."""
    seeds = jnp.arange(arm.seed, arm.seed + arm.num_seeds)
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), stream))(seeds)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _updates(
    config: Config, total: int, states: Any, demos: Any, keys: jax.Array, begin: Any, end: Any
) -> Any:
    """Steps `begin` to `end` of every seed, one seed after the other; step n draws from
    fold_in(key, n) alone. Metrics are means over them, `[S]`."""

    def seed(given: Any) -> Any:
        state, demos, key = given

        def one(n: Any, carry: Any) -> Any:
            state, sums = carry
            key_n = jax.random.fold_in(key, n)
            state, found = transporter.update(config, state, demos, key_n, n / total)
            return state, jax.tree.map(jnp.add, sums, found)

        shapes = jax.eval_shape(
            lambda: transporter.update(config, state, demos, key, jnp.float32(0))[1]
        )
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        state, sums = jax.lax.fori_loop(begin, end, one, (state, zeros))
        return state, jax.tree.map(lambda x: x / (end - begin), sums)

    states, found = jax.lax.map(seed, (states, demos, keys))
    shares = found.pop("share")
    return states, found | {f"share/{name}": shares[:, k] for k, name in enumerate(NAMES)}


def _learn(arm: Arm, folder: pathlib.Path) -> transporter.State:
    """States after the last step, `[S, ...]`, from the newest checkpoint on."""
    config = arm.config
    draw = dataclasses.replace(config, condition="none", sampling="uniform")  # as of every arm
    demos = jax.jit(lambda keys: jax.lax.map(lambda key: transporter.collect(draw, key), keys))(
        _keys(arm, 0)
    )
    states = jax.jit(jax.vmap(lambda key: transporter.init(config, key)))(_keys(arm, 1))
    keys = _keys(arm, 2)

    def advance(states: Any, begin: int, end: int) -> Any:
        return _updates(config, arm.steps, states, demos, keys, jnp.int32(begin), jnp.int32(end))

    found: Any = steps.learn(
        arm.name,
        folder,
        states,
        arm.steps,
        advance,
        log_every=LOG_EVERY,
        checkpoint_every=CHECKPOINT_EVERY,
    )
    return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _play(config: Config, test_episodes: int, params: Any) -> Episode:
    """Test episodes of every seed, leaves `[S, K, N, ...]`."""
    keys = jax.random.split(jax.random.key(_TEST_SEED), (transporter.K, test_episodes))
    draw = jax.vmap(jax.vmap(tabletop_tasks.draw, (0, None)))
    problems = draw(keys, jnp.arange(transporter.K))

    def seed(params: Any) -> Episode:
        play = functools.partial(transporter.play, config, params)
        return jax.vmap(jax.vmap(play))(problems)

    return jax.lax.map(seed, params)


def _scores(episodes: Episode) -> dict[str, Any]:
    def numbers(x: Any) -> list[list[float]]:  # [S, K, N, ...] to [K][S]
        of_episodes = x.reshape(*x.shape[:3], -1).mean(-1)
        return np.round(of_episodes.mean(2).T.astype(float), 5).tolist()

    return {
        "success": numbers(episodes.success),
        "solved": numbers(episodes.success.all(-1)),
        "goals": numbers(episodes.done),
    }


def _keep(folder: pathlib.Path, episodes: Episode) -> None:
    """The pictures of one episode of each composition, of the first seed."""
    first = jax.tree.map(lambda x: x[0, :, 0], episodes)
    temporary = folder / f"{EPISODES}.tmp"
    with temporary.open("wb") as file:
        np.savez_compressed(file, **first._asdict())
    os.replace(temporary, folder / EPISODES)
