"""Per-task losses and gradients: what every surgery transform takes in."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from mtrl_jax.surgery.checks import check_choice

__all__ = ["per_task_value_and_grad"]


def per_task_value_and_grad(
    loss_fn: Callable[..., Any] | None = None,
    *,
    losses: Sequence[Callable[..., Any]] | None = None,
    has_aux: bool = False,
    argnums: int | tuple[int, ...] = 0,
    method: str = "vmap",
) -> Callable[..., tuple[Any, Any]]:
    """`jax.value_and_grad` over tasks: K losses, and gradients that lead with the task axis.

    With one loss for all tasks, `loss_fn(params, batch)` is the scalar loss of *one* task, and the
    returned function takes batches whose leaves lead with the task axis:

        losses, grads = per_task_value_and_grad(loss_fn)(params, batches)  # [K], [K, *param]

    With `losses=[loss_0, ..., loss_{K-1}]` every task has its own; each argument outside `argnums`
    is then a list of K arguments, one a task, whose shapes may differ. (A list and not a tuple, so
    that a pair `(inputs, labels)` is not taken for the batches of two tasks.)

    Args:
      loss_fn: loss of one task.
      losses: instead of `loss_fn`, K losses.
      has_aux: the loss returns `(loss, aux)`; aux comes back with a leading task axis, or as a
        list of K with `losses`.
      argnums: which positional arguments to differentiate; they are shared by the tasks and every
        other one is per task.
      method: 'vmap' runs the tasks at once; 'map' one after the other, in the memory of one (and
        sometimes faster on CPU, where batched matrix products of many tasks leave the cache).
        Without meaning for `losses`, which XLA schedules.

    Returns:
      A function with the arguments of the loss that returns `(losses [K], grads)`, or
      `((losses, aux), grads)`; carries no gradient of its own.

    Raises:
      ValueError: batches that disagree on K (the leaf is named), a loss that is not a scalar.
    """
    check_choice("method", method, ("vmap", "map"))
    if (loss_fn is None) == (losses is None):
        raise ValueError("per_task_value_and_grad takes either one loss_fn or losses=[...].")
    wrt = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def differentiate(fn):
        def scalar(*args):
            out = fn(*args)
            loss = out[0] if has_aux else out
            if jnp.shape(loss) != ():
                raise ValueError(
                    f"the loss of one task must be a scalar, got shape {jnp.shape(loss)}; take its "
                    f"mean over the examples of the task's batch."
                )
            return out

        return jax.value_and_grad(scalar, argnums=argnums, has_aux=has_aux)

    def one_loss(*args):
        mapped = [a for i, a in enumerate(args) if i not in wrt]
        _check_batches(mapped)
        one = differentiate(loss_fn)

        def task(mapped):
            rest = iter(mapped)
            return one(*(a if i in wrt else next(rest) for i, a in enumerate(args)))

        return jax.vmap(task)(mapped) if method == "vmap" else jax.lax.map(task, mapped)

    def many_losses(*args):
        assert losses is not None
        for i, a in enumerate(args):
            if i not in wrt and not (isinstance(a, list) and len(a) == len(losses)):
                got = f"{type(a).__name__}{f' of {len(a)}' if isinstance(a, (list, tuple)) else ''}"
                raise ValueError(
                    f"argument {i} must be a list of {len(losses)}, one for each loss; got {got}."
                )
        results = [
            differentiate(fn)(*(a if i in wrt else a[k] for i, a in enumerate(args)))
            for k, fn in enumerate(losses)
        ]

        def stack(trees):
            return jax.tree.map(lambda *x: jnp.stack(x), *trees)

        grads = stack([g for _, g in results])
        if has_aux:
            return (jnp.stack([v for (v, _), _ in results]), [a for (_, a), _ in results]), grads
        return jnp.stack([v for v, _ in results]), grads

    return one_loss if losses is None else many_losses


def _check_batches(mapped: list[Any]) -> None:
    """All leaves must lead with the same task axis."""
    leaves = tree_flatten_with_path(mapped)[0]
    if not leaves:
        raise ValueError(
            "no per-task argument: the loss needs a batch that leads with the task axis."
        )
    k = None
    for path, leaf in leaves:
        shape = jnp.shape(leaf)
        name = f"batch {path[0].idx}{keystr(path[1:])}"
        if not shape:
            raise ValueError(f"{name} is a scalar; expected a leading task axis.")
        if k is None:
            k, first = shape[0], name
        elif shape[0] != k:
            raise ValueError(f"{name} has shape {shape}, but {first} leads with {k} tasks.")
