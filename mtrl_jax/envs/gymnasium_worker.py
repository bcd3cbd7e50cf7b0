"""One process of gymnasium environments: gymnasium's own vector environment at the end of a pipe.

A program of its own, started by `mtrl_jax.envs.gymnasium` as `python -P <this file> <descriptor>`:
nothing of the main program is imported again, jax is not, and a session of its own keeps Ctrl-C of
the terminal from it. It ends when told to, or when the other end of the pipe is gone.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Environments", "serve"]


class Environments:
    """Environments of one task, stepped one after the other by `gymnasium.vector.SyncVectorEnv`.

    An episode's end is followed by a call that resets and ignores its action, gymnasium's
    "next-step" autoreset, which is the convention of `types.Timestep`.
    """

    def __init__(self, makers: Sequence[Callable[[], Any]], success: str) -> None:
        """Makes them; `success` is the key of info that says so, or ""."""
        from gymnasium.vector import AutoresetMode, SyncVectorEnv

        self._envs = SyncVectorEnv(list(makers), autoreset_mode=AutoresetMode.NEXT_STEP, copy=False)
        self._success = success

    def reset(self, seeds: list[int | None]) -> Any:
        """First observations, `[E, ...]`."""
        return self._envs.reset(seed=seeds)[0]

    def step(self, action: Any) -> tuple[Any, ...]:
        """(observation, reward, terminated, truncated, success), each `[E, ...]`."""
        observation, reward, terminated, truncated, info = self._envs.step(action)
        said, there = info.get(self._success), info.get(f"_{self._success}")
        success = terminated & False if said is None else (said.astype(float) > 0) & there
        return observation, reward, terminated, truncated, success

    def render(self) -> Any:
        """A picture of the first one."""
        return self._envs.envs[0].render()

    def close(self) -> None:
        self._envs.close()


def serve(connection: Connection) -> None:
    """Answers `(method, *arguments)` with `(True, result)` or `(False, traceback)`, until "close".

    The first message is `(sys.path, pickle of (makers, success))`.
    """
    import cloudpickle

    path, pickled = connection.recv()
    sys.path[:] = path
    try:
        environments = Environments(*cloudpickle.loads(pickled))
    except BaseException:
        connection.send((False, traceback.format_exc()))
        return
    connection.send((True, None))
    while True:
        method, *arguments = connection.recv()
        try:
            result = (True, getattr(environments, method)(*arguments))
        except BaseException:
            result = (False, traceback.format_exc())
        if method == "close":
            return
        connection.send(result)


if __name__ == "__main__":
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # nobody is there any more
