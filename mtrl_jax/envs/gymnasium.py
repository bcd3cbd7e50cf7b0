"""Any environments with gymnasium's interface as a suite, each task in a process of its own::

    python -m experiments.dqn --suite=gymnasium:CartPole-v1
    python -m experiments.dqn --suite=gymnasium:FrozenLake-v1:is_slippery=False

How it is driven, and why:
  * Environments of one task (and group, and so many as `processes` says) are one
    `gymnasium.vector.SyncVectorEnv` in a process: as many as there are tasks step at the same time,
    whatever the number of environments, and one message each goes to and fro a step.
  * An end is `terminated`, whether `truncated` or not: its discount is 0. What is only truncated
    bootstraps from its last observation. The call after either resets, and is a reset row.
  * Actions of a box are [-1, 1] here and stretched to the environment's own bounds.
  * A suite has one observation space and one action space. Boxes are float32, but images of bytes
    stay bytes, `[C, H, W]`; numbers of classes stay numbers of classes. Other spaces need one of
    gymnasium's wrappers, such as `FlattenObservation`, in a maker.
"""

import functools
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from mtrl_jax.envs.draw import CannotDraw
from mtrl_jax.envs.envpool_spec import TaskSpec, shared_spec
from mtrl_jax.envs.gymnasium_spec import (
    Maker,
    Task,
    called,
    describe,
    drawing,
    maker,
    observed,
    own_action,
)
from mtrl_jax.envs.gymnasium_worker import Environments
from mtrl_jax.envs.pool import check_actions, check_continuous_actions, environment_seeds
from mtrl_jax.ranges import Count, CountOr0, check_value
from mtrl_jax.types import EnvSpec, HostSuite, Timestep

__all__ = ["GymnasiumPool", "gymnasium_suite"]

PATIENCE = 10  # seconds that a process has to end
_WORKER = pathlib.Path(__file__).with_name("gymnasium_worker.py")


def gymnasium_suite(
    envs: Sequence[str | Maker],
    names: Sequence[str] = (),
    *,
    processes: int = 1,
    success: str = "",
    **options: Any,
) -> HostSuite:
    """A suite of gymnasium environments; one of each is made here, asked what it is, and closed.

    Args:
      envs: for each task an id, or a function without arguments that returns an environment (with
        an argument `render_mode` where pictures are wanted).
      names: of the tasks; by default the ids, or what the functions are called.
      processes: of each task and group, among which its environments are dealt; 0: none, all is
        stepped in this process.
      success: the key of info that says whether a task is solved; by default `success` or
        `is_success`, if the first step's info has it.
      **options: of `gymnasium.make`, for ids.

    Raises:
      ValueError: an id is unknown, an environment cannot be made, has spaces that are not
        supported, or two do not go together.
      ImportError: gymnasium is not installed.
    """
    check_value("processes", processes, CountOr0)
    if names and len(names) != len(envs):
        raise ValueError(f"names must be as many as envs, {len(envs)}; got {len(names)}")
    tasks = tuple(
        describe(maker(env, options), name, success)
        for env, name in zip(envs, names or map(called, envs), strict=True)
    )
    return _suite_of(tasks, processes)


def _suite_of(tasks: tuple[Task, ...], processes: int) -> HostSuite:
    return HostSuite(
        shared_spec([task.spec for task in tasks]),
        functools.partial(GymnasiumPool, tasks, processes),
        part=lambda indices: _suite_of(tuple(tasks[i] for i in indices), processes),
    )


