"""Distillation from the agent that the last task has left, while the next one is learnt."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import distributions
from mtrl_jax.continual.method import Method, Situation
from mtrl_jax.types import Array, ArrayTree, Key

__all__ = ["Teacher", "distill"]


class Teacher(NamedTuple):
    """The last agent: its shared parameters of the policy, and what belongs to each task alone,
    leaves `[N, *param]`."""

    actor: ArrayTree
    own: Any


def distill(strength: float, batch_size: int) -> Method:
    """On what the new task shows, the policy of every task before says what the last agent says.

        g + strength d/dtheta mean_{j<k} mean_x KL(last(x, j) || pi_theta(x, j))

    Li & Hoiem 2016, *Learning without Forgetting*, arXiv 1606.09282, with the full divergence of
    policy distillation (Rusu et al. 2015, arXiv 1511.06295) at temperature 1. Nothing is kept of
    what earlier tasks showed: where the new one looks different, this holds less.

    Args:
      strength: of the second.
      batch_size: observations of the newest rollout drawn at each step of the optimiser.
    """

    def init(actor: ArrayTree, situation: Situation) -> Teacher:
        return Teacher(actor, situation.own)

    def remember(old: Teacher, actor: ArrayTree, situation: Situation) -> Teacher:
        return Teacher(actor, situation.own)

    def correct(
        last: Teacher, gradient: ArrayTree, actor: ArrayTree, situation: Situation, key: Key
    ) -> ArrayTree:
        index = jax.random.randint(key, (batch_size,), 0, situation.seen.shape[0])
        x = situation.seen[index]
        n = jax.tree.leaves(situation.own)[0].shape[0]
        before = (jnp.arange(n) < situation.task).astype(jnp.float32)

        def divergence(actor: ArrayTree) -> Array:
            def of_task(then: ArrayTree, now: ArrayTree, k: Array) -> Array:
                said = situation.policy(last.actor, then, x, k)
                return distributions.kl(said, situation.policy(actor, now, x, k)).mean()

            each = jax.vmap(of_task)(last.own, situation.own, jnp.arange(n))
            return jnp.sum(before * each) / jnp.maximum(before.sum(), 1.0)

        pull = jax.grad(divergence)(actor)
        return jax.tree.map(lambda g, p: g + strength * p, gradient, pull)

    return Method(init, remember, correct, needs_told=True)
