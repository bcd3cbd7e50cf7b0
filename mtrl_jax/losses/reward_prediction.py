"""Reward prediction, UNREAL's third auxiliary task: which sign has the reward that comes next?

Jaderberg et al. 2016, *Reinforcement learning with unsupervised auxiliary tasks*, arXiv 1611.05397,
section 3.2. Rows, transitions and their ends are those of `losses.auxiliary`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_bool, assert_shape, at_least_float32
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, Key

__all__ = ["CLASSES", "Samples", "balanced_samples", "reward_class", "reward_prediction_loss"]

CLASSES = ("zero", "positive", "negative")


class Samples(NamedTuple):
    """Which rewards are to be predicted.

    Attributes:
      t: int32 [N], transitions; the frames are those of rows t - history + 1 to t.
      env: int32 [N], environments.
      weight: float32 [N], 1, or 0 for all where there was nothing to choose from.
    """

    t: Array
    env: Array
    weight: Array


def reward_class(reward: Array) -> Array:
    """int32, of any shape: 0 for no reward, 1 for one above 0, 2 for one below (`CLASSES`)."""
    reward = jnp.asarray(reward)
    return jnp.where(reward > 0, 1, jnp.where(reward < 0, 2, 0)).astype(jnp.int32)


def balanced_samples(
    key: Key, reward_t: Array, valid_t: Array, num_samples: int, history: int = 3
) -> Samples:
    """Chooses transitions so that half of the rewards are not 0.

    1611.05397, section 3.2: both kinds are as likely, however rare rewards are. Here every second
    sample is of a reward that is not 0; where one kind does not exist all are of the other.

    Args:
      key: consumed.
      reward_t: [T, E] of a recorded rollout.
      valid_t: bool [T, E]. A transition may be chosen where it and the `history - 1` before it are
        valid, so that its frames are of one episode.
      num_samples: N.
      history: frames that are shown.

    Returns:
      `Samples`, drawn with replacement.

    Raises:
      ValueError: for a wrong shape, a mask that is not bool, or a rollout shorter than `history`.
    """
    check_value("num_samples", num_samples, Count)
    check_value("history", history, Count)
    assert_shape("[T, E]", (None, None), reward_t=reward_t)
    t, e = jnp.shape(reward_t)
    assert_shape("[T, E]", (t, e), valid_t=valid_t)
    assert_bool(valid_t=valid_t)
    if t < history:
        raise ValueError(f"history must be at most T = {t}; got {history}")
    whole = jnp.stack([valid_t[i : t - history + 1 + i] for i in range(history)]).all(0)
    allowed = jnp.concatenate([jnp.zeros((history - 1, e), bool), whole]).reshape(-1)
    some = reward_class(reward_t).reshape(-1) != 0
    kinds = jnp.stack([allowed & some, allowed & ~some])
    exists = kinds.any(1)
    wanted = jnp.arange(num_samples) % 2
    kind = jnp.where(exists[wanted], wanted, 1 - wanted)
    # The n-th member of a kind, by the running count of its members.
    counts = jnp.cumsum(kinds, 1)
    nth = jax.random.uniform(key, (num_samples,)) * counts[kind, -1]
    nth = jnp.minimum(nth.astype(counts.dtype), counts[kind, -1] - 1)
    index = jax.vmap(lambda c, n: jnp.searchsorted(c, n, side="right"))(counts[kind], nth)
    index = jnp.clip(index, 0, t * e - 1).astype(jnp.int32)
    weight = jnp.broadcast_to(exists.any(), (num_samples,)).astype(jnp.float32)
    return Samples(index // e, index % e, weight)


def reward_prediction_loss(logits: Array, reward: Array, weight: Array) -> Array:
    """Cross-entropy of the sign of the reward that follows some frames.

    1611.05397, section 3.2:

        L_RP = -1/N sum_n w_n log softmax(logits_n)[class of r_n]

    Args:
      logits: [N, 3], in the order of `CLASSES`.
      reward: [N].
      weight: [N].

    Returns:
      [] a mean over N. Carries gradient to `logits` only.

    Raises:
      ValueError: for a wrong shape.
    """
    assert_shape("[N, 3]", (None, len(CLASSES)), logits=logits)
    assert_shape("[N]", jnp.shape(logits)[:1], reward=reward, weight=weight)
    log_p = jax.nn.log_softmax(at_least_float32(logits))
    chosen = jnp.take_along_axis(log_p, reward_class(reward)[:, None], 1)[:, 0]
    return -jnp.mean(jax.lax.stop_gradient(weight) * chosen)
