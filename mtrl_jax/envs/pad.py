"""Tasks that differ in shape as one suite: observations are padded, actions masked or cut::

    python -m experiments.dqn --suite=gymnasium:CartPole-v1,Acrobot-v1 --pad

Where observations differ in shape they are flattened, and zeros follow up to the widest;
`EnvSpec.observation_mask` says what is real. Where actions differ, `EnvSpec.action_mask` says which
of them a task has: of discrete ones the first (another one, which no agent chooses, is sent as 0),
of a continuous one the first coordinates, and no others are sent.

Nothing of an environment changes, so suites of any libraries can be joined.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax import by_name
from mtrl_jax.envs.pad_functional import functional
from mtrl_jax.envs.pool import check_actions, check_continuous_actions, environment_seeds
from mtrl_jax.types import EnvSpec, FunctionalSuite, HostSuite, Pool, Timestep

__all__ = ["PaddedPool", "join"]

_OPTIONS = ("render", "stagger")  # that a `make_pool` may take


class _Shape(NamedTuple):
    """What all tasks are padded to."""

    observation: tuple[int, ...]
    num_actions: int
    action_size: int


def join(suites: Sequence[FunctionalSuite | HostSuite]) -> FunctionalSuite | HostSuite:
    """One suite of the tasks of several, in their order.

    Args:
      suites: all functional, or all on the host; one alone is returned as it is.

    Raises:
      ValueError: no suites, both kinds, a task name twice, or two suites that cannot be padded to
        one shape: pictures of two sizes, classes of two vocabularies, two dtypes, or discrete and
        continuous actions.
    """
    suites = tuple(suites)
    if not suites or not all(isinstance(s, FunctionalSuite | HostSuite) for s in suites):
        kinds = ", ".join(type(s).__name__ for s in suites) or "none"
        raise ValueError(
            f"suites must be FunctionalSuites or HostSuites, at least one; got {kinds}"
        )
    if len({type(s) for s in suites}) > 1:
        raise ValueError("suites must be all FunctionalSuites or all HostSuites; got both")
    names = [name for s in suites for name in s.spec.task_names]
    twice = [name for n, name in enumerate(names) if name in names[:n]]
    if twice:
        raise ValueError(f"task names must differ in one suite; got {twice[0]!r} twice")
    first = suites[0].spec
    for other in suites[1:]:
        if reason := _reason(first, other.spec):
            raise ValueError(
                f"{first.task_names[0]} and {other.spec.task_names[0]} cannot be padded to one "
                f"shape: {reason}"
            )
    return suites[0] if len(suites) == 1 else _joined(suites, _widest([s.spec for s in suites]))


def _reason(a: EnvSpec, b: EnvSpec) -> str:
    """Why two do not go together; "" if they do."""
    shapes = a.observation_shape, b.observation_shape
    dtypes = np.dtype(a.observation_dtype), np.dtype(b.observation_dtype)
    if dtypes[0] != dtypes[1]:
        return f"observations are {dtypes[0]} and {dtypes[1]}"
    if not np.array_equal(np.asarray(a.vocabulary), np.asarray(b.vocabulary)):
        return "observations are classes of two vocabularies"
    vectors = dtypes[0].kind == "f" and max(map(len, shapes)) <= 2
    if shapes[0] != shapes[1] and not vectors:
        return f"observations {list(shapes[0])} and {list(shapes[1])} are no vectors of floats"
    if bool(a.action_size) != bool(b.action_size):
        return "the actions of one are discrete, those of the other are not"
    return ""


def _widest(specs: Sequence[EnvSpec]) -> _Shape:
    shapes = {spec.observation_shape for spec in specs}
    flat = (max(int(np.prod(shape)) for shape in shapes),)
    return _Shape(
        shapes.pop() if len(shapes) == 1 else flat,
        max(spec.num_actions for spec in specs),
        max(spec.action_size for spec in specs),
    )


def _joined(suites: tuple[Any, ...], shape: _Shape) -> FunctionalSuite | HostSuite:
    """A suite of that shape, of suites that go together."""
    spec = _spec([s.spec for s in suites], shape)
    if isinstance(suites[0], FunctionalSuite):
        return functional(suites, spec)
    make_pool = functools.partial(PaddedPool, spec, suites)
    # What it takes is what all of them take.
    least = min(suites, key=lambda s: sum(by_name.accepts(s.make_pool, n) for n in _OPTIONS))
    limits = [s.max_envs for s in suites if s.max_envs]
    places = [(s, place) for s in suites for place in range(s.spec.num_tasks)]

    def alone(suite: HostSuite, place: int) -> HostSuite:
        return suite if suite.spec.num_tasks == 1 else suite.part([place])

    def part(indices: Sequence[int]) -> FunctionalSuite | HostSuite:
        return _joined(tuple(alone(*places[i]) for i in indices), shape)

    return HostSuite(
        spec,
        functools.update_wrapper(make_pool, least.make_pool),
        max_envs=min(limits, default=0),
        part=part if all(s.part or s.spec.num_tasks == 1 for s in suites) else None,
    )


def _spec(specs: Sequence[EnvSpec], shape: _Shape) -> EnvSpec:
    seen = np.concatenate([_seen(spec, shape.observation) for spec in specs])
    may = np.concatenate([_may(spec, shape.num_actions or shape.action_size) for spec in specs])
    return specs[0]._replace(
        task_names=tuple(name for spec in specs for name in spec.task_names),
        observation_shape=shape.observation,
        num_actions=shape.num_actions,
        action_mask=may[:, :0] if shape.action_size and may.all() else may,
        episode_limit=np.concatenate([spec.episode_limit for spec in specs]),
        has_success=all(spec.has_success for spec in specs),
        action_size=shape.action_size,
        observation_mask=None if seen.all() else seen,
    )


def _seen(spec: EnvSpec, shape: tuple[int, ...]) -> np.ndarray:
    """bool `[K, *shape]`, what of an observation a suite's tasks have."""
    mask = spec.observation_mask
    if mask is None:
        mask = np.ones((spec.num_tasks, *spec.observation_shape), bool)
    return (
        mask if spec.observation_shape == shape else _wider(mask.reshape(len(mask), -1), shape[0])
    )


