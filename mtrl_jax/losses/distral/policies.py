"""Policies as Distral's loss reads them: logits and log-probabilities of actions, or Gaussians.

Teh et al. 2017, arXiv 1707.04175, write their equations for a softmax. For A coordinates of a
continuous action the shared column gives pi_0 = N(mu_0, sigma_0^2) in place of (6), and a task's
column a second Gaussian, an expert that stands for exp(beta f) in (8). Their product is Gaussian,
coordinate by coordinate:

    pi_i ~ pi_0^shared_scale expert^task_scale                                  (8)
    1 / sigma_i^2 = shared_scale / sigma_0^2 + task_scale / sigma_g^2
    mu_i = sigma_i^2 (shared_scale mu_0 / sigma_0^2 + task_scale mu_g / sigma_g^2)

What the loss asks of a policy has a closed form for both kinds, so it is the same loss. Nothing
bounds a standard deviation here: the caller does, and a product is never less precise than a factor
of scale 1. An entropy of Gaussians is that of densities and may be negative.
"""

from typing import Any

import jax.numpy as jnp

from mtrl_jax._checks import at_least_float32, check_range, check_shape
from mtrl_jax.distributions import Gaussian, gaussian_entropy, gaussian_kl, gaussian_log_prob
from mtrl_jax.losses.distral.table1 import Coefficients, task_policy_logits
from mtrl_jax.types import Array

__all__ = [
    "Policy",
    "cross_entropy",
    "divergence",
    "entropy",
    "log_prob",
    "task_policy",
    "task_policy_gaussian",
]

# Log-probabilities [..., A], from `distributions.categorical_log_probs`, or leaves [..., A].
Policy = Array | Gaussian


def task_policy(
    h: Array | Gaussian | None, g: Array | Gaussian | None, coefficients: Coefficients
) -> Array | Gaussian:
    """pi_i for any row of Table 1: logits of logits (8), or a Gaussian of Gaussians.

    Arguments, gradients and errors as in `task_policy_logits` and `task_policy_gaussian`.
    """
    if isinstance(h, Gaussian) or isinstance(g, Gaussian):
        return task_policy_gaussian(h, g, coefficients)
    return task_policy_logits(h, g, coefficients)


def task_policy_gaussian(h: Any, g: Any, coefficients: Coefficients) -> Gaussian:
    """pi_i ~ N(h)^shared_scale N(g)^task_scale, equation (8) for Gaussians; also to act with.

    Args:
      h: leaves [..., A] of the shared column, which is pi_0; None where there is none.
      g: leaves [..., A] of the task's column; None where there is none.
      coefficients: from `coefficients`; the two scales are used.

    Returns:
      Leaves [..., A] float32. Carries gradient to h and g, exactly 0 to a column whose scale is 0.

    Raises:
      ValueError: where both are None, one is no Gaussian, their shapes differ, or the scales of
        those that exist add up to 0 (a product of nothing cannot be normalised).
    """
    factors = [("h", h, coefficients.shared_scale), ("g", g, coefficients.task_scale)]
    factors = [factor for factor in factors if factor[1] is not None]
    for name, x, _ in factors:
        if not isinstance(x, Gaussian):
            raise ValueError(f"{name} must be a Gaussian, as the other column; got {type(x)}")
        for part, leaf in zip(x._fields, x, strict=True):
            check_shape(f"{name}.{part}", leaf, jnp.shape(factors[0][1].mean), "[..., A]")
    scales = sum(scale for *_, scale in factors)
    check_range("sum of scales of h and g", scales, 0.0, float("inf"), open_low=True)
    means = [at_least_float32(x.mean) for _, x, _ in factors]
    precisions = [scale * jnp.exp(-2.0 * at_least_float32(x.log_std)) for _, x, scale in factors]
    total: Any = sum(precisions)
    weighted: Any = sum(p * mean for p, mean in zip(precisions, means, strict=True))
    return Gaussian(weighted / total, -0.5 * jnp.log(total))


def log_prob(policy: Policy, action: Array) -> Array:
    """log pi(a), [...], of actions int [...], or [..., A] of a Gaussian. Carries gradient to pi."""
    if isinstance(policy, Gaussian):
        return gaussian_log_prob(*policy, action)
    return jnp.take_along_axis(policy, action[..., None], axis=-1)[..., 0]


def entropy(policy: Policy) -> Array:
    """H(pi) = -E log pi in nats, [...]. Carries gradient to pi."""
    if isinstance(policy, Gaussian):
        return gaussian_entropy(policy.log_std)
    return -jnp.sum(jnp.exp(policy) * policy, axis=-1)


def divergence(p: Policy, q: Policy) -> Array:
    """KL(p || q) in nats, [...], of two policies of one kind and shape. Carries gradient to both.

    Raises:
      ValueError: where their shapes differ.
    """
    if isinstance(p, Gaussian) or isinstance(q, Gaussian):
        return gaussian_kl(*p, *q)
    check_shape("q", q, jnp.shape(p), "[..., A]")
    return jnp.sum(jnp.exp(p) * (p - q), axis=-1)


def cross_entropy(p: Policy, q: Policy) -> Array:
    """-E_p log q = H(p) + KL(p || q) in nats, [...]; else as `divergence`."""
    if isinstance(p, Gaussian) or isinstance(q, Gaussian):
        return entropy(p) + divergence(p, q)
    check_shape("q", q, jnp.shape(p), "[..., A]")
    return -jnp.sum(jnp.exp(p) * q, axis=-1)
