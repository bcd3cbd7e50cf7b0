"""Distral with networks: the one loss of which all seven algorithms are settings, and its terms.

Teh et al. 2017, arXiv 1707.04175, section 2.3; equation numbers are theirs. Losses are terms of
-J; sg stops gradients; c_kl = alpha/beta and c_ent = (1 - alpha)/beta::

    pi_0 = softmax(h)                                                   (6)
    pi_i = softmax(shared_scale h + task_scale g)                       (8)
    r^reg_t = r_t + c_kl sg log pi_0(a) - (c_kl + c_ent) sg log pi_i(a)
    G_t  = return of r^reg to the end of the unroll, bootstrapped with sg V
    policy gradient  - mean log pi_i(a_t) sg(G_t - V(s_t))              (9), first line of (10)
    distillation     - c_kl mean sum_a sg(pi_i(a|s_t)) log pi_0(a|s_t)  second line of (10)
    value            value_cost mean (sg G_t - V(s_t))^2

For continuous actions pi_0 and pi_i are Gaussians; every line above but the first two stands, with
integrals for sums. Means are sums over valid steps divided by T, a constant. So the mean of losses
(and of gradients, and of metrics) over environments and devices is exact, however they are dealt.

Where the regulariser goes, `entropy_form`:

  * "reward": in the return, as in (9); exact. An analytic term on top would count it twice.
  * "analytic": the same step's summed over actions and differentiated, later steps' in the return;
    the same gradient in the mean, with less variance.
  * "local": summed over actions, the return being of the raw reward; A3C's entropy bonus, extended
    to the divergence. It maximises something other than J.

Departures:

  1. A synchronous batched actor-critic stands for asynchronous A3C.
  2. The factor gamma^t of (9) and (10) is dropped, in both policy terms alike, as A3C does.
  3. The task column emits g = beta f (see `table1.task_policy`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax._checks import assert_shape, at_least_float32
from mtrl_jax.distributions import (
    Distribution,
    Gaussian,
    categorical,
    entropy,
    kl,
    log_prob,
    masked,
)
from mtrl_jax.losses.distral.objective import (
    Scalar,
    distillation_loss,
    expected_regulariser,
    masked_mean,
    policy_gradient_loss,
    regularised_reward,
    value_loss,
)
from mtrl_jax.losses.distral.table1 import Coefficients, Column, task_policy
from mtrl_jax.returns import lambda_returns
from mtrl_jax.types import Array, Metrics

__all__ = ["ENTROPY_FORMS", "Columns", "Trajectory", "distral_loss", "distribution"]

ENTROPY_FORMS = ("reward", "analytic", "local")

_sg = jax.lax.stop_gradient


class Columns(NamedTuple):
    """What the networks give for one trajectory; gradient goes here.

    Attributes:
      h: [T, A] logits of the shared column on rows 0..T-1, or a Gaussian with such leaves; None
        where the algorithm has none (c_kl must be 0 then).
      g: the same of the task's column; None where the algorithm has none.
      v: [T + 1] values of the rows; row T bootstraps.
    """

    h: Column | None
    g: Column | None
    v: Array


class Trajectory(NamedTuple):
    """What happened: T steps of one environment. Where not `valid_t`, nothing else is read.

    Attributes:
      action: int [T], drawn from pi_i; [T, A] where h and g are Gaussians.
      r_t: [T] rewards of the transitions, in the units of the costs.
      discount_t: [T], gamma times (0 at true termination, else 1).
      valid_t: bool [T], False on the transition into a reset row.
    """

    action: Array
    r_t: Array
    discount_t: Array
    valid_t: Array


def distral_loss(
    columns: Columns,
    trajectory: Trajectory,
    coefficients: Coefficients,
    *,
    value_cost: Scalar = 0.5,
    lambda_: Scalar = 1.0,
    entropy_form: str = "reward",
    action_mask: Array | None = None,
) -> tuple[Array, Metrics]:
    """Loss of one trajectory of one task; the mean over environments and sum over tasks are yours.

    Gradient: h gets the policy gradient times shared_scale, and distillation times c_kl; g gets the
    policy gradient times task_scale; v the value term. A zero coefficient gives a gradient of
    exactly 0, which is what makes one code serve every row of Table 1.

    Args:
      columns: of the networks.
      trajectory: action, reward and discount of a row that is not valid, NaN included, change
        nothing.
      coefficients: c_kl, c_ent, shared_scale, task_scale; scalars, traced or not. Under a vmap
        over tasks they may be [K], one per task.
      value_cost: weight of the value term.
      lambda_: scalar in [0, 1]; 1 is the return to the end of the unroll, the paper's.
      entropy_form: "reward", "analytic" or "local", see the top of the file.
      action_mask: None, or bool [A], False for actions, or coordinates of a Gaussian, that this
        task does not have.

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
    pi_i, pi_0 = _policies(columns, coefficients, action_mask)
    action, r_t, discount_t, valid_t = _checked(trajectory, pi_i)
    log_pi_i_a, log_pi_0_a = log_prob(pi_i, action), log_prob(pi_0, action)

    # The regulariser at the sampled action, a constant, and its exact mean over actions.
    nothing = jnp.zeros_like(log_pi_i_a)
    sampled = regularised_reward(nothing, _sg(log_pi_i_a), _sg(log_pi_0_a), c_kl, c_ent)
    expected = expected_regulariser(pi_i, _sg(pi_0), c_kl, c_ent)

    reward_t = r_t if entropy_form == "local" else r_t + sampled
    target = lambda_returns(reward_t, discount_t, _sg(columns.v), valid_t, lambda_)
    if entropy_form == "analytic":  # this step's sample makes way for its mean
        target = target + jnp.where(valid_t, _sg(expected) - sampled, 0.0)
    v_tm1 = at_least_float32(columns.v)[:-1]
    advantage = _sg(target - v_tm1)

    policy_gradient = policy_gradient_loss(log_pi_i_a, advantage, valid_t)
    distillation = distillation_loss(pi_i, pi_0, c_kl, valid_t)
    value = value_loss(v_tm1, target, value_cost, valid_t)
    bonus = jnp.zeros_like(value)
    if entropy_form != "reward":
        bonus = -masked_mean(expected, valid_t)
    total = policy_gradient + distillation + value + bonus

    metrics = {"total": total, "policy_gradient": policy_gradient, "distillation": distillation}
    metrics |= {"value": value, "bonus": bonus}
    rows = {"entropy": entropy(pi_i), "advantage": advantage, "advantage_abs": jnp.abs(advantage)}
    rows |= {"return": target, "value_prediction": v_tm1, "regulariser": sampled}
    rows |= {"valid_fraction": jnp.ones_like(v_tm1)}
    if columns.h is not None:
        rows |= {"kl_task_shared": kl(pi_i, pi_0), "entropy_shared": entropy(pi_0)}
    metrics |= {name: masked_mean(x, valid_t) for name, x in rows.items()}
    return total, {f"loss/{name}": _sg(x) for name, x in metrics.items()}


