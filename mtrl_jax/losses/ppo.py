"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) on samples of one task.

Everything is `[B]` in, scalar out; vmap over tasks. Advantages and value targets are data: they
carry no gradient and are normalised by the caller (`normalisers`), for each task over the whole
rollout, never over a minibatch.

Where the policy that acted is older than the one that the update starts from (a host loop collects
while the learner learns), the objective is the decoupled one of Hilton et al. 2021 (arXiv
2110.00641, equation 3): the clip is around the policy at the start of the update, "proximal", and
samples are weighted by how much likelier it is to act so than the policy that acted. With equal
policies it is PPO's own objective.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_shape, check_range
from mtrl_jax.types import Array, Metrics

__all__ = [
    "Data",
    "Predictions",
    "clipped_surrogate",
    "importance_weights",
    "kl_estimate",
    "ppo_loss",
]


class Predictions(NamedTuple):
    """What the networks that learn say of the samples; gradient goes here.

    Attributes:
      log_prob: [B] log pi(a|s) of the actions taken.
      entropy: [B] of that policy, in nats.
      v: [B] values, in the units of `Data.v_target`.
    """

    log_prob: Array
    entropy: Array
    v: Array


class Data(NamedTuple):
    """What is known of the samples before the update; carries no gradient.

    Attributes:
      proximal_log_prob: [B], of the actions taken under the policy at the start of the update.
      advantage: [B], normalised.
      v_target: [B].
      weight: [B], 0 for transitions that nothing may learn from. Its mean over the rollout should
        be 1: minibatches have different numbers of such rows, and devices too, and so a mean over
        minibatches, or devices, is still that of the whole.
      importance: [B] rho, from `importance_weights`.
    """

    proximal_log_prob: Array
    advantage: Array
    v_target: Array
    weight: Array
    importance: Array


def clipped_surrogate(log_ratio: Array, advantage: Array, epsilon: float) -> Array:
    """The smaller of the plain and the clipped objective, to be maximised.

    1707.06347, equation 7:

        min(r A, clip(r, 1 - epsilon, 1 + epsilon) A),   r = exp(log_ratio)

    Args:
      log_ratio: [B] log pi(a|s) - log pi_old(a|s).
      advantage: [B].
      epsilon: width of the clip, above 0.

    Returns:
      [B]. Carries gradient to both; none to the ratio where the clip is the smaller one.

    Raises:
      ValueError: for a wrong shape or epsilon.
    """
    check_range("epsilon", epsilon, 0.0, jnp.inf, open_low=True)
    assert_shape("[B]", jnp.shape(log_ratio), advantage=advantage)
    ratio = jnp.exp(log_ratio)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - epsilon, 1.0 + epsilon) * advantage)


def kl_estimate(log_ratio: Array) -> Array:
    """Estimate of KL(pi_old || pi) from actions of pi_old, never negative.

    Schulman 2020, "Approximating KL divergence", its k3:

        r - 1 - log r,   r = exp(log_ratio)

    Unbiased, with less variance than -log r.

    Args:
      log_ratio: [...] log pi(a|s) - log pi_old(a|s).

    Returns:
      [...] in nats, for the caller to average. Carries gradient.
    """
    return jnp.expm1(log_ratio) - log_ratio


def importance_weights(
    proximal_log_prob: Array, behaviour_log_prob: Array, limit: float = 2.0
) -> Array:
    """The weight of a sample in `ppo_loss`: how much likelier the proximal policy is to act so.

    2110.00641, equation 3, with a limit:

        rho = min(limit, pi_proximal(a|s) / pi_behaviour(a|s))

    The limit, which the paper does not have, bounds the variance where the two have moved apart.

    Args:
      proximal_log_prob: [...], of the actions taken, under the policy that the update starts from.
      behaviour_log_prob: [...], under the policy that drew them.
      limit: at least 1.

    Returns:
      [...], without gradient.

    Raises:
      ValueError: for a wrong shape or limit.
    """
    check_range("limit", limit, 1.0, jnp.inf)
    assert_shape("[...]", jnp.shape(proximal_log_prob), behaviour_log_prob=behaviour_log_prob)
    ratio = jnp.exp(proximal_log_prob - behaviour_log_prob)
    return jax.lax.stop_gradient(jnp.minimum(ratio, limit))


def ppo_loss(
    predictions: Predictions,
    data: Data,
    *,
    epsilon: float = 0.2,
    entropy_cost: float = 0.0,
    value_cost: float = 0.5,
) -> tuple[Array, Metrics]:
    """Policy, value and entropy loss of one task on one minibatch, to be minimised.

    1707.06347, equation 9, with its signs turned round; rho as in 2110.00641, equation 3:

        mean_b w_b [ -rho_b L_clip_b - entropy_cost H_b + value_cost (v_b - v_target_b)^2 ]

    Args:
      predictions: of the networks that learn, leaves [B].
      data: of the samples, leaves [B].
      epsilon: width of the clip.
      entropy_cost: per nat.
      value_cost: of the squared error.

    Returns:
      The loss, and metrics `loss/policy`, `loss/value`, `policy/entropy`, `policy/kl`,
      `policy/clipped` (fraction of samples outside the clip): scalars without gradient. Gradient
      goes to the predictions. What stands in a row of weight 0, NaN included, changes nothing.

    Raises:
      ValueError: for a wrong shape, or a number out of range.
    """
    check_range("entropy_cost", entropy_cost, 0.0, jnp.inf)
    check_range("value_cost", value_cost, 0.0, jnp.inf)
    assert_shape("[B]", (None,), log_prob=predictions.log_prob)
    shape = jnp.shape(predictions.log_prob)
    assert_shape("[B]", shape, **predictions._asdict(), **data._asdict())
    log_prob, entropy, v = predictions
    proximal_log_prob, advantage, v_target, weight, importance = data
    counts = weight > 0

    # A NaN must meet no product: 0 * NaN is NaN, in the value or in the gradient.
    def keep(x: Array) -> Array:
        return jnp.where(counts, x, 0.0)

    def mean(x: Array) -> Array:
        return jnp.mean(weight * keep(x))

    log_ratio = keep(log_prob) - keep(jax.lax.stop_gradient(proximal_log_prob))
    advantage, importance = (keep(jax.lax.stop_gradient(x)) for x in (advantage, importance))
    policy = -mean(importance * clipped_surrogate(log_ratio, advantage, epsilon))
    value = mean(jnp.square(keep(v) - keep(jax.lax.stop_gradient(v_target))))
    nats = mean(entropy)
    total = policy - entropy_cost * nats + value_cost * value
    outside = jnp.abs(jnp.expm1(log_ratio)) > epsilon
    metrics = {
        "loss/policy": policy,
        "loss/value": value,
        "policy/entropy": nats,
        "policy/kl": mean(kl_estimate(log_ratio)),
        "policy/clipped": mean(outside.astype(jnp.float32)),
    }
    return total, jax.lax.stop_gradient(metrics)
