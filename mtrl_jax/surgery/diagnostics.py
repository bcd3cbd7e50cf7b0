"""What the Gram matrix says about interference between tasks, from the state of any optax chain.

Yu et al. 2020 (arXiv 2001.06782), section 2: tasks hurt each other where three conditions meet,
namely gradients that conflict, that differ in magnitude, and a loss that curves up along the step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from mtrl_jax.surgery.state import SurgeryState, new_key

__all__ = [
    "Diagnostics",
    "all_diagnostics",
    "cosine_similarity",
    "curvature_bound",
    "detrimental_interference",
    "diagnostics",
    "magnitude_similarity",
    "num_conflicts",
    "reseed",
]

Array = jax.Array


def _inverse_norms(gram: Array) -> tuple[Array, Array]:
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0.0))
    return norms, jnp.where(norms > 0, 1.0 / jnp.where(norms > 0, norms, 1.0), norms)


def cosine_similarity(gram: Array) -> Array:
    """`cos_ij = G_ij / sqrt(G_ii G_jj)`, `[K, K]`; 0 where a gradient is zero."""
    _, inverse = _inverse_norms(gram)
    return gram * inverse[:, None] * inverse[None, :]


def magnitude_similarity(gram: Array) -> Array:
    """`Phi_ij = 2 |g_i| |g_j| / (|g_i|^2 + |g_j|^2)`, `[K, K]` in [0, 1] (Yu et al. 2020,
    definition 2).

    1 for equal norms (two zero gradients included), near 0 where one gradient dominates.
    """
    norms, _ = _inverse_norms(gram)
    low = jnp.minimum(norms[:, None], norms[None, :])
    high = jnp.maximum(norms[:, None], norms[None, :])
    ratio = jnp.where(high > 0, low / jnp.where(high > 0, high, 1.0), 1.0 + 0.0 * high)
    return (
        2.0 * ratio / (1.0 + ratio**2)
    )  # of the ratio, so that squares of squares cannot overflow


def num_conflicts(gram: Array) -> Array:
    """Number of pairs of tasks with a negative inner product, int32 `[]` (of K (K - 1) / 2)."""
    return jnp.sum(jnp.triu(gram < 0, k=1), dtype=jnp.int32)


def curvature_bound(gram: Array) -> Array:
    """`xi_ij = (1 - cos_ij^2) |g_i - g_j|^2 / |g_i + g_j|^2`, `[K, K]` (Yu et al. 2020, definition
    4).

    Infinite where g_i = -g_j.
    """
    d = jnp.diagonal(gram)
    total = d[:, None] + d[None, :]
    cos = cosine_similarity(gram)
    away, along = jnp.maximum(total - 2 * gram, 0.0), jnp.maximum(total + 2 * gram, 0.0)
    bound = jnp.maximum(1.0 - cos**2, 0.0) * away / jnp.where(along > 0, along, 1.0)
    return jnp.where(away > 0, jnp.where(along > 0, bound, jnp.inf), 0.0)


def detrimental_interference(
    gram: Array, curvature: Array, learning_rate: float, lipschitz: float
) -> tuple[Array, Array, Array]:
    """The three conditions under which one PCGrad step beats one gradient step, for two tasks.

    Yu et al. 2020, theorem 2, with g = g_1 + g_2 and l = H / |g|^2:

        (a) cos_12 <= -Phi_12      (b) l >= xi_12 * Lambda      (c) eta >= 2 / (l - xi_12 * Lambda)

    Args:
      gram: float32 `[2, 2]`.
      curvature: `[]`, H of the plain multi-task step with a gradient's length (the estimate along
        a step -eta * g must be divided by eta^2 first).
      learning_rate: eta.
      lipschitz: Lambda, the Lipschitz constant of the gradients.

    Returns:
      Three booleans `[]`.
    """
    if gram.shape != (2, 2):
        raise ValueError(f"theorem 2 is about two tasks: gram must be [2, 2], got {gram.shape}.")
    ell = curvature / gram.sum()
    room = ell - curvature_bound(gram)[0, 1] * lipschitz
    opposed = cosine_similarity(gram)[0, 1] <= -magnitude_similarity(gram)[0, 1]
    return opposed, room >= 0, (room > 0) & (learning_rate * room >= 2)


class Diagnostics(NamedTuple):
    """Of the last update, over the shared leaves of all groups together.

    Attributes:
      cosine: float32 `[K, K]`.
      magnitude_similarity: float32 `[K, K]`.
      curvature_bound: float32 `[K, K]`.
      conflicts: int32 `[]`, conflicting pairs.
      task_norms: float32 `[K]`, norms of the task gradients.
      norm_before: float32 `[]`, of the plain sum (mean, for methods of a mean's scale).
      norm_after: float32 `[]`, of the update.
      weights: float32 `[K]` (`[G, K]` for G > 1 groups), or None for a method without weights.
      update_cosine: float32 `[K]`, cosine of the update with each task gradient; None likewise. A
        negative entry is a task that the update sets back.
      curvature: float32 `[]`, estimated over the last step (`diagnostics='curvature'`), or None.
      converged: bool `[G]`, whether the method's solver did in each group; True where it has none.
    """

    cosine: Array
    magnitude_similarity: Array
    curvature_bound: Array
    conflicts: Array
    task_norms: Array
    norm_before: Array
    norm_after: Array
    weights: Any
    update_cosine: Any
    curvature: Any
    converged: Array


def _find(opt_state: Any) -> tuple[list[tuple[str, SurgeryState]], Any, list[Any]]:
    def is_ours(x: Any) -> bool:
        return isinstance(x, SurgeryState)

    leaves, treedef = tree_flatten_with_path(opt_state, is_leaf=is_ours)
    return [(keystr(p), s) for p, s in leaves if is_ours(s)], treedef, [x for _, x in leaves]


def _of_state(state: SurgeryState) -> Diagnostics:
    if state.record is None:
        raise ValueError("nothing was recorded: make the transform with diagnostics=True.")
    # The leaves, not the fields: nnx.Optimizer wraps each array of an optax state in a variable.
    values = jax.tree.leaves(state.record)
    gram, converged, before, after = values[0], *values[-3:]
    weights = None if state.record.weights is None else values[1]
    if gram.ndim != 3:
        raise ValueError(
            f"the state carries {gram.ndim - 3} extra leading axes (seeds or devices): use "
            f"jax.vmap(surgery.diagnostics), or the state of one of them."
        )
    total = gram.sum(0)
    norms, inverse = _inverse_norms(total)
    alignment = None
    if weights is not None:
        dots = jnp.einsum("gij,gj->i", gram, weights, precision="highest")
        scale = jnp.where(after > 0, 1.0 / jnp.where(after > 0, after, 1.0), after)
        alignment = dots * inverse * scale
        weights = weights[0] if weights.shape[0] == 1 else weights
    return Diagnostics(
        cosine=cosine_similarity(total),
        magnitude_similarity=magnitude_similarity(total),
        curvature_bound=curvature_bound(total),
        conflicts=num_conflicts(total),
        task_norms=norms,
        norm_before=before,
        norm_after=after,
        weights=weights,
        update_cosine=alignment,
        curvature=None if state.curvature is None else jax.tree.leaves(state.curvature.value)[0],
        converged=converged,
    )


def all_diagnostics(opt_state: Any) -> dict[str, Diagnostics]:
    """`Diagnostics` of every surgery transform in an optax state that recorded, by its path
    there."""
    return {path: _of_state(s) for path, s in _find(opt_state)[0] if s.record is not None}


def diagnostics(opt_state: Any) -> Diagnostics:
    """`Diagnostics` of the one surgery transform in an optax state, however deep it is in the
    chain.

    Pure, and cheap enough to call under jit at every step.

    Raises:
      ValueError: none, or more than one (then see `all_diagnostics`), or nothing was recorded.
    """
    found = _find(opt_state)[0]
    if len(found) != 1:
        where = "; surgery.all_diagnostics gives each" if found else ""
        raise ValueError(f"expected one surgery state in opt_state, found {len(found)}{where}.")
    return _of_state(found[0][1])


def reseed(opt_state: Any, seed: int | Array) -> Any:
    """The same optax state with the surgery keys made from `seed` anew.

    For runs that must differ although their states were made by one `init`:
    `jax.vmap(surgery.reseed)(jax.vmap(tx.init)(params), jnp.arange(num_seeds))`.
    """
    _, treedef, leaves = _find(opt_state)
    out = []
    for n, leaf in enumerate(leaves):
        if isinstance(leaf, SurgeryState) and leaf.key is not None:
            data = jax.random.key_data(jax.random.fold_in(new_key(seed), n))
            if data.shape != jax.tree.leaves(leaf.key)[0].shape:
                raise ValueError(
                    "seed must be an integer or a key of the kind that the state holds; for states "
                    "stacked over seeds use jax.vmap(surgery.reseed)."
                )
            leaf = leaf._replace(key=data)
        out.append(leaf)
    return treedef.unflatten(out)
