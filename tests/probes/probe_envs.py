"""Tiny environment families whose optimal values and policies are known, each with a task axis.

After the probe environments of rejax, as functional suites: each isolates one thing that an
algorithm must get right, and the tasks of a family differ in their answer, so that mixing up tasks
shows too.

    family              episode      reward                          optimal value (at each row)
    constant_reward     1 action     c_k                             c_k
    observed_reward     1 action     c_k o,  o = +-1                 c_k o
    delayed_reward      2 actions    0, then c_k                     γ c_k, then c_k
    action_matters      1 action     +1 if a = a_k else -1           1
    action_and_cue      1 action     +1 if a = (o > 0) ^ f_k, or -1  1
    memory              L actions    last: +1 if a = (cue > 0) ^ f_k γ^(L - 1 - t)
                                     or -1, else 0
    truncation          L actions    c_k each; then truncated        c_k / (1 - γ)

Without memory the best value of `memory` is 0; an agent that takes truncation for termination
values row t of `truncation` at c_k (1 - γ^(L - t)) / (1 - γ).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.types import Array, ArrayTree, EnvSpec, FunctionalSuite, Key, Timestep

__all__ = [
    "PROBES",
    "action_and_cue",
    "action_matters",
    "constant_reward",
    "delayed_reward",
    "memory",
    "observed_reward",
    "truncation",
]

NUM_ACTIONS = 2


class ProbeState(NamedTuple):
    """`cue`: float32, -1 or 1, drawn for each episode; `time`: int32, actions so far."""

    cue: Array
    time: Array


class Probe(NamedTuple):
    """An episode of `length` actions.

    Attributes:
      length: of every episode.
      observe: (cue, time) -> float32 `[d]`.
      reward: (cue, time before the action, action, task) -> float32.
      truncates: whether episodes are cut off (discount 1) rather than ended (discount 0).
    """

    length: int
    observe: Callable[[Array, Array], Array]
    reward: Callable[[Array, Array, Array, Array], Array]
    truncates: bool = False

    def reset(self, key: Key, task: ArrayTree) -> tuple[ProbeState, Timestep]:
        state = ProbeState(jax.random.rademacher(key, (), jnp.float32), jnp.int32(0))
        return state, restart(self.observe(*state))

    def step(
        self, key: Key, state: ProbeState, action: Array, task: ArrayTree
    ) -> tuple[ProbeState, Timestep, Array]:
        reward = self.reward(state.cue, state.time, action, task)
        state = ProbeState(state.cue, state.time + 1)
        ended = state.time >= self.length
        discount = jnp.where(ended & (not self.truncates), 0.0, 1.0)
        success = ended & (reward > 0)
        return state, transition(self.observe(*state), reward, discount, success), ended


def constant_reward(rewards: tuple[float, ...] = (1.0, -0.5)) -> FunctionalSuite:
    """One action, one reward: is the value head trained at all?"""
    return _suite("constant_reward", Probe(1, _blank, lambda cue, t, a, c: c), rewards)


def observed_reward(rewards: tuple[float, ...] = (1.0, -0.5)) -> FunctionalSuite:
    """The reward is in the observation: does the gradient reach the torso?"""
    return _suite("observed_reward", Probe(1, _cue, lambda cue, t, a, c: c * cue), rewards)


def delayed_reward(rewards: tuple[float, ...] = (1.0, -0.5)) -> FunctionalSuite:
    """The reward comes one step late: is the discount applied, once?"""
    probe = Probe(2, _clock, lambda cue, t, a, c: jnp.where(t == 1, c, 0.0))
    return _suite("delayed_reward", probe, rewards)


def action_matters(actions: tuple[float, ...] = (0.0, 1.0)) -> FunctionalSuite:
    """One action is right, another one for each task: is the policy gradient's sign right?"""
    probe = Probe(1, _blank, lambda cue, t, a, right: _right(a == right))
    return _suite("action_matters", probe, actions)


def action_and_cue(flips: tuple[float, ...] = (0.0, 1.0)) -> FunctionalSuite:
    """The observation says which action is right, with opposite meaning in each task."""
    return _suite("action_and_cue", Probe(1, _cue, _matches), flips)


def memory(flips: tuple[float, ...] = (0.0, 0.0), length: int = 3) -> FunctionalSuite:
    """The cue is on the first row only and is asked for by the last action."""
    probe = Probe(
        length,
        lambda cue, t: jnp.stack(
            [jnp.where(t == 0, cue, 0.0), (t == length - 1).astype(jnp.float32)]
        ),
        lambda cue, t, a, flip: jnp.where(t == length - 1, _matches(cue, t, a, flip), 0.0),
    )
    return _suite("memory", probe, flips)


def truncation(rewards: tuple[float, ...] = (1.0, -0.5), length: int = 4) -> FunctionalSuite:
    """A constant reward in episodes that are cut off: is the last row bootstrapped from?"""
    probe = Probe(length, _blank, lambda cue, t, a, c: c, truncates=True)
    return _suite("truncation", probe, rewards)


PROBES: dict[str, Callable[[], FunctionalSuite]] = {
    "constant_reward": constant_reward,
    "observed_reward": observed_reward,
    "delayed_reward": delayed_reward,
    "action_matters": action_matters,
    "action_and_cue": action_and_cue,
    "memory": memory,
    "truncation": truncation,
}


def _blank(cue: Array, time: Array) -> Array:
    return jnp.ones((1,), jnp.float32)


def _cue(cue: Array, time: Array) -> Array:
    return cue[None]


def _clock(cue: Array, time: Array) -> Array:
    return time.astype(jnp.float32)[None]


def _right(is_right: Array) -> Array:
    return jnp.where(is_right, 1.0, -1.0)


def _matches(cue: Array, time: Array, action: Array, flip: Array) -> Array:
    return _right(action == jnp.where(flip > 0, cue < 0, cue > 0))


def _suite(name: str, probe: Probe, tasks: tuple[float, ...]) -> FunctionalSuite:
    num_tasks = len(tasks)
    observation = jax.eval_shape(probe.observe, jnp.float32(0), jnp.int32(0))
    spec = EnvSpec(
        task_names=tuple(f"{name}_{k}" for k in range(num_tasks)),
        observation_shape=observation.shape,
        observation_dtype=np.dtype(np.float32),
        vocabulary=None,
        num_actions=NUM_ACTIONS,
        action_mask=np.ones((num_tasks, NUM_ACTIONS), bool),
        episode_limit=np.full(num_tasks, probe.length),
        has_success=True,
    )
    return FunctionalSuite(spec, probe, jnp.asarray(tasks, jnp.float32))
