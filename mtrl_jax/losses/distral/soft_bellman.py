"""Distral's optimal policies with tables: of a task given pi_0, (2)-(4), (7), (8), and pi_0, (5).

Teh et al. 2017, arXiv 1707.04175, section 2.2 (soft Q-learning, or G-learning, with pi_0 as prior).
One state with [A] actions; vmap for more. alpha and beta are scalars and may be traced, so that a
vmap over tasks may give each task its own. Everything carries gradient to every float argument
unless it says otherwise. A number out of range raises ValueError where it is known before
compilation.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax._checks import assert_shape, at_least_float32, check_range
from mtrl_jax.losses.distral.objective import Scalar
from mtrl_jax.types import Array

__all__ = [
    "centroid",
    "optimal_log_policy",
    "pseudocount_policy",
    "soft_q",
    "soft_q_td_error",
    "soft_value",
    "two_column_advantage",
    "two_column_logits",
]


def soft_value(q: Array, log_pi_0: Array, alpha: Scalar, beta: Scalar) -> Array:
    """Softened state value, equation (2).

        V_i(s) = (1/beta) log sum_a pi_0(a|s)^alpha exp(beta Q_i(a, s))

    The prior enters as pi_0^alpha, not normalised; beta -> infinity gives the largest Q.

    Args:
      q: [A] soft action values of the task.
      log_pi_0: [A] log-probabilities of the distilled policy, finite.
      alpha: scalar in [0, 1].
      beta: scalar above 0.

    Returns:
      Scalar.

    Raises:
      ValueError: for a wrong shape, or alpha or beta out of range.
    """
    check_range("alpha", alpha, 0.0, 1.0)
    check_range("beta", beta, 0.0, float(np.finfo(np.float32).max), open_low=True)
    assert_shape("[A]", jnp.shape(q), log_pi_0=log_pi_0)
    return jax.nn.logsumexp(alpha * log_pi_0 + beta * q, axis=-1) / beta


def soft_q(r_t: Array, discount_t: Array, v_t: Array) -> Array:
    """Softened Bellman backup, equation (3).

        Q_i(a, s) = R_i(a, s) + gamma E V_i(s')

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
    """Log of the optimal task policy, equation (4).

        pi_i(a|s) = pi_0(a|s)^alpha exp(beta (Q_i(a, s) - V_i(s)))

    It is normalised by V_i itself; renormalising would hide a V_i that does not belong to this
    alpha and beta. Arguments and errors as in `soft_value`.

    Returns:
      [A] log-probabilities.
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
    """Temporal difference of sampled soft Q-learning.

        r_t + discount_t V_i(s_t) - Q_i(a_tm1, s_tm1)

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
      Scalar. Errors as in `soft_value`.
    """
    assert_shape("[A]", jnp.shape(q_tm1), q_t=q_t)
    target = soft_q(r_t, discount_t, soft_value(q_t, log_pi_0_t, alpha, beta))
    return jax.lax.stop_gradient(target) - q_tm1[a_tm1]


def two_column_logits(h: Array, f: Array, alpha: Scalar, beta: Scalar) -> Array:
    """Logits of the task policy in two columns, equation (8) to the letter.

        pi_i = softmax(alpha h + beta f) = pi_0^alpha exp(beta A_i),   pi_0 = softmax(h)   (6)

    Args:
      h: [..., A] logits of pi_0.
      f: [..., A] what the task's column emits in the paper; of the scale of Q_i.
      alpha: scalar in [0, 1].
      beta: scalar above 0.

    Returns:
      [..., A]. Adding to h or f a number that depends on the state only does not change the policy.
    """
    return alpha * h + beta * f


def two_column_advantage(h: Array, f: Array, alpha: Scalar, beta: Scalar) -> Array:
    """Advantage in two columns, equation (7).

        A_i(a) = f(a) - (1/beta) log sum_b pi_0(b)^alpha exp(beta f(b))

    Arguments as in `two_column_logits` for one state, errors as in `soft_value`.

    Returns:
      [A].
    """
    return f - soft_value(f, jax.nn.log_softmax(at_least_float32(h)), alpha, beta)


def centroid(weights: Array, policies: Array) -> Array:
    """Distilled policy in closed form, an arithmetic mean weighted by visits.

        pi_0(a|s) = (sum_i rho_i(s) pi_i(a|s)) / (sum_i rho_i(s))

    It maximises what of J depends on pi_0, equation (5), and so minimises mean divergence from it:

        sum_i E_{pi_i} sum_t gamma^t c_kl log pi_0(a_t|s_t)                                     (5)
        sum_i rho_i(s) KL(pi_i || pi_0)

    Args:
      weights: [K] discounted visits rho_i(s) of this state, at least 0.
      policies: [K, A] pi_i(.|s).

    Returns:
      [A]; the plain mean where nobody visits the state.

    Raises:
      ValueError: for a wrong shape.
    """
    assert_shape("[K, A]", (None, None), policies=policies)
    assert_shape("[K]", jnp.shape(policies)[:1], weights=weights)
    weights, policies = at_least_float32(weights), at_least_float32(policies)
    visited = jnp.sum(weights) > 0
    weights = jnp.where(visited, weights, jnp.ones_like(weights))
    return weights @ policies / jnp.sum(weights)


def pseudocount_policy(counts: Array, pseudocount: Scalar = 1.0) -> Array:
    """Distilled policy from counts, an estimate of the `centroid`.

        pi_0(a|s) = (c + N(s, a)) / (c A + N(s))

    Args:
      counts: [..., A] how often the tasks together took each action; may have decayed to fractions.
      pseudocount: c above 0; the policy is uniform where nothing was seen.

    Returns:
      [..., A], rows sum to 1.

    Raises:
      ValueError: for a pseudocount that is not above 0.
    """
    check_range("pseudocount", pseudocount, 0.0, float("inf"), open_low=True)
    counts = at_least_float32(counts) + pseudocount
    return counts / jnp.sum(counts, axis=-1, keepdims=True)
