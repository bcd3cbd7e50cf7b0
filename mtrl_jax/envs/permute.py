"""The permuted-action control: the same suite with the actions of each task renamed at random.

Observations and rewards still match between tasks, but the same action means something else in
each, so one policy for all tasks must fail where policies of their own need not.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.envs.pool import check_actions
from mtrl_jax.types import (
    Array,
    ArrayTree,
    EnvSpec,
    FunctionalEnv,
    FunctionalSuite,
    HostSuite,
    Key,
    Pool,
    Timestep,
)

__all__ = ["permutation", "permute_actions"]


def permutation(seed: int, num_tasks: int, num_actions: int) -> np.ndarray:
    """int32 `[K, A]`: the environment's action for each of the agent's, one row a task."""
    rng = np.random.default_rng([seed, num_actions])
    return rng.permuted(np.tile(np.arange(num_actions, dtype=np.int32), (num_tasks, 1)), axis=1)


def permute_actions(suite: FunctionalSuite | HostSuite, seed: int) -> FunctionalSuite | HostSuite:
    """Wraps a suite of either kind; `seed` fixes the permutation of every task.

    Raises:
      ValueError: if actions are continuous.
    """
    spec = suite.spec
    if spec.action_size:
        raise ValueError("permute_actions needs discrete actions; those of this suite are not")
    table = permutation(seed, spec.num_tasks, spec.num_actions)
    spec = spec._replace(action_mask=np.take_along_axis(spec.action_mask, table, axis=1))
    if isinstance(suite, HostSuite):
        make_pool = functools.partial(_make_pool, suite.make_pool, spec, table)
        # What it takes (pictures, say) is what the suite's own takes.
        return HostSuite(spec, functools.update_wrapper(make_pool, suite.make_pool), suite.max_envs)
    kind = _DrawnEnv if hasattr(suite.env, "render") else _PermutedEnv
    return FunctionalSuite(spec, kind(suite.env), _PermutedTask(suite.tasks, table))


class _PermutedTask(NamedTuple):
    task: ArrayTree
    action: Any  # int32 [A]


class _PermutedEnv(NamedTuple):
    env: FunctionalEnv

    def reset(self, key: Key, task: _PermutedTask) -> tuple[ArrayTree, Timestep]:
        return self.env.reset(key, task.task)

    def step(
        self, key: Key, state: ArrayTree, action: Array, task: _PermutedTask
    ) -> tuple[ArrayTree, Timestep, Array]:
        return self.env.step(key, state, task.action[action], task.task)


class _DrawnEnv(_PermutedEnv):
    """Of an environment that can draw itself."""

    def render(self, state: ArrayTree, task: _PermutedTask) -> np.ndarray:
        return self.env.render(state, task.task)  # type: ignore[attr-defined]


class _PermutedPool:
    """A pool whose actions go through the table; everything else is passed on."""

    def __init__(self, pool: Pool, spec: EnvSpec, table: np.ndarray) -> None:
        self.spec = spec
        self.num_groups = pool.num_groups
        self._pool = pool
        self._table = table

    def reset(self, group: int) -> Timestep:
        return self._pool.reset(group)

    def send(self, group: int, action: np.ndarray) -> None:
        num_tasks, num_actions = self._table.shape
        action = np.asarray(action)
        num_envs = action.shape[-1] if action.ndim == 2 else 0
        action = check_actions(action, num_tasks, num_envs, num_actions)
        self._pool.send(group, np.take_along_axis(self._table, action.astype(np.intp), axis=1))

    def recv(self, group: int) -> Timestep:
        return self._pool.recv(group)

    def render(self, group: int = 0) -> list[np.ndarray]:
        return self._pool.render(group)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._pool.close()


def _make_pool(make_pool: Any, spec: EnvSpec, table: np.ndarray, *args: Any, **kwargs: Any) -> Pool:
    return _PermutedPool(make_pool(*args, **kwargs), spec, table)
