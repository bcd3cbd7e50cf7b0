"""Checkpoints of whole runs with Orbax: asynchronous, atomic, the newest two kept.

Restored: everything that the caller puts into the tree (learner, optimiser, surgery and environment
state, running episode sums) and the JSON beside it. Not restored: host environments, which have no
state to save; a run on them starts new episodes.

Of several processes the first alone reads and writes, for all of them: the files are those of one
process, and only its disk has to last.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
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


@contextlib.contextmanager
def open_manager(
    folder: pathlib.Path, keep: int = 2, *, read_only: bool = False
) -> Iterator[ocp.CheckpointManager]:
    """A manager of `folder` (created), which finishes what it is writing before it lets go.

    With `read_only` nothing is made, written or removed: a look into a run that may be going on.
    """
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else keep, read_only=read_only, create=False
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
        manager.wait_until_finished()
        manager.close()


def save(manager: ocp.CheckpointManager, step: int, state: ArrayTree, meta: dict[str, Any]) -> None:
    """Starts writing `state` (arrays of one device, or NumPy) and `meta` (JSON) as checkpoint
    `step`.

    Raises:
      RuntimeError: if that step or a later one exists already.
    """
    if jax.process_count() > 1:  # Orbax takes arrays of one process for a mistake
        state = jax.device_get(state)
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        meta=ocp.args.JsonSave({**meta, "leaves": _dtypes(state)}),
    )
    if not manager.save(step, args=args):
        raise RuntimeError(f"checkpoint {step} was not written: that step or a later one exists")


def restore_latest(
    manager: ocp.CheckpointManager, target: ArrayTree
) -> tuple[int, ArrayTree, dict[str, Any]] | None:
    """The newest finished checkpoint as `(step, state, meta)`, or None if there is none.

    Args:
      manager: from `open_manager`.
      target: from `abstract`, the tree to restore into.

    Raises:
      ValueError: if the newest checkpoint cannot be read, or does not fit `target`.
    """
    step = manager.latest_step()
    if step is None:
        return None
    try:
        meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        have, want = meta["leaves"], _dtypes(target)  # Orbax would cast a wrong dtype silently
        if have != want:
            wrong = sorted(k for k in have.keys() | want.keys() if have.get(k) != want.get(k))
            raise ValueError(
                f"it differs from this program in {len(wrong)} leaves, first {wrong[0]}: "
                f"saved {have.get(wrong[0])}, expected {want.get(wrong[0])}"
            )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        state = manager.restore(step, args=args)["state"]
    except Exception as error:  # whatever Orbax and TensorStore raise for damaged files
        cause = " ".join(str(error).split())[:300]
        raise ValueError(
            f"checkpoint {manager.directory / str(step)} cannot be restored: {cause}"
        ) from error
    return step, state, meta
