"""Checkpoints of whole runs with Orbax: asynchronous, atomic, checked; the newest few are kept,
and one more that a run holds on to.

Beside every array stands its CRC-32, and beside all that is not an array a SHA-256 of it, because
Orbax notices a flipped byte of array data in no way. A checkpoint that does not agree with them is
no checkpoint: the one before it counts, with a warning that names both.

Restored: everything that the caller puts into the tree (learner, optimiser, surgery and environment
state, running episode sums) and the JSON beside it. Not restored: host environments, which have no
state to save; a run on them starts new episodes.

Of several processes the first alone reads and writes, for all of them: the files are those of one
process, and only its disk has to last.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mtrl_jax.types import ArrayTree

Manager = ocp.CheckpointManager


def abstract(tree: ArrayTree) -> ArrayTree:
    """Shapes and dtypes of `tree` (arrays, or what `jax.eval_shape` gives) on one explicit device:
    reads what any number saved."""
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def leaf(x):
        x = x if isinstance(x, jax.ShapeDtypeStruct) else jax.eval_shape(lambda: x)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one)

    return jax.tree.map(leaf, tree)


def _dtypes(tree: ArrayTree) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path): f"{x.dtype}{tuple(x.shape)}"
        for path, x in jax.tree.leaves_with_path(tree)
    }


def _checksums(tree: ArrayTree) -> dict[str, int]:
    """CRC-32 of the bytes of every array, by its path."""

    def one(x):
        typed_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        x = np.asarray(jax.random.key_data(x) if typed_key else x)
        return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)

    return {jax.tree_util.keystr(path): one(x) for path, x in jax.tree.leaves_with_path(tree)}


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


class _Keep:
    """Orbax's question which checkpoints stay: the newest `keep`, and that of step `held()`."""

    def __init__(self, keep: int, held: Callable[[], int | None]):
        self._keep, self._held = keep, held

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        newest = range(len(checkpoints) - self._keep, len(checkpoints))
        return [n in newest or one.step == self._held() for n, one in enumerate(checkpoints)]


@contextlib.contextmanager
def open_manager(
    folder: pathlib.Path,
    keep: int = 2,
    *,
    held: Callable[[], int | None] = lambda: None,
    read_only: bool = False,
) -> Iterator[ocp.CheckpointManager]:
    """A manager of `folder` (created), which finishes what it is writing before it lets go.

    Args:
      folder: of the checkpoints.
      keep: how many of the newest stay.
      held: asked at each save for the step of one more that stays, if there is such.
      read_only: nothing is made, written or removed: a look into a run that may be going on.
    """
    options = ocp.CheckpointManagerOptions(
        preservation_policy=None if read_only else _Keep(keep, held),
        read_only=read_only,
        create=False,
    )
    if jax.process_count() > 1:  # else Orbax expects all processes at its barriers
        here = jax.process_index()
        options.multiprocessing_options = ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"alone{here}"
        )
    if not read_only:
        folder.mkdir(parents=True, exist_ok=True)
    manager = ocp.CheckpointManager(folder.absolute(), options=options)
    try:
        yield manager
    finally:
        try:
            with _writing(folder):
                manager.wait_until_finished()
        finally:
            manager.close()


_REFUSED = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.EIO,
)


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    """What Orbax, TensorStore and the system raise where a disk is full or closed, as one error.

    Raises:
      OSError: with the folder in its sentence.
    """
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())
        # TensorStore says it at the end of a long tale.
        known = (os.strerror(code) for code in _REFUSED)
        cause = next((words for words in known if words in said), said[:300])
        raise OSError(
            f"{folder} cannot be written: {cause}; the checkpoints that it holds stand, and the "
            "same command continues from the newest"
        ) from error


def save(manager: ocp.CheckpointManager, step: int, state: ArrayTree, meta: dict[str, Any]) -> None:
    """Starts writing `state` (arrays of one device, or NumPy) and `meta` (JSON) as checkpoint
    `step`.

    Raises:
      RuntimeError: if that step or a later one exists already.
      OSError: if it, or the one before, cannot be written.
    """
    if jax.process_count() > 1:  # Orbax takes arrays of one process for a mistake
        state = jax.device_get(state)
    meta = {**meta, "leaves": _dtypes(state), "checksums": _checksums(state)}
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        meta=ocp.args.JsonSave({**meta, "digest": _digest(meta)}),
    )
    with _writing(pathlib.Path(manager.directory)):
        written = manager.save(step, args=args)
    if not written:
        raise RuntimeError(f"checkpoint {step} was not written: that step or a later one exists")


