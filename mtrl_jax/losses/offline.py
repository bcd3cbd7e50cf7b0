r"""Learning from recorded data alone: critics, and conservative Q-learning, on samples of one task.

Everything is `[B]` in (`[C, B]` for C critics), scalar out; vmap over tasks. Samples that were
recorded for other tasks may count for less (`losses.sharing`): every mean over a batch here is

    mean_w x = sum_b w_b x_b / sum_b w_b

Time in names: the transition from t - 1 to t has action a_tm1, reward r_t and discount_t, which is
gamma, or 0 at a true end. Targets are of `sac.soft_target`, or the caller's. What implicit
Q-learning adds stands in `losses.iql`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax._checks import assert_bool, assert_shape, at_least_float32, check_range
from mtrl_jax.types import Array, Metrics

__all__ = [
    "cql_loss",
    "critic_loss",
    "log_sum_exp",
    "sampled_log_sum_exp",
    "weighted_mean",
]


def weighted_mean(x: Array, weight: Array | None = None) -> Array:
    """sum_b w_b x_b / sum_b w_b over the last axis.

    Args:
      x: [..., B].
      weight: [B], at least 0, without gradient; None: 1 each. Where all are 0 the mean is 0.

    Returns:
      [...]. Carries gradient to `x`.

    Raises:
      ValueError: for a wrong shape, or a negative weight.
    """
    x = at_least_float32(x)
    if weight is None:
        return x.mean(-1)
    assert_shape("[B]", jnp.shape(x)[-1:], weight=weight)
    check_range("weight", weight, 0.0, jnp.inf)
    weight = jax.lax.stop_gradient(at_least_float32(weight))
    total = weight.sum()
    weighed = x * jnp.broadcast_to(weight, x.shape)
    return weighed.sum(-1) / jnp.where(total > 0, total, 1.0)


def log_sum_exp(q: Array, action_mask: Array | None = None) -> Array:
    """log sum_a exp Q(s, a), of discrete actions.

    Args:
      q: [..., A].
      action_mask: bool [A], the actions that the task has; None: all.

    Returns:
      [...]. Carries gradient to `q`.

    Raises:
      ValueError: for a wrong shape, or a mask that is not bool.
    """
    if action_mask is not None:
        assert_shape("[A]", jnp.shape(q)[-1:], action_mask=action_mask)
        assert_bool(action_mask=action_mask)
        action_mask = jnp.broadcast_to(action_mask, jnp.shape(q))
    found: Array = jax.nn.logsumexp(at_least_float32(q), axis=-1, where=action_mask)
    return found


def sampled_log_sum_exp(q: Array, log_density: Array) -> Array:
    """log of the integral of exp Q(s, a) over actions, by importance sampling.

    Kumar et al. 2020, *Conservative Q-learning for offline reinforcement learning*, arXiv
    2006.04779, appendix F:

        log (1/N) sum_n exp( Q(s, a_n) - log p_n(a_n) ),   a_n ~ p_n

    Each draw may have a density of its own: the paper takes as many from the uniform one as from
    the policy, and its code as many again from the policy at the next state. The mean inside the
    logarithm is unbiased if every p_n is positive wherever actions are; the logarithm of it is not.

    Args:
      q: [N, ...] critics at the draws.
      log_density: [N, ...], log p_n(a_n) in nats, of the same shape or one that broadcasts to it;
        carries no gradient. Uniform on [-1, 1]^A it is -A log 2.

    Returns:
      [...]. Carries gradient to `q`.

    Raises:
      ValueError: for shapes that do not broadcast to that of `q`.
    """
    q = at_least_float32(q)
    try:
        log_density = jnp.broadcast_to(jax.lax.stop_gradient(log_density), q.shape)
    except ValueError:
        raise ValueError(
            f"log_density must broadcast to the shape of q, {q.shape}; got {jnp.shape(log_density)}"
        ) from None
    found: Array = jax.nn.logsumexp(q - log_density, axis=0) - np.log(q.shape[0])
    return found


def critic_loss(q_tm1: Array, target: Array, weight: Array | None = None) -> tuple[Array, Metrics]:
    """Half the squared error, summed over critics; the critic's loss of implicit Q-learning.

    Kostrikov et al. 2021, *Offline reinforcement learning with implicit Q-learning*, arXiv
    2110.06169, equation 6, with y = r_t + discount_t V(s_t):

        sum_c mean_w 1/2 (Q_c(s_tm1, a_tm1) - y)^2

    Args:
      q_tm1: [C, B] at recorded actions.
      target: [B], y; carries no gradient.
      weight: [B] of the samples; None: 1.

    Returns:
      The loss [], with gradient to `q_tm1` only, and metrics `loss/critic` (itself), `q/mean`,
      `q/target`: scalars without gradient.

    Raises:
      ValueError: for a wrong shape, or a negative weight.
    """
    assert_shape("[B]", (None,), target=target)
    assert_shape("[C, B]", (None, *jnp.shape(target)), q_tm1=q_tm1)
    q_tm1 = at_least_float32(q_tm1)
    error = q_tm1 - jax.lax.stop_gradient(target)[None]
    loss = 0.5 * weighted_mean(jnp.square(error), weight).sum()
    metrics = {
        "loss/critic": loss,
        "q/mean": weighted_mean(q_tm1, weight).mean(),
        "q/target": weighted_mean(target, weight),
    }
    return loss, jax.lax.stop_gradient(metrics)


def cql_loss(
    q_tm1: Array,
    log_sum_exp_q: Array,
    target: Array,
    strength: Array | float,
    weight: Array | None = None,
) -> tuple[Array, Metrics]:
    """The critics' loss of conservative Q-learning, CQL(H).

    Kumar et al. 2020, arXiv 2006.04779, equation 4, with the Bellman error of `critic_loss`:

        sum_c mean_w [ 1/2 (Q_c(s, a) - y)^2 + alpha ( log sum_a' exp Q_c(s, a') - Q_c(s, a) ) ]

    The bracket behind alpha is not below 0 for discrete actions, and at its least where all of
    softmax Q lies on the recorded action: values of actions that nobody recorded are pushed down.

    Args:
      q_tm1: [C, B] at recorded actions.
      log_sum_exp_q: [C, B], `log_sum_exp` or `sampled_log_sum_exp` of the same critics and states.
      target: [B], y; carries no gradient.
      strength: [] alpha, at least 0; 0 leaves the Bellman error.
      weight: [B] of the samples; None: 1.

    Returns:
      The loss [], with gradient to `q_tm1` and `log_sum_exp_q`, and metrics: those of
      `critic_loss`, and `loss/conservative`, the second term's mean over critics without alpha.

    Raises:
      ValueError: for a wrong shape, or a negative strength or weight.
    """
    check_range("strength", strength, 0.0, jnp.inf)
    loss, metrics = critic_loss(q_tm1, target, weight)
    assert_shape("[C, B]", jnp.shape(q_tm1), log_sum_exp_q=log_sum_exp_q)
    gap = weighted_mean(at_least_float32(log_sum_exp_q) - at_least_float32(q_tm1), weight)
    metrics["loss/conservative"] = jax.lax.stop_gradient(gap.mean())
    return loss + strength * gap.sum(), metrics
