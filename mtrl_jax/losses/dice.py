"""Objectives of sampled trajectories whose derivatives of every order estimate those of the return.

A surrogate such as log pi(a) A has the right gradient and the wrong Hessian: that it was drawn from
pi is lost once it is differentiated. The operator of DiCE is 1 in value and keeps it:

    box(x) = exp(x - stop_gradient(x)),    d box(f) = box(f) df

Everything here is of one trajectory, `[T]` in, scalar out, to be maximised; vmap and take means.
"""

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_shape, at_least_float32, check_range
from mtrl_jax.types import Array

__all__ = ["box", "dice", "loaded_dice"]


def box(x: Array) -> Array:
    """1, with the derivatives of exp(x) divided by it.

    Foerster et al. 2018, *DiCE: the infinitely differentiable Monte-Carlo estimator*, arXiv
    1802.05098, section 4.

    Args:
      x: `[...]`, sums of log-probabilities.

    Returns:
      `[...]` of ones. Carries gradient of every order to `x`.
    """
    return jnp.exp(x - jax.lax.stop_gradient(x))


def dice(log_prob: Array, r_t: Array, discount_t: Array) -> Array:
    """Discounted return of one trajectory, differentiable through how it was drawn.

    Foerster et al. 2018, arXiv 1802.05098 (the equation is written from memory):

        sum_t D_t box(sum_{s <= t} log pi(a_s)) r_{t+1},    D_t = d_1 ... d_t

    Args:
      log_prob: [T] log pi(a_t | s_t) under the policy that drew the actions.
      r_t: [T] rewards that followed.
      discount_t: [T], of the transitions, as elsewhere: 0 where the episode ended. A reward is
        discounted by those before its own.

    Returns:
      [] in float32 at least. Carries gradient to `log_prob` only.

    Raises:
      ValueError: for a wrong shape.
    """
    assert_shape("[T]", (None,), log_prob=log_prob)
    assert_shape("[T]", jnp.shape(log_prob), r_t=r_t, discount_t=discount_t)
    r_t, discount_t = jax.lax.stop_gradient((at_least_float32(r_t), at_least_float32(discount_t)))
    before = jnp.cumprod(jnp.concatenate([jnp.ones(1), discount_t[:-1]]))
    return jnp.sum(before * box(jnp.cumsum(at_least_float32(log_prob))) * r_t)


def loaded_dice(log_prob: Array, advantage: Array, lambda_: Array | float = 1.0) -> Array:
    """The same derivatives from advantages, so that a baseline takes its variance away.

    Farquhar, Whiteson and Foerster 2019, *Loaded DiCE: trading off bias and variance in any-order
    score function gradient estimators for reinforcement learning*, arXiv 1909.10549, Algorithm 1
    (written from memory):

        sum_t [ box(w_t) - box(w_t - log pi(a_t)) ] A_t
        w_t = lambda w_{t-1} + log pi(a_t)

    The value is 0, the gradient the policy gradient sum_t A_t d log pi(a_t). With lambda = 1 and
    unbiased advantages derivatives of every order are unbiased; a smaller one forgets how early
    actions led to later ones, for less variance of the second order and more.

    Args:
      log_prob: [T] log pi(a_t | s_t) under the policy that drew the actions.
      advantage: [T], of those actions.
      lambda_: scalar in [0, 1].

    Returns:
      [] in float32 at least. Carries gradient to `log_prob` only.

    Raises:
      ValueError: for a wrong shape, or a lambda_ outside [0, 1] whose value is known.
    """
    check_range("lambda_", lambda_, 0.0, 1.0)
    assert_shape("[T]", (None,), log_prob=log_prob)
    assert_shape("[T]", jnp.shape(log_prob), advantage=advantage)
    log_prob = at_least_float32(log_prob)

    def step(w: Array, now: Array) -> tuple[Array, Array]:
        w = lambda_ * w + now
        return w, w

    w = jax.lax.scan(step, jnp.zeros((), log_prob.dtype), log_prob)[1]
    fixed = jax.lax.stop_gradient(at_least_float32(advantage))
    return jnp.sum((box(w) - box(w - log_prob)) * fixed)
