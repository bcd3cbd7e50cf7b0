"""Environments with gymnasium's interface that show what an adapter does with each part of it."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

IMAGE = spaces.Box(0, 255, (40, 48, 3), np.uint8)


class Counting(gymnasium.Env):
    """Counts to `length`; terminated, truncated or both at the end; solved by an odd last action.

    The observation is the count, the reward the action as it arrived.
    """

    def __init__(
        self,
        length: int = 3,
        ends: str = "terminated",
        observation: Any = None,
        action: Any = None,
        fails: bool = False,
    ) -> None:
        self.observation_space = observation or spaces.Box(0, 99, (1,), np.float64)
        self.action_space = action or spaces.Discrete(4, start=2)
        self._length, self._ends, self._count, self._fails = length, ends, 0, fails

    def _observe(self) -> Any:
        space = self.observation_space
        if isinstance(space, spaces.Discrete):
            return space.start + self._count
        if isinstance(space, spaces.Dict):
            return {"x": np.zeros(1, np.float32)}
        return np.full(space.shape, self._count, space.dtype)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._count = 0
        return self._observe(), {"is_success": True}  # of a reset row, which nobody may believe

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        if self._fails and self._count == 1:
            raise KeyError("no such room")
        self._count += 1
        ended = self._count >= self._length
        solved = bool(ended and np.sum(action) % 2 == 1)
        said = {"is_success": solved} if ended or self._count == 1 else {}
        flags = (ended and name in self._ends for name in ("terminated", "truncated"))
        return self._observe(), float(np.sum(action)), *flags, said

    def render(self) -> Any:
        if self.render_mode != "rgb_array":
            raise RuntimeError("no screen")
        return np.full((4, 5, 3), self._count, np.uint8)


def counting() -> gymnasium.Env:
    return Counting()


def drawn(render_mode: str | None = None) -> gymnasium.Env:
    env = Counting()
    env.render_mode = render_mode
    return env


def undrawn(render_mode: str | None = None) -> gymnasium.Env:
    return Counting()


def cut_off() -> gymnasium.Env:
    return Counting(length=2, ends="truncated")


def both() -> gymnasium.Env:
    return Counting(length=4, ends="terminated and truncated")


def picture() -> gymnasium.Env:
    return Counting(observation=IMAGE)


def classes() -> gymnasium.Env:
    return Counting(observation=spaces.Discrete(9, start=5))


def box() -> gymnasium.Env:
    low, high = np.array([[-1.0, 0.0]], np.float32), np.array([[3.0, 5.0]], np.float32)
    return Counting(action=spaces.Box(low, high))


def words() -> gymnasium.Env:
    return Counting(observation=spaces.Dict({"x": spaces.Box(0, 1, (1,))}))


def boundless() -> gymnasium.Env:
    return Counting(action=spaces.Box(-np.inf, np.inf, (2,)))


def failing() -> gymnasium.Env:
    return Counting(fails=True)


def broken() -> gymnasium.Env:
    raise OSError("no robot is connected")
