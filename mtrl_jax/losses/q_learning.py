"""Q-learning and double Q-learning errors of one transition, and the loss that DQN makes of them.

Everything is one sample: scalars and `[A]` in, a scalar out; vmap for more. A transition may be of
several steps: `r_t` is then the discounted sum of its rewards and `discount_t` the product of its
discounts (`returns.n_step_transitions`), and nothing else changes.
"""

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_bool, assert_shape, at_least_float32, check_range
from mtrl_jax.types import Array

__all__ = ["double_q_learning", "huber", "q_learning"]


def q_learning(
    q_tm1: Array,
    a_tm1: Array,
    r_t: Array,
    discount_t: Array,
    q_t: Array,
    action_mask: Array | None = None,
) -> Array:
    """The temporal-difference error of Q-learning.

    Watkins & Dayan 1992; Mnih et al. 2015, Nature 518, with q_t of the target network:

        delta = r_t + discount_t max_a q_t[a] - q_tm1[a_tm1]

    Args:
      q_tm1: [A] values at the row on which the action was chosen.
      a_tm1: int [], the action.
      r_t: [] reward.
      discount_t: [] gamma times (0 at true termination, else 1).
      q_t: [A] values at the row it led to.
      action_mask: bool [A], the actions that the task has; None: all.

    Returns:
      [] the error. Carries gradient to `q_tm1` only.

    Raises:
      ValueError: for a wrong shape, or a mask that is not bool.
    """
    return double_q_learning(q_tm1, a_tm1, r_t, discount_t, q_t, q_t, action_mask)


def double_q_learning(
    q_tm1: Array,
    a_tm1: Array,
    r_t: Array,
    discount_t: Array,
    q_t: Array,
    q_t_selector: Array,
    action_mask: Array | None = None,
) -> Array:
    """The temporal-difference error of double Q-learning: one network chooses, another values.

    van Hasselt et al. 2016, arXiv 1509.06461, equation 4:

        delta = r_t + discount_t q_t[argmax_a q_t_selector[a]] - q_tm1[a_tm1]

    q_t_selector is of the online network, q_t of the target network. Where both are one network
    this is `q_learning`.

    Args:
      q_tm1: [A] values at the row on which the action was chosen.
      a_tm1: int [], the action.
      r_t: [] reward.
      discount_t: [] gamma times (0 at true termination, else 1).
      q_t: [A] values at the row it led to, by the network that values.
      q_t_selector: [A] the same by the network that chooses.
      action_mask: bool [A], the actions that the task has; None: all.

    Returns:
      [] the error. Carries gradient to `q_tm1` only.

    Raises:
      ValueError: for a wrong shape, or a mask that is not bool.
    """
    assert_shape("[A]", (None,), q_tm1=q_tm1)
    shape = jnp.shape(q_tm1)
    assert_shape("[A]", shape, q_t=q_t, q_t_selector=q_t_selector)
    assert_shape("[]", (), a_tm1=a_tm1, r_t=r_t, discount_t=discount_t)
    selector = at_least_float32(q_t_selector)
    if action_mask is not None:
        assert_shape("[A]", shape, action_mask=action_mask)
        assert_bool(action_mask=action_mask)
        selector = jnp.where(action_mask, selector, -jnp.inf)
    v_t = at_least_float32(q_t)[selector.argmax()]
    target = jax.lax.stop_gradient(r_t + discount_t * v_t)
    return target - at_least_float32(q_tm1)[a_tm1]


def huber(delta: Array, limit: float = 1.0) -> Array:
    """Quadratic near 0 and linear beyond, so that the gradient is the error clipped to +-limit.

    Huber 1964; "clipping the error term" of Mnih et al. 2015, whose gradient it is:

        delta^2 / 2                      where |delta| <= limit
        limit (|delta| - limit / 2)      elsewhere

    Args:
      delta: any shape.
      limit: above 0; infinity leaves the square.

    Returns:
      Of the shape of `delta`, to which it carries gradient.

    Raises:
      ValueError: for a limit that is not above 0.
    """
    check_range("limit", limit, 0.0, jnp.inf, open_low=True)
    size = jnp.abs(at_least_float32(delta))
    inside = jnp.minimum(size, limit)
    # In this form nothing is multiplied by an infinite limit.
    return 0.5 * inside**2 + inside * (size - inside)
