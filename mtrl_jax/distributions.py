"""Distributions as values: categorical, and a Gaussian, plain or squashed by tanh.

Both are made by hand or by a network and handed to one set of functions, `sample`, `log_prob`,
`entropy` and so on, which ask what they were given; nothing else in the library does.

The last axis is the distribution's own (A actions, or N coordinates of an action); any leading axes
are carried along, with no broadcasting between arguments. Results are float32 for narrower inputs.
Entropies and divergences are in nats; a Gaussian's entropy is of a density and may be negative.

A masked action has probability exactly 0, is never drawn, and adds exactly 0 to an entropy or a
divergence and to every gradient. Its log-probability is a large negative *finite* number, because
minus infinity times 0 is NaN, in the value or in the gradient. A coordinate that a Gaussian does
not have is drawn as 0, and adds exactly 0 to log-densities, entropies, divergences and gradients.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_bool, assert_shape, at_least_float32
from mtrl_jax.types import Array, Key

__all__ = [
    "Categorical",
    "Distribution",
    "Gaussian",
    "bounded_log_std",
    "categorical",
    "cross_entropy",
    "entropy",
    "kl",
    "log_prob",
    "masked",
    "mode",
    "product",
    "sample",
    "tanh_gaussian_entropy",
    "tanh_gaussian_log_prob",
    "tanh_gaussian_sample",
    "unbounded_log_std",
]

# Far below any logit a network emits, far above float32's least number (differences stay finite).
_MASKED_LOGIT = -1e30


class Categorical(NamedTuple):
    """One of A actions. Normalised once, by `categorical`, which makes it of logits.

    Attributes:
      log_probs: `[..., A]`, about -1e30 for masked actions.
    """

    log_probs: Array


class Gaussian(NamedTuple):
    """Independent coordinates, not squashed, as one value.

    Attributes:
      mean: `[..., N]`.
      log_std: `[..., N]`, log of the standard deviation.
      real: bool `[..., N]`, the coordinates that there are; None: all. The others' mean and log_std
        are finite numbers that nothing depends on.
    """

    mean: Array
    log_std: Array
    real: Array | None = None


Distribution = Categorical | Gaussian


def categorical(logits: Array, action_mask: Array | None = None) -> Categorical:
    """The distribution softmax(logits) over the allowed actions.

    Args:
      logits: `[..., A]`, in any float dtype; minus infinity masks an action as well.
      action_mask: None, or bool `[A]` or `[..., A]`, False for actions that do not exist; at least
        one must.

    Returns:
      `Categorical`, float32 at least. Carries gradient to the logits of allowed actions.

    Raises:
      ValueError: for a mask that is neither `[A]` nor of the logits' shape.
    """
    logits = at_least_float32(logits)
    possible = logits > -jnp.inf
    if action_mask is not None:
        if jnp.ndim(action_mask) == 1:
            action_mask = jnp.broadcast_to(action_mask, logits.shape[:-1] + jnp.shape(action_mask))
        assert_shape("[A] or [..., A]", logits.shape, action_mask=action_mask)
        possible &= action_mask
    logits = jnp.where(possible, logits, _MASKED_LOGIT)
    return Categorical(jax.nn.log_softmax(logits))


def masked(gaussian: Gaussian, mask: Array | None) -> Gaussian:
    """The Gaussian with those of its coordinates that are True in `mask`, bool `[N]` or `[..., N]`;
    all of them for None.

    Raises:
      ValueError: for a mask of another shape.
    """
    if mask is None:
        return gaussian
    shape = jnp.shape(gaussian.mean)
    if jnp.ndim(mask) == 1:
        mask = jnp.broadcast_to(mask, shape[:-1] + jnp.shape(mask))
    assert_shape("[N] or [..., N]", shape, mask=mask)
    assert_bool(mask=mask)
    return gaussian._replace(real=_both(gaussian.real, mask))


def sample(distribution: Distribution, keys: Key) -> Array:
    """Draws one value per leading index, each with a key of its own.

    Args:
      distribution: leaves `[..., A]` or `[..., N]`.
      keys: `[...]`, consumed.

    Returns:
      Actions int32 `[...]` without gradient, or mean + std eps `[..., N]`, which carries gradient
      to the Gaussian (reparameterised).

    Raises:
      ValueError: unless there are as many keys as distributions.
    """
    assert_shape("[...]", jnp.shape(distribution[0])[:-1], keys=keys)

    def one(distribution: Distribution, key: Key) -> Array:
        if isinstance(distribution, Gaussian):
            noise = jax.random.normal(key, distribution.mean.shape)
            drawn = distribution.mean + jnp.exp(distribution.log_std) * noise
            return _real(drawn, distribution.real)
        return jax.random.categorical(key, distribution.log_probs).astype(jnp.int32)

    for _ in range(keys.ndim):
        one = jax.vmap(one)
    return one(distribution, keys)


def mode(distribution: Distribution) -> Array:
    """The likeliest value, int32 `[...]` (of equal actions the first), or the mean `[..., N]`."""
    if isinstance(distribution, Gaussian):
        return _real(distribution.mean, distribution.real)
    return distribution.log_probs.argmax(-1).astype(jnp.int32)


def log_prob(distribution: Distribution, x: Array) -> Array:
    """Log-probability of actions, or log-density summed over coordinates.

    For a Gaussian

        log p(x) = sum_n [ -((x - mean) / std)^2 / 2 - log std - log(2 pi) / 2 ]

    Args:
      distribution: leaves `[..., A]` or `[..., N]`.
      x: int `[...]`, each read from its own row; or `[..., N]` of a Gaussian.

    Returns:
      `[...]`. Carries gradient to the distribution, and to the `x` of a Gaussian.

    Raises:
      ValueError: for an `x` of another shape, or a Gaussian whose leaves differ in theirs.
    """
    if isinstance(distribution, Gaussian):
        mean, log_std, real = _widened(distribution)
        assert_shape("[..., N]", mean.shape, x=x)
        z = (_real(at_least_float32(x), real) - mean) * jnp.exp(-log_std)
        each = -0.5 * jnp.square(z) - log_std - 0.5 * math.log(2.0 * math.pi)
        return jnp.sum(_real(each, real), axis=-1)
    log_probs = distribution.log_probs
    assert_shape("[...]", log_probs.shape[:-1], action=x)
    return jnp.take_along_axis(log_probs, jnp.asarray(x)[..., None], axis=-1)[..., 0]


def entropy(distribution: Distribution) -> Array:
    """Entropy H(p) = -E_p log p.

    Of a categorical and of a Gaussian

        H = -sum_a p(a) log p(a)
        H = sum_n [ log std + log(2 pi e) / 2 ]

    Returns:
      `[...]`. Carries gradient to the distribution.
    """
    if isinstance(distribution, Gaussian):
        each = at_least_float32(distribution.log_std) + 0.5 * math.log(2.0 * math.pi * math.e)
        return jnp.sum(_real(each, distribution.real), axis=-1)
    log_probs = distribution.log_probs
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def kl(p: Distribution, q: Distribution) -> Array:
    """Divergence KL(p || q) = E_p [ log p - log q ] of two distributions of one kind.

    Of categoricals and of Gaussians (m, s: mean and standard deviation)

        sum_a p(a) (log p(a) - log q(a))
        sum_n [ log(s_q / s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2 ]

    A bijection common to both does not change it: the second is also that of their tanh images.

    Args:
      p: under which the mean is taken; leaves `[..., A]` or `[..., N]`.
      q: of the same kind, shape and mask.

    Returns:
      `[...]`. Carries gradient to both.

    Raises:
      ValueError: for two kinds, or shapes that differ.
    """
    if isinstance(p, Gaussian) and isinstance(q, Gaussian):
        (m_p, log_s_p, real_p), (m_q, log_s_q, real_q) = _widened(p, "p."), _widened(q, "q.")
        assert_shape("[..., N], that of p,", m_p.shape, q=m_q)
        ratio = jnp.exp(2.0 * (log_s_p - log_s_q))
        shift = jnp.square((m_p - m_q) * jnp.exp(-log_s_q))
        each = log_s_q - log_s_p + 0.5 * (ratio + shift - 1.0)
        return jnp.sum(_real(each, _both(real_p, real_q)), axis=-1)
    log_p, log_q = _both_categorical(p, q)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def cross_entropy(p: Distribution, q: Distribution) -> Array:
    """-E_p log q = H(p) + KL(p || q); arguments, result and errors as in `kl`."""
    if isinstance(p, Gaussian) and isinstance(q, Gaussian):
        return entropy(p) + kl(p, q)
    log_p, log_q = _both_categorical(p, q)
    return -jnp.sum(jnp.exp(log_p) * log_q, axis=-1)


def product(factors: Sequence[Gaussian], exponents: Sequence[Array | float]) -> Gaussian:
    """The Gaussian in proportion to the product of Gaussians, each to a power of its own.

    Precisions add up, and the mean is that of the means weighted by them, coordinate by coordinate:

        p ~ prod_i N(m_i, s_i^2)^{c_i} = N(m, s^2)
        1 / s^2 = sum_i c_i / s_i^2
        m = s^2 sum_i c_i m_i / s_i^2

    Args:
      factors: leaves `[..., N]`.
      exponents: c, scalars of at least 0 that are not all 0 (a product of nothing cannot be
        normalised).

    Returns:
      Leaves `[..., N]`. Carries gradient to all factors, exactly 0 to one whose exponent is 0.

    Raises:
      ValueError: where shapes differ.
    """
    leaves = [_widened(x, f"factors[{i}].") for i, x in enumerate(factors)]
    for i, x in enumerate(leaves):
        assert_shape("[..., N]", leaves[0].mean.shape, **{f"factors[{i}]": x.mean})
    weights = [c * jnp.exp(-2.0 * x.log_std) for c, x in zip(exponents, leaves, strict=True)]
    precision = functools.reduce(jnp.add, weights)
    means = (w * x.mean for w, x in zip(weights, leaves, strict=True))
    weighted = functools.reduce(jnp.add, means)
    real = functools.reduce(_both, (x.real for x in leaves))
    return Gaussian(weighted / precision, -0.5 * jnp.log(precision), real)


def tanh_gaussian_sample(gaussian: Gaussian, keys: Key) -> tuple[Array, Array]:
    """Draws of a squashed Gaussian, the policy of soft actor-critic.

    Haarnoja et al. 2018, arXiv 1801.01290, appendix C:

        a = tanh(u),   u = mean + std eps,   eps ~ N(0, 1)

    Args:
      gaussian: of u, leaves `[..., N]`.
      keys: `[...]`, consumed.

    Returns:
      (a, u), each `[..., N]`: the action in (-1, 1) and the Gaussian draw behind it, which
      `tanh_gaussian_log_prob` wants. Both carry gradient (reparameterised).

    Raises:
      ValueError: for leaves of two shapes, or unless there are as many keys as distributions.
    """
    u = sample(_widened(gaussian), keys)
    return jnp.tanh(u), u


def tanh_gaussian_log_prob(gaussian: Gaussian, u: Array) -> Array:
    """Log-density of the action tanh(u), summed over coordinates.

    Haarnoja et al. 2018, arXiv 1801.01290, equation 21:

        log p(a) = sum_n [ log N(u; mean, std) - log(1 - tanh(u)^2) ]

    It takes u, not a: near the bounds tanh rounds to 1 and u cannot be had back. The second term is
    written so as to be exact there too:

        log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u))

    Args:
      gaussian: of u, leaves `[..., N]`.
      u: `[..., N]`, before tanh; for an action that arrived from elsewhere, arctanh of it.

    Returns:
      `[...]`. Carries gradient to both.

    Raises:
      ValueError: unless all have one shape.
    """
    mean, log_std, real = _widened(gaussian)
    assert_shape("[..., N]", mean.shape, u=u)
    u = _real(at_least_float32(u), real)
    z = (u - mean) * jnp.exp(-log_std)
    log_normal = -0.5 * jnp.square(z) - log_std - 0.5 * math.log(2.0 * math.pi)
    log_slope = 2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u))
    return jnp.sum(_real(log_normal - log_slope, real), axis=-1)


def tanh_gaussian_entropy(gaussian: Gaussian, key: Key, num_samples: int = 1) -> Array:
    """Unbiased estimate of a squashed Gaussian's entropy, which has no closed form, from draws.

        H = -E log p(a)

    Args:
      gaussian: before tanh, leaves `[..., N]`.
      key: one, consumed.
      num_samples: draws averaged; the error falls with its root.

    Returns:
      `[...]`; negative for narrow distributions. Carries gradient (reparameterised).
    """
    gaussian = _widened(gaussian)

    def draw(key: Key) -> Array:
        noise = jax.random.normal(key, gaussian.mean.shape, gaussian.mean.dtype)
        return tanh_gaussian_log_prob(gaussian, gaussian.mean + jnp.exp(gaussian.log_std) * noise)

    return -jnp.mean(jax.vmap(draw)(jax.random.split(key, num_samples)), axis=0)


def bounded_log_std(raw: Array, low: float, high: float) -> Array:
    """Log of a standard deviation within bounds.

        low + (high - low) (1 + tanh(raw)) / 2

    It has a gradient everywhere, which a clip does not have.

    Args:
      raw: `[...]` any numbers, what a network emits.
      low: log of the least standard deviation.
      high: log of the largest.

    Returns:
      `[...]`. Carries gradient to `raw`.
    """
    return low + 0.5 * (high - low) * (1.0 + jnp.tanh(raw))


def unbounded_log_std(log_std: float, low: float, high: float) -> float:
    """The number that `bounded_log_std` maps to `log_std`, which lies between the bounds."""
    return math.atanh(2.0 * (log_std - low) / (high - low) - 1.0)


def _widened(gaussian: Gaussian, prefix: str = "") -> Gaussian:
    """In float32 at least, once both leaves have one shape."""
    assert_shape("[..., N]", jnp.shape(gaussian.mean), **{f"{prefix}log_std": gaussian.log_std})
    wide = Gaussian(at_least_float32(gaussian.mean), at_least_float32(gaussian.log_std))
    return masked(wide, gaussian.real)


def _real(x: Array, real: Array | None) -> Array:
    """`x` where a coordinate is real, elsewhere 0 whatever stands there, without gradient."""
    return x if real is None else jnp.where(real, x, 0.0)


def _both(p: Array | None, q: Array | None) -> Array | None:
    if p is None or q is None:
        return q if p is None else p
    return p & q


def _both_categorical(p: Distribution, q: Distribution) -> tuple[Array, Array]:
    if isinstance(p, Gaussian) or isinstance(q, Gaussian):
        raise ValueError(f"p and q must be of one kind, got {type(p)} and {type(q)}")
    assert_shape("[..., A], that of p,", jnp.shape(p.log_probs), q=q.log_probs)
    return p.log_probs, q.log_probs
