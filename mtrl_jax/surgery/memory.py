"""What a few methods remember of the size of the gradients: made, asked before and after the
weights, and kept where an update is not sound."""

from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.method import Inputs, Method
from mtrl_jax.surgery.parts import Layout, blank, per_task

__all__ = ["after", "before", "init_memory", "learned", "zero_rows"]

Array = jax.Array


def init_memory(
    method: Method, num_tasks: int, leaves: list[Any], parts: list[list[int]], dtype: Any
) -> list[Any] | None:
    """The memory before the first update, for every leaf of the parameters, or None."""
    if method.memory is None:
        return None
    shared = {i for part in parts for i in part}
    wide = [jax.ShapeDtypeStruct(jnp.shape(x), dtype) for x in leaves]
    return [method.memory.init(num_tasks, x) if i in shared else None for i, x in enumerate(wide)]


def zero_rows(num_tasks: int, leaf: Any) -> Array:
    """Zeros `[K, *param]`: the usual `Memory.init`."""
    return jnp.zeros((num_tasks, *leaf.shape), leaf.dtype)


def before(
    method: Method, inputs: Inputs, leaves: list[Array], memory: Any, layout: Layout
) -> tuple[list[Array], Any, Any]:
    """The rows that the update is made of, leaves `[K, *param]`, the new memory, and what the
    weights see of it, leaves `[G, ...]`; without a memory the gradients as they are."""
    if method.memory is None or not layout.parts:
        return leaves, memory, None
    rows, new, seen = list(leaves), list(memory), []

    for part in layout.parts:

        def total(each: list[Array], part: list[int] = part) -> Array:
            return layout.total(dict(zip(part, each, strict=True)), inputs.dtype)

        wide = [leaves[i].astype(inputs.dtype) for i in part]
        own, kept, found = method.memory.before(inputs, wide, [memory[i] for i in part], total)
        seen.append(found)
        for i, x, m in zip(part, own, kept, strict=True):
            rows[i], new[i] = blank(inputs.present, x, 0.0), m
    return rows, new, jax.tree.map(lambda *x: jnp.stack(x), *seen)


def after(
    method: Method, inputs: Inputs, state: Any, out: list[Array], memory: Any, layout: Layout
) -> tuple[list[Array], Any]:
    """The update, leaves `[*param]`, as the method changes it, and the memory with what it keeps of
    that.

    Args:
      method: one with a memory.
      inputs: see `Inputs`.
      state: what the method remembers now, leaves `[G, ...]`.
      out: the weighted sums, `[*param]`.
      memory: of every leaf.
      layout: of the leaves.
    """
    assert method.memory is not None
    if method.memory.after is None:
        return out, memory
    out, memory = list(out), list(memory)
    for g, part in enumerate(layout.parts):
        own = jax.tree.map(lambda x, g=g: x[g], state)
        wide = [out[i].astype(inputs.dtype) for i in part]
        changed, kept = method.memory.after(inputs, own, wide, [memory[i] for i in part])
        for i, x, m in zip(part, changed, kept, strict=True):
            out[i], memory[i] = x, m
    return out, memory


def learned(
    new: Any, old: Any, sound: Array, present: Array, leaves: list[Array], layout: Layout
) -> list[Any]:
    """The new memory where the update of the group was sound, `[G]`, and the old one elsewhere and
    in the rows of absent tasks, in arrays shaped as the gradients are, `[K, *param]`."""
    kept = list(old)
    for g, part in enumerate(layout.parts):
        for i in part:

            def choose(a: Array, b: Array, i: int = i, g: int = g) -> Array:
                change = sound[g] & jnp.isfinite(a)
                if a.ndim == leaves[i].ndim:
                    change &= per_task(present, a)
                return jnp.where(change, a, b)

            kept[i] = jax.tree.map(choose, new[i], old[i])
    return kept
