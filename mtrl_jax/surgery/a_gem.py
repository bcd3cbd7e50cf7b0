"""A-GEM: the gradient of a new task, without what would undo the old ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.surgery.gram import gram_matrix, weighted_sum
from mtrl_jax.surgery.pcgrad import pcgrad_weights

__all__ = ["a_gem"]

# The new task looks at the reference, which is task 1; the reference looks at itself: not at all.
_ORDERS = np.array([[1], [1]])


def a_gem(grads: Any, reference: Any) -> Any:
    """A-GEM, averaged gradient episodic memory.

    Chaudhry, Ranzato, Rohrbach & Elhoseiny 2019, "Efficient Lifelong Learning with A-GEM", arXiv
    1812.00420:

        g - min(0, <g, g_ref>) / |g_ref|^2 g_ref

    which is PCGrad's projection of the first of two tasks; the second is no part of the update.
    For any optimiser: `tx.update(a_gem(grads, reference), state, params)`.

    Args:
      grads: g, a pytree of `[*param]`, of the task that is learnt.
      reference: g_ref, the same of the mean loss on samples that were kept of the tasks before.

    Returns:
      `[*param]` in the dtypes of `grads`; `grads` itself where they do not conflict or where
      the reference is 0.

    Raises:
      ValueError: for another structure or shapes.
    """
    structures = [str(jax.tree.structure(tree)) for tree in (grads, reference)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"reference must have the structure of grads, {structures[0]}; got {structures[1]}"
        )

    def pair(path: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        if jnp.shape(x) != jnp.shape(y):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"reference{name} must have the shape {jnp.shape(x)} of grads, got {jnp.shape(y)}"
            )
        return jnp.stack([x, y])

    both = jax.tree_util.tree_map_with_path(pair, grads, reference)
    weights = pcgrad_weights(gram_matrix(both), jnp.asarray(_ORDERS)) - jnp.array([0.0, 1.0])
    return weighted_sum(weights, both, grads)
