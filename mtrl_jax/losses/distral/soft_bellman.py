"""The optimal task policy given the distilled one: equations (2) to (4) of Distral, unbatched.

Teh et al. 2017, arXiv 1707.04175, section 2.2 (soft Q-learning, or G-learning, with pi_0 as
prior). One state with [A] actions; vmap for more. alpha and beta are scalars and may be traced, so
that a vmap over tasks may give each task its own. Everything carries gradient to every float
argument unless it says otherwise. A value of alpha outside [0, 1] or of beta not above 0 raises
ValueError where it is known before compilation.
"""

import jax
import jax.numpy as jnp

from mtrl_jax._checks import check_range, check_shape
from mtrl_jax.losses.distral.objective import Scalar
from mtrl_jax.types import Array

__all__ = ["optimal_log_policy", "soft_q", "soft_q_td_error", "soft_value"]


def soft_value(q: Array, log_pi_0: Array, alpha: Scalar, beta: Scalar) -> Array:
    """Softened state value, V_i(s) = (1/beta) log sum_a pi_0(a|s)^alpha exp(beta Q_i(a, s)) (2)

    The prior enters as pi_0^alpha, not normalised; beta -> infinity gives the largest Q.

    Args:
      q: [A] soft action values of the task.
      log_pi_0: [A] log-probabilities of the distilled policy, finite.
      alpha: scalar in [0, 1].
      beta: scalar above 0.

    Returns:
      Scalar.
    """
    check_range("alpha", alpha, 0.0, 1.0)
    check_range("beta", beta, 0.0, float(jnp.finfo(jnp.float32).max), open_low=True)
    check_shape("log_pi_0", log_pi_0, jnp.shape(q), "[A]")
    return jax.nn.logsumexp(alpha * log_pi_0 + beta * q, axis=-1) / beta


def soft_q(r_t: Array, discount_t: Array, v_t: Array) -> Array:
    """Softened Bellman backup, Q_i(a, s) = R_i(a, s) + gamma E V_i(s')  (3)

    R is the *raw* reward. The regulariser of this step sits in V_i(s) through pi_0^alpha and the
    log-sum-exp; feeding R^reg here counts it twice and halves the advantage.

    Args:
      r_t: [...] reward.
      discount_t: [...] gamma, or 0 where the transition ended the episode for good.
      v_t: [...] soft value of the next state, from `soft_value`.

    Returns:
      [...], elementwise.
    """
    return r_t + discount_t * v_t


def optimal_log_policy(q: Array, log_pi_0: Array, alpha: Scalar, beta: Scalar) -> Array:
    """Log of the optimal task policy, pi_i = pi_0^alpha exp(beta (Q_i - V_i))  (4)

    Arguments as in `soft_value`. Returns [A], normalised by V_i itself; renormalising would hide a
    V_i that does not belong to this alpha and beta.
    """
    return alpha * log_pi_0 + beta * (q - soft_value(q, log_pi_0, alpha, beta))


def soft_q_td_error(
    q_tm1: Array,
    a_tm1: Array,
    r_t: Array,
    discount_t: Array,
    q_t: Array,
    log_pi_0_t: Array,
    alpha: Scalar,
    beta: Scalar,
) -> Array:
    """Temporal difference of sampled soft Q-learning, r + discount V_i(s_t) - Q_i(s_tm1, a_tm1).

    V_i is taken from (2) under the current pi_0, so the update is valid off-policy without ratios.

    Args:
      q_tm1: [A] soft action values where the action was chosen; carries gradient.
      a_tm1: int scalar.
      r_t: scalar reward.
      discount_t: scalar, gamma times (0 at true termination, else 1).
      q_t: [A] soft action values of the next state; stopped.
      log_pi_0_t: [A] distilled policy there; stopped.
      alpha: scalar in [0, 1].
      beta: scalar above 0.

    Returns:
      Scalar.
    """
    check_shape("q_t", q_t, jnp.shape(q_tm1), "[A]")
    target = soft_q(r_t, discount_t, soft_value(q_t, log_pi_0_t, alpha, beta))
    return jax.lax.stop_gradient(target) - q_tm1[a_tm1]
