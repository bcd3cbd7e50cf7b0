"""Games that show what the stream of games does: which one it is, and the action that arrived."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.types import EnvSpec, FunctionalSuite, Timestep

LENGTHS = (1, 2, 4)
NUM_ACTIONS = 3
MASK = np.array([[True, True, True], [True, False, True], [True, False, False]])


class Task(NamedTuple):
    number: Any
    length: Any


class Shown(NamedTuple):
    """An episode of `task.length` actions; the observation is the task, the reward the action."""

    def reset(self, key, task):
        return jnp.int32(0), restart(task.number[None].astype(jnp.float32))

    def step(self, key, state, action, task):
        ended = state + 1 >= task.length
        row = transition(task.number[None].astype(jnp.float32), action, jnp.where(ended, 0.0, 1.0))
        return state + 1, row, ended


def spec(names: tuple[str, ...] = ("one", "two", "four")) -> EnvSpec:
    return EnvSpec(
        names, (1,), np.dtype(np.float32), None, NUM_ACTIONS, MASK, np.array(LENGTHS), True
    )


def suite() -> FunctionalSuite:
    tasks = Task(jnp.arange(3), jnp.asarray(LENGTHS))
    return FunctionalSuite(spec(), Shown(), tasks)


class ShownPool:
    """One such game on the host, one environment; `log` gets every action that arrives."""

    num_groups = 1

    def __init__(self, number: int, log: list[Any]) -> None:
        self.spec, self.number, self.log = spec(), number, log
        self.time, self.ended, self.closed, self.busy = 0, False, False, False

    def _row(self, reward: float, first: bool) -> Timestep:
        def b(x, dtype):
            return np.full((1, 1), x, dtype)

        return Timestep(
            np.full((1, 1, 1), self.number, np.float32),
            b(reward, np.float32),
            b(0.0 if self.ended else 1.0, np.float32),
            b(first, bool),
            b(not first, bool),
            b(False, bool),
        )

    def reset(self, group):
        return self._row(0.0, True)

    def send(self, group, action):
        assert not self.busy and action.shape == (1, 1)
        self.busy, self.action = True, int(action[0, 0])

    def recv(self, group):
        assert self.busy
        self.busy = False
        if self.ended:  # the action is ignored
            self.time, self.ended = 0, False
            return self._row(0.0, True)
        self.log.append((self.number, self.action))
        self.time += 1
        self.ended = self.time >= LENGTHS[self.number]
        return self._row(self.action, False)

    def close(self):
        self.closed = True
