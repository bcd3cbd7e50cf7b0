"""What somebody else's agent implements to be benchmarked: five functions, NumPy in, NumPy out.

The five::

    init(spec, num_envs, seed) -> state
    act(state, step, learning) -> (action [E], state)
    update(state, step, action, next_step) -> state
    save(state) -> bytes
    restore(spec, num_envs, data) -> state

The state is opaque. `update` is called after every step of training, and never while the agent is
scored: scores are of a copy, `restore(spec, episodes, save(state))`, so that nothing of playing
them is left in the agent. Training itself goes through `save` and `restore` at every evaluation,
with new episodes after it, which is why a run that was killed ends as the one that was not; what
`restore` returns has forgotten the running episodes (a recurrent agent's memory is blank).

The library's agents (`types.Agent`) need none of this: they stay compiled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.types import Agent, EnvSpec, Timestep

__all__ = [
    "AgentError",
    "HostAgent",
    "Spec",
    "Step",
    "check_types_agent",
    "checked_action",
    "spec_of",
    "step_of",
]


class Spec(NamedTuple):
    """All that an agent is told of the games: their shapes, which are the same for all of them.

    Attributes:
      observation_shape: of one environment.
      observation_dtype: NumPy dtype.
      vocabulary: None, or the number of classes of each element of an integer observation.
      num_actions: A; 0 where actions are continuous.
      action_size: 0, or the number of coordinates of a continuous action in [-1, 1].
    """

    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    vocabulary: np.ndarray | None
    num_actions: int
    action_size: int


class Step(NamedTuple):
    """A row of E environments, each of which plays some game.

    Attributes:
      observation: `[E, ...]`.
      reward: float32 `[E]`, of the transition into this row; 0 where `first`.
      discount: float32 `[E]`, 0 where the game ended there, 1 elsewhere (at a time limit too).
      first: bool `[E]`, a new episode begins with this row: no transition leads into it, and the
        action chosen on the row before it was ignored.
    """

    observation: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    first: np.ndarray


class HostAgent(NamedTuple):
    """The five functions; see the head of this file."""

    init: Callable[[Spec, int, int], Any]
    act: Callable[[Any, Step, bool], tuple[np.ndarray, Any]]
    update: Callable[[Any, Step, np.ndarray, Step], Any]
    save: Callable[[Any], bytes]
    restore: Callable[[Spec, int, bytes], Any]


class AgentError(ValueError):
    """An agent broke the protocol; one sentence says how."""


def spec_of(spec: EnvSpec) -> Spec:
    """What an agent is told; no names."""
    return Spec(
        spec.observation_shape,
        np.dtype(spec.observation_dtype),
        spec.vocabulary,
        spec.num_actions,
        spec.action_size,
    )


def step_of(timestep: Timestep) -> Step:
    """The row of K games with E environments each as a batch of K E environments."""

    def flat(x):
        return np.asarray(x).reshape(-1, *np.shape(x)[2:])

    return Step(*(flat(getattr(timestep, name)) for name in Step._fields))


def checked_action(name: str, spec: Spec, action: Any, num_envs: int) -> np.ndarray:
    """The action of `num_envs` environments if it is one.

    Args:
      name: of the agent, for the message.
      spec: of the games.
      action: what `act` returned.
      num_envs: E.

    Returns:
      int `[E]` in `[0, A)`, or float32 `[E, action_size]` cut off to [-1, 1].

    Raises:
      AgentError: for another shape, dtype or range.
    """
    action = np.asarray(action)
    shape = (num_envs, spec.action_size) if spec.action_size else (num_envs,)
    kinds, kind = ("f", "a floating") if spec.action_size else ("iu", "an integer")
    if action.shape != shape:
        raise AgentError(f"agent {name}: action must have shape {shape}, got {action.shape}")
    if action.dtype.kind not in kinds:
        raise AgentError(f"agent {name}: action must be of {kind} dtype, got {action.dtype}")
    if spec.action_size:
        if not np.isfinite(action).all():
            raise AgentError(f"agent {name}: action must be finite, got {action.tolist()}")
        return np.clip(action.astype(np.float32), -1.0, 1.0)
    low, high = action.min(), action.max()
    if low < 0 or high >= spec.num_actions:
        raise AgentError(
            f"agent {name}: action must be in [0, {spec.num_actions}), got values in [{low}, "
            f"{high}]"
        )
    return action.astype(np.int32)


def check_types_agent(name: str, agent: Agent, spec: EnvSpec, num_envs: int) -> None:
    """Shape and dtype of a compiled agent's actions, by tracing: nothing runs.

    Raises:
      AgentError: if they are not those of `spec`.
    """
    import jax  # only compiled agents need it

    def act(key):
        shape = (spec.num_tasks, num_envs)

        def zeros(*tail, dtype):
            return np.zeros((*shape, *tail), dtype)

        timestep = Timestep(
            zeros(*spec.observation_shape, dtype=spec.observation_dtype),
            *(zeros(dtype=np.float32) for _ in range(2)),
            *(zeros(dtype=bool) for _ in range(3)),
        )
        timestep = jax.tree.map(jax.numpy.asarray, timestep)
        actor = agent.init_actor(num_envs)
        return agent.act(
            agent.policy_params(agent.init(key)), actor, timestep, jax.random.split(key, shape)
        )[0]

    got = jax.eval_shape(act, jax.random.key(0))
    want = (spec.num_tasks, num_envs, *spec.action_shape)
    kind = "f" if spec.action_size else "i"
    if got.shape != want or np.dtype(got.dtype).kind != kind:
        raise AgentError(
            f"agent {name}: action must be {spec.action_dtype} of shape {want}, got {got.dtype} "
            f"of shape {got.shape}"
        )
