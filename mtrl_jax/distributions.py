"""Distributions as functions: categorical over logits, and a Gaussian, plain or squashed by tanh.

The last axis is the distribution's own (A actions, or N coordinates of an action); any leading
axes are carried along, with no broadcasting between arguments. Results are float32 for narrower
inputs.

Categorical functions take an optional `action_mask`, bool [..., A], False for actions that do not
exist. A masked action has probability exactly 0, is never drawn, and adds exactly 0 to an entropy
or a divergence and to every gradient. Its log-probability is a large negative *finite* number,
because minus infinity times 0 is NaN, in the value or in the gradient. At least one action must be
allowed.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax._checks import at_least_float32, check_shape
from mtrl_jax.types import Array, Key

__all__ = [
    "Gaussian",
    "bounded_log_std",
    "categorical_entropy",
    "categorical_kl",
    "categorical_log_prob",
    "categorical_log_probs",
    "categorical_sample",
    "gaussian_entropy",
    "gaussian_kl",
    "gaussian_log_prob",
    "tanh_gaussian_entropy",
    "tanh_gaussian_log_prob",
    "tanh_gaussian_sample",
    "unbounded_log_std",
]

# Far below any logit a network emits, far above float32's least number (differences stay finite).
_MASKED_LOGIT = -1e30


class Gaussian(NamedTuple):
    """Independent coordinates, not squashed, as one value."""

    mean: Array  # [..., N]
    log_std: Array  # [..., N]


def categorical_log_probs(logits: Array, action_mask: Array | None = None) -> Array:
    """Log-probabilities of all actions, log softmax in float32 at least.

    Args:
      logits: [..., A].
      action_mask: None, or bool [A] or [..., A], False for actions that do not exist.

    Returns:
      [..., A]; about -1e30 for masked actions. Carries gradient to the logits of allowed actions.

    Raises:
      ValueError: for a mask that is neither [A] nor of the logits' shape.
    """
    logits = at_least_float32(logits)
    if action_mask is not None:
        if jnp.ndim(action_mask) == 1:
            action_mask = jnp.broadcast_to(action_mask, logits.shape[:-1] + jnp.shape(action_mask))
        check_shape("action_mask", action_mask, logits.shape, "[A] or [..., A]")
        logits = jnp.where(action_mask, logits, _MASKED_LOGIT)
    return jax.nn.log_softmax(logits)


def categorical_sample(key: Key, logits: Array, action_mask: Array | None = None) -> Array:
    """Draws one action per leading index; int32 [...]. Consumes the key; carries no gradient."""
    log_probs = categorical_log_probs(logits, action_mask)
    return jax.random.categorical(key, log_probs).astype(jnp.int32)


def categorical_log_prob(logits: Array, action: Array, action_mask: Array | None = None) -> Array:
    """Log-probability of the actions taken.

    Args:
      logits: [..., A].
      action: int [...], each read from its own row of logits.
      action_mask: None, or bool [A] or [..., A].

    Returns:
      [...]. Carries gradient to the logits.

    Raises:
      ValueError: unless `action` has the logits' leading shape.
    """
    check_shape("action", action, jnp.shape(logits)[:-1], "[...]")
    log_probs = categorical_log_probs(logits, action_mask)
    return jnp.take_along_axis(log_probs, jnp.asarray(action)[..., None], axis=-1)[..., 0]


def categorical_entropy(logits: Array, action_mask: Array | None = None) -> Array:
    """Entropy -sum_a p(a) log p(a) in nats, [...]. Carries gradient to the logits."""
    log_probs = categorical_log_probs(logits, action_mask)
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def categorical_kl(logits_p: Array, logits_q: Array, action_mask: Array | None = None) -> Array:
    """Divergence KL(p || q) = sum_a p(a) (log p(a) - log q(a)) in nats.

    Args:
      logits_p: [..., A], of the distribution under which the mean is taken.
      logits_q: [..., A].
      action_mask: None, or bool [A] or [..., A]; one mask for both.

    Returns:
      [...]. Carries gradient to both logits.

    Raises:
      ValueError: unless both logits have one shape.
    """
    check_shape("logits_q", logits_q, jnp.shape(logits_p), "[..., A]")
    log_p = categorical_log_probs(logits_p, action_mask)
    log_q = categorical_log_probs(logits_q, action_mask)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def tanh_gaussian_sample(key: Key, mean: Array, log_std: Array) -> tuple[Array, Array]:
    """Draws a = tanh(u), u = mean + exp(log_std) eps, eps ~ N(0, 1): the policy of soft
    actor-critic.

    Haarnoja et al. 2018, arXiv 1801.01290, appendix C.

    Args:
      key: consumed.
      mean: [..., N] of the Gaussian before tanh.
      log_std: [..., N], log of its standard deviation.

    Returns:
      (a, u), each [..., N]: the action in (-1, 1) and the Gaussian draw behind it, which
      `tanh_gaussian_log_prob` wants. Both carry gradient (reparameterised).

    Raises:
      ValueError: unless mean and log_std have one shape.
    """
    check_shape("log_std", log_std, jnp.shape(mean), "[..., N]")
    mean, log_std = at_least_float32(mean), at_least_float32(log_std)
    u = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)
    return jnp.tanh(u), u


def tanh_gaussian_log_prob(mean: Array, log_std: Array, u: Array) -> Array:
    """Log-density of the action tanh(u), summed over coordinates.

    log p(a) = sum_n [ log N(u; mean, std) - log(1 - tanh(u)^2) ]   (arXiv 1801.01290, equation 21)

    It takes u, not a: near the bounds tanh rounds to 1 and u cannot be had back. The second term is
    written 2 (log 2 - u - softplus(-2u)), which is exact there too.

    Args:
      mean: [..., N].
      log_std: [..., N].
      u: [..., N], before tanh; for an action that arrived from elsewhere, arctanh of it.

    Returns:
      [...]. Carries gradient to all three.

    Raises:
      ValueError: unless the three have one shape.
    """
    check_shape("log_std", log_std, jnp.shape(mean), "[..., N]")
    check_shape("u", u, jnp.shape(mean), "[..., N]")
    mean, log_std, u = at_least_float32(mean), at_least_float32(log_std), at_least_float32(u)
    z = (u - mean) * jnp.exp(-log_std)
    log_normal = -0.5 * jnp.square(z) - log_std - 0.5 * math.log(2.0 * math.pi)
    log_slope = 2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u))
    return jnp.sum(log_normal - log_slope, axis=-1)


def tanh_gaussian_entropy(key: Key, mean: Array, log_std: Array, num_samples: int = 1) -> Array:
    """Unbiased estimate of the entropy, -mean log p over draws; there is no closed form.

    Args:
      key: consumed.
      mean: [..., N].
      log_std: [..., N].
      num_samples: draws averaged; the error falls with its root.

    Returns:
      [...] in nats; negative for narrow distributions. Carries gradient (reparameterised).
    """
    keys = jax.random.split(key, num_samples)

    def draw(k):
        return tanh_gaussian_log_prob(mean, log_std, tanh_gaussian_sample(k, mean, log_std)[1])

    return -jnp.mean(jax.vmap(draw)(keys), axis=0)


def gaussian_log_prob(mean: Array, log_std: Array, x: Array) -> Array:
    """Log-density of a diagonal Gaussian, summed over coordinates.

    log p(x) = sum_n [ -((x - mean) / std)^2 / 2 - log std - log(2 pi) / 2 ]

    Args:
      mean: [..., N].
      log_std: [..., N].
      x: [..., N].

    Returns:
      [...]. Carries gradient to all three.

    Raises:
      ValueError: unless the three have one shape.
    """
    check_shape("log_std", log_std, jnp.shape(mean), "[..., N]")
    check_shape("x", x, jnp.shape(mean), "[..., N]")
    mean, log_std, x = at_least_float32(mean), at_least_float32(log_std), at_least_float32(x)
    z = (x - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * jnp.square(z) - log_std - 0.5 * math.log(2.0 * math.pi), axis=-1)


def gaussian_entropy(log_std: Array) -> Array:
    """Entropy of a diagonal Gaussian in nats, sum_n [ log std + log(2 pi e) / 2 ]; [..., N] to
    [...]. Carries gradient."""
    return jnp.sum(at_least_float32(log_std) + 0.5 * math.log(2.0 * math.pi * math.e), axis=-1)


def gaussian_kl(mean_p: Array, log_std_p: Array, mean_q: Array, log_std_q: Array) -> Array:
    """Divergence KL(p || q) of diagonal Gaussians; also that of their tanh images.

    sum_n [ log(s_q / s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2 ]. A divergence does not
    change under a bijection common to both, so tanh leaves it as it is.

    Args:
      mean_p: [..., N].
      log_std_p: [..., N].
      mean_q: [..., N].
      log_std_q: [..., N].

    Returns:
      [...] in nats. Carries gradient to all four.

    Raises:
      ValueError: unless the four have one shape.
    """
    for name, x in (("log_std_p", log_std_p), ("mean_q", mean_q), ("log_std_q", log_std_q)):
        check_shape(name, x, jnp.shape(mean_p), "[..., N]")
    mean_p, log_std_p = at_least_float32(mean_p), at_least_float32(log_std_p)
    mean_q, log_std_q = at_least_float32(mean_q), at_least_float32(log_std_q)
    ratio = jnp.exp(2.0 * (log_std_p - log_std_q))
    shift = jnp.square((mean_p - mean_q) * jnp.exp(-log_std_q))
    return jnp.sum(log_std_q - log_std_p + 0.5 * (ratio + shift - 1.0), axis=-1)


def bounded_log_std(raw: Array, low: float, high: float) -> Array:
    """Log of a standard deviation within bounds, low + (high - low) (1 + tanh(raw)) / 2.

    It has a gradient everywhere, which a clip does not have.

    Args:
      raw: [...] any numbers, what a network emits.
      low: log of the least standard deviation.
      high: log of the largest.

    Returns:
      [...]. Carries gradient to `raw`.
    """
    return low + 0.5 * (high - low) * (1.0 + jnp.tanh(raw))


def unbounded_log_std(log_std: float, low: float, high: float) -> float:
    """The number that `bounded_log_std` maps to `log_std`, which lies between the bounds."""
    return math.atanh(2.0 * (log_std - low) / (high - low) - 1.0)
