"""Surgery on arrays whose types say how they are sharded, as those of `jax.make_mesh` do.

With explicit axes every operation must say what becomes of a sharded axis. Here the gradients'
types say it for the whole update, which has their sharding without the task axis, and XLA
partitions what lies between: a Gram matrix of parts of each leaf and one sum over devices.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType

__all__ = ["in_auto_axes"]

S = TypeVar("S")


def _explicit(x: Any) -> tuple[str, ...]:
    """Names of the explicit mesh axes of an array's type."""
    sharding = getattr(jax.typeof(x), "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    if mesh is None or not mesh.axis_names:
        return ()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in kinds if kind == AxisType.Explicit)


def in_auto_axes(
    update: Callable[..., tuple[Any, S]], grads: Any, state: S, *rest: Any
) -> tuple[Any, S]:
    """`update(grads, state, *rest)`, which returns an update and a state like `state`.

    Args:
      update: knows nothing of meshes.
      grads: leaves `[K, *param]`, the task axis not sharded.
      state: keeps its sharding.
      *rest: further trees of arrays.
    """
    sharded = [leaf for leaf in jax.tree.leaves(grads) if _explicit(leaf)]
    if not sharded:
        return update(grads, state, *rest)
    mesh, axes = jax.typeof(sharded[0]).sharding.mesh, _explicit(sharded[0])

    def spec(x: Any, axis: int) -> Any:
        own = jax.typeof(x).sharding.spec if _explicit(x) else (None,) * jax.typeof(x).ndim
        return jax.P(*own[axis:])

    out = (
        jax.tree.map(lambda x: spec(x, 1), grads),
        jax.tree.map(lambda x: spec(x, 0), state),
    )
    with jax.sharding.use_abstract_mesh(mesh):
        partitioned: Callable[..., tuple[Any, S]]
        partitioned = jax.sharding.auto_axes(update, axes=axes, out_sharding=out)
        return partitioned(grads, state, *rest)