def _may(spec: EnvSpec, width: int) -> np.ndarray:
    """bool `[K, width]`, what of an action they have."""
    mask = np.asarray(spec.action_mask)
    if spec.action_size and not mask.size:
        mask = np.ones((spec.num_tasks, spec.action_size), bool)
    return _wider(mask, width)


def _wider(mask: np.ndarray, width: int) -> np.ndarray:
    return np.pad(mask, ((0, 0), (0, width - mask.shape[1])))


class PaddedPool:
    """The pools of several suites as one; see `mtrl_jax.types.Pool` for the protocol."""

    def __init__(
        self,
        spec: EnvSpec,
        suites: Sequence[HostSuite],
        num_envs: int,
        seed: int,
        num_groups: int = 1,
        **options: Any,
    ) -> None:
        """Makes a pool of each suite, whose seed is of its own.

        Args:
          spec: of all of them.
          suites: in the order of `spec`.
          num_envs: E, of each task.
          seed: any non-negative integer.
          num_groups: G, a divisor of E.
          **options: `render` and `stagger`, of suites that take them.

        Raises:
          ValueError: as the suites' own.
        """
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.spec = spec
        self.num_groups = num_groups
        self._size = num_envs // num_groups
        self._pools: list[Pool] = []
        self._tasks: list[slice] = []  # of each pool
        seeds = [int(environment_seeds(seed, i, 1)[0]) for i in range(len(suites))]
        start = 0
        try:
            for suite, own in zip(suites, seeds, strict=True):
                self._pools.append(suite.make_pool(num_envs, own, num_groups, **options))
                self._tasks.append(slice(start, start := start + suite.spec.num_tasks))
        except BaseException:
            self.close()
            raise

    def reset(self, group: int) -> Timestep:
        """The first row of a group, leaves `[K, E / G, ...]`; called once."""
        return self._padded([pool.reset(group) for pool in self._pools])

    def send(self, group: int, action: np.ndarray) -> None:
        """Starts a step and returns at once.

        Args:
          group: in `[0, G)`.
          action: int `[K, E / G]` in `[0, A)`, where 0 is sent for what `spec.action_mask` forbids;
            or float `[K, E / G, A]`, cut off to [-1, 1], of which a task is sent what it has.

        Raises:
          ValueError: a wrong action, in which case nothing is sent; or the group is being stepped.
        """
        spec, batch = self.spec, (self.spec.num_tasks, self._size)
        if spec.action_size:
            action = check_continuous_actions(action, *batch, spec.action_size)
        else:
            action = check_actions(action, *batch, spec.num_actions)
            legal = np.take_along_axis(spec.action_mask, action.astype(np.intp), axis=1)
            action = np.where(legal, action, 0)
        for pool, tasks in zip(self._pools, self._tasks, strict=True):
            pool.send(group, action[tasks][..., : pool.spec.action_size or None])

    def recv(self, group: int) -> Timestep:
        """Waits for what `send` started; leaves `[K, E / G, ...]`, the caller's to keep."""
        return self._padded([pool.recv(group) for pool in self._pools])

    def render(self, group: int = 0) -> list[np.ndarray]:
        """A picture of each task's first environment in a group, between steps."""
        return [picture for pool in self._pools for picture in pool.render(group)]  # type: ignore[attr-defined]

    def close(self) -> None:
        """Closes all pools."""
        for pool in self._pools:
            pool.close()

    def _padded(self, rows: list[Timestep]) -> Timestep:
        spec = self.spec
        observation = np.zeros(
            (spec.num_tasks, self._size, *spec.observation_shape), spec.observation_dtype
        )
        for row, tasks in zip(rows, self._tasks, strict=True):
            seen = row.observation
            if seen.shape[2:] == spec.observation_shape:
                observation[tasks] = seen
            else:
                flat = seen.reshape(*seen.shape[:2], -1)
                observation[tasks, :, : flat.shape[-1]] = flat
        fields = [np.concatenate([row[i] for row in rows]) for i in range(1, len(Timestep._fields))]
        return Timestep(observation, *fields)
