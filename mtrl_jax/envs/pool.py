"""Pools of host environments, by envpool: NumPy in, NumPy out.

How it is driven, and why:
  * One envpool pool for each task and group, one thread each. Every round sends to all pools
    before it receives from any, so that they step at the same time; with two groups or more, one
    group's environments run while the results of another are used.
  * The raw `_send` and `_recv` are used where they exist: the public ones cost 20 to 50
    microseconds more a pool and step, and drop `step_type`.
  * envpool resets on the step after an episode's end: that row's action is ignored and its reward
    is meaningless (not zero in several families). The row after it is recognised by
    `step_type == 0`; `elapsed_step == 0` would be wrong for some options.
  * Actions are checked before they are sent: envpool ends the process, or reads past its tables,
    when it gets an action of the wrong length or range.
  * A pool can be neither copied, saved nor seeded again: it is rebuilt from `(ids, seed)`. It must
    not be used after a fork.
"""

import ctypes
import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl_jax.envs.draw import check_can_draw
from mtrl_jax.envs.envpool_spec import Encoding, TaskSpec, describe, shared_spec
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import EnvSpec, HostSuite, Timestep

__all__ = [
    "EnvpoolPool",
    "check_actions",
    "check_continuous_actions",
    "environment_seeds",
    "envpool_suite",
    "suite_of",
]

# Environments of one family hold a physics model of some megabytes each (13 in Meta-World).
MAX_METAWORLD_ENVS = 10


def envpool_suite(env_ids: Sequence[str], image_size: int = 0) -> HostSuite:
    """A suite of envpool ids with one observation space and one action space.

    Args:
      env_ids: of its tasks.
      image_size: pixels of a side of the picture, for Atari; 0: 84.

    Returns:
      As `suite_of`.

    Raises:
      ValueError: an id is unknown or unsupported, or two ids do not go together.
      ImportError: envpool is not installed.
    """
    return suite_of([describe(env_id, image_size) for env_id in env_ids])


def suite_of(tasks: Sequence[TaskSpec]) -> HostSuite:
    """A suite of described tasks.

    Returns:
      `HostSuite(spec, make_pool)` with `make_pool(num_envs, seed, num_groups=1, render=False)`. No
      pool is built before `make_pool` is called.

    Raises:
      ValueError: as `shared_spec`.
    """
    large = any(task.env_id.startswith("MetaWorld/") for task in tasks)
    return HostSuite(
        shared_spec(tasks),
        functools.partial(EnvpoolPool, tuple(tasks)),
        max_envs=MAX_METAWORLD_ENVS if large else 0,
        part=lambda indices: suite_of([tasks[i] for i in indices]),
    )


def check_actions(action: Any, num_tasks: int, num_envs: int, num_actions: int) -> np.ndarray:
    """Returns `action` as an array if it is int `[num_tasks, num_envs]` in `[0, num_actions)`.

    Raises:
      ValueError: it is not; the message names what came and what was expected.
    """
    action = np.asarray(action)
    if action.shape != (num_tasks, num_envs):
        raise ValueError(f"action must have shape {(num_tasks, num_envs)}, got {action.shape}")
    if action.dtype.kind not in "iu":
        raise ValueError(f"action must be of an integer dtype, got {action.dtype}")
    low, high = action.min(), action.max()
    if low < 0 or high >= num_actions:
        raise ValueError(f"action must be in [0, {num_actions}), got values in [{low}, {high}]")
    return action


def check_continuous_actions(action: Any, num_tasks: int, num_envs: int, size: int) -> np.ndarray:
    """Returns `action` cut off to [-1, 1], float32 `[num_tasks, num_envs, size]`.

    Raises:
      ValueError: it has another shape, is not of a floating dtype, or is not finite (envpool would
        step on with a NaN in it); the message names what came and what was expected.
    """
    action = np.asarray(action)
    shape = (num_tasks, num_envs, size)
    if action.shape != shape:
        raise ValueError(f"action must have shape {shape}, got {action.shape}")
    if action.dtype.kind != "f":
        raise ValueError(f"action must be of a floating dtype, got {action.dtype}")
    if not np.isfinite(action).all():
        task = int(np.argwhere(~np.isfinite(action))[0][0])
        raise ValueError(f"action must be finite, got {action[task].tolist()} for task {task}")
    return np.clip(action.astype(np.float32), -1.0, 1.0)


def environment_seeds(seed: int, task: int, num_envs: int) -> np.ndarray:
    """int32 `[num_envs]`, one seed for each environment of a task; none depends on `num_envs`."""
    sequence = np.random.SeedSequence([seed, task])
    return (sequence.generate_state(num_envs) >> 1).astype(np.int32)


