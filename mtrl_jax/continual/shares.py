"""Methods that give each task parameters of its own: PackNet's weights, progressive columns."""

import jax
import jax.numpy as jnp

from mtrl_jax import packnet as shares
from mtrl_jax.continual.method import Method, Situation
from mtrl_jax.types import Array, ArrayTree

__all__ = ["packnet", "progressive"]


def packnet(num_tasks: int, prune_at: int) -> Method:
    """Every task keeps an equal share of each layer's weights; see `mtrl_jax.packnet`.

    Mallya & Lazebnik 2018, arXiv 1711.05769. A task trains all that is free; at update `prune_at`
    it keeps the largest of that and goes on with what it keeps.

    Args:
      num_tasks: N; task k keeps 1 / (N - k) of what is still free, and so 1 / N of all.
      prune_at: updates of a task before it is pruned; at least 1, below the number of its updates.

    Raises:
      ValueError: for a `prune_at` below 1.
    """
    if prune_at < 1:
        raise ValueError(f"prune_at must be at least 1; got {prune_at}")

    def init(actor: ArrayTree, situation: Situation) -> ArrayTree:
        return shares.init(actor)

    def trainable(owner: ArrayTree, params: ArrayTree, situation: Situation) -> ArrayTree:
        pruned = situation.done >= prune_at
        both = [shares.trainable(owner, situation.task + 1, which) for which in (True, False)]
        return jax.tree.map(lambda a, b: jnp.where(pruned, a, b), *both)

    def after(
        owner: ArrayTree, actor: ArrayTree, situation: Situation
    ) -> tuple[ArrayTree, ArrayTree]:
        task = situation.task
        keep = 1.0 / (num_tasks - task).astype(jnp.float32)
        return jax.lax.cond(
            situation.done == prune_at,
            lambda actor, owner: shares.claim(actor, owner, task + 1, keep),
            lambda actor, owner: (actor, owner),
            actor,
            owner,
        )

    def view(owner: ArrayTree, actor: ArrayTree, k: Array, task: Array) -> ArrayTree:
        mine = shares.view(actor, owner, k + 1)
        return jax.tree.map(lambda a, b: jnp.where(k < task, a, b), mine, actor)

    return Method(init, None, None, trainable, after, view, needs_told=True)


def progressive() -> Method:
    """A column of `networks.progressive` for each task; only that of the task that is learnt moves.

    Rusu et al. 2016, arXiv 1606.04671. A critic has such columns too.
    """

    def trainable(memory: ArrayTree, params: ArrayTree, situation: Situation) -> ArrayTree:
        def own_column(x: Array) -> Array:
            mine = jnp.arange(x.shape[0]) == situation.task
            return jnp.broadcast_to(mine.reshape(-1, *(1,) * (x.ndim - 1)), x.shape)

        return jax.tree.map(own_column, params)

    return Method(trainable=trainable, needs_told=True, everything=True)
