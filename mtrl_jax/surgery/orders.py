"""Orders in which tasks visit each other, for the methods that project in turn."""

import jax
import jax.numpy as jnp

__all__ = ["fixed_orders", "random_orders"]

Array = jax.Array


def random_orders(key: Array, num_tasks: int, *, shared: bool = False) -> Array:
    """Orders in which each task visits the others, int32 `[K, K - 1]`; row i does not hold i.

    Every row is an independent uniform permutation, as in the paper; with `shared` all rows come
    from one permutation of the K tasks.
    """
    shape = (1, num_tasks) if shared else (num_tasks, num_tasks)
    # Oneself last, and then dropped.
    rank = jax.random.uniform(key, shape) + 2.0 * jnp.eye(num_tasks)
    return jnp.argsort(rank, axis=1)[:, : num_tasks - 1].astype(jnp.int32)


def fixed_orders(num_tasks: int) -> Array:
    """Every task visits the others from 0 to K - 1: what the authors' code does.

    Returns:
      int32 `[K, K - 1]`.
    """
    rank = jnp.arange(num_tasks)[None, :] + 2 * num_tasks * jnp.eye(num_tasks, dtype=jnp.int32)
    return jnp.argsort(rank, axis=1)[:, : num_tasks - 1].astype(jnp.int32)