class EnvpoolPool:
    """K tasks of E environments each; see `mtrl_jax.types.Pool` for the protocol.

    Attributes:
      spec: of the suite.
      num_groups: G; a group is E / G environments of every task.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        num_envs: int,
        seed: int,
        num_groups: int = 1,
        render: bool = False,
        stagger: bool = False,
    ) -> None:
        """Builds the pools.

        Args:
          tasks: K of them, from `describe`.
          num_envs: E, of each task.
          seed: any non-negative integer.
          num_groups: G, a divisor of E.
          render: whether `render` will be called.
          stagger: whether environment e's first episode is cut off after e / E of its limit (a
            truncation, as any other), so that environments whose episodes are equally long are not
            all at the same point of theirs for ever.

        Raises:
          ValueError: `num_envs`, `num_groups` or `seed` out of range, nothing can be drawn here, or
            `stagger` where episodes have no limit.
        """
        check_value("num_envs", num_envs, Count)
        if num_groups < 1 or num_envs % num_groups:
            raise ValueError(f"num_groups must divide num_envs = {num_envs}, got {num_groups}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        physical = [task for task in tasks if task.action_low is not None]
        if render and physical:
            check_can_draw(physical[0].env_id)
        self.spec: EnvSpec = shared_spec(tasks)
        self.num_groups = num_groups
        self._tasks = tuple(tasks)
        self._size = num_envs // num_groups
        self._can_render = render
        self._success_ends = np.array([task.encoding.kind == "minigrid" for task in tasks])
        self._in_flight = [False] * num_groups
        seeds = [environment_seeds(seed, k, num_envs) for k in range(len(tasks))]
        if stagger and not self.spec.episode_limit.all():
            raise ValueError("stagger must be False where episodes have no limit")
        parts = np.arange(num_envs) if stagger else np.zeros(num_envs, int)
        groups = [slice(g * self._size, (g + 1) * self._size) for g in range(num_groups)]
        self._pools = [
            [
                _TaskPool(task, seeds[k][cut], render, parts[cut] * task.episode_limit // num_envs)
                for k, task in enumerate(tasks)
            ]
            for cut in groups
        ]

    def reset(self, group: int) -> Timestep:
        """The first row of a group, leaves `[K, E / G, ...]`; called once."""
        self._expect(group, in_flight=False)
        for pool in self._pools[group]:
            pool.reset()
        return self._collect(group)

    def send(self, group: int, action: np.ndarray) -> None:
        """Starts a step and returns at once.

        Args:
          group: in `[0, G)`.
          action: int `[K, E / G]` in `[0, A)`, where a no-op is sent for what `spec.action_mask`
            forbids; or float `[K, E / G, A]`, cut off to [-1, 1] and stretched to each task's own
            bounds (some rewards charge for what lies outside, though the dynamics ignore it).

        Raises:
          ValueError: a wrong action, in which case nothing is sent; or the group is being stepped.
        """
        self._expect(group, in_flight=False)
        spec = self.spec
        if spec.action_size:
            sizes = (spec.num_tasks, self._size, spec.action_size)
            action = check_continuous_actions(action, *sizes)
        else:
            action = check_actions(action, spec.num_tasks, self._size, spec.num_actions)
            legal = np.take_along_axis(spec.action_mask, action.astype(np.intp), axis=1)
            action = np.where(legal, action, 0)
        for pool, row in zip(self._pools[group], action, strict=True):
            pool.send(row)
        self._in_flight[group] = True

    def recv(self, group: int) -> Timestep:
        """Waits for what `send` started; leaves `[K, E / G, ...]`, the caller's to keep.

        Raises:
          ValueError: nothing was sent to this group.
        """
        self._expect(group, in_flight=True)
        self._in_flight[group] = False
        return self._collect(group)

    def render(self, group: int = 0) -> list[np.ndarray]:
        """A picture of each task's first environment in a group, uint8 `[H, W, 3]`, between steps.

        Raises:
          ValueError: the pool was made without `render=True`, or the group is being stepped.
        """
        self._expect(group, in_flight=False)
        if not self._can_render:
            raise ValueError("this pool was made without render=True")
        return [pool.render() for pool in self._pools[group]]

    def close(self) -> None:
        """Drops the pools. envpool has nothing to stop: a pool ends with its last reference."""
        self._pools = []
        _return_memory()

    def _expect(self, group: int, in_flight: bool) -> None:
        if not self._pools:
            raise ValueError("the pool is closed")
        if not 0 <= group < self.num_groups:
            raise ValueError(f"group must be in [0, {self.num_groups}), got {group}")
        if self._in_flight[group] != in_flight:
            wanted = "send must come before recv" if in_flight else "recv must come first"
            raise ValueError(f"group {group} is {'not ' * in_flight}being stepped: {wanted}")

    def _collect(self, group: int) -> Timestep:
        spec, batch = self.spec, (self.spec.num_tasks, self._size)
        observation = np.empty((*batch, *spec.observation_shape), spec.observation_dtype)
        reward = np.empty(batch, np.float32)
        ended, truncated, first, success = (np.empty(batch, np.bool_) for _ in range(4))
        for k, pool in enumerate(self._pools[group]):
            raw = pool.recv()
            encoding = self._tasks[k].encoding
            _observe(raw, encoding, observation[k])
            ended[k] = raw["done"]
            truncated[k] = raw["trunc"]
            np.equal(raw["step_type"], 0, out=first[k])
            if pool.task.score is None:
                reward[k] = raw["reward"]
                success[k] = _succeeded(raw, encoding.success)
            else:
                (reward[k], success[k], *_), pool.memory = pool.task.score(raw, pool.memory)
        valid = ~first
        reward[first] = 0.0  # whatever the library left there
        ended &= valid
        success &= valid
        # envpool calls an episode truncated whenever it ends on its last allowed step. A positive
        # last reward in MiniGrid says that it was solved there, which is a true end.
        truncated &= ~(success & self._success_ends[:, None])
        discount = 1.0 - (ended & ~truncated).astype(np.float32)
        return Timestep(observation, reward, discount, first, valid, success)


def _observe(raw: dict[str, np.ndarray], encoding: Encoding, out: np.ndarray) -> None:
    if encoding.kind == "minigrid":
        out[:, :-1] = raw["obs:image"].reshape(len(out), -1)
        out[:, -1] = raw["obs:direction"]
    elif encoding.kind == "vector":
        start = 0
        for key in encoding.keys:
            leaf = raw[key].reshape(len(out), -1)
            out[:, start : start + leaf.shape[1]] = leaf
            start += leaf.shape[1]
    else:
        out[...] = raw[encoding.keys[0]].reshape(out.shape)


def _succeeded(raw: dict[str, np.ndarray], rule: str) -> np.ndarray | bool:
    if rule == "reward":
        return raw["done"] & (raw["reward"] > 0)
    return raw[rule].reshape(raw["done"].shape) > 0 if rule else False


class _TaskPool:
    """One envpool pool behind three calls; `recv` returns the raw state by its envpool names.

    `cuts` `[E]` are the lengths of the first episodes, 0 for those that nobody cuts off.
    """

    def __init__(self, task: TaskSpec, seeds: np.ndarray, render: bool, cuts: np.ndarray) -> None:
        import envpool

        options = dict(task.options, render_mode="rgb_array") if render else task.options
        self._pool = envpool.make(
            task.env_id,
            env_type="gymnasium",
            num_envs=len(seeds),
            num_threads=1,
            seed=seeds.tolist(),
            **options,
        )
        self._ids = np.arange(len(seeds), dtype=np.int32)
        self.task = task
        self.memory: Any = None  # of `task.score`
        names = ("_send", "_recv", "_reset", "_state_keys")
        self._raw = all(hasattr(self._pool, name) for name in names)
        self._ended = np.ones(len(seeds), np.bool_)  # for the public way only
        self._cuts = cuts
        self._sent = 0
        self._early: dict[str, np.ndarray] = {}  # rows of the environments that were just cut off
        if cuts.any() and not self._raw:
            raise ValueError("stagger must be False with this version of envpool")

    def reset(self) -> None:
        self._ended[:] = True
        self._pool.async_reset()

    def send(self, action: np.ndarray) -> None:
        task = self.task
        if task.action_low is not None and task.action_high is not None:
            middle, half = task.action_high + task.action_low, task.action_high - task.action_low
            action = np.clip(0.5 * (middle + action * half), task.action_low, task.action_high)
        # A fresh array: envpool keeps a reference to it and refuses read-only memory.
        action = action.astype(task.action_dtype)
        if self._raw:
            ids = self._ids
            cut = (self._cuts > 0) & (self._cuts == self._sent)
            self._sent += 1
            if cut.any():  # envpool numbers the rows of one call: a reset is a call by itself
                self._pool._reset(ids[cut])
                self._early = self._receive()
                ids, action = ids[~cut], np.ascontiguousarray(action[~cut])
            if len(ids):
                self._pool._send([ids, ids, action])
        else:
            self._pool.send(action, self._ids)

    def recv(self) -> dict[str, np.ndarray]:
        if self._raw:
            early, self._early = self._early, {}
            if early and len(early["done"]) == len(self._ids):
                return early
            raw = self._receive()
            if early:
                raw = {key: np.concatenate([early[key], raw[key]]) for key in raw}
                order = np.argsort(raw["info:env_id"])
                raw = {key: value[order] for key, value in raw.items()}
            return raw
        observation, reward, terminated, truncated, info = self._pool.recv()
        raw = {"reward": reward, "done": terminated | truncated, "trunc": truncated}
        raw |= _flatten("obs", observation) | _flatten("info", info)
        raw["step_type"] = np.where(self._ended, 0, 1)
        self._ended = raw["done"]
        return raw

    def _receive(self) -> dict[str, np.ndarray]:
        return dict(zip(self._pool._state_keys, self._pool._recv(), strict=True))

    def render(self) -> np.ndarray:
        frames = self._pool.render(env_ids=[0])
        assert frames is not None  # only `render_mode="human"` returns nothing
        return frames[0]


def _flatten(prefix: str, tree: Any) -> dict[str, np.ndarray]:
    """Nested dicts as envpool's raw names: `obs` alone, else `obs:a.b`."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    leaves: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        separator = ":" if ":" not in prefix else "."
        leaves |= _flatten(f"{prefix}{separator}{key}", value)
    return leaves


def _return_memory() -> None:
    """Gives what closed pools took back to the machine.

    glibc keeps most of what many threads have freed, and every evaluation makes a pool anew.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
