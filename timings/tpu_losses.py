"""The losses with bfloat16 numbers, as functions and shapes for the TPU's compiler."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax.losses import distillation, distral, ppo, q_learning, sac

__all__ = ["losses"]

B, T, A, C = 256, 20, 6, 2


def losses() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Name to `(function, arguments)`: value and gradient of a loss of a batch, and shapes."""

    def half(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    def whole(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    def flags(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bool_)

    def of_batch(one: Callable[..., Any]) -> Callable[..., Any]:
        """Of a loss of one example: the mean, with its gradient."""
        return jax.value_and_grad(lambda *a: jnp.mean(jax.vmap(one)(*a).astype(jnp.float32)))

    coefficients = distral.coefficients(distral.ALGORITHMS["kl_ent_2col"], beta=100.0)

    def of_distral(h, g, v, action, r_t, discount_t, valid_t):
        columns, steps = distral.Columns(h, g, v), (action, r_t, discount_t, valid_t)
        return distral.distral_loss(columns, distral.Trajectory(*steps), coefficients)[0]

    def of_ppo(predictions, data):
        return ppo.ppo_loss(predictions, data, entropy_cost=0.01)[0].astype(jnp.float32)

    def of_dqn(q_tm1, a_tm1, r_t, discount_t, q_t, q_t_selector):
        error = q_learning.double_q_learning(q_tm1, a_tm1, r_t, discount_t, q_t, q_t_selector)
        return q_learning.huber(error)

    def of_critic(q_tm1, r_t, discount_t, q_t, log_prob_t):
        target = sac.soft_target(r_t, discount_t, q_t, log_prob_t, 0.1)
        return sac.critic_loss(q_tm1, target)[0].astype(jnp.float32)

    def of_actor(log_prob, q):
        return sac.actor_loss(log_prob, q, 0.1)[0].astype(jnp.float32)

    trajectories = (half(B, T, A), half(B, T, A), half(B, T + 1), whole(B, T))
    trajectories += (half(B, T), half(B, T), flags(B, T))
    steps = (half(B, A), whole(B), half(B), half(B), half(B, A), half(B, A))
    of_teacher = (half(B, A), half(B, A))
    pairs = {
        "distral": (of_batch(of_distral), trajectories),
        "ppo": (
            jax.value_and_grad(of_ppo),
            (ppo.Predictions(*[half(B)] * 3), ppo.Data(*[half(B)] * 5)),
        ),
        "dqn": (of_batch(of_dqn), steps),
        "sac, critic": (
            jax.value_and_grad(of_critic),
            (half(C, B), half(B), half(B), half(C, B), half(B)),
        ),
        "sac, actor": (jax.value_and_grad(of_actor), (half(B), half(C, B))),
    }
    for name in ("nll", "mse", "kl", "policy_regression"):
        loss = getattr(distillation, name)
        pairs[f"distillation, {name}"] = (
            of_batch(lambda t, z, loss=loss: loss(t, z)),
            of_teacher,
        )
    return pairs
