"""Distral with networks: the one loss of which all seven algorithms are settings.

Teh et al. 2017, arXiv 1707.04175, section 2.3; equation numbers are theirs. Losses are terms of
-J; sg stops gradients; c_kl = alpha/beta and c_ent = (1 - alpha)/beta.

    pi_0 = softmax(h)                                                   (6)
    pi_i = softmax(shared_scale h + task_scale g)                       (8), two columns:
                                                                        alpha h + g, g = beta f
    r^reg_t = r_t + c_kl sg log pi_0(a) - (c_kl + c_ent) sg log pi_i(a)
    G_t  = return of r^reg to the end of the unroll, bootstrapped with sg V
    policy gradient  - mean log pi_i(a_t) sg(G_t - V(s_t))                (9), first line of (10)
    distillation     - c_kl mean sum_a sg(pi_i(a|s_t)) log pi_0(a|s_t)    second line of (10)
    value            value_cost mean (sg G_t - V(s_t))^2

Departures:
  1. A synchronous batched actor-critic stands for asynchronous A3C.
  2. The factor gamma^t of (9) and (10) is dropped, in both policy terms alike, as A3C does.
  3. The task column emits g = beta f (see `task_policy_logits`).

Where the regulariser goes, `entropy_form`:

  "reward"    in the return, as in (9): exact. An analytic term on top would count it twice.
  "analytic"  the same step's regulariser summed over actions and differentiated, later steps' in
              the return: the same gradient in the mean, with less variance.
  "local"     summed over actions, the return being of the raw reward: the entropy bonus of A3C,
              extended to the divergence. It maximises something other than J.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax._checks import at_least_float32, check_shape
from mtrl_jax.distributions import categorical_log_probs
from mtrl_jax.losses.distral.objective import Scalar, regularised_reward
from mtrl_jax.losses.distral.table1 import Coefficients, task_policy_logits
from mtrl_jax.losses.distral.terms import (
    distillation_loss,
    expected_regulariser,
    masked_mean,
    policy_gradient_loss,
    value_loss,
)
from mtrl_jax.returns import lambda_returns
from mtrl_jax.types import Array, Metrics

__all__ = ["ENTROPY_FORMS", "distral_loss"]

ENTROPY_FORMS = ("reward", "analytic", "local")

_sg = jax.lax.stop_gradient


def distral_loss(
    h: Array | None,
    g: Array | None,
    v: Array,
    action: Array,
    r_t: Array,
    discount_t: Array,
    valid_t: Array,
    *,
    coefficients: Coefficients,
    value_cost: Scalar = 0.5,
    lambda_: Scalar = 1.0,
    entropy_form: str = "reward",
    action_mask: Array | None = None,
) -> tuple[Array, Metrics]:
    """Loss of one trajectory of one task; the mean over environments and sum over tasks are yours.

    Every mean here is a sum over valid steps divided by T, a constant. So the mean of losses (and
    of gradients, and of metrics) over environments and devices is exact, however they are dealt
    out.

    Gradient: h gets the policy gradient times shared_scale, and distillation times c_kl; g gets the
    policy gradient times task_scale; v the value term. A zero coefficient gives a gradient of
    exactly 0, which is what makes one code serve every row of Table 1.

    Args:
      h: [T, A] logits of the shared column on rows 0..T-1, or None where the algorithm has none
        (pi_0 counts as uniform then, and c_kl must be 0).
      g: [T, A] logits of the task's column, or None where the algorithm has none.
      v: [T + 1] values of the rows; row T bootstraps.
      action: int [T], drawn from pi_i.
      r_t: [T] rewards of the transitions, in the units of the costs.
      discount_t: [T], gamma times (0 at true termination, else 1).
      valid_t: bool [T], False on the transition into a reset row: action, reward and discount
        there, NaN included, change nothing.
      coefficients: c_kl, c_ent, shared_scale, task_scale; scalars, traced or not. Under a vmap
        over tasks they may be [K], one per task.
      value_cost: weight of the value term.
      lambda_: scalar in [0, 1]; 1 is the return to the end of the unroll, the paper's.
      entropy_form: "reward", "analytic" or "local", see the top of the file.
      action_mask: None, or bool [A], False for actions that this task does not have.

    Returns:
      The loss, a float32 scalar (log-softmax and returns are float32 even for bfloat16 inputs), and
      metrics without gradient, flat, with keys "loss/...". To get a mean over valid steps from a
      metric averaged over environments, divide it by "loss/valid_fraction" averaged likewise.

    Raises:
      ValueError: for a wrong shape, an unknown entropy_form, or c_kl known to be above 0 without h.
    """
    if entropy_form not in ENTROPY_FORMS:
        raise ValueError(
            f"entropy_form must be one of {', '.join(ENTROPY_FORMS)}, got {entropy_form!r}"
        )
    c_kl, c_ent = coefficients.c_kl, coefficients.c_ent
    h = None if h is None else at_least_float32(h)  # once, so that its two gradients add in float32
    logits = task_policy_logits(h, g, coefficients)
    if logits.ndim != 2:
        raise ValueError(f"h and g must have shape [T, A], got {logits.shape}")
    if h is None and not isinstance(c_kl, jax.core.Tracer) and np.any(np.asarray(c_kl) != 0):
        raise ValueError(f"c_kl must be 0 where h is None (there is no pi_0), got {c_kl}")
    check_shape("action", action, logits.shape[:1], "[T]")
    check_shape("r_t", r_t, logits.shape[:1], "[T]")

    log_pi_i = categorical_log_probs(logits, action_mask)
    log_pi_0 = categorical_log_probs(jnp.zeros_like(logits) if h is None else h, action_mask)
    log_pi_i_a = jnp.take_along_axis(log_pi_i, action[:, None], axis=1)[:, 0]
    log_pi_0_a = jnp.take_along_axis(log_pi_0, action[:, None], axis=1)[:, 0]

    # The regulariser at the sampled action, a constant, and its exact mean over actions.
    nothing = jnp.zeros_like(log_pi_i_a)
    sampled = regularised_reward(nothing, _sg(log_pi_i_a), _sg(log_pi_0_a), c_kl, c_ent)
    expected = expected_regulariser(log_pi_i, _sg(log_pi_0), c_kl, c_ent)

    r_t = at_least_float32(r_t)
    target = lambda_returns(
        r_t if entropy_form == "local" else r_t + sampled, discount_t, _sg(v), valid_t, lambda_
    )
    if entropy_form == "analytic":  # this step's sample makes way for its mean
        target = target + jnp.where(valid_t, _sg(expected) - sampled, 0.0)
    v_tm1 = at_least_float32(v)[:-1]
    advantage = _sg(target - v_tm1)

    policy_gradient = policy_gradient_loss(log_pi_i_a, advantage, valid_t)
    distillation = distillation_loss(log_pi_i, log_pi_0, c_kl, valid_t)
    value = value_loss(v_tm1, target, value_cost, valid_t)
    bonus = jnp.zeros_like(value)
    if entropy_form != "reward":
        bonus = -masked_mean(expected, valid_t)
    total = policy_gradient + distillation + value + bonus

    entropy = -jnp.sum(jnp.exp(log_pi_i) * log_pi_i, axis=1)
    metrics = {
        "loss/total": total,
        "loss/policy_gradient": policy_gradient,
        "loss/distillation": distillation,
        "loss/value": value,
        "loss/bonus": bonus,
        "loss/entropy": masked_mean(entropy, valid_t),
        "loss/advantage": masked_mean(advantage, valid_t),
        "loss/advantage_abs": masked_mean(jnp.abs(advantage), valid_t),
        "loss/return": masked_mean(target, valid_t),
        "loss/value_prediction": masked_mean(v_tm1, valid_t),
        "loss/regulariser": masked_mean(sampled, valid_t),
        "loss/valid_fraction": masked_mean(jnp.ones_like(v_tm1), valid_t),
    }
    if h is not None:
        divergence = jnp.sum(jnp.exp(log_pi_i) * (log_pi_i - log_pi_0), axis=1)
        entropy_0 = -jnp.sum(jnp.exp(log_pi_0) * log_pi_0, axis=1)
        metrics["loss/kl_task_shared"] = masked_mean(divergence, valid_t)
        metrics["loss/entropy_shared"] = masked_mean(entropy_0, valid_t)
    return total, _sg(metrics)