def restore_latest(
    manager: ocp.CheckpointManager, target: ArrayTree, *, repair: bool = False
) -> tuple[int, ArrayTree, dict[str, Any]] | None:
    """The newest sound checkpoint as `(step, state, meta)`, or None if there is none at all.

    A newer one that is damaged is named in a warning.

    Args:
      manager: from `open_manager`.
      target: from `abstract`, the tree to restore into.
      repair: puts damaged ones aside, into `damaged/` beside the folder, so that a run which goes
        on can write their steps again.

    Raises:
      ValueError: if no checkpoint is sound (nothing is moved then), or the newest sound one does
        not fit `target`.
    """
    damaged: dict[int, ValueError] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            state, meta = _restore(manager, step, target)
        except _Damaged as error:
            damaged[step] = ValueError(_cannot(manager, step, error))
            continue
        except Exception as error:
            raise ValueError(_cannot(manager, step, error)) from error
        for bad, why in damaged.items():
            warnings.warn(f"{why}; going on from checkpoint {step} instead", stacklevel=2)
            if repair:
                _put_aside(manager, bad)
        return step, state, meta
    if damaged:
        raise damaged[max(damaged)]
    return None


def restore_step(
    manager: ocp.CheckpointManager, step: int, target: ArrayTree
) -> tuple[ArrayTree, dict[str, Any]]:
    """`(state, meta)` of one checkpoint, `target` as for `restore_latest`.

    Raises:
      ValueError: if there is no such checkpoint, with those that there are; if it is damaged; if it
        does not fit `target`.
    """
    steps = sorted(manager.all_steps())
    if step not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise ValueError(f"step must be that of a checkpoint, one of {known}; got {step}")
    try:
        return _restore(manager, step, target)
    except Exception as error:
        raise ValueError(_cannot(manager, step, error)) from error


class _Damaged(Exception):
    """A checkpoint is not what was written."""


def _cannot(manager: ocp.CheckpointManager, step: int, error: Exception) -> str:
    cause = " ".join(str(error).split())[:300]
    return f"checkpoint {manager.directory / str(step)} cannot be restored: {cause}"


def _restore(
    manager: ocp.CheckpointManager, step: int, target: ArrayTree
) -> tuple[ArrayTree, dict[str, Any]]:
    try:
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = dict(manager.restore(step, args=args)["meta"])
        if meta.pop("digest") != _digest(meta):
            raise ValueError("what stands beside the arrays has changed since it was written")
    except Exception as error:  # whatever Orbax, TensorStore and JSON raise for damaged files
        raise _Damaged(str(error) or type(error).__name__) from error
    have, want = meta["leaves"], _dtypes(target)  # Orbax would cast a wrong dtype silently
    if have != want:
        wrong = sorted(k for k in have.keys() | want.keys() if have.get(k) != want.get(k))
        raise ValueError(
            f"it differs from this program in {len(wrong)} leaves, first {wrong[0]}: "
            f"saved {have.get(wrong[0])}, expected {want.get(wrong[0])}"
        )
    try:
        restore = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        state = manager.restore(step, args=restore)["state"]
        found = _checksums(state)
        wrong = sorted(k for k, crc in meta["checksums"].items() if found.get(k) != crc)
        if wrong:
            raise ValueError(
                f"{len(wrong)} arrays have changed since they were written, first {wrong[0]}"
            )
    except Exception as error:
        raise _Damaged(str(error) or type(error).__name__) from error
    return state, meta


def _put_aside(manager: ocp.CheckpointManager, step: int) -> None:
    place = manager.directory.parent / "damaged"
    place.mkdir(exist_ok=True)
    n = sum(1 for path in place.iterdir() if path.name.startswith(f"{step}-"))
    (manager.directory / str(step)).rename(place / f"{step}-{n}")
    manager.reload()
