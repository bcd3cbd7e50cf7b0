"""Data sets: episodes of random, medium and expert policies, of a run or of one trained for it.

<data>/random.npz, medium.npz, expert.npz      `mtrl_jax.recorded`
<data>/teacher/                                the run, where none is given

The expert is the newest checkpoint, medium the kept one whose mean return is nearest to halfway
between a uniform policy's and the expert's. Actions are drawn as in training, not the likeliest.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import checkpoint, engines, evaluate, recorded, rollout
from mtrl_jax.types import Agent, ArrayTree, FunctionalSuite, Key

from ..common import agents, runs
from .presets import teacher

__all__ = ["LEVELS", "Asked", "check", "collect", "path_of", "record"]

LEVELS = ("random", "medium", "expert")


class Asked(NamedTuple):
    """What is to be recorded.

    Attributes:
      suite: its name.
      folder: of the files.
      episodes: of every task, at every level.
      seed: of the episodes, and of the teacher, where one is trained.
      run: the directory of a run to record from; None: train one.
      steps: of each task, of the teacher that is trained; 0: the preset's.
    """

    suite: str
    folder: pathlib.Path
    episodes: int
    seed: int
    run: pathlib.Path | None
    steps: int = 0


def path_of(folder: pathlib.Path, level: str) -> pathlib.Path:
    """Where a level lies."""
    return folder / f"{level}.npz"


def check(asked: Asked, suite: FunctionalSuite) -> None:
    """Raises ValueError for what cannot be recorded, or a folder that holds other recordings."""
    recorded.check_relabels(suite, asked.suite)
    if asked.run is not None:
        settings, _ = runs.read(asked.run)
        if settings["suite"] != asked.suite or settings["permute_actions"] is not None:
            raise ValueError(
                f"--from_run: {asked.run} is of suite {settings['suite']}, not of {asked.suite}, "
                "or permutes its actions"
            )
    for level in LEVELS:
        path = path_of(asked.folder, level)
        if path.exists() and not _done(asked, path, suite):
            raise ValueError(f"--data: {path} holds another recording; choose another folder")


def record(asked: Asked, suite: FunctionalSuite) -> dict[str, float]:
    """Writes what is missing, and gives every level's mean return.

    Raises:
      ValueError: as `check`, or for a run without a checkpoint.
    """
    check(asked, suite)
    if all(path_of(asked.folder, level).exists() for level in LEVELS):
        return {level: _read(asked, level, suite) for level in LEVELS}
    folder = asked.run or asked.folder / "teacher"
    if asked.run is None:
        settings, config = teacher(asked.suite, suite.spec, asked.seed, asked.steps)
        agent = agents.make(suite.spec, settings)
        runs.learn("teacher", suite, agent, config, settings, folder)
    settings, config = runs.read(folder)
    agent = agents.make(suite.spec, settings, 1)
    key = engines.stream(jax.random.key(asked.seed), "eval")
    policies = _policies(suite, agent, config, folder, key)
    found = {}
    for n, level in enumerate(LEVELS):
        actor = evaluate.random_agent(suite.spec) if level == "random" else agent
        step, policy = policies[level]
        name = "" if level == "random" else str(folder.name)
        header = {"level": level, "source": {"run": name, "step": step}, **_identity(asked, suite)}
        rows = collect(suite, actor, policy, jax.random.fold_in(key, n), asked.episodes)
        recorded.save(path_of(asked.folder, level), recorded.Recording(header, **rows))
        found[level] = _read(asked, level, suite)
    return found


def collect(
    suite: FunctionalSuite, agent: Agent, policy: ArrayTree, key: Key, episodes: int
) -> dict[str, np.ndarray]:
    """Whole episodes of every task as the arrays of a `Recording`, by task, episode and time."""
    index = jnp.asarray(rollout.env_indices(suite.spec.num_tasks, episodes))
    act = rollout.acting(agent, greedy=False)
    reset_key, unroll_key = jax.random.split(key)

    def play(policy: ArrayTree) -> Any:
        loop = rollout.init_env_loop(suite, reset_key, index, agent.init_actor)
        limit = evaluate.episode_limit(suite.spec)
        return rollout.unroll(suite, act, policy, loop, unroll_key, limit)[1]

    played = jax.device_get(jax.jit(play)(policy))
    rows = played.timestep
    first = np.logical_or.accumulate(rows.first[1:], axis=0)  # the next episode has begun
    keep = np.moveaxis(rows.valid[1:] & ~first, 0, 2)  # [K, E, T]
    task, episode, _ = np.indices(keep.shape, np.int32)

    def flat(x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x, 0, 2)[keep]

    return {
        "observation": flat(rows.observation[:-1]),
        "action": _within(flat(played.action)),
        "reward": flat(rows.reward[1:]).astype(np.float32),
        "ended": flat(rows.discount[1:] == 0),
        "next_observation": flat(rows.observation[1:]),
        "task": task[keep],
        "episode": episode[keep],
    }


def _within(action: np.ndarray) -> np.ndarray:
    """As the environment takes it."""
    return np.clip(action, -1.0, 1.0) if action.dtype.kind == "f" else action


def _identity(asked: Asked, suite: FunctionalSuite) -> dict[str, Any]:
    """What tells two recordings of a level apart."""
    return {
        "suite": asked.suite,
        "task_names": list(suite.spec.task_names),
        "episodes": asked.episodes,
        "seed": asked.seed,
        "from_run": "" if asked.run is None else str(asked.run),
        "teacher_steps": asked.steps,
    }


def _done(asked: Asked, path: pathlib.Path, suite: FunctionalSuite) -> bool:
    header = recorded.load(path, suite.spec, asked.suite).header
    return all(header.get(name) == value for name, value in _identity(asked, suite).items())


def _read(asked: Asked, level: str, suite: FunctionalSuite) -> float:
    """Mean return of an episode."""
    found = recorded.load(path_of(asked.folder, level), suite.spec, asked.suite)
    return float(found.reward.sum(dtype=np.float64) / (asked.episodes * suite.spec.num_tasks))


def _policies(
    suite: FunctionalSuite,
    agent: Agent,
    config: engines.RunConfig,
    folder: pathlib.Path,
    key: Key,
) -> dict[str, tuple[int, ArrayTree]]:
    """Step and policy of each level, of the first seed of a run."""
    score = evaluate.scorer(suite, agent, 32, greedy=False)
    none = evaluate.scorer(suite, evaluate.random_agent(suite.spec), 32)((), key)
    with checkpoint.open_manager(folder / "checkpoints", read_only=True) as manager:
        steps = sorted(manager.all_steps())
    if not steps:
        raise ValueError(f"--from_run: {folder} has no checkpoint yet")
    policies, returns = {}, {}
    for step in steps:
        _, state = runs.restore(folder, config, suite, agent, step)
        if config.num_seeds > 1:
            state = jax.tree.map(lambda x: x[0], state)
        policies[step] = agent.policy_params(state)
        returns[step] = float(score(policies[step], key).episode_return.mean())
    half = (float(none.episode_return.mean()) + returns[steps[-1]]) / 2
    medium = min(steps, key=lambda step: abs(returns[step] - half))
    return {
        "random": (0, ()),
        "medium": (medium, policies[medium]),
        "expert": (steps[-1], policies[steps[-1]]),
    }
