"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1801.01290 and 1812.05905) on samples of one task.

Everything is `[B]` in (`[C, B]` for C critics), scalar out; vmap over tasks. The temperature
belongs to the task: one number for all would let the task with the largest rewards decide how
random every other one is.

Actions are a = tanh(u) of a Gaussian u (`distributions.tanh_gaussian_*`), and all log-densities are
those of a. Time in names: the transition from t - 1 to t has action a_tm1, reward r_t and
discount_t, which is gamma, or 0 at a true end only. A time limit is no end, so it bootstraps.
"""

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_shape, at_least_float32, check_range
from mtrl_jax.types import Array, Metrics

__all__ = ["actor_loss", "critic_loss", "soft_target", "temperature_loss"]


def soft_target(
    r_t: Array, discount_t: Array, q_t: Array, log_prob_t: Array, temperature: Array | float
) -> Array:
    """What the critics learn: the reward, and the soft value of where it led to.

    1812.05905, equations 3 and 5:

        y = r_t + discount_t (min_c Q_c(s_t, a_t) - alpha log pi(a_t|s_t)),   a_t ~ pi(s_t)

    The minimum over twin critics is Fujimoto et al.'s (2018, arXiv 1802.09477). The action is drawn
    at s_t, the *next* state, by the policy as it is now.

    Args:
      r_t: [B], in the units that the critics are to have.
      discount_t: [B]; 0 only at a true end. On a row that a time limit made the last it is gamma,
        and s_t is the state in which the episode was cut off, not the next episode's first one.
      q_t: [C, B] target critics at (s_t, a_t).
      log_prob_t: [B] of a_t, in nats.
      temperature: [] alpha, nats to reward.

    Returns:
      [B], without gradient.

    Raises:
      ValueError: for a wrong shape or a negative temperature.
    """
    assert_shape("[]", (), temperature=temperature)
    check_range("temperature", temperature, 0.0, jnp.inf)
    assert_shape("[B]", jnp.shape(r_t), discount_t=discount_t, log_prob_t=log_prob_t)
    _assert_critics(jnp.shape(r_t), q_t=q_t)
    soft_v_t = jnp.min(at_least_float32(q_t), axis=0) - temperature * log_prob_t
    return jax.lax.stop_gradient(r_t + discount_t * soft_v_t)


def critic_loss(q_tm1: Array, target: Array) -> tuple[Array, Metrics]:
    """Half the squared error, summed over critics, averaged over the batch; to be minimised.

    1812.05905, equation 5:

        sum_c mean_b 1/2 (Q_c(s_tm1, a_tm1) - y)^2

    The sum makes each critic's gradient what it would be alone. Public Meta-World code leaves out
    the half and averages over critics, which is the same under Adam but not under a clip by norm.

    Args:
      q_tm1: [C, B].
      target: [B], from `soft_target`.

    Returns:
      The loss, and metrics `loss/critic` (itself), `q/mean`, `q/target`, `q/apart` (mean distance
      of the largest and the smallest critic): scalars without gradient. Gradient goes to q_tm1.

    Raises:
      ValueError: for a wrong shape.
    """
    _assert_critics(jnp.shape(target), q_tm1=q_tm1)
    q_tm1 = at_least_float32(q_tm1)
    target = jax.lax.stop_gradient(target)
    error = q_tm1 - jnp.broadcast_to(target, q_tm1.shape)
    loss = 0.5 * jnp.square(error).mean(1).sum()
    metrics = {
        "loss/critic": loss,
        "q/mean": q_tm1.mean(),
        "q/target": target.mean(),
        "q/apart": (q_tm1.max(0) - q_tm1.min(0)).mean(),
    }
    return loss, jax.lax.stop_gradient(metrics)


def actor_loss(log_prob: Array, q: Array, temperature: Array | float) -> tuple[Array, Metrics]:
    """How far the policy is from the softmax of the critics, to be minimised.

    1812.05905, equation 9, with the smaller critic (1801.01290 had a value network beside):

        mean_b [ alpha log pi(a_b|s_b) - min_c Q_c(s_b, a_b) ],   a_b = tanh(mean + std eps_b)

    Args:
      log_prob: [B] of reparameterised actions, in nats.
      q: [C, B] critics at those actions; the caller holds their parameters fixed.
      temperature: [] alpha; carries no gradient.

    Returns:
      The loss, and metrics `loss/actor` (itself), `policy/log_prob`: scalars without gradient.
      Gradient goes to log_prob and, through the smallest critic, to the actions.

    Raises:
      ValueError: for a wrong shape or a negative temperature.
    """
    assert_shape("[]", (), temperature=temperature)
    check_range("temperature", temperature, 0.0, jnp.inf)
    _assert_critics(jnp.shape(log_prob), q=q)
    temperature = jax.lax.stop_gradient(temperature)
    loss = jnp.mean(temperature * log_prob - jnp.min(at_least_float32(q), axis=0))
    metrics = {"loss/actor": loss, "policy/log_prob": log_prob.mean()}
    return loss, jax.lax.stop_gradient(metrics)


def temperature_loss(
    log_temperature: Array, log_prob: Array, target_entropy: Array | float
) -> Array:
    """Raises the temperature where the policy's entropy is below its target, to be minimised.

        -log alpha mean_b [ log pi(a_b|s_b) + H_target ]

    The paper multiplies by alpha (1812.05905, equation 18); this is the form of the authors' later
    code and of all Meta-World code: same sign and zero, but a temperature that has become small
    can still move. It depends on the batch's mean log-density alone.

    Args:
      log_temperature: [] log alpha.
      log_prob: [B], in nats; carries no gradient.
      target_entropy: nats of the squashed policy, usually minus the number of coordinates.

    Returns:
      Scalar. Gradient goes to log_temperature; it is -(mean log pi + H_target), so that descent
      raises the temperature exactly when the entropy, -mean log pi, is below the target.

    Raises:
      ValueError: for a wrong shape.
    """
    assert_shape("[]", (), log_temperature=log_temperature)
    assert_shape("[B]", (None,), log_prob=log_prob)
    return -log_temperature * jax.lax.stop_gradient(jnp.mean(log_prob) + target_entropy)


def _assert_critics(batch: tuple[int, ...], /, **critics: Array) -> None:
    for name, q in critics.items():
        assert_shape("[C, B]", (None, *batch), **{name: q})
        if jnp.shape(q)[0] < 1:
            raise ValueError(f"{name} must have shape [C, B] with C >= 1, got {jnp.shape(q)}")
