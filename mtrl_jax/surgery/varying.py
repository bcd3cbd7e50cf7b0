"""Loop carries under `shard_map`, where a value's type says over which axes it differs."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["vary_like"]


def vary_like(tree: Any, example: jax.Array) -> Any:
    """`tree` itself, typed as differing over the mapped axes over which `example` does.

    `lax.scan` and `lax.while_loop` want the carry to have one type throughout. A constant start
    differs over no axis, but what the loop makes of it differs over those of the data. Choosing
    between x and x by the data has the right type and no cost, whatever these types are called in
    the installed version of JAX.
    """
    either = example.reshape(-1)[0] > 0
    return jax.tree.map(lambda x: jnp.where(either, x, x), tree)
