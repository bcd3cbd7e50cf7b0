"""PackNet: each task keeps a share of the weights for itself, and reads those of the tasks before.

Mallya & Lazebnik 2018, *PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning*,
arXiv 1711.05769. For task k = 1, 2, ...::

    1. train what no task owns (`trainable`), reading all;
    2. `claim`: of what is free in each layer the largest in magnitude become k's, the rest is 0;
    3. train what k owns, reading `view(k)`.

Then k acts for ever with `view(k)`: its own weights, those of tasks before, 0 elsewhere. Owners are
integers beside the weights, so they partition them by construction. What is not pruned (biases,
norms) belongs to the first task, as in the paper; output layers of a task's own stay outside::

    owner = packnet.init(params)
    tx = optax.chain(optax.adam(1e-3), packnet.restrict())        # behind whatever has moments
    updates, state = tx.update(grads, state, params, trainable=packnet.trainable(owner, k, pruned))
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtrl_jax._checks import check_range
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, ArrayTree

__all__ = ["claim", "init", "restrict", "trainable", "view"]

FREE = 0


def init(params: ArrayTree) -> ArrayTree:
    """Owners of a network that has learnt nothing: int32 zeros of the shapes of `params`."""
    return jax.tree.map(lambda x: jnp.full(jnp.shape(x), FREE, jnp.int32), params)


def claim(
    params: ArrayTree,
    owner: ArrayTree,
    task: int | Array,
    keep: float | Array,
    prunable: Any = None,
) -> tuple[ArrayTree, ArrayTree]:
    """Gives a task the largest of the free weights of each leaf, and clears the rest.

    Args:
      params: leaves `[*param]`.
      owner: int32 of the same shapes, 0 where free.
      task: k, at least 1.
      keep: the share of a leaf's free weights that becomes the task's, in (0, 1]; rounded up, so
        that no layer is left without. The paper prunes 50 or 75 %: .5 or .25.
      prunable: a tree of bool, which leaves are shared out; None: those with two axes or more.
        All that is free of the others becomes the task's.

    Returns:
      New `(params, owner)`. Weights of other tasks keep every bit.

    Raises:
      ValueError: for a task below 1, or a share outside (0, 1].
    """
    check_value("task", task, Count)
    check_range("keep", keep, 0.0, 1.0, open_low=True)
    if prunable is None:
        prunable = jax.tree.map(lambda x: jnp.ndim(x) >= 2, params)

    def taken(x: Array, who: Array, shared_out: bool) -> Array:
        free = who == FREE
        if not shared_out:
            return jnp.where(free, task, who)
        # By rank and not by a threshold: of equal weights no more than the share are kept.
        size = jnp.where(free, jnp.abs(x), -1.0).ravel()
        rank = jnp.zeros(size.shape, jnp.int32).at[jnp.argsort(-size)].set(jnp.arange(size.size))
        most = jnp.ceil(keep * free.sum()).astype(jnp.int32)
        return jnp.where(free & (rank.reshape(free.shape) < most), task, who)

    owner = jax.tree.map(taken, params, owner, prunable)
    params = jax.tree.map(lambda x, who: jnp.where(who == FREE, 0, x), params, owner)
    return params, owner


def view(params: ArrayTree, owner: ArrayTree, task: int | Array) -> ArrayTree:
    """The network of one task: weights of it and of tasks before it, 0 elsewhere.

    Carries gradient to `params`.

    Raises:
      ValueError: for a task below 1.
    """
    check_value("task", task, Count)
    return jax.tree.map(
        lambda x, who: jnp.where((who != FREE) & (who <= task), x, 0), params, owner
    )


def trainable(owner: ArrayTree, task: int | Array, pruned: bool) -> ArrayTree:
    """Bools of the shapes of `owner`: what may move while a task is learnt.

    Args:
      owner: of `init` or `claim`.
      task: k, at least 1.
      pruned: whether `claim` has been called for it: then what it owns, before what is free.

    Raises:
      ValueError: for a task below 1.
    """
    check_value("task", task, Count)
    return jax.tree.map(lambda who: who == (task if pruned else FREE), owner)


def restrict() -> optax.GradientTransformationExtraArgs:
    """Updates are 0 where `update(..., trainable=)` is False, whatever moments say.

    It stands at the end of a chain: masked gradients are not enough, since an optimiser goes on
    moving what it has moments or a weight decay for.
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, trainable: ArrayTree, **_: Any
    ) -> tuple[Any, Any]:
        held = jax.tree.map(lambda u, may: jnp.where(may, u, jnp.zeros_like(u)), updates, trainable)
        return held, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
