"""The environments of several functional suites as one family, with observations of one shape."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import over_tasks
from mtrl_jax.types import (
    Array,
    ArrayTree,
    EnvSpec,
    FunctionalEnv,
    FunctionalSuite,
    Key,
    Timestep,
)

__all__ = ["Padded", "functional"]


class _Task(NamedTuple):
    """A task: the number of its suite, int32, and a task of every suite, of which that suite's own
    is the one that counts."""

    which: Any
    own: tuple[ArrayTree, ...]


class Padded(NamedTuple):
    """A `FunctionalEnv` of the environments of several suites; its state has one of each, of which
    the task's own counts.

    Attributes:
      envs: of the suites.
      specs: of the suites.
      shape: of an observation.
    """

    envs: tuple[FunctionalEnv, ...]
    specs: tuple[EnvSpec, ...]
    shape: tuple[int, ...]

    def reset(self, key: Key, task: _Task) -> tuple[ArrayTree, Timestep]:
        each = [env.reset(key, own) for env, own in zip(self.envs, task.own, strict=True)]
        rows = [self._widened(i, row) for i, (_, row) in enumerate(each)]
        return tuple(state for state, _ in each), _picked(task.which, rows)

    def step(
        self, key: Key, state: ArrayTree, action: Array, task: _Task
    ) -> tuple[ArrayTree, Timestep, Array]:
        states, found = [], []
        for i, env in enumerate(self.envs):
            after, row, ended = env.step(key, state[i], self._cut(i, action), task.own[i])
            mine = jnp.asarray(task.which) == i  # the others stand still
            states.append(jax.tree.map(lambda a, b, m=mine: jnp.where(m, a, b), after, state[i]))
            found.append((self._widened(i, row), ended))
        return tuple(states), *_picked(task.which, found)

    def reset_tasks(self, key: Key, tasks: _Task) -> tuple[ArrayTree, Timestep]:
        """`reset` with keys `[K, E]` and tasks `[K]`, each environment for its own rows only."""
        if isinstance(tasks.which, jax.core.Tracer):  # which tasks these are is not known yet
            return jax.vmap(jax.vmap(self.reset, (0, None)))(key, tasks)
        found = {}
        for i, at in self._places(tasks):
            reset, _ = over_tasks(self.envs[i])
            state, row = reset(key[at], _rows(tasks.own[i], at))
            found[i] = (at, state, self._widened(i, row))
        return self._all_states(found, tasks), _in_order(found)

    def step_tasks(
        self, key: Key, state: ArrayTree, action: Array, tasks: _Task
    ) -> tuple[ArrayTree, Timestep, Array]:
        """`step` with leaves `[K, E, ...]` and tasks `[K]`."""
        if isinstance(tasks.which, jax.core.Tracer):
            step_all = jax.vmap(jax.vmap(self.step, (0, 0, 0, None)))
            return step_all(key, state, action, tasks)
        found = {}
        for i, at in self._places(tasks):
            _, step = over_tasks(self.envs[i])
            before, own = _rows(state[i], at), _rows(tasks.own[i], at)
            after, row, ended = step(key[at], before, self._cut(i, action[at]), own)
            found[i] = (at, after, (self._widened(i, row), ended))
        return self._all_states(found, tasks), *_in_order(found)

    def _cut(self, i: int, action: Array) -> Array:
        """An action, of any batch, as environment `i` has it."""
        size, number = self.specs[i].action_size, self.specs[i].num_actions
        return action[..., :size] if size else jnp.where(action < number, action, 0)

    def _widened(self, i: int, row: Timestep) -> Timestep:
        x, own = row.observation, self.specs[i].observation_shape
        if own == self.shape:
            return row
        x = x.reshape(*x.shape[: x.ndim - len(own)], -1)
        zeros = [(0, 0)] * (x.ndim - 1) + [(0, self.shape[0] - x.shape[-1])]
        return row._replace(observation=jnp.pad(x, zeros))

    def _places(self, tasks: _Task) -> Iterator[tuple[int, np.ndarray]]:
        """Each environment that is played, and the places of its tasks."""
        for i in range(len(self.envs)):
            at = np.flatnonzero(np.asarray(tasks.which) == i)
            if len(at):
                yield i, at

    def _all_states(self, found: dict[int, Any], tasks: _Task) -> ArrayTree:
        """States `[K, E, ...]` of every environment that is played; where it is not the task's own,
        one of its states, that nobody reads."""
        every = np.arange(len(np.asarray(tasks.which)))

        def spread(i: int) -> ArrayTree:
            if i not in found:
                return ()
            at, state, _ = found[i]
            return _rows(state, np.minimum(np.searchsorted(at, every), len(at) - 1))

        return tuple(map(spread, range(len(self.envs))))


class _Drawn(Padded):
    """Of environments that can draw themselves."""

    def render(self, state: ArrayTree, task: _Task) -> np.ndarray:
        i = int(task.which)
        return self.envs[i].render(state[i], task.own[i])  # type: ignore[attr-defined]


def functional(suites: Sequence[FunctionalSuite], spec: EnvSpec) -> FunctionalSuite:
    """A suite of all tasks of `suites`, in their order; `spec` is of all of them."""
    counts = [s.spec.num_tasks for s in suites]
    which = np.repeat(np.arange(len(suites), dtype=np.int32), counts)
    place = np.concatenate([np.arange(n) for n in counts])
    own = tuple(_rows(s.tasks, np.where(which == i, place, 0)) for i, s in enumerate(suites))
    envs, specs = tuple(s.env for s in suites), tuple(s.spec for s in suites)
    kind = _Drawn if all(hasattr(env, "render") for env in envs) else Padded
    return FunctionalSuite(spec, kind(envs, specs, spec.observation_shape), _Task(which, own))


def _rows(tree: ArrayTree, at: np.ndarray) -> ArrayTree:
    return jax.tree.map(lambda x: x[at], tree)  # of NumPy arrays NumPy, which programs may know


def _picked(which: Any, each: Sequence[ArrayTree]) -> ArrayTree:
    """The `which`-th of trees of one structure."""
    return jax.tree.map(lambda *x: jax.lax.select_n(jnp.asarray(which, jnp.int32), *x), *each)


def _in_order(found: dict[int, Any]) -> ArrayTree:
    """What environments gave for their own tasks, `[K, E, ...]` in the order of the tasks."""
    order = np.argsort(np.concatenate([at for at, _, _ in found.values()]))
    rows = [row for _, _, row in found.values()]
    return jax.tree.map(lambda *x: jnp.concatenate(x)[order], *rows)
