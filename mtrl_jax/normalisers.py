"""Running means and variances, as state that the caller keeps; the same on every device.

Meta-World's observations are metres that vary by centimetres, and returns of different tasks differ
by a factor of ten: both are brought to mean 0 and variance 1 before a network sees them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mtrl_jax._checks import assert_shape, check_range
from mtrl_jax.types import Array

__all__ = [
    "Affine",
    "Batch",
    "Moments",
    "change_of_units",
    "init_moments",
    "masked_moments",
    "normalise",
    "observe",
    "restore",
    "standardise",
    "update_moments",
]

# Of a coordinate that has not moved yet: when it does (a drawer, say), a few centimetres must not
# look like a hundred standard deviations.
_SMALLEST_STD = 1e-2


class Moments(NamedTuple):
    """What has been seen of some quantities, each with the shape given to `init_moments`.

    Attributes:
      mean: float32.
      variance: float32.
      batches: int32, how many batches went in.
    """

    mean: Array
    variance: Array
    batches: Array


class Batch(NamedTuple):
    """Moments of one batch, and how much they rest on.

    Attributes:
      mean: float32.
      variance: float32, biased.
      counted: float32, how many elements; 0 where there was none, and then the others mean nothing.
    """

    mean: Array
    variance: Array
    counted: Array


class Affine(NamedTuple):
    """x -> scale x + shift."""

    scale: Array
    shift: Array


def init_moments(shape: tuple[int, ...]) -> Moments:
    """Nothing seen: mean 0, variance 1, so that `normalise` leaves values as they are."""
    return Moments(jnp.zeros(shape), jnp.ones(shape), jnp.zeros(shape, jnp.int32))


def masked_moments(
    x: Array,
    mask: Array,
    axes: tuple[int, ...],
    sum_over_devices: Callable[[Array], Array] = lambda x: x,
) -> Batch:
    """Mean and (biased) variance over `axes`, of the elements where `mask`, and over devices.

    Two passes, so that values far from 0 lose no digits.

    Args:
      x: `[...]`; what stands where `mask` is False is not read, NaN included.
      mask: bool, of the shape of `x`.
      axes: reduced.
      sum_over_devices: where each device has some of what `axes` reduce.

    Returns:
      Arrays without `axes`; 0, 0 and 0 where nothing is counted.
    """
    assert_shape("[...], that of x,", jnp.shape(x), mask=mask)

    def total(y: Array) -> Array:
        return sum_over_devices(jnp.where(mask, y, 0.0).sum(axes, keepdims=True))

    count = total(jnp.ones_like(x))
    mean = total(x) / jnp.maximum(count, 1.0)
    variance = total(jnp.square(x - mean)) / jnp.maximum(count, 1.0)
    return Batch(*(y.squeeze(axes) for y in (mean, variance, count)))


def update_moments(moments: Moments, batch: Batch, slowest: float = 0.0) -> Moments:
    """Mixes in a batch: batch n with weight 1 / n, or `slowest` once that is more.

    So all batches count alike at first; with `slowest` above 0 older ones fade, for quantities that
    change as a policy learns. The mixture's variance includes the distance of the two means. Where
    the batch has counted nothing, nothing moves, and it is no batch.

    Args:
      moments: so far.
      batch: from `masked_moments`, of the same shape.
      slowest: in [0, 1].
    """
    check_range("slowest", slowest, 0.0, 1.0)
    batches = moments.batches + 1
    w = jnp.maximum(1.0 / batches.astype(jnp.float32), slowest)
    apart = batch.mean - moments.mean
    spread = (1.0 - w) * moments.variance + w * batch.variance
    spread += w * (1.0 - w) * jnp.square(apart)
    moved = Moments(moments.mean + w * apart, spread, batches)
    seen = batch.counted > 0
    return Moments(*(jnp.where(seen, new, old) for new, old in zip(moved, moments, strict=True)))


def observe(
    moments: Moments,
    observation: Array,
    counts: Array,
    together: bool,
    sum_over_devices: Callable[[Array], Array] = lambda x: x,
    real: np.ndarray | None = None,
) -> Moments:
    """Moments `[K, F]` with a rollout's observations mixed in.

    Args:
      moments: so far.
      observation: `[K, T, E, ...]`, of F numbers each; not read where it does not count.
      counts: bool `[K, T, E]`, which of them count. A task of which none does moves no moments.
      together: whether all tasks have the same moments, those of all tasks' observations.
      sum_over_devices: where each device has some of the environments.
      real: bool `[K, ...]`, the elements that a task has; None: all. The moments of the others stay
        the 0 and 1 of `init_moments`, so that padding with zeros is 0 when normalised, whatever
        other tasks have there.
    """
    x = observation.reshape(*observation.shape[:3], -1).astype(jnp.float32)
    axes = (0, 1, 2) if together else (1, 2)
    mask = jnp.broadcast_to(counts[..., None], x.shape)
    has = None if real is None else jnp.asarray(real).reshape(real.shape[0], -1)
    if has is not None:
        mask &= jnp.broadcast_to(has[:, None, None], x.shape)
    batch = masked_moments(x, mask, axes, sum_over_devices)
    shape = moments.mean.shape
    moved = update_moments(moments, Batch(*(jnp.broadcast_to(y, shape) for y in batch)))
    if has is None:
        return moved
    return Moments(*(jnp.where(has, new, old) for new, old in zip(moved, moments, strict=True)))


def normalise(x: Array, moments: Moments, limit: float = jnp.inf) -> Array:
    """(x - mean) / std, cut off at `limit`; moments `[*m]` are of x `[..., *m]`'s last axes."""
    mean, std = (jnp.broadcast_to(m, x.shape) for m in (moments.mean, _std(moments)))
    return jnp.clip((x - mean) / std, -limit, limit)


