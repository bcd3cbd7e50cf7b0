"""Reservoir and A-GEM: a uniform sample of all tasks, and what is learnt from it.

A learner with a replay of transitions (`Situation.lesson`) learns from old ones as from new ones,
as in Continual World (Wolczyk et al. 2021, arXiv 2105.10919). One without cannot: what it keeps are
observations with the policy's distribution at that time, and what is learnt from them is to say the
same again, as in CLEAR (Rolnick et al. 2019, *Experience Replay for Continual Learning*, arXiv
1811.11682), whose cloning of values is left out: critics are free.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import distributions, surgery
from mtrl_jax.continual.method import Method, Situation
from mtrl_jax.types import Array, ArrayTree, Key

__all__ = ["Kept", "a_gem", "draw", "keep", "reservoir"]


class Kept(NamedTuple):
    """A uniform sample of all that was offered, C of them at most.

    Attributes:
      priority: float32 `[C]`, drawn from [0, 1) for each; -1 where there is nothing yet.
      task: int32 `[C]`, whose it is.
      item: leaves `[C, ...]`: of `Situation.lesson`, or observations and the distributions that
        the policy gave them.
    """

    priority: Array
    task: Array
    item: Any


def keep(kept: Kept, offered: Kept) -> Kept:
    """The C highest priorities of both, which with random ones is a uniform sample of all that was
    ever offered: Vitter's reservoir (1985, *Random sampling with a reservoir*, ACM TOMS 11) for
    many at once.

    Args:
      kept: C so far.
      offered: any number more.
    """
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), kept, offered)
    _, index = jax.lax.top_k(both.priority, kept.priority.shape[0])
    return jax.tree.map(lambda x: x[index], both)


def draw(counts: Array, key: Key, batch_size: int) -> Array:
    """int32 `[B]`, places drawn uniformly, with replacement, from those where `counts`, bool `[C]`;
    where none is, any place."""
    rank = jnp.cumsum(counts)
    nth = jax.random.randint(key, (batch_size,), 1, jnp.maximum(rank[-1], 1) + 1)
    return jnp.minimum(jnp.searchsorted(rank, nth), rank.shape[0] - 1)


def reservoir(strength: float, capacity: int, batch_size: int) -> Method:
    """The gradient of the new task and of what was kept.

        g + strength d/dtheta mean_i loss_i(theta)

    loss_i is that of the kept transition i, where there is such a lesson, else the divergence
    KL(said(x_i) || pi_theta(x_i)). Where the agent is told, it is of tasks before alone, whose
    heads stay; else of all that is kept.

    Args:
      strength: of the second.
      capacity: C, observations kept of all tasks together.
      batch_size: of them drawn at each step of the optimiser.
    """

    def correct(
        kept: Kept, gradient: ArrayTree, actor: ArrayTree, situation: Situation, key: Key
    ) -> ArrayTree:
        old = _reference(kept, actor, situation, key, batch_size)
        return jax.tree.map(lambda g, o: g + strength * o, gradient, old)

    return _keeping(capacity, correct)


def a_gem(capacity: int, batch_size: int) -> Method:
    """The gradient of the new task without what would harm what was kept; see `surgery.a_gem`.

    Chaudhry et al. 2019, arXiv 1812.00420. The reference is the gradient of the loss that
    `reservoir` adds. That of a divergence is 0 while the policy says the same.

    Args:
      capacity, batch_size: as of `reservoir`.
    """

    def correct(
        kept: Kept, gradient: ArrayTree, actor: ArrayTree, situation: Situation, key: Key
    ) -> ArrayTree:
        return surgery.a_gem(gradient, _reference(kept, actor, situation, key, batch_size))

    return _keeping(capacity, correct)


def _keeping(capacity: int, correct: Any) -> Method:
    def init(actor: ArrayTree, situation: Situation) -> Kept:
        one = _offer(actor, situation)
        nothing = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape[1:]), x.dtype), one)
        return nothing._replace(priority=jnp.full(capacity, -1.0))

    def after(kept: Kept, actor: ArrayTree, situation: Situation) -> tuple[ArrayTree, Kept]:
        return actor, keep(kept, _offer(actor, situation))

    return Method(init, None, correct, None, after)


def _offer(actor: ArrayTree, situation: Situation) -> Kept:
    """What was seen lately."""
    m, k = situation.seen.shape[0], situation.task
    if situation.lesson is not None:
        item = situation.lesson.items
    else:
        own = jax.tree.map(lambda x: x[k], situation.own)
        item = (situation.seen, situation.policy(actor, own, situation.seen, k))
    priority = jax.random.uniform(jax.random.fold_in(situation.key, 2), (m,))
    return Kept(priority, jnp.full(m, k), item)


def _reference(
    kept: Kept, actor: ArrayTree, situation: Situation, key: Key, batch_size: int
) -> ArrayTree:
    """Gradient of the mean loss on a batch of what counts; 0 where nothing does."""
    counts = kept.priority >= 0
    if situation.told:
        counts &= kept.task != situation.task
    index = draw(counts, key, batch_size)
    batch = jax.tree.map(lambda x: x[index], kept)
    weight = counts.any().astype(jnp.float32)

    def said_again(actor: ArrayTree, own: ArrayTree, item: Any, k: Array) -> Array:
        observation, said = item
        now = situation.policy(actor, own, observation[None], k)
        return distributions.kl(said, jax.tree.map(lambda x: x[0], now))

    loss = said_again if situation.lesson is None else situation.lesson.loss

    def mean(actor: ArrayTree) -> Array:
        def one(k: Array, item: Any) -> Array:
            return loss(actor, jax.tree.map(lambda x: x[k], situation.own), item, k)

        return weight * jax.vmap(one)(batch.task, batch.item).mean()

    return jax.grad(mean)(actor)
