"""What is done for each group of leaves: its Gram matrix, its weights, its update, its record."""

from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.dtypes import accumulator
from mtrl_jax.surgery.gram import gram_matrix, weighted_sum
from mtrl_jax.surgery.method import Inputs, Method
from mtrl_jax.surgery.parts import Layout
from mtrl_jax.surgery.quadratic import Solution
from mtrl_jax.surgery.state import Record, SurgeryState

__all__ = ["combine", "decide", "grams", "record_of"]

Array = jax.Array


def grams(leaves: list[Array], layout: Layout) -> Array:
    """Gram matrices of the groups, `[G, K, K]`; of sharded leaves summed over the mapped axis.

    In one dtype for all leaves: a float32 leaf beside a float64 one is widened before its products
    are taken, which float32 might not hold.
    """
    k, wide = leaves[0].shape[0], accumulator(*(leaf.dtype for leaf in leaves))
    if wide != jnp.float32:
        leaves = [leaf.astype(wide) for leaf in leaves]

    def stack(chosen: list[list[int]]) -> Array:
        zeros = jnp.zeros((k, k), wide)
        return jnp.stack(
            [gram_matrix([leaves[i] for i in part]) if part else zeros for part in chosen]
        )

    if layout.axis_name is None:
        return stack(layout.parts)
    sharded = [[i for i in part if not layout.whole[i]] for part in layout.parts]
    whole = [[i for i in part if layout.whole[i]] for part in layout.parts]
    summed: Array = jax.lax.psum(stack(sharded), layout.axis_name)
    return summed + stack(whole)


def decide(
    method: Method, inputs: Inputs, state: SurgeryState
) -> tuple[Solution, SurgeryState, Array]:
    """Weights `[G, K]`, the state with what the method remembers now, and whether each group's
    update was sound, `[G]`.

    Only what is sound is learned from. Where a group's weights or its new memory are not finite,
    the weights of its last sound update stand in; where what was seen is not finite, weights are
    NaN. Both leave the memory as it was and are counted.

    Args:
      method: one with weights.
      inputs: as for one group, but for gram `[G, K, K]` and the leaves of seen, `[G, ...]`.
      state: before the update.
    """
    present = inputs.present
    old = jax.tree.map(lambda x: _cast(x, inputs.dtype), state.method)
    solution, new = _solve(method, inputs, old, state.weights.shape[0])
    solved = jnp.isfinite(jnp.where(present[None], solution.weights, 0.0)).all(1)  # [G]
    for leaf in jax.tree.leaves(new):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            solved &= jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(1)
    finite = jnp.asarray(True)
    looked_at = (inputs.gram, inputs.task_losses, inputs.task_losses_after, inputs.seen)
    for x in jax.tree.leaves(looked_at):
        finite &= jnp.isfinite(x).all()
    sound = solved & finite

    def learn(new: Array, old: Array) -> Array:
        change = sound.reshape(-1, *(1,) * (old.ndim - 1))
        if old.shape[1:2] == present.shape:
            change &= present.reshape(1, -1, *(1,) * (old.ndim - 2))
        if old.shape[1:3] == 2 * present.shape:
            change &= present.reshape(1, 1, -1, *(1,) * (old.ndim - 3))
        return jnp.where(change, _cast(new, old.dtype), old)

    weights = jnp.where(solved[:, None], solution.weights, state.weights)
    weights = jnp.where(finite, weights, jnp.nan)
    weights = jnp.where(present[None], weights, 0.0).astype(inputs.dtype)
    state = state._replace(
        method=jax.tree.map(learn, new, state.method),
        weights=learn(solution.weights, state.weights),
        unsound=state.unsound + ~sound.all(),
    )
    return Solution(weights, solution.converged & sound), state, sound


def _cast(x: Array, dtype: Any) -> Array:
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _solve(method: Method, inputs: Inputs, state: Any, n: int) -> tuple[Solution, Any]:
    """The method's own decision for each of n groups; leaves `[G, ...]`."""
    weights = method.weights
    assert weights is not None

    def solve(one: Inputs, own: Any) -> tuple[Solution, Any]:
        w, new = weights(one, own)
        return (w if isinstance(w, Solution) else Solution(w, jnp.asarray(True))), new

    if n == 1:  # no vmap, which would only slow the solvers
        first = jax.tree.map(lambda x: x[0], state)
        gram, seen = jax.tree.map(lambda x: x[0], (inputs.gram, inputs.seen))
        one = inputs._replace(gram=gram, seen=seen)
        solution, new = jax.tree.map(lambda x: x[None], solve(one, first))
        return solution, new
    keys = None if inputs.key is None else jax.random.split(inputs.key, n)

    def each(gram: Any, key: Any, seen: Any, own: Any) -> tuple[Solution, Any]:
        return solve(inputs._replace(gram=gram, key=key, seen=seen), own)

    # What is None has no leaves to map over.
    solution, new = jax.vmap(each, axis_size=n)(inputs.gram, keys, inputs.seen, state)
    return solution, new


def combine(
    method: Method, weights: Any, key: Any, leaves: list[Array], like: list[Any], layout: Layout
) -> list[Array]:
    """The update, leaves `[*param]`: of each group by its weights, or coordinate by coordinate; of
    task-specific leaves the sum.

    Args:
      method: see `Method`.
      weights: `[G, K]`, or None for a method that looks at coordinates.
      key: typed key, of such a method.
      leaves: task gradients, `[K, *param]`.
      like: what has the dtypes of the update, one a leaf.
      layout: of the leaves.
    """
    out: dict[int, Array] = {}
    for g, part in enumerate(layout.parts):
        pick, target = [leaves[i] for i in part], [like[i] for i in part]
        if weights is not None:
            done = weighted_sum(weights[g], pick, target)
        else:
            assert method.combine is not None and key is not None
            keys = jax.random.split(jax.random.fold_in(key, g), len(part))
            done = [method.combine(keys[n], leaf) for n, leaf in enumerate(pick)]
        out.update(zip(part, done, strict=True))
    rest = [i for i in range(len(leaves)) if i not in out]
    if rest:
        ones = jnp.ones((leaves[0].shape[0],), jnp.float32)
        done = weighted_sum(ones, [leaves[i] for i in rest], [like[i] for i in rest])
        out.update(zip(rest, done, strict=True))
    return [out[i] for i in range(len(leaves))]


def record_of(
    gram: Array,
    solution: Solution | None,
    out: list[Array] | None,
    layout: Layout,
    scale: Array | float,
) -> Record:
    """The `Record` of one update.

    Args:
      gram: `[G, K, K]`.
      solution: weights `[G, K]` and whether they converged, or None for a method without weights.
      out: the update, leaves `[*param]`; None where it is the weighted sum, whose length the
        weights tell.
      layout: of its leaves.
      scale: 1 for a method on the scale of the sum, one over the number of tasks for the mean's.
    """
    before = jnp.sqrt(jnp.maximum(gram.sum(), 0.0)) * scale
    if solution is None:
        solution = Solution(None, jnp.ones((layout.num_groups,), bool))  # type: ignore[arg-type]
    w = solution.weights
    if out is None:
        square = jnp.einsum("gi,gij,gj->", w, gram, w, precision="highest")
    else:
        shared = [i for part in layout.parts for i in part]
        squares = {i: jnp.sum(jnp.square(out[i].astype(gram.dtype))) for i in shared}
        square = layout.total(squares, gram.dtype)
    return Record(gram, w, solution.converged, before, jnp.sqrt(jnp.maximum(square, 0.0)))
