"""Every task by itself: K agents of one task each, as one program."""

from collections.abc import Callable
from typing import Any

import jax

from mtrl_jax.types import ArrayTree

__all__ = ["drop_task_axis", "each_alone"]


def each_alone(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn(state, *args)` over K tasks as K calls with one task each: all leaves lead with K."""

    def one(state: ArrayTree, *args: ArrayTree) -> Any:
        return fn(state, *jax.tree.map(lambda x: x[None], args))

    return jax.vmap(one)


def drop_task_axis(tree: ArrayTree) -> ArrayTree:
    """Leaves `[K, 1, ...]` to `[K, ...]`, after `each_alone`."""
    return jax.tree.map(lambda x: x[:, 0], tree)
