"""Distral (Teh et al. 2017, arXiv 1707.04175) as pure functions on arrays::

    objective      equation (1): costs, regularised reward; the terms of (9)-(10)
    soft_bellman   equations (2)-(5), (7): the optimal policies with tables, in closed form
    table1         equations (6), (8): the seven algorithms as coefficients; columns to policies
    loss           equations (9)-(10): the loss with networks

What an agent needs; logits may be Gaussians (`distributions.Gaussian`)::

    from mtrl_jax.losses import distral

    coefs = distral.coefficients(distral.ALGORITHMS["kl_ent_2col"], beta=100.0)
    logits = distral.task_policy(h, g, coefs)  # [A]: what to act with
    loss, metrics = distral.distral_loss(  # of T steps of one environment
        distral.Columns(h, g, v),  # [T, A], [T, A], [T + 1]
        distral.Trajectory(action, r_t, discount_t, valid_t),  # [T] each
        coefs,
    )
"""

from mtrl_jax.losses.distral.loss import (
    ENTROPY_FORMS,
    Columns,
    Trajectory,
    distral_loss,
    distribution,
)
from mtrl_jax.losses.distral.objective import (
    Costs,
    Temperature,
    alpha_beta_from_costs,
    costs_from_alpha_beta,
    distillation_loss,
    expected_regulariser,
    masked_mean,
    policy_gradient_loss,
    regularised_reward,
    value_loss,
)
from mtrl_jax.losses.distral.soft_bellman import (
    centroid,
    optimal_log_policy,
    pseudocount_policy,
    soft_q,
    soft_q_td_error,
    soft_value,
    two_column_advantage,
    two_column_logits,
)
from mtrl_jax.losses.distral.table1 import (
    ALGORITHMS,
    Coefficients,
    Variant,
    coefficients,
    task_policy,
)

__all__ = [
    "ALGORITHMS",
    "ENTROPY_FORMS",
    "Coefficients",
    "Columns",
    "Costs",
    "Temperature",
    "Trajectory",
    "Variant",
    "alpha_beta_from_costs",
    "centroid",
    "coefficients",
    "costs_from_alpha_beta",
    "distillation_loss",
    "distral_loss",
    "distribution",
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
    "two_column_advantage",
    "two_column_logits",
    "value_loss",
]
