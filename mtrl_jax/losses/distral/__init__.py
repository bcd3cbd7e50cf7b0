"""Distral (Teh et al. 2017, arXiv 1707.04175) as pure functions on arrays.

    objective      equations (1), (5): costs, regularised reward, distilled policy in closed form
                   and from counts
    soft_bellman   equations (2)-(4): softened values and backup, optimal task policy
    table1         equations (6)-(8): columns to policies; the seven algorithms as coefficients
    policies       the same for Gaussians; what the loss asks of a policy of either kind
    terms, loss    equations (9)-(10): the terms of the loss with networks, and the loss

What an agent needs:

    coefs = coefficients(ALGORITHMS["kl_ent_2col"], beta)
    logits = task_policy(h, g, coefs)
    loss, metrics = distral_loss(
        h, g, v, action, r_t, discount_t, valid_t, coefficients=coefs,
        value_cost=0.5, lambda_=1.0, entropy_form="reward", action_mask=None)
"""

from mtrl_jax.losses.distral.loss import ENTROPY_FORMS, distral_loss
from mtrl_jax.losses.distral.objective import (
    Costs,
    Temperature,
    alpha_beta_from_costs,
    centroid,
    costs_from_alpha_beta,
    pseudocount_policy,
    regularised_reward,
)
from mtrl_jax.losses.distral.policies import task_policy, task_policy_gaussian
from mtrl_jax.losses.distral.soft_bellman import (
    optimal_log_policy,
    soft_q,
    soft_q_td_error,
    soft_value,
)
from mtrl_jax.losses.distral.table1 import (
    ALGORITHMS,
    Coefficients,
    Variant,
    coefficients,
    task_policy_logits,
    two_column_advantage,
    two_column_logits,
)
from mtrl_jax.losses.distral.terms import (
    distillation_loss,
    expected_regulariser,
    masked_mean,
    policy_gradient_loss,
    value_loss,
)

__all__ = [
    "ALGORITHMS",
    "ENTROPY_FORMS",
    "Coefficients",
    "Costs",
    "Temperature",
    "Variant",
    "alpha_beta_from_costs",
    "centroid",
    "coefficients",
    "costs_from_alpha_beta",
    "distillation_loss",
    "distral_loss",
    "expected_regulariser",
    "masked_mean",
    "optimal_log_policy",
    "policy_gradient_loss",
    "pseudocount_policy",
    "regularised_reward",
    "soft_q",
    "soft_q_td_error",
    "soft_value",
    "task_policy",
    "task_policy_gaussian",
    "task_policy_logits",
    "two_column_advantage",
    "two_column_logits",
    "value_loss",
]