def restore(x: Array, moments: Moments) -> Array:
    """The inverse of `normalise` without a limit."""
    mean, std = (jnp.broadcast_to(m, x.shape) for m in (moments.mean, _std(moments)))
    return mean + std * x


def change_of_units(before: Moments, after: Moments) -> Affine:
    """What keeps restored values as they are when moments move ("POP").

    van Hasselt et al. 2016, *Learning values across many orders of magnitude*, arXiv 1602.07714,
    proposition 1; for each task by itself as in Hessel et al. 2018, arXiv 1809.04474. With mean mu
    and standard deviation sigma of `before` and mu', sigma' of `after`,

        sigma' (a x + c) + mu' = sigma x + mu     for all x, with
        a = sigma / sigma',  c = (mu - mu') / sigma'

    so that ``restore(a * x + c, after)`` is ``restore(x, before)``: a network whose last layer has
    weights w and bias b says the same in the new units with a w and a b + c.

    Args:
      before: moments.
      after: of the same shape.

    Returns:
      a and c, of that shape; exactly 1 and 0 where nothing has moved.
    """
    std = _std(after)
    return Affine(_std(before) / std, (before.mean - after.mean) / std)


def standardise(
    x: Array, mask: Array, sum_over_devices: Callable[[Array], Array] = lambda x: x
) -> Array:
    """Each task's own (x - mean) / (std + 1e-8) over its whole rollout, and all devices.

    Args:
      x: `[K, ...]`.
      mask: bool `[K, ...]`, what counts.
      sum_over_devices: where each device has some of the rollout.

    Returns:
      `[K, ...]`, 0 where not counted.
    """
    axes = tuple(range(1, jnp.ndim(x)))
    mean, variance, _ = masked_moments(x, mask, axes, sum_over_devices)
    mean, std = (jnp.expand_dims(y, axes) for y in (mean, jnp.sqrt(variance)))
    return jnp.where(mask, (x - mean) / (std + 1e-8), 0.0)


def _std(moments: Moments) -> Array:
    return jnp.maximum(jnp.sqrt(moments.variance), _SMALLEST_STD)
