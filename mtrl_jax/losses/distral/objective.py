"""The objective of Distral, equation (1), and its optimum in the distilled policy, (5).

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

Everything is unbatched (one state, [A] actions) or elementwise; vmap for more. alpha and beta are
scalars and may be traced, so a vmap over tasks may give each task its own. Everything carries
gradient to every float argument unless it says otherwise. A value of alpha outside [0, 1] or of
beta not above 0 raises ValueError where it is known before compilation.
"""

from typing import NamedTuple

import jax.numpy as jnp

from mtrl_jax._checks import at_least_float32, check_range, check_shape
from mtrl_jax.types import Array

__all__ = [
    "Costs",
    "Temperature",
    "alpha_beta_from_costs",
    "centroid",
    "costs_from_alpha_beta",
    "pseudocount_policy",
    "regularised_reward",
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
    """c_kl = alpha / beta and c_ent = (1 - alpha) / beta; an infinite beta means no regulariser.

    Args:
      alpha: scalar, or [K] for costs per task.
      beta: the same.

    Raises:
      ValueError: for alpha outside [0, 1] or beta not above 0.
    """
    check_range("alpha", alpha, 0.0, 1.0)
    check_range("beta", beta, 0.0, float("inf"), open_low=True)
    return Costs(alpha / beta, (1.0 - alpha) / beta)


def alpha_beta_from_costs(c_kl: Scalar, c_ent: Scalar) -> Temperature:
    """alpha = c_kl / (c_kl + c_ent) and beta = 1 / (c_kl + c_ent).

    Args:
      c_kl: scalar, or [K] for costs per task.
      c_ent: the same.

    Raises:
      ValueError: for a negative or infinite cost, or where both are 0 (alpha is then undefined).
    """
    largest = float(jnp.finfo(jnp.float32).max)
    check_range("c_kl", c_kl, 0.0, largest)
    check_range("c_ent", c_ent, 0.0, largest)
    total = c_kl + c_ent
    check_range("c_kl + c_ent", total, 0.0, largest, open_low=True)
    return Temperature(c_kl / total, 1.0 / total)


def regularised_reward(
    r_t: Array, log_pi_i: Array, log_pi_0: Array, c_kl: Scalar, c_ent: Scalar
) -> Array:
    """R^reg = R + (alpha/beta) log pi_0(a) - (1/beta) log pi_i(a), the summand of equation (1).

    Its exact mean over a ~ pi_i is R - c_kl KL(pi_i || pi_0) + c_ent H(pi_i).

    Args:
      r_t: [...] reward of the transition.
      log_pi_i: [...] log pi_i(a), a being the action that pi_i drew.
      log_pi_0: [...] log pi_0 of that same action.
      c_kl: scalar, alpha / beta.
      c_ent: scalar, (1 - alpha) / beta.

    Returns:
      [...]. A policy gradient treats it as a constant: stop the gradient there.
    """
    return r_t + c_kl * log_pi_0 - (c_kl + c_ent) * log_pi_i


def centroid(weights: Array, policies: Array) -> Array:
    """Distilled policy in closed form, pi_0(a|s) = sum_i rho_i(s) pi_i(a|s) / sum_i rho_i(s).

    It maximises what of J depends on pi_0, sum_i E_{pi_i} sum_t gamma^t c_kl log pi_0(a_t|s_t)
    (equation 5); that is, it minimises sum_i rho_i KL(pi_i || q) over q: an arithmetic mean
    weighted by visits.

    Args:
      weights: [K] discounted visits rho_i(s) of this state, at least 0.
      policies: [K, A] pi_i(.|s).

    Returns:
      [A]; the plain mean where nobody visits the state.
    """
    check_shape("weights", weights, jnp.shape(policies)[:1], "[K]")
    weights, policies = at_least_float32(weights), at_least_float32(policies)
    visited = jnp.sum(weights) > 0
    weights = jnp.where(visited, weights, jnp.ones_like(weights))
    return weights @ policies / jnp.sum(weights)


def pseudocount_policy(counts: Array, pseudocount: Scalar = 1.0) -> Array:
    """Distilled policy from counts, pi_0(a|s) = (c + N(s, a)) / (c A + N(s)).

    Args:
      counts: [..., A] how often the tasks together took each action; may have decayed to fractions.
      pseudocount: c above 0; the policy is uniform where nothing was seen.

    Returns:
      [..., A], rows sum to 1.
    """
    check_range("pseudocount", pseudocount, 0.0, float("inf"), open_low=True)
    counts = at_least_float32(counts) + pseudocount
    return counts / jnp.sum(counts, axis=-1, keepdims=True)
