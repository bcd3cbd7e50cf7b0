"""The objective of Distral, equation (1), and the terms of its loss with networks, (9) and (10).

Teh, Bapst, Czarnecki, Quan, Kirkpatrick, Hadsell, Heess, Pascanu, *Distral: Robust Multitask
Reinforcement Learning*, NeurIPS 2017, arXiv 1707.04175. n tasks i share states, actions and
discount; pi_i is the policy of task i and pi_0 the distilled policy they share. The objective to
maximise is

    J = sum_i E_{pi_i} sum_t gamma^t [ R_i - c_kl log(pi_i / pi_0) - c_ent log pi_i ]         (1)
      = sum_i E_{pi_i} sum_t gamma^t [ R_i + (alpha/beta) log pi_0 - (1/beta) log pi_i ]

    alpha = c_kl / (c_kl + c_ent)    beta = 1 / (c_kl + c_ent)
    c_kl = alpha/beta                c_ent = (1 - alpha)/beta

beta is an inverse temperature; what behaves as a cost, in units of reward, is 1/beta. The
divergence is KL(pi_i || pi_0): both logarithms are taken at the action that pi_i drew.

Policies are `distributions` with leaves [..., A]. Costs may be traced, so a vmap over tasks may
give each its own. Everything carries gradient to every float argument unless it says otherwise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax._checks import assert_shape, check_range
from mtrl_jax.distributions import Distribution, cross_entropy, entropy, kl
from mtrl_jax.types import Array

__all__ = [
    "Costs",
    "Temperature",
    "alpha_beta_from_costs",
    "costs_from_alpha_beta",
    "distillation_loss",
    "expected_regulariser",
    "masked_mean",
    "policy_gradient_loss",
    "regularised_reward",
    "value_loss",
]

Scalar = Array | float


class Costs(NamedTuple):
    """c_kl and c_ent: units of reward per nat of divergence from pi_0, and of lost entropy."""

    c_kl: Scalar
    c_ent: Scalar


class Temperature(NamedTuple):
    """alpha in [0, 1], the share of the divergence, and beta > 0, the inverse temperature."""

    alpha: Scalar
    beta: Scalar


def costs_from_alpha_beta(alpha: Scalar, beta: Scalar) -> Costs:
    """The costs of a temperature; an infinite beta means no regulariser.

        c_kl = alpha / beta
        c_ent = (1 - alpha) / beta

    Args:
      alpha: scalar, or [K] for costs per task.
      beta: the same.

    Returns:
      `Costs`, of Python floats where both are.

    Raises:
      ValueError: for alpha outside [0, 1] or beta not above 0.
    """
    check_range("alpha", alpha, 0.0, 1.0)
    check_range("beta", beta, 0.0, float("inf"), open_low=True)
    return Costs(alpha / beta, (1.0 - alpha) / beta)


def alpha_beta_from_costs(c_kl: Scalar, c_ent: Scalar) -> Temperature:
    """The temperature of costs.

        alpha = c_kl / (c_kl + c_ent)
        beta = 1 / (c_kl + c_ent)

    Args:
      c_kl: scalar, or [K] for costs per task.
      c_ent: the same.

    Returns:
      `Temperature`, of Python floats where both are.

    Raises:
      ValueError: for a negative or infinite cost, or where both are 0 (alpha is then undefined).
    """
    largest = float(np.finfo(np.float32).max)
    check_range("c_kl", c_kl, 0.0, largest)
    check_range("c_ent", c_ent, 0.0, largest)
    total = c_kl + c_ent
    check_range("c_kl + c_ent", total, 0.0, largest, open_low=True)
    return Temperature(c_kl / total, 1.0 / total)


def regularised_reward(
    r_t: Array, log_pi_i: Array, log_pi_0: Array, c_kl: Scalar, c_ent: Scalar
) -> Array:
    """The summand of equation (1) at the action that was drawn.

        R^reg = R + (alpha/beta) log pi_0(a) - (1/beta) log pi_i(a)

    Args:
      r_t: [...] reward of the transition, in the units of the costs.
      log_pi_i: [...] log pi_i(a), a being the action that pi_i drew.
      log_pi_0: [...] log pi_0 of that same action.
      c_kl: scalar, alpha / beta.
      c_ent: scalar, (1 - alpha) / beta.

    Returns:
      [...]. A policy gradient treats it as a constant: stop the gradient there.
    """
    return r_t + c_kl * log_pi_0 - (c_kl + c_ent) * log_pi_i


def expected_regulariser(
    pi_i: Distribution, pi_0: Distribution, c_kl: Scalar, c_ent: Scalar
) -> Array:
    """Exact mean over a ~ pi_i of what `regularised_reward` adds to a reward.

        -c_kl KL(pi_i || pi_0) + c_ent H(pi_i)

    Args:
      pi_i: of the task, leaves [..., A]; carries gradient.
      pi_0: of the same kind and shape; carries gradient, which a loss that distils stops.
      c_kl: scalar.
      c_ent: scalar.

    Returns:
      [...], in units of reward.

    Raises:
      ValueError: for two kinds, or shapes that differ.
    """
    return c_ent * entropy(pi_i) - c_kl * kl(pi_i, pi_0)


def policy_gradient_loss(log_pi_i_a: Array, advantage: Array, valid_t: Array) -> Array:
    """Term of the policy gradient, a scalar: (9), and in two columns the first line of (10).

        -mean log pi_i(a_t) sg(advantage_t)

    Args:
      log_pi_i_a: [T] log pi_i of the actions taken; carries gradient, to h too in two columns.
      advantage: [T] regularised return minus value; stopped.
      valid_t: bool [T].
    """
    return -masked_mean(log_pi_i_a * jax.lax.stop_gradient(advantage), valid_t)


def distillation_loss(
    pi_i: Distribution, pi_0: Distribution, c_kl: Scalar, valid_t: Array
) -> Array:
    """Term of the distillation, a scalar: second line of (10).

        -c_kl mean E_{sg(pi_i)} log pi_0

    Its gradient is -c_kl (pi_i - pi_0) in the logits of pi_0.

    Args:
      pi_i: of T states; stopped, so that nothing of it reaches a task column, nor h by way of pi_i.
      pi_0: at the same states; carries gradient.
      c_kl: scalar, alpha / beta.
      valid_t: bool [T].
    """
    return c_kl * masked_mean(cross_entropy(jax.lax.stop_gradient(pi_i), pi_0), valid_t)


def value_loss(v_tm1: Array, target: Array, value_cost: Scalar, valid_t: Array) -> Array:
    """Term of the values, a scalar: their squared error, with no half.

        value_cost mean (sg target_t - v_t)^2

    Args:
      v_tm1: [T] values; carries gradient.
      target: [T] returns; stopped.
      value_cost: scalar.
      valid_t: bool [T].
    """
    return value_cost * masked_mean(jnp.square(jax.lax.stop_gradient(target) - v_tm1), valid_t)


def masked_mean(x: Array, valid_t: Array) -> Array:
    """Sum over valid steps divided by T, not by their number: means of it compose exactly."""
    assert_shape("[T]", jnp.shape(x), valid_t=valid_t)
    return jnp.sum(jnp.where(valid_t, x, 0.0)) / x.shape[0]
