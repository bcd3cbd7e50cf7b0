"""One method on trials of Meta-World, seed after seed, each in a directory of its own.

seed<n>/config.json, checkpoints/, metrics.jsonl, scores.json    as `run` has them of all seeds

What an update plays depends on the seed and the update's number alone, since a pool's draws can be
counted (`envs.trials`): a killed run ends with the numbers of the whole one.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mtrl_jax import memory
from mtrl_jax.algorithms.few_shot import HostLearner, Score
from mtrl_jax.envs.envpool_spec import TaskSpec
from mtrl_jax.envs.trials import TrialFamily, TrialPool

from ..common import steps
from .asked import TEST_SEED, Asked, keys_of
from .host_presets import host_learner, trials
from .pools import Pools, test_slots, training_seed

__all__ = ["check", "run"]

LOG_EVERY, CHECKPOINT_EVERY = 5, 50  # updates
_COPY_BYTES = 20 << 20


def check(asked: Asked, folder: pathlib.Path) -> bool:
    """Whether `folder` holds all seeds of this very run, finished.

    Raises:
      ValueError: for numbers that cannot be, or a folder of another run; nothing is written.
    """
    family, made = trials(asked.tasks), host_learner(asked.tasks, asked.plan.config, asked.curve)
    test_slots(asked.test_tasks, len(family.test))
    copies = made.num_slots * made.copies
    what = f"meta_batch = {made.num_slots} times {made.copies} episodes of a task"
    memory.check(what, copies * _COPY_BYTES, copies)
    return all([steps.finished(f, one.settings()) for one, f in _seeds(asked, folder)])


def run(asked: Asked, folder: pathlib.Path) -> dict[str, Any]:
    """The scores of all seeds; learns and scores what is left.

    Raises:
      ValueError: as `check`.
    """
    check(asked, folder)
    found = [
        steps.scores(f, one.settings(), lambda one=one, f=f: _scores(one, f))  # type: ignore[misc]
        for one, f in _seeds(asked, folder)
    ]
    merged = jax.tree.map(
        lambda *x: np.concatenate(x, -1).tolist(), *found, is_leaf=lambda x: isinstance(x, list)
    )
    return dict(merged)


def _seeds(asked: Asked, folder: pathlib.Path) -> list[tuple[Asked, pathlib.Path]]:
    seeds = range(asked.seed, asked.seed + asked.num_seeds)
    return [(asked._replace(seed=n, num_seeds=1), folder / f"seed{n}") for n in seeds]


def _scores(asked: Asked, folder: pathlib.Path) -> dict[str, Any]:
    """Of one seed: learns what is left, and scores."""
    family, made = trials(asked.tasks), host_learner(asked.tasks, asked.plan.config, asked.curve)
    state = jax.jit(made.init)(keys_of(asked, 0)[0])
    if asked.plan.updates:
        state = _learn(asked, family, made, folder, state)
    key = keys_of(asked, 2)[0]
    slots, draws = test_slots(asked.test_tasks, len(family.test))
    found = {"test": _score(made, state, family.test, TEST_SEED, slots, draws, key)}
    known = min(asked.test_tasks, made.train_tasks or asked.test_tasks)
    draws = max(known // made.num_slots, 1)
    seed, key = training_seed(asked.seed, 0), jax.random.fold_in(key, 1)
    found["train"] = _score(made, state, family.train, seed, made.num_slots, draws, key)
    return found


def _learn(
    asked: Asked, family: TrialFamily, made: HostLearner, folder: pathlib.Path, state: Any
) -> Any:
    """The state after the last update, from the newest checkpoint on."""
    pools, key = Pools(family, made, asked.seed), keys_of(asked, 1)[0]

    def advance(state: Any, begin: int, end: int) -> Any:
        rows = []
        for n in range(begin, end):
            state, values = made.update(state, pools.at(n), jax.random.fold_in(key, n))
            rows.append(values)
        return state, jax.tree.map(lambda *x: np.mean([np.asarray(y) for y in x]), *rows)

    try:
        return steps.learn(
            f"{asked.method} {asked.seed}",
            folder,
            state,
            asked.plan.updates,
            advance,
            log_every=LOG_EVERY,
            checkpoint_every=CHECKPOINT_EVERY,
            unit="update",
        )
    finally:
        pools.close()


def _score(
    made: HostLearner,
    state: Any,
    environments: Sequence[TaskSpec],
    seed: int,
    slots: int,
    draws: int,
    key: jax.Array,
) -> dict[str, Any]:
    """Means over tasks: `curve` and `success` `[N][1]`, `online` `[1]`, and by environments."""
    pool = TrialPool(environments, slots, made.eval_copies, seed)
    each = [made.evaluate(state, pool, jax.random.fold_in(key, n)) for n in range(draws)]
    pool.close()
    score = Score(*(np.concatenate([np.asarray(y) for y in x]) for x in zip(*each, strict=True)))
    found: dict[str, Any] = {
        "curve": _column(score.curve),
        "success": _column(score.success),
        "online": [round(float(score.online.mean()), 5)],
    }
    if len(environments) > 1:  # slot m is of environment m % K, and so is every draw's
        known = len(environments)
        found["environments"] = {
            task.name: {
                "curve": _column(score.curve[n::known]),
                "success": _column(score.success[n::known]),
            }
            for n, task in enumerate(environments)
        }
    return found


def _column(x: np.ndarray) -> list[list[float]]:
    """Means over tasks `[M, N]`, as `[N][1]`."""
    rounded: list[list[float]] = np.round(x.mean(0)[:, None].astype(float), 5).tolist()
    return rounded
