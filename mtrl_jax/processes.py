"""What the processes of one run tell each other; with one process each function is the identity.

All processes must call these functions in the same order, and none while a pmapped update is in
flight. Trees travel as bytes in one piece: one collective for a tree, and every bit arrives.
"""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mtrl_jax.types import ArrayTree


def is_chief() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in some process."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array([flag], np.uint8))))


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """If its body raises in one process, no process goes on.

    Raises:
      ValueError: in the processes whose own body did not raise.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    if any_process(error is not None):
        raise error or ValueError("another process of this run cannot go on and says why")


def from_chief(tree: ArrayTree, like: ArrayTree) -> ArrayTree:
    """The chief's `tree` in every process; shapes and dtypes as `like`, which all must know."""
    if jax.process_count() == 1:
        return tree
    tree = tree if is_chief() else like
    return _unpack(multihost_utils.broadcast_one_to_all(_pack(tree)), tree)


def gather(tree: ArrayTree, axis: int) -> ArrayTree:
    """Joins what each process holds of axis `axis` (E) of every leaf, the same in every process."""
    if jax.process_count() == 1:
        return tree
    parts = [_unpack(part, tree) for part in multihost_utils.process_allgather(_pack(tree))]
    return jax.tree.map(lambda *x: np.concatenate(x, axis), *parts)


def scatter(tree: ArrayTree, axis: int) -> ArrayTree:
    """The inverse of `gather`: what this process holds of axis `axis` of every leaf."""
    if jax.process_count() == 1:
        return tree
    n, i = jax.process_count(), jax.process_index()
    return jax.tree.map(lambda x: np.split(np.asarray(x), n, axis)[i], tree)


def _is_key(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _pack(tree: ArrayTree) -> np.ndarray:
    plain = (jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(tree))
    return np.frombuffer(b"".join(np.asarray(x).tobytes() for x in plain), np.uint8)


def _unpack(data: np.ndarray, like: ArrayTree) -> ArrayTree:
    data, start = np.asarray(data), 0

    def take(x):
        nonlocal start
        plain = jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x
        count = int(np.prod(plain.shape)) * np.dtype(plain.dtype).itemsize
        piece, start = data[start : start + count].tobytes(), start + count
        array = np.frombuffer(piece, plain.dtype).reshape(plain.shape)
        if not _is_key(x):
            return array
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(x))

    return jax.tree.map(take, like)
