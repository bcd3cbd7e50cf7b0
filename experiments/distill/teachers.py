"""The teachers of a distillation: trained here, or restored from runs of `experiments.dqn`."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mtrl_jax import engines, learner
from mtrl_jax.algorithms import dqn, q_network, teacher
from mtrl_jax.types import Agent

from ..common import agents, runs
from ..dqn.presets import ON_SMALL_GAMES

TEACHER: dict[str, Any] = {**ON_SMALL_GAMES, "hidden": (64,)}


class Teachers(NamedTuple):
    """Teachers of a suite's games, in its order.

    Attributes:
      teachers: one a game.
      hidden: widths of the first one's layers.
      size: parameters of all of them, those that they share counted once.
      steps: environment steps of the run that each was learnt in, all its games together.
      digest: of all their parameters, by which a run knows them again.
    """

    teachers: tuple[teacher.Teacher, ...]
    hidden: tuple[int, ...]
    size: int
    steps: tuple[int, ...]
    digest: str


def learnt(
    title: str,
    suite: Any,
    agent: Agent,
    run: engines.RunConfig,
    settings: dict[str, Any],
    folder: pathlib.Path,
    begin_from: Callable[[Any], Any] | None = None,
) -> list[dict[str, Any]]:
    """Trains what is left of a run and returns its metrics; a finished one is not opened again."""
    if not runs.finished(folder, settings, run, suite, agent.unroll_length):
        runs.learn(title, suite, agent, run, settings, folder, begin_from)
    return runs.rows(folder)


def train_teachers(
    suite: Any,
    suite_settings: dict[str, Any],
    run: engines.RunConfig,
    steps: int,
    folder: pathlib.Path,
) -> None:
    """A DQN for each game, all in one run, for `steps` environment steps of each.

    Raises:
      ValueError: for images, whose convolutions the games would share.
    """
    config = dqn.Config(network="separate", **TEACHER)
    dqn.check(suite.spec, config)
    total = steps * suite.spec.num_tasks
    run = dataclasses.replace(
        run,
        total_env_steps=total,
        log_every=max(total // 50, 1),
        eval_every=total,
        checkpoint_every=max(total // 4, 1),
        keep_best="",
    )
    settings = runs.settings_of("dqn", suite_settings, run, config)
    agents.check_devices(suite.spec, config, run)
    collectives = learner.across(run.num_devices)
    agent = agents.make(suite.spec, settings, collectives=collectives)
    learnt("teachers", suite, agent, run, settings, folder)


def restore_teachers(
    folders: list[pathlib.Path], suite: Any, *, features: bool = False
) -> Teachers:
    """Teachers for the games of `suite` from runs of `experiments.dqn`.

    Raises:
      ValueError: for what is no such run, or a game that none has learnt.
    """

    def count(tree):
        return sum(x.size for x in jax.tree.leaves(tree))

    found: dict[str, tuple[teacher.Teacher, tuple[int, ...], int]] = {}
    size = 0
    for folder in folders:
        try:
            settings, run = runs.read(folder)
            if settings["binary"] != "dqn":
                raise ValueError(f"--workdir: {folder} holds no run of dqn")
            theirs = runs.make_suite(settings)
            agent = agents.make(theirs.spec, settings)
            step, state = runs.restore(folder, run, theirs, agent)
        except ValueError as error:
            sentence = str(error).removeprefix("--").removeprefix("workdir: ")
            raise ValueError(f"--teachers: {sentence}") from error
        config = agents.config_of(dqn.Config, settings)
        net = q_network.make(theirs.spec, config.network, config.torso, config.hidden)
        one = run.num_seeds == 1
        params = jax.tree.map(
            lambda x, one=one: x[None] if one else x, jax.device_get(state.params)
        )
        taught = [name for name in theirs.spec.task_names if name in suite.spec.task_names]
        new = [name for name in taught if name not in found]
        for name in new:
            number = theirs.spec.task_names.index(name)
            made = teacher.make(net, params, number, features=features)
            found[name] = (made, config.hidden, step)
        own = count(params.task) // theirs.spec.num_tasks * len(new)
        size += (own + bool(new) * count(params.shared)) // run.num_seeds
    lacking = [name for name in suite.spec.task_names if name not in found]
    if lacking:
        raise ValueError(f"--teachers: no run has learnt {', '.join(lacking)}")
    chosen = [found[name] for name in suite.spec.task_names]
    teachers = tuple(one for one, *_ in chosen)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves([(m.shared, m.task, m.number) for m in teachers]):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    steps = tuple(step for *_, step in chosen)
    return Teachers(teachers, chosen[0][1], size, steps, digest.hexdigest()[:16])
