"""Which leaves surgery works on, and in which groups."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

__all__ = ["AxisName", "Layout", "Mask", "blank", "flags", "groups", "per_task"]

Mask = Any | Callable[[Any], Any] | None
AxisName = str | tuple[str, ...] | None


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

    def total(self, each: dict[int, jax.Array], dtype: Any) -> jax.Array:
        """Sum of one number a leaf over leaves and shards; what every shard holds counts once."""

        def add(indices: list[int]) -> jax.Array:
            return sum((each[i] for i in indices), jnp.zeros((), dtype))

        if self.axis_name is None:
            return add(list(each))
        mine = add([i for i in each if not self.whole[i]])
        sharded: jax.Array = jax.lax.psum(mine, self.axis_name)
        return sharded + add([i for i in each if self.whole[i]])


def blank(present: jax.Array, x: jax.Array, value: float) -> jax.Array:
    """`x`, `[K, ...]`, with the rows of absent tasks set to `value`, whatever stood there."""
    return jnp.where(per_task(present, x), x, jnp.asarray(value, x.dtype))


def per_task(x: jax.Array, leaf: jax.Array) -> jax.Array:
    """`x`, `[K]`, shaped so that it meets the rows of `leaf`, `[K, *param]`."""
    return x.reshape(-1, *(1,) * (leaf.ndim - 1))


def flags(name: str, mask: Mask, tree: Any, task_axis: bool) -> list[bool]:
    """A boolean per leaf of `tree`, from a mask in the manner of `optax.masked`.

    Args:
      name: of the argument, for the error.
      mask: None (all True); a pytree of booleans that is a prefix of `tree`; or a function of the
        parameters that returns one. The function always sees parameter shapes, so that one which
        looks at `ndim` says the same in `init` and in `update`.
      tree: parameters or task gradients.
      task_axis: whether the leaves of `tree` lead with the task axis.
    """
    leaves, treedef = jax.tree.flatten(tree)
    structure: Any = treedef
    if mask is None:
        return [True] * len(leaves)
    # A tree of booleans in the form of a module that can be called is a tree all the same.
    if callable(mask) and type(mask) is not type(tree):

        def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
            shape = jnp.shape(leaf)[1:] if task_axis else jnp.shape(leaf)
            return jax.ShapeDtypeStruct(shape, jnp.result_type(leaf))

        mask = mask(jax.tree.unflatten(treedef, [abstract(leaf) for leaf in leaves]))
    try:
        full = jax.tree.map(lambda m, sub: jax.tree.map(lambda _: m, sub), mask, tree)
        chosen = structure.flatten_up_to(full)
    except ValueError as error:
        raise ValueError(f"{name} must be a prefix of the tree of parameters: {error}") from None
    for (path, _), flag in zip(tree_flatten_with_path(tree)[0], chosen, strict=True):
        if not isinstance(flag, (bool, np.bool_)):
            raise ValueError(f"{name} must hold booleans, got {flag!r} at {keystr(path)}.")
    return [bool(flag) for flag in chosen]


def groups(scope: str, tree: Any, chosen: list[bool]) -> list[list[int]]:
    """Indices of the leaves of each group, for `scope` 'global', 'leaf' or 'module'.

    A module is what the tree first branches into: with parameters `{'params': {'torso': ...,
    'head': ...}}` the modules are torso and head. Only leaves that are `chosen` appear.
    """
    paths = [path for path, _ in tree_flatten_with_path(tree)[0]]
    indices = [i for i, flag in enumerate(chosen) if flag]
    if not indices:
        return []
    if scope == "global":
        return [indices]
    if scope == "leaf":
        return [[i] for i in indices]
    common = 0
    while all(len(p) > common + 1 and p[common] == paths[0][common] for p in paths):
        common += 1
    modules: dict[Any, list[int]] = {}
    for i in indices:
        modules.setdefault(paths[i][common : common + 1], []).append(i)
    return list(modules.values())
