r"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169) on samples of one task.

*Offline reinforcement learning with implicit Q-learning*: a value V that is an upper expectile of Q
over recorded actions, critics that learn r + discount V(s') from it (`offline.critic_loss`), and a
policy that imitates recorded actions, the good ones more. Nothing that was not recorded is ever
asked about. `[B]` in, scalar out, with weights of samples as in `losses.offline`.
"""

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_shape, at_least_float32, check_range
from mtrl_jax.losses.offline import weighted_mean
from mtrl_jax.types import Array

__all__ = ["advantage_weighted_loss", "expectile_loss"]


def expectile_loss(
    v_tm1: Array, q_tm1: Array, expectile: Array | float, weight: Array | None = None
) -> Array:
    """What makes V an upper expectile of Q over recorded actions: of 0.5 the mean, towards 1 the
    maximum, and no action that was not recorded is ever asked about.

    Kostrikov et al. 2021, arXiv 2110.06169, equation 5:

        mean_w |tau - 1(u < 0)| u^2,   u = Q(s_tm1, a_tm1) - V(s_tm1)

    Args:
      v_tm1: [B].
      q_tm1: [B], the smaller of the slow critics; carries no gradient.
      expectile: [] tau, in [0, 1].
      weight: [B] of the samples; None: 1.

    Returns:
      []. Carries gradient to `v_tm1` only.

    Raises:
      ValueError: for a wrong shape, or an expectile or weight out of range.
    """
    check_range("expectile", expectile, 0.0, 1.0)
    assert_shape("[B]", (None,), v_tm1=v_tm1)
    assert_shape("[B]", jnp.shape(v_tm1), q_tm1=q_tm1)
    u = jax.lax.stop_gradient(at_least_float32(q_tm1)) - at_least_float32(v_tm1)
    return weighted_mean(jnp.where(u < 0, 1.0 - expectile, expectile) * jnp.square(u), weight)


def advantage_weighted_loss(
    log_prob: Array,
    advantage: Array,
    sharpness: Array | float,
    limit: Array | float = 100.0,
    weight: Array | None = None,
) -> Array:
    """Imitation of recorded actions, of good ones more: how implicit Q-learning finds its policy.

    Kostrikov et al. 2021, arXiv 2110.06169, equation 7, after Peng et al. 2019 (arXiv 1910.00177):

        - mean_w min( exp(beta A_b), limit ) log pi(a_b|s_b)

    Args:
      log_prob: [B] of recorded actions, in nats; carries the gradient.
      advantage: [B], Q - V; carries none.
      sharpness: [] beta, at least 0; 0 is behavioural cloning.
      limit: [] of one sample's exponential; the authors' code has 100 (from memory).
      weight: [B] of the samples; None: 1.

    Returns:
      []. Carries gradient to `log_prob` only.

    Raises:
      ValueError: for a wrong shape, or a number out of range.
    """
    check_range("sharpness", sharpness, 0.0, jnp.inf)
    check_range("limit", limit, 0.0, jnp.inf, open_low=True)
    assert_shape("[B]", (None,), log_prob=log_prob)
    assert_shape("[B]", jnp.shape(log_prob), advantage=advantage)
    # Cut off before the exponential, which overflows where an untrained critic is far off.
    power = jnp.minimum(sharpness * at_least_float32(advantage), jnp.log(limit))
    return -weighted_mean(jax.lax.stop_gradient(jnp.exp(power)) * log_prob, weight)
