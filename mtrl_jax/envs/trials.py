"""Trials of several episodes on host environments whose goal is drawn anew at every reset.

A meta-learning task of Meta-World is an environment, a goal and an object's place, which stay what
they are for all episodes of a trial. envpool draws them at each reset, from a generator of each
environment's own, and can neither be told them nor draw them again. But environments made with one
seed draw the same sequence, and nothing that is played in between moves it. So a *slot* of a pool
is as many copies of one environment as its trials have episodes, made with one seed: episode n of
trial t is what copy n plays behind its reset t, and all of them begin on draw t.

It costs memory (a copy holds a physics model, 8 to 20 MiB) and no time. A pool that is made again
with the same seeds plays the same tasks again, which is how a training set is finite.

In two environments a reset moves what the next one starts from (`DRIFTING`): their pools are made
anew for every draw.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.envs.envpool_spec import TaskSpec, describe, library, shared_spec
from mtrl_jax.envs.metaworld import BENCHMARKS, GOALS, env_id
from mtrl_jax.envs.pool import check_continuous_actions, environment_seeds
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import EnvSpec

__all__ = ["TrialFamily", "TrialPool", "metaworld_trials"]

OFFICIAL_LENGTH = 500  # actions of an episode
# In envpool 1.2.5 the goal of these moves on by .85 m at every reset, out of the arm's reach.
DRIFTING = ("MetaWorld/Hammer-v3", "MetaWorld/ShelfPlace-v3")
# Where the hand is at reset, and a tenth of a metre: what positions in an observation are seen in.
_HAND, _UNIT = (0.0, 0.6, 0.2), 0.1


class TrialFamily(NamedTuple):
    """A distribution over tasks whose environments live on the host.

    Attributes:
      spec: of one task; `episode_limit[0]` is the length T of every episode.
      train, test: environments that training and test tasks are of; the same ones, or other ones.
      centre, scale: float32 `[39]`; a learner reads `(observation - centre) / scale`.
    """

    spec: EnvSpec
    train: tuple[TaskSpec, ...]
    test: tuple[TaskSpec, ...]
    centre: np.ndarray
    scale: np.ndarray

    @property
    def episode_length(self) -> int:
        """T."""
        return int(self.spec.episode_limit[0])

    def read(self, observation: np.ndarray) -> np.ndarray:
        """What a learner reads of observations `[..., 39]`."""
        found: np.ndarray = (observation - self.centre) / self.scale
        return found


def metaworld_trials(name: str) -> TrialFamily:
    """Meta-World's ML1, ML10 and ML45 (Yu et al. 2019, arXiv 1910.10897, section 4.2).

    Args:
      name: `ml1:<environment>`, `ml10` or `ml45`, with `:length=T` for episodes of another length
        than 500 behind it, and `:goal=visible` where the goal is not to be hidden.

    Raises:
      ValueError: for another name.
      ImportError: envpool is not installed.
    """
    kind, *rest = name.split(":")
    train: tuple[str, ...]
    test: tuple[str, ...]
    if kind == "ml1":
        if not rest or "=" in rest[0]:
            raise ValueError(f"ml1 must be followed by an environment, as in ml1:reach; got {name}")
        train = (rest.pop(0),)
        test = train
    elif kind in ("ml10", "ml45"):
        train, test = BENCHMARKS[kind], BENCHMARKS[f"{kind}_test"]
    else:
        raise ValueError(
            f"Meta-World's sets of trials are ml1:<environment>, ml10, ml45; got {name}"
        )
    options = {"length": str(OFFICIAL_LENGTH), "goal": "hidden"}
    for pair in rest:
        key, _, value = pair.partition("=")
        if key not in options:
            raise ValueError(f"{name}: options are {', '.join(options)}; got {pair!r}")
        options[key] = value
    length, goal = options["length"], options["goal"]
    if not length.isdecimal() or not 1 <= int(length) <= OFFICIAL_LENGTH:
        raise ValueError(f"{name}: length must lie in [1, {OFFICIAL_LENGTH}]; got {length!r}")
    if goal not in GOALS:
        raise ValueError(f"{name}: goal must be one of {', '.join(GOALS)}; got {goal!r}")
    found = {task: describe(env_id(task)) for task in (*train, *test)}
    hidden = {"partially_observable": goal == "hidden"}
    found = {k: v._replace(name=k, options=v.options | hidden) for k, v in found.items()}
    spec = shared_spec([found[train[0]]])
    spec = spec._replace(task_names=(name,), episode_limit=np.array([int(length)]))
    # A frame: the hand, its fingers, and a place and four numbers of a turn of each of two objects.
    frame_centre = (*_HAND, 0.0, *_HAND, *(0.0,) * 4, *_HAND, *(0.0,) * 4)
    frame_scale = (*(_UNIT,) * 3, 1.0, *(_UNIT,) * 3, *(1.0,) * 4, *(_UNIT,) * 3, *(1.0,) * 4)
    shown = _HAND if goal == "visible" else (0.0,) * 3
    return TrialFamily(
        spec,
        tuple(found[k] for k in train),
        tuple(found[k] for k in test),
        np.array((*frame_centre * 2, *shown), np.float32),
        np.array((*frame_scale * 2, *(_UNIT,) * 3), np.float32),
    )


class TrialPool:
    """M slots of N copies; slot m is of environment `m % K`. Draws are numbered from 0 on.

    Attributes:
      num_slots: M.
      num_copies: N.
    """

    def __init__(
        self, environments: Sequence[TaskSpec], num_slots: int, num_copies: int, seed: int
    ) -> None:
        """Builds the pools, one of each environment.

        Args:
          environments: K of them, with continuous actions.
          num_slots: M, a multiple of K.
          num_copies: N.
          seed: any non-negative integer. Slots have seeds of their own.

        Raises:
          ValueError: for numbers out of range.
        """
        check_value("num_copies", num_copies, Count)
        k = len(environments)
        if num_slots < 1 or num_slots % k:
            raise ValueError(f"num_slots must be a multiple of {k} environments; got {num_slots}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.num_slots, self.num_copies = num_slots, num_copies
        each, cores = num_slots // k, len(os.sched_getaffinity(0))
        threads = min(max(cores // k, 1), each)
        self._pools = [
            (_Remade if task.env_id in DRIFTING else _Copies)(
                task, environment_seeds(seed, n, each), num_copies, threads
            )
            for n, task in enumerate(environments)
        ]
        self._draw = np.full(num_copies, -1)

    def reset(self, copies: Sequence[int]) -> np.ndarray:
        """Brings copies to their next draw; what they show, float32 `[M, C, ...]`.

        Raises:
          ValueError: if they are not all at the same one, where they would play different tasks.
        """
        chosen = self._check(copies)
        self._draw[chosen] += 1
        for pool in self._pools:
            pool.reset(chosen)
        return self._receive(chosen)[0]

    def step(
        self, copies: Sequence[int], action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One action in some copies of each slot.

        Args:
          copies: C of them, rising.
          action: float `[M, C, A]`, cut off to [-1, 1].

        Returns:
          Observation float32 `[M, C, ...]`, reward float32 `[M, C]` and success bool `[M, C]`.

        Raises:
          ValueError: for an action of another shape, or copies at different draws.
        """
        chosen = self._check(copies)
        size = len(self._pools[0].task.action_low)  # type: ignore[arg-type]
        action = check_continuous_actions(action, self.num_slots, len(chosen), size)
        for n, pool in enumerate(self._pools):
            pool.send(chosen, action[n :: len(self._pools)])
        return self._receive(chosen)

    def skip(self, draws: int) -> None:
        """Brings all copies so many draws on: a pool made again goes on where another stopped."""
        for _ in range(draws):
            self.reset(range(self.num_copies))

    def close(self) -> None:
        """Drops the pools."""
        self._pools = []

    def _check(self, copies: Sequence[int]) -> np.ndarray:
        chosen = np.asarray(list(copies), np.int32)
        if not len(chosen) or (np.diff(chosen) <= 0).any():
            raise ValueError(f"copies must be some, rising; got {list(copies)}")
        if len(set(self._draw[chosen])) > 1:
            at = self._draw[chosen].tolist()
            raise ValueError(f"copies {chosen.tolist()} are at different draws, {at}")
        return chosen

    def _receive(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts = [pool.receive(len(chosen)) for pool in self._pools]
        # [K, M / K, C, ...] to slots in turn.
        merged = [
            np.stack(x, 1).reshape(self.num_slots, *x[0].shape[1:])
            for x in zip(*parts, strict=True)
        ]
        return merged[0], merged[1], merged[2]


class _Copies:
    """Copies of the slots of one environment; copy c of its slot m is environment m N + c."""

    def __init__(self, task: TaskSpec, seeds: np.ndarray, num_copies: int, threads: int) -> None:
        self.task, self._slots, self._copies = task, np.arange(len(seeds)), num_copies
        self._pool: Any = library().make(
            task.env_id,
            env_type="gymnasium",
            num_envs=len(seeds) * num_copies,
            num_threads=threads,
            seed=np.repeat(seeds, num_copies).tolist(),
            **task.options,
        )

    def _ids(self, chosen: np.ndarray) -> np.ndarray:
        return (self._slots[:, None] * self._copies + chosen).astype(np.int32).ravel()

    def reset(self, chosen: np.ndarray) -> None:
        self._pool._reset(self._ids(chosen))

    def send(self, chosen: np.ndarray, action: np.ndarray) -> None:
        ids = self._ids(chosen)
        low, high = self.task.action_low, self.task.action_high
        assert low is not None and high is not None
        stretched = np.clip(0.5 * (high + low + action * (high - low)), low, high)
        flat = stretched.reshape(len(ids), -1).astype(self.task.action_dtype)
        self._pool._send([ids, ids, np.ascontiguousarray(flat)])

    def receive(self, num_chosen: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        raw = dict(zip(self._pool._state_keys, self._pool._recv(), strict=True))
        order = np.argsort(raw["info:env_id"])
        shape = (len(self._slots), num_chosen)
        observation = raw[self.task.encoding.keys[0]][order].astype(np.float32)
        return (
            observation.reshape(*shape, -1),
            raw["reward"][order].astype(np.float32).reshape(shape),
            (raw[self.task.encoding.success][order].reshape(shape) > 0),
        )


class _Remade:
    """`_Copies` of an environment that knows its first draw alone: each later one is the first of
    other seeds."""

    def __init__(self, task: TaskSpec, seeds: np.ndarray, num_copies: int, threads: int) -> None:
        self.task, self._seeds, self._threads = task, seeds, threads
        self._draw = [0] * num_copies
        self._copies: list[_Copies | None] = [None] * num_copies
        self._chosen: list[_Copies] = []

    def reset(self, chosen: np.ndarray) -> None:
        for c in chosen:
            seeds = [environment_seeds(int(seed), self._draw[c], 1)[0] for seed in self._seeds]
            self._copies[c] = None  # before the next one is there
            self._copies[c] = _Copies(self.task, np.array(seeds), 1, self._threads)
            self._draw[c] += 1
        for copy in self._choose(chosen):
            copy.reset(np.zeros(1, np.int32))

    def send(self, chosen: np.ndarray, action: np.ndarray) -> None:
        for n, copy in enumerate(self._choose(chosen)):
            copy.send(np.zeros(1, np.int32), action[:, n : n + 1])

    def receive(self, num_chosen: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts = [copy.receive(1) for copy in self._chosen]
        observation, reward, success = (np.concatenate(x, 1) for x in zip(*parts, strict=True))
        return observation, reward, success

    def _choose(self, chosen: np.ndarray) -> list[_Copies]:
        self._chosen = [copy for c in chosen if (copy := self._copies[c]) is not None]
        return self._chosen
