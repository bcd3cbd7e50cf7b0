"""From rollouts to rings of transitions and to batches, the same on one device and on several.

All devices hold the same rings: each gathers what all collected. The batch of one device is drawn
everywhere with one key, and every device takes its part of each task's samples; gradients averaged
over the devices are then those of the one device. Rewards are stored raw and scaled when they are
drawn, so that old ones always have today's scale.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import learner, replay
from mtrl_jax.types import Array, EnvSpec, Key, Rollout

__all__ = [
    "MAX_SCALE",
    "Transition",
    "check_memory",
    "draw_batch",
    "item_spec",
    "reward_scales",
    "store",
]

MAX_SCALE = 100.0  # of one task's rewards against another's


class Transition(NamedTuple):
    """What a ring holds; leaves `[K, capacity, ...]`, in a batch `[K, B, ...]`."""

    observation: Any  # before the action, of the environment's dtype
    action: Any  # float32 [..., A], in [-1, 1]
    reward: Any  # float32, raw
    ended: Any  # bool: a true end, not a time limit
    next_observation: Any  # after it; where an episode was cut off, its last one


def item_spec(spec: EnvSpec) -> Transition:
    """Shapes and dtypes of one stored transition."""
    observation = jax.ShapeDtypeStruct(spec.observation_shape, spec.observation_dtype)
    action = jax.ShapeDtypeStruct(spec.action_shape, spec.action_dtype)
    reward, ended = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, jnp.bool_))
    return Transition(observation, action, reward, ended, observation)


def check_memory(spec: EnvSpec, capacity: int, copies: int = 1, free: int | None = None) -> None:
    """Raises ValueError, saying how much is needed, if the rings do not fit into memory.

    While a run starts or saves, two more copies of them are on their way. With 39 numbers to an
    observation and 4 to an action a transition takes 333 bytes: 0.31 GiB for MT10's million, 1.55
    GiB for MT50's five.

    Args:
      spec: of the suite.
      capacity: transitions of each task.
      copies: devices that share one memory, times seeds.
      free: bytes; None asks the machine.
    """
    replay.check_memory(item_spec(spec), spec.num_tasks, capacity, copies + 2, free)


def store(
    rings: replay.ReplayState, rollout: Rollout, collectives: learner.Collectives = learner.ALONE
) -> replay.ReplayState:
    """Rings with the transitions of a rollout `[T, K, E, ...]` of every device in them, oldest
    first; what leads to a reset row is no transition and is left out."""
    rows = rollout.timestep
    new = Transition(
        rows.observation[:-1],
        rollout.action,
        rows.reward[1:],
        rows.discount[1:] == 0,
        rows.observation[1:],
    )

    def flat(x):  # [T, K, E, ...] to [K, T * E, ...]
        x = collectives.gather(jnp.moveaxis(x, 1, 0), 2)
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])

    return replay.add(rings, jax.tree.map(flat, new), flat(rows.valid[1:]))


def draw_batch(
    rings: replay.ReplayState,
    scale: Array,
    key: Key,
    batch_size: int,
    collectives: learner.Collectives = learner.ALONE,
) -> tuple[Transition, Array]:
    """This device's part of a batch.

    Args:
      rings: none of them empty.
      scale: float32 `[K]`, of rewards.
      key: the same on all devices.
      batch_size: B, of all D devices.
      collectives: of the devices.

    Returns:
      Transitions `[K, B / D, ...]`, and standard normal noise `[K, B / D, 2, A]` for two actions.

    Raises:
      ValueError: the devices do not divide the batch.
    """
    index_key, noise_key = jax.random.split(key)
    index = replay.indices(rings, index_key, batch_size)
    noise = jax.random.normal(noise_key, (*index.shape, 2, rings.items.action.shape[-1]))
    index, noise = collectives.scatter((index, noise), 1)
    batch = replay.take(rings, index)
    return batch._replace(reward=batch.reward * scale[:, None]), noise


def reward_scales(rings: replay.ReplayState) -> Array:
    """`[K]` factors that bring the tasks' mean absolute rewards to that of the largest.

    max_j m_j / m_i with m the mean over a ring (Cho et al., ICML 2025, "ARS"). Absolute values, and
    a factor of at most `MAX_SCALE`, because rewards need not be positive everywhere.
    """
    reward = rings.items.reward
    stored = jnp.arange(reward.shape[1])[None] < rings.stored[:, None]
    mean = jnp.where(stored, jnp.abs(reward), 0.0).sum(1) / jnp.maximum(rings.stored, 1)
    most = mean.max()
    return jnp.where(most > 0, most / jnp.maximum(mean, most / MAX_SCALE), 1.0)
