"""The terms of Distral's loss, each on one trajectory: equations (9) and (10), negated.

Teh et al. 2017, arXiv 1707.04175, section 2.3. Means are sums over valid steps divided by T. A
policy is log-probabilities [T, A], or a Gaussian with leaves [T, A]: see `policies`.
"""

import jax
import jax.numpy as jnp

from mtrl_jax._checks import check_shape
from mtrl_jax.losses.distral.objective import Scalar
from mtrl_jax.losses.distral.policies import Policy, cross_entropy, divergence, entropy
from mtrl_jax.types import Array

__all__ = [
    "distillation_loss",
    "expected_regulariser",
    "masked_mean",
    "policy_gradient_loss",
    "value_loss",
]

_sg = jax.lax.stop_gradient


def policy_gradient_loss(log_pi_i_a: Array, advantage: Array, valid_t: Array) -> Array:
    """-mean log pi_i(a_t) sg(advantage): equation (9), and in two columns the first line of (10).

    Args:
      log_pi_i_a: [T] log pi_i of the actions taken; carries gradient, to h too in two columns.
      advantage: [T] regularised return minus value; stopped.
      valid_t: bool [T].
    """
    return -masked_mean(log_pi_i_a * _sg(advantage), valid_t)


def distillation_loss(pi_i: Policy, pi_0: Policy, c_kl: Scalar, valid_t: Array) -> Array:
    """-c_kl mean E_sg(pi_i) log pi_0: second line of (10), gradient -c_kl (pi_i - pi_0) in logits.

    Args:
      pi_i: of T states; stopped, so that nothing of it reaches a task column, nor h by way of pi_i.
      pi_0: at the same states; carries gradient.
      c_kl: scalar, alpha / beta.
      valid_t: bool [T].
    """
    return c_kl * masked_mean(cross_entropy(_sg(pi_i), pi_0), valid_t)


def value_loss(v_tm1: Array, target: Array, value_cost: Scalar, valid_t: Array) -> Array:
    """value_cost mean (sg target - v)^2, with no half.

    Args:
      v_tm1: [T] values; carries gradient.
      target: [T] returns; stopped.
      value_cost: scalar.
      valid_t: bool [T].
    """
    return value_cost * masked_mean(jnp.square(_sg(target) - v_tm1), valid_t)


def expected_regulariser(pi_i: Policy, pi_0: Policy, c_kl: Scalar, c_ent: Scalar) -> Array:
    """-c_kl KL(pi_i || pi_0) + c_ent H(pi_i), the mean of the sampled regulariser over a ~ pi_i.

    Args:
      pi_i: carries gradient.
      pi_0: carries gradient, which a loss that distils stops.
      c_kl: scalar.
      c_ent: scalar.

    Returns:
      [...], in units of reward.
    """
    return c_ent * entropy(pi_i) - c_kl * divergence(pi_i, pi_0)


def masked_mean(x: Array, valid_t: Array) -> Array:
    """Sum over valid steps divided by T, not by their number: means of it compose exactly."""
    check_shape("valid_t", valid_t, jnp.shape(x), "[T]")
    return jnp.sum(jnp.where(valid_t, x, 0.0)) / x.shape[0]