def _policies(
    columns: Columns, coefficients: Coefficients, action_mask: Array | None
) -> tuple[Distribution, Distribution]:
    """pi_i and pi_0. Without a shared column any pi_0 will do, since it costs nothing."""
    h = jax.tree.map(at_least_float32, columns.h)  # once, so that its two gradients add in float32
    mixed = task_policy(h, columns.g, coefficients)
    pi_i, c_kl = distribution(mixed, action_mask), coefficients.c_kl
    if len(pi_i[0].shape) != 2:
        raise ValueError(f"h and g must have shape [T, A], got {pi_i[0].shape}")
    if h is None and not isinstance(c_kl, jax.core.Tracer) and np.any(np.asarray(c_kl) != 0):
        raise ValueError(f"c_kl must be 0 where h is None (there is no pi_0), got {c_kl}")
    h = jax.tree.map(jnp.zeros_like, mixed) if h is None else h
    return pi_i, distribution(h, action_mask)


def distribution(column: Column, action_mask: Array | None) -> Distribution:
    """What a column `[..., A]`, or a mixture of them, says of the actions in `action_mask`, bool
    [A]; None: all. Errors as in `distributions.categorical` and `masked`."""
    if isinstance(column, Gaussian):
        return masked(column, action_mask)
    return categorical(column, action_mask)


def _checked(trajectory: Trajectory, pi_i: Distribution) -> Trajectory:
    action, r_t, _, valid_t = trajectory
    shape = pi_i[0].shape
    assert_shape("[T]", shape[:1], r_t=r_t, valid_t=valid_t)
    if isinstance(pi_i, Gaussian):
        assert_shape("[T, A]", shape, action=action)
        action = jnp.where(valid_t[:, None], action, 0.0)  # NaN times a gradient of 0 is NaN
    return trajectory._replace(action=action, r_t=at_least_float32(r_t))