class GymnasiumPool:
    """K tasks of E environments each; see `mtrl_jax.types.Pool` for the protocol."""

    def __init__(
        self,
        tasks: Sequence[Task],
        processes: int,
        num_envs: int,
        seed: int,
        num_groups: int = 1,
        render: bool = False,
    ) -> None:
        """Starts the processes and makes the environments in them.

        Args:
          tasks, processes: of `gymnasium_suite`.
          num_envs: E, of each task.
          seed: any non-negative integer.
          num_groups: G, a divisor of E.
          render: whether `render` will be called.

        Raises:
          ValueError: `num_envs`, `num_groups` or `seed` out of range, or nothing can be drawn.
        """
        check_value("num_envs", num_envs, Count)
        if num_groups < 1 or num_envs % num_groups:
            raise ValueError(f"num_groups must divide num_envs = {num_envs}, got {num_groups}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.spec: EnvSpec = shared_spec([task.spec for task in tasks])
        self.num_groups = num_groups
        self._tasks = tuple(tasks)
        self._size = num_envs // num_groups
        self._render = render
        self._ended = np.ones((num_groups, len(tasks), self._size), bool)
        self._seeds = np.stack([environment_seeds(seed, k, num_envs) for k in range(len(tasks))])
        # Where each process's environments lie in a group.
        count = min(max(processes, 1), self._size)
        cuts = np.array_split(np.arange(self._size), count)
        self._cuts = [slice(cut[0], cut[-1] + 1) for cut in cuts]
        kind = _Process if processes else _Here
        self._in_flight: list[str] = [""] * num_groups
        self._workers: list[list[list[Any]]] = []
        try:
            for _ in range(num_groups):
                group: list[list[Any]] = [[] for _ in tasks]
                self._workers.append(group)
                for task, workers in zip(tasks, group, strict=True):
                    make = drawing(task) if render else task.make
                    for cut in self._cuts:
                        makers = [make] * (cut.stop - cut.start)
                        workers.append(kind(task.spec, makers))
            for worker in self._every():  # all have been started, now they are waited for
                worker.recv()
        except BaseException:
            self.close()
            raise

    def reset(self, group: int) -> Timestep:
        """The first row of a group, leaves `[K, E / G, ...]`; called once."""
        self._expect(group, in_flight=False)
        seeds = self._seeds[:, group * self._size : (group + 1) * self._size]
        for k, worker, cut in self._group(group):
            worker.send("reset", seeds[k, cut].tolist())
        self._in_flight[group] = "reset"
        return self.recv(group)

    def send(self, group: int, action: np.ndarray) -> None:
        """Starts a step and returns at once.

        Args:
          group: in `[0, G)`.
          action: int `[K, E / G]` in `[0, A)`; or float `[K, E / G, A]`, cut off to [-1, 1].

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
        for k, worker, cut in self._group(group):
            worker.send("step", own_action(self._tasks[k], action[k, cut]))
        self._in_flight[group] = "step"

    def recv(self, group: int) -> Timestep:
        """Waits for what `send` started; leaves `[K, E / G, ...]`, the caller's to keep.

        Raises:
          ValueError: nothing was sent to this group.
          RuntimeError: an environment failed, with its traceback, or its process has ended.
        """
        self._expect(group, in_flight=True)
        asked, self._in_flight[group] = self._in_flight[group], ""
        spec, batch = self.spec, (self.spec.num_tasks, self._size)
        observation = np.empty((*batch, *spec.observation_shape), spec.observation_dtype)
        reward = np.zeros(batch, np.float32)
        terminated, truncated, success = (np.zeros(batch, bool) for _ in range(3))
        first = self._ended[group].copy()
        for k, worker, cut in self._group(group):
            raw = worker.recv()
            if asked == "step":
                raw, reward[k, cut], terminated[k, cut], truncated[k, cut], success[k, cut] = raw
            observation[k, cut] = observed(self._tasks[k], np.asarray(raw))
        self._ended[group] = terminated | truncated
        discount = 1.0 - terminated.astype(np.float32)
        return Timestep(observation, reward, discount, first, ~first, success & ~first)

    def render(self, group: int = 0) -> list[np.ndarray]:
        """A picture of each task's first environment in a group, uint8 `[H, W, 3]`, between steps.

        Raises:
          ValueError: the pool was made without `render=True`, or the group is being stepped.
          CannotDraw: an environment's pictures need something that is not here.
        """
        self._expect(group, in_flight=False)
        if not self._render:
            raise ValueError("this pool was made without render=True")
        pictures = []
        for k, workers in enumerate(self._workers[group]):
            name = self._tasks[k].spec.env_id
            workers[0].send("render")
            try:
                picture = np.asarray(workers[0].recv())
            except RuntimeError as error:
                last = str(error).strip().splitlines()[-1]
                raise CannotDraw(f"{name} cannot be drawn here: {last}") from error
            if picture.dtype != np.uint8 or picture.shape[2:] != (3,):
                raise CannotDraw(f"{name} draws no picture of bytes [H, W, 3]")
            pictures.append(picture)
        return pictures

    def close(self) -> None:
        """Ends the processes, after what they are doing."""
        for worker in self._every():
            worker.close()
        self._workers = []

    def _every(self) -> list[Any]:
        return [w for group in self._workers for workers in group for w in workers]

    def _group(self, group: int) -> list[tuple[int, Any, slice]]:
        """Number of the task, worker, and the environments that it has."""
        return [
            (k, worker, cut)
            for k, workers in enumerate(self._workers[group])
            for worker, cut in zip(workers, self._cuts, strict=True)
        ]

    def _expect(self, group: int, in_flight: bool) -> None:
        if not self._workers:
            raise ValueError("the pool is closed")
        if not 0 <= group < self.num_groups:
            raise ValueError(f"group must be in [0, {self.num_groups}), got {group}")
        if bool(self._in_flight[group]) != in_flight:
            wanted = "send must come before recv" if in_flight else "recv must come first"
            raise ValueError(f"group {group} is {'not ' * in_flight}being stepped: {wanted}")


class _Process:
    """`Environments` in another process: `send` a method, `recv` its result."""

    def __init__(self, task: TaskSpec, makers: Sequence[Maker]) -> None:
        import cloudpickle

        self._name = task.env_id
        self._end: Connection
        self._end, theirs = Pipe()
        number = theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), str(number)],
            pass_fds=(number,),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # no Ctrl-C: the run is to save first
        )
        theirs.close()
        try:
            self._end.send((sys.path, cloudpickle.dumps((makers, task.encoding.success))))
        except (pickle.PicklingError, TypeError) as error:
            self.close()
            raise ValueError(
                f"{self._name} is made by a function that cannot be sent to a process ({error}); "
                "let it make all that it needs, or use processes=0"
            ) from error

    def send(self, method: str, *arguments: Any) -> None:
        try:
            self._end.send((method, *arguments))
        except OSError as error:
            raise RuntimeError(self._gone()) from error

    def recv(self) -> Any:
        try:
            good, result = self._end.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(self._gone()) from error
        if not good:
            raise RuntimeError(f"an environment of {self._name} failed:\n{result}")
        return result

    def close(self) -> None:
        try:
            self._end.send(("close",))
        except (OSError, ValueError):  # it has ended already
            pass
        self._end.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _gone(self) -> str:
        code = self._process.wait()
        return f"the process of {self._name}'s environments has ended with exit code {code}"


class _Here:
    """The same in this process, for `processes=0`; `recv` does what `send` asked for."""

    def __init__(self, task: TaskSpec, makers: Sequence[Maker]) -> None:
        self._environments = Environments(makers, task.encoding.success)
        self._todo: tuple[str, tuple[Any, ...]] | None = None

    def send(self, method: str, *arguments: Any) -> None:
        self._todo = (method, arguments)

    def recv(self) -> Any:
        if self._todo is None:  # it has been made
            return None
        (method, arguments), self._todo = self._todo, None
        return getattr(self._environments, method)(*arguments)

    def close(self) -> None:
        self._environments.close()
