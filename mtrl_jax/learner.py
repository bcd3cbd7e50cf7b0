"""The only file that says pmap: devices, what they tell each other, and gradient steps.

The road of a gradient::

    per-task gradients [K, *param] -> mean over devices -> weights -> surgery [*param] -> optimiser

Learner state is replicated (every device holds the same bytes), environments and their rollouts are
sharded over E. Inside this file both carry a leading device axis D; outside it nobody sees one.

On several CPU devices jax 0.10 aborts the process when some fifty pmapped all-reduces are in
flight, so callers read one metric after every dispatch, which is the synchronisation too.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtrl_jax import surgery
from mtrl_jax.types import ArrayTree, Metrics

AXIS = "device"


class Params(NamedTuple):
    """Parameters: `shared` `[*param]` seen by all tasks, `task` `[K, *param]`; either may be {}."""

    shared: ArrayTree
    task: ArrayTree


class OptState(NamedTuple):
    """Optimiser states of the two halves of `Params`; `task` leads with K, as its parameters do."""

    shared: ArrayTree
    task: ArrayTree


class Transforms(NamedTuple):
    """`shared` maps `[K, *param]` to `[*param]`, surgery first; `task` sees one task's leaves.

    What `frozen` (`Params` of True and False, or None) says stays as it is: neither transform sees
    it, and no gradient of it is computed.
    """

    shared: optax.GradientTransformationExtraArgs
    task: optax.GradientTransformation
    frozen: Params | None = None


def local_devices(num_devices: int = 0) -> list[jax.Device]:
    """The first `num_devices` local devices, all of them for 0.

    Raises:
      ValueError: if there are fewer.
    """
    devices = jax.local_devices()
    if num_devices < 0 or num_devices > len(devices):
        raise ValueError(
            f"num_devices must be between 0 (all) and {len(devices)}, the number of local "
            f"{devices[0].platform} devices; got {num_devices}"
        )
    return devices[: num_devices or None]


def _sharding(devices: Sequence[jax.Device]) -> jax.NamedSharding:
    # A plain Mesh: jax.make_mesh builds explicit axes, which pmap refuses.
    return jax.NamedSharding(jax.sharding.Mesh(np.array(devices), (AXIS,)), jax.P(AXIS))


def replicate(tree: ArrayTree, devices: Sequence[jax.Device]) -> ArrayTree:
    """Leaves `[*x]` to `[D, *x]`, one copy a device; typed keys included."""
    copies = jax.jit(
        lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x, (len(devices), *x.shape)), tree)
    )
    return jax.device_put(copies(tree), _sharding(devices))


def first(tree: ArrayTree) -> ArrayTree:
    """Leaves `[D, *x]` to `[*x]` on one device; `x[0]` would be a program over all devices."""
    shards = jax.tree.map(lambda x: x.addressable_shards[0].data, tree)
    # The shard of a mesh of one device still names the mesh: acting would compile for both
    # spellings.
    return _drop_device_axis(jax.device_put(shards, jax.local_devices()[0]))


@jax.jit
def _drop_device_axis(tree: ArrayTree) -> ArrayTree:
    return jax.tree.map(lambda x: x[0], tree)


def shard(tree: ArrayTree, devices: Sequence[jax.Device], axis: int) -> ArrayTree:
    """Deals axis `axis` (E) of every leaf out: `[..., E, ...]` to `[D, ..., E / D, ...]`."""
    d = len(devices)

    def split(x):
        x = np.asarray(x)
        x = x.reshape(*x.shape[:axis], d, x.shape[axis] // d, *x.shape[axis + 1 :])
        return np.moveaxis(x, axis, 0)

    return jax.device_put(jax.tree.map(split, tree), _sharding(devices))


def unshard(tree: ArrayTree, axis: int) -> ArrayTree:
    """The inverse of `shard`, as NumPy."""

    def join(x):
        x = np.moveaxis(np.asarray(x), 0, axis)
        return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    return jax.tree.map(join, tree)


def pmap(
    fn: Callable[..., Any], devices: Sequence[jax.Device], donate_argnums: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """`jax.pmap` over the leading axis of every argument. Build it once: that costs 100 ms.

    Several processes map over the first `len(devices)` devices of each, in one collective; their
    arguments and results lead with the number of their own.
    """
    if jax.process_count() > 1:  # given local devices only, pmap would average over those alone
        ordered = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
        own = [[d for d in ordered if d.process_index == i] for i in range(jax.process_count())]
        devices = [d for group in own for d in group[: len(devices)]]
    return jax.pmap(fn, axis_name=AXIS, devices=list(devices), donate_argnums=donate_argnums)


# --------------------------------------------------------------------------------- collectives


class Collectives(NamedTuple):
    """What the D devices of a run tell each other, as functions on trees.

    An agent is made with one of these and knows nothing else of devices: `across(n)` for a run on
    n devices, whose update goes through `pmap`; `ALONE` for an update of one's own under jit.

    Attributes:
      mean: `(tree) -> tree`, over devices.
      sum: `(tree) -> tree`, over devices.
      gather: `(tree, axis) -> tree`: what all devices hold, on each of them; leaves joined along
        `axis` in the devices' order.
      scatter: `(tree, axis) -> tree`: this device's part of what all hold, the inverse of
        `gather`; ValueError where the devices do not divide `axis`, which is a batch.
      size: D, of all processes.
    """

    mean: Callable[[ArrayTree], ArrayTree]
    sum: Callable[[ArrayTree], ArrayTree]
    gather: Callable[[ArrayTree, int], ArrayTree]
    scatter: Callable[[ArrayTree, int], ArrayTree]
    size: int


def _same(tree: ArrayTree, axis: int = 0) -> ArrayTree:
    return tree


# Everything but `size` is the identity. A run on one device goes as well with these as with
# `across(1)`, but XLA then fuses what a sum over one device keeps apart: last digits change.
ALONE = Collectives(mean=_same, sum=_same, gather=_same, scatter=_same, size=1)


def across(num_devices: int) -> Collectives:
    """Of a run on the first `num_devices` local devices of every process, all of them for 0.

    Raises:
      ValueError: if there are fewer.
    """
    d = len(local_devices(num_devices)) * jax.process_count()
    return Collectives(_mean, _sum, _gather, _scatter, d)


def _mean(tree: ArrayTree) -> ArrayTree:
    return jax.lax.pmean(tree, AXIS)


def _sum(tree: ArrayTree) -> ArrayTree:
    return jax.lax.psum(tree, AXIS)


def _gather(tree: ArrayTree, axis: int) -> ArrayTree:
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, axis=axis, tiled=True), tree)


def _scatter(tree: ArrayTree, axis: int) -> ArrayTree:
    d = jax.lax.axis_size(AXIS)

    def part(x):
        if x.shape[axis] % d:
            raise ValueError(f"batch_size must be a multiple of {d} devices; got {x.shape[axis]}")
        width = x.shape[axis] // d
        return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * width, width, axis)

    return jax.tree.map(part, tree)


# ------------------------------------------------------------------------------- gradient steps


def init_optimisers(transforms: Transforms, params: Params) -> OptState:
    """Fresh optimiser states; each task has its own: tasks never meet in a moment or a norm."""
    params, _ = _split(params, transforms.frozen)
    return OptState(
        shared=transforms.shared.init(params.shared) if jax.tree.leaves(params.shared) else (),
        task=jax.vmap(transforms.task.init)(params.task) if jax.tree.leaves(params.task) else (),
    )


def gradient_step(
    loss_fn: Callable[..., tuple[jax.Array, Metrics]],
    transforms: Transforms,
    params: Params,
    opt_state: OptState,
    batch: ArrayTree,
    collectives: Collectives = ALONE,
    weights: jax.Array | np.ndarray | None = None,
) -> tuple[Params, OptState, Metrics]:
    """One step of every task on its own batch.

    Args:
      loss_fn: `(shared, task, batch_k) -> (scalar, metrics)`, of one task; `task` leaves
        `[*param]`.
      transforms: what turns gradients into updates.
      params: current parameters.
      opt_state: from `init_optimisers`.
      batch: leaves `[K, ...]`.
      collectives: of the devices to average over.
      weights: float `[K]` that multiply the tasks' losses, and so their gradients, for the shared
        parameters; None: 1. Surgery takes tasks with a weight of 0 for absent, where it is told so
        by a NumPy array. Metrics are of losses and gradients without weights.

    Returns:
      New parameters and states, and metrics: leaves `[K]` of `loss_fn`'s, `loss/total` `[K]`,
      `grad/shared_norm` `[K]`, `grad/task_norm` `[K]`, all averaged over devices. Where the
      transform keeps surgery's diagnostics of several tasks, also `grad/conflicts` (pairs of
      tasks) and `grad/cosine` (mean over pairs), scalars.
    """
    params, still = _split(params, transforms.frozen)

    def loss(shared: Any, task: Any, still_task: Any, one: Any) -> tuple[jax.Array, Metrics]:
        return loss_fn(_join(shared, still.shared), _join(task, still_task), one)

    grad_fn = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (losses, metrics), grads = jax.vmap(grad_fn, in_axes=(None, 0, 0, 0))(
        params.shared, params.task, still.task, batch
    )
    # Before surgery: the surgery of a mean is not the mean of surgeries.
    (losses, metrics), (g_shared, g_task) = collectives.mean(((losses, metrics), grads))
    shared, task = params
    shared_state, task_state = opt_state
    norms = {"grad/shared_norm": jnp.zeros_like(losses), "grad/task_norm": jnp.zeros_like(losses)}
    if jax.tree.leaves(shared):
        norms["grad/shared_norm"] = jax.vmap(optax.tree.norm)(g_shared)
        weighted, extra = _weigh(weights, losses, g_shared)
        updates, shared_state = transforms.shared.update(weighted, shared_state, shared, **extra)
        shared = optax.apply_updates(shared, updates)
        norms |= _interference(shared_state)
    if jax.tree.leaves(task):
        norms["grad/task_norm"] = jax.vmap(optax.tree.norm)(g_task)
        updates, task_state = jax.vmap(transforms.task.update)(g_task, task_state, task)
        task = optax.apply_updates(task, updates)
    metrics = {**metrics, **norms, "loss/total": losses}
    params = Params(_join(shared, still.shared), _join(task, still.task))
    return params, OptState(shared_state, task_state), metrics


def _weigh(
    weights: jax.Array | np.ndarray | None, losses: jax.Array, grads: ArrayTree
) -> tuple[ArrayTree, dict[str, Any]]:
    """Gradients `[K, *param]` as surgery is to see them, and what else it is told."""
    if weights is None:
        return grads, {"task_losses": losses}
    extra: dict[str, Any] = {}
    if isinstance(weights, np.ndarray) and not weights.all():
        extra["present"] = jnp.asarray(weights > 0)
    w = jnp.asarray(weights, losses.dtype)

    def one(g):
        return g * w.astype(g.dtype).reshape(-1, *(1,) * (g.ndim - 1))

    return jax.tree.map(one, grads), {"task_losses": w * losses, **extra}


def _split(params: Params, frozen: Params | None) -> tuple[Params, Params]:
    """What learns and what stays, each with None (which is no leaf) where the other has one."""
    if frozen is None:
        return params, Params({}, {})
    learns = jax.tree.map(lambda fixed, x: None if fixed else x, frozen, params)
    still = jax.tree.map(lambda fixed, x: x if fixed else None, frozen, params)
    return learns, still


def _join(learns: ArrayTree, still: ArrayTree) -> ArrayTree:
    """The inverse of `_split`, of one half."""
    if not jax.tree.leaves(still):
        return learns
    return jax.tree.map(
        lambda a, b: b if a is None else a, learns, still, is_leaf=lambda x: x is None
    )


def repeat(
    step: Callable[[Any, jax.Array], tuple[Any, Metrics]], carry: Any, count: jax.Array | int
) -> tuple[Any, Metrics]:
    """``carry, metrics = step(carry, i)`` for i in 0 .. count - 1, and only so often.

    A loop, not a scan under a condition: a scan computes steps that are then thrown away, also
    under a vmap over seeds, and rings that go into a condition may be copied. Seeds whose counts
    differ wait for the largest of them.

    Args:
      step: of a learner with a replay, say; `i` is int32 [].
      carry: before, of the structure, shapes and dtypes that `step` returns.
      count: int32 [], may be traced.

    Returns:
      The carry after, and means of the metrics over the steps, 0 if none was made.
    """
    shapes = jax.eval_shape(step, carry, jnp.int32(0))[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def one(i, so_far):
        carry, total = so_far
        carry, values = step(carry, i)
        return carry, jax.tree.map(jnp.add, total, values)

    carry, total = jax.lax.fori_loop(0, count, one, (carry, zeros))
    return carry, jax.tree.map(lambda x: x / jnp.maximum(count, 1), total)


def _interference(state: ArrayTree) -> Metrics:
    """How the tasks' gradients of the shared parameters met in the last step."""
    record = surgery.diagnostics(state)
    k = record.cosine.shape[0]
    if k < 2:
        return {}
    off_diagonal = record.cosine.sum() - jnp.trace(record.cosine)
    return {
        "grad/conflicts": record.conflicts.astype(jnp.float32),
        "grad/cosine": off_diagonal / (k * (k - 1)),
    }
