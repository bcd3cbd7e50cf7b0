"""What is done for each group of leaves: its Gram matrix, its weights, its update, its record."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.gram import gram_matrix, weighted_sum
from mtrl_jax.surgery.method import Inputs, Method
from mtrl_jax.surgery.options import AxisName
from mtrl_jax.surgery.quadratic import Solution
from mtrl_jax.surgery.state import Record

__all__ = ["Layout", "combine", "decide", "grams", "record_of"]

Array = jax.Array


class Layout(NamedTuple):
    """How the leaves of a tree are grouped and sharded.

    Attributes:
      parts: G lists, indices of the leaves of each group; leaves in none are task-specific.
      whole: a boolean per leaf, whether every shard holds it in full.
      axis_name: the mapped axes over which the others are sharded, or None.
    """

    parts: list[list[int]]
    whole: list[bool]
    axis_name: AxisName

    @property
    def num_groups(self) -> int:
        """G."""
        return len(self.parts)


def grams(leaves: list[Array], layout: Layout, k: int) -> Array:
    """Gram matrices of the groups, `[G, K, K]`; of sharded leaves summed over the mapped axis."""

    def stack(chosen: list[list[int]]) -> Array:
        zeros = jnp.zeros((k, k), jnp.float32)
        each = [gram_matrix([leaves[i] for i in part]) if part else zeros for part in chosen]
        return jnp.stack(each).astype(jnp.float32)  # also where gradients are float64

    if layout.axis_name is None:
        return stack(layout.parts)
    sharded = [[i for i in part if not layout.whole[i]] for part in layout.parts]
    whole = [[i for i in part if layout.whole[i]] for part in layout.parts]
    return jax.lax.psum(stack(sharded), layout.axis_name) + stack(whole)


def decide(method: Method, inputs: Inputs, state: Any, n: int) -> tuple[Solution, Any]:
    """Weights `[G, K]` and new state of n groups, NaN and unchanged where what was seen is not
    finite.

    Args:
      method: one with weights.
      inputs: as for one group, but for gram `[G, K, K]`.
      state: what the method remembers, leaves `[G, ...]`.
      n: G.
    """
    weights = method.weights
    assert weights is not None

    def solve(one: Inputs, own: Any) -> tuple[Solution, Any]:
        w, new = weights(one, own)
        return (w if isinstance(w, Solution) else Solution(w, jnp.ones((), bool))), new

    if n == 1:  # no vmap, which would only slow the solvers
        first = jax.tree.map(lambda x: x[0], state)
        one = inputs._replace(gram=None if inputs.gram is None else inputs.gram[0])
        solution, new = jax.tree.map(lambda x: x[None], solve(one, first))
    else:
        keys = None if inputs.key is None else jax.random.split(inputs.key, n)
        axes = (None if inputs.gram is None else 0, None if keys is None else 0, 0)

        def each(gram: Any, key: Any, own: Any) -> tuple[Solution, Any]:
            return solve(inputs._replace(gram=gram, key=key), own)

        solution, new = jax.vmap(each, in_axes=axes, axis_size=n)(inputs.gram, keys, state)
    seen = (inputs.gram, inputs.task_losses, inputs.task_losses_after)
    sound = [jnp.isfinite(x).all() for x in seen if x is not None]
    if sound:
        finite = jnp.stack(sound).all()
        new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        solution = solution._replace(weights=jnp.where(finite, solution.weights, jnp.nan))
    return solution, new


def combine(
    method: Method, weights: Any, key: Any, leaves: list[Array], layout: Layout
) -> list[Array]:
    """The update, leaves `[*param]`: of each group by its weights, or coordinate by coordinate; of
    task-specific leaves the sum.

    Args:
      method: see `Method`.
      weights: `[G, K]`, or None for a method that looks at coordinates.
      key: typed key, of such a method.
      leaves: task gradients, `[K, *param]`.
      layout: of the leaves.
    """
    out: dict[int, Array] = {}
    for g, part in enumerate(layout.parts):
        pick = [leaves[i] for i in part]
        if weights is not None:
            done = weighted_sum(weights[g], pick)
        else:
            assert method.combine is not None and key is not None
            keys = jax.random.split(jax.random.fold_in(key, g), len(part))
            done = [method.combine(keys[n], leaf) for n, leaf in enumerate(pick)]
        out.update(zip(part, done, strict=True))
    rest = [i for i in range(len(leaves)) if i not in out]
    out.update(zip(rest, summed([leaves[i] for i in rest]), strict=True))
    return [out[i] for i in range(len(leaves))]


def summed(leaves: list[Array]) -> list[Array]:
    """Sums over tasks, leaves `[*param]`."""
    if not leaves:
        return []
    ones = jnp.ones((leaves[0].shape[0],), jnp.float32)
    total: list[Array] = weighted_sum(ones, leaves)
    return total


def record_of(
    method: Method, gram: Array, solution: Solution | None, out: list[Array], layout: Layout
) -> Record:
    """The `Record` of one update.

    Args:
      method: see `Method`.
      gram: `[G, K, K]`.
      solution: weights `[G, K]` and whether they converged, or None for a method without weights.
      out: the update, leaves `[*param]`.
      layout: of its leaves.
    """
    scale = 1.0 if method.sums else 1.0 / gram.shape[-1]
    before = jnp.sqrt(jnp.maximum(gram.sum(), 0.0)) * scale
    if solution is None:
        after = _norm(out, layout)
        return Record(gram, None, jnp.ones((layout.num_groups,), bool), before, after)
    w = solution.weights
    quadratic = jnp.einsum("gi,gij,gj->", w, gram, w, precision="highest")
    return Record(gram, w, solution.converged, before, jnp.sqrt(jnp.maximum(quadratic, 0.0)))


def _norm(out: list[Array], layout: Layout) -> Array:
    """Norm of the update over the shared leaves, those that every shard holds counted once."""

    def square(indices: list[int]) -> Array:
        zero = jnp.zeros((), jnp.float32)
        return sum((jnp.sum(jnp.square(out[i].astype(jnp.float32))) for i in indices), zero)

    shared = [i for part in layout.parts for i in part]
    if layout.axis_name is None:
        return jnp.sqrt(square(shared))
    sharded = jax.lax.psum(square([i for i in shared if not layout.whole[i]]), layout.axis_name)
    return jnp.sqrt(sharded + square([i for i in shared if layout.whole[i]]))
