"""L2, EWC, online EWC and MAS: one anchor, pulled at by the gradient of its penalty."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtrl_jax import distributions
from mtrl_jax.continual.method import Method, Situation
from mtrl_jax.losses import importance
from mtrl_jax.losses.continual import Anchor, follow, l2_anchor, merge, penalty
from mtrl_jax.types import Array, ArrayTree, Key

__all__ = ["ewc", "l2", "mas", "online_ewc"]

_Next = Callable[[Anchor, ArrayTree, Situation], Anchor]


def l2(strength: float) -> Method:
    """Every parameter of the policy held where the last task has left it.

    Args:
      strength: lambda of `losses.continual.penalty`.
    """
    return _anchored(strength, lambda old, actor, situation: l2_anchor(actor))


def ewc(strength: float) -> Method:
    """An anchor for each task, by the Fisher information of the policy, exact over actions.

    Kirkpatrick et al. 2017, arXiv 1612.00796; see `losses.importance.fisher` and
    `losses.continual.merge`. The Fisher information is of observations that the policy met in the
    last rollout of the task.

    Args:
      strength: lambda, of the sum over tasks.
    """

    def remember(old: Anchor, actor: ArrayTree, situation: Situation) -> Anchor:
        return merge(old, Anchor(actor, _fisher(actor, situation)))

    return _anchored(strength, remember)


def online_ewc(strength: float, decay: float) -> Method:
    """EWC with one anchor, at the newest parameters, whose importance fades.

    Schwarz et al. 2018, arXiv 1805.06370; see `losses.continual.follow`.

    Args:
      strength: lambda.
      decay: gamma, in [0, 1].
    """

    def remember(old: Anchor, actor: ArrayTree, situation: Situation) -> Anchor:
        return follow(old, Anchor(actor, _fisher(actor, situation)), decay)

    return _anchored(strength, remember)


def mas(strength: float) -> Method:
    """Memory aware synapses: how much the policy's outputs move with each parameter, added up over
    tasks, at the newest parameters.

    Aljundi et al. 2018, arXiv 1711.09601; see `losses.importance.sensitivity`. Outputs are the
    action probabilities, or the means of a Gaussian (of a Q-network, its values, if asked for).

    Args:
      strength: lambda.
    """

    def remember(old: Anchor, actor: ArrayTree, situation: Situation) -> Anchor:
        def outputs(actor: ArrayTree, observation: Array) -> Array:
            found = _one(actor, observation, situation)
            if isinstance(found, distributions.Gaussian):
                return distributions.mode(found)
            return jnp.exp(found.log_probs)

        f = importance.sensitivity(outputs, actor, situation.seen)
        return follow(old, Anchor(actor, f), 1.0)

    return _anchored(strength, remember)


def _one(actor: ArrayTree, observation: Array, situation: Situation) -> distributions.Distribution:
    """The distribution of the task that has been learnt at one observation."""
    own = jax.tree.map(lambda x: x[situation.task], situation.own)
    found = situation.policy(actor, own, observation[None], situation.task)
    return jax.tree.map(lambda x: x[0], found)


def _fisher(actor: ArrayTree, situation: Situation) -> ArrayTree:
    return importance.fisher(
        lambda params, observation: _one(params, observation, situation), actor, situation.seen
    )


def _anchored(strength: float, remember: _Next) -> Method:
    def init(actor: ArrayTree, situation: Situation) -> Anchor:
        return Anchor(actor, jax.tree.map(jnp.zeros_like, actor))

    def correct(
        memory: Anchor, gradient: ArrayTree, actor: ArrayTree, situation: Situation, key: Key
    ) -> ArrayTree:
        pull = jax.grad(penalty)(actor, memory, strength)
        return jax.tree.map(jnp.add, gradient, pull)

    return Method(init, remember, correct)
