"""Per-task losses and gradients: what every surgery transform takes in."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from mtrl_jax.surgery.checks import check_choice

__all__ = ["per_task_value_and_grad"]

Position = int | str


class _Options(NamedTuple):
    """The keywords of `per_task_value_and_grad` that say how arguments are read."""

    argnums: int | tuple[int, ...]
    in_axes: Any
    keys: tuple[Position, ...]
    has_aux: bool
    method: str


def per_task_value_and_grad(
    loss_fn: Callable[..., Any] | None = None,
    *,
    losses: Sequence[Callable[..., Any]] | None = None,
    has_aux: bool = False,
    argnums: int | tuple[int, ...] = 0,
    in_axes: int | Sequence[Any] = 0,
    keys: Position | Sequence[Position] = (),
    method: Literal["vmap", "map"] = "vmap",
) -> Callable[..., tuple[Any, Any]]:
    """`jax.value_and_grad` over tasks: K losses, and gradients that lead with the task axis.

    With one loss for all tasks, `loss_fn(params, batch)` is the scalar loss of *one* task, and the
    returned function takes batches whose leaves lead with the task axis::

        losses, grads = per_task_value_and_grad(loss_fn)(params, batches)  # [K], [K, *param]

    With `losses=[loss_0, ..., loss_{K-1}]` every task has its own; each argument outside `argnums`
    is then a list of K arguments, one a task, whose shapes may differ. (A list and not a tuple, so
    that a pair `(inputs, labels)` is not taken for the batches of two tasks.)

    Args:
      loss_fn: loss of one task.
      losses: instead of `loss_fn`, K losses.
      has_aux: the loss returns `(loss, aux)`; aux comes back with a leading task axis, or as a
        list of K with `losses`.
      argnums: which positional arguments to differentiate, negative ones counted from the end;
        they are shared by the tasks.
      in_axes: where the task axis of the other positional arguments is, in the forms of
        `jax.vmap`: an integer for all of them, or a tuple with one entry for each positional
        argument, None for one that all tasks share (and for those of `argnums`). An entry may be a
        prefix of its argument's tree. With `losses` the entries are 0 (a list of K) or None.
      keys: positions or names of arguments that hold one random key (or a tree of keys) for all
        tasks; task i gets `jax.random.fold_in(key, i)`.
      method: 'vmap' runs the tasks at once; 'map' one after the other, in the memory of one (and
        sometimes faster on CPU, where batched matrix products of many tasks leave the cache).
        Without meaning for `losses`, which XLA schedules.

    Returns:
      A function with the arguments of the loss that returns `(losses [K], grads)`, or
      `((losses, aux), grads)`; carries no gradient of its own. Keyword arguments go to every task
      as they are, untraced (`train=True`). One keyword is its own: `present`, bool `[K]`, says
      which tasks have data in this batch. A task that has none gets a gradient of zeros and a loss
      of NaN, which is no measurement, whatever stands in its rows; hand the same `present` to the
      transform's `update`.

    Raises:
      ValueError: batches that disagree on K (the leaf is named), a loss that is not a scalar,
        `argnums`, `in_axes` or `keys` that do not fit the arguments.
    """
    check_choice("method", method, ("vmap", "map"))
    if (loss_fn is None) == (losses is None):
        raise ValueError("per_task_value_and_grad takes either one loss_fn or losses=[...].")
    named = (keys,) if isinstance(keys, int | str) else tuple(keys)
    options = _Options(argnums, in_axes, named, has_aux, method)

    def call(*args: Any, present: Any = None, **kwargs: Any) -> tuple[Any, Any]:
        if losses is None:
            assert loss_fn is not None
            values, grads = _one_loss(loss_fn, options, args, kwargs)
        else:
            values, grads = _many_losses(losses, options, args, kwargs)
        return (values, grads) if present is None else _mask(values, grads, present, has_aux)

    return call


def _one_loss(
    loss_fn: Callable[..., Any], options: _Options, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    wrt = _positions("argnums", options.argnums, len(args))
    axes = _axes(options.in_axes, args, wrt, [k for k in options.keys if isinstance(k, int)])
    leaves, places, trees = [], [], []
    for axis, arg in zip(axes, args, strict=True):
        flat, tree = jax.tree.flatten(arg)
        trees.append(tree)
        leaves.append(flat)
        places.append(_leaf_axes(axis, arg, len(flat)))
    lead = [
        [None if a is None else _to_front(x, a) for x, a in zip(flat, place, strict=True)]
        for flat, place in zip(leaves, places, strict=True)
    ]
    k = _num_tasks(
        [
            jax.tree.unflatten(tree, front)
            for tree, front, n in zip(trees, lead, range(len(args)), strict=True)
            if axes[n] is not None
        ]
    )
    one = _differentiate(loss_fn, wrt, options)

    def task(mapped: Any) -> Any:
        number, fronts = mapped
        whole = [
            jax.tree.unflatten(tree, [x if f is None else f for x, f in zip(a, b, strict=True)])
            for tree, a, b in zip(trees, leaves, fronts, strict=True)
        ]
        whole, named = _own_keys(options.keys, whole, kwargs, number)
        return one(*whole, **named)

    mapped = (jnp.arange(k), lead)
    result = jax.vmap(task)(mapped) if options.method == "vmap" else jax.lax.map(task, mapped)
    values, grads = result
    return values, grads if isinstance(options.argnums, tuple) else grads[0]


def _many_losses(
    losses: Sequence[Callable[..., Any]],
    options: _Options,
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> tuple[Any, Any]:
    wrt = _positions("argnums", options.argnums, len(args))
    axes = _axes(options.in_axes, args, wrt, [k for k in options.keys if isinstance(k, int)])
    for i, (axis, a) in enumerate(zip(axes, args, strict=True)):
        if axis not in (0, None):
            raise ValueError(
                f"in_axes of argument {i} must be 0 or None with losses; got {axis!r}."
            )
        if axis == 0 and not (isinstance(a, list) and len(a) == len(losses)):
            got = f"{type(a).__name__}{f' of {len(a)}' if isinstance(a, list | tuple) else ''}"
            raise ValueError(
                f"argument {i} must be a list of {len(losses)}, one for each loss; got {got}."
            )
    results = []
    for k, fn in enumerate(losses):
        own = [a if axis is None else a[k] for axis, a in zip(axes, args, strict=True)]
        own, named = _own_keys(options.keys, own, kwargs, k)
        results.append(_differentiate(fn, wrt, options)(*own, **named))

    def stack(trees: Sequence[Any]) -> Any:
        return jax.tree.map(lambda *x: jnp.stack(x), *trees)

    grads = stack([g for _, g in results])
    grads = grads if isinstance(options.argnums, tuple) else grads[0]
    if options.has_aux:
        return (jnp.stack([v for (v, _), _ in results]), [a for (_, a), _ in results]), grads
    return jnp.stack([v for v, _ in results]), grads


def _differentiate(
    fn: Callable[..., Any], wrt: tuple[int, ...], options: _Options
) -> Callable[..., Any]:
    """`jax.value_and_grad` of one task's loss, whose result must be a scalar."""

    def scalar(*args: Any, **kwargs: Any) -> Any:
        out = fn(*args, **kwargs)
        loss = out[0] if options.has_aux else out
        if jnp.shape(loss) != ():
            raise ValueError(
                f"the loss of one task must be a scalar, got shape {jnp.shape(loss)}; take its "
                f"mean over the examples of the task's batch."
            )
        return out

    return jax.value_and_grad(scalar, argnums=wrt, has_aux=options.has_aux)


def _positions(name: str, numbers: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Positions counted from the front, each once."""
    given = (numbers,) if isinstance(numbers, int) else tuple(numbers)
    if not all(-count <= n < count for n in given):
        raise ValueError(
            f"{name} must lie in [-{count}, {count}), the number of positional arguments that "
            f"came; got {numbers!r}."
        )
    positions = tuple(n % count for n in given)
    if len(set(positions)) < len(positions):
        raise ValueError(f"{name} must name each argument once, got {numbers!r}.")
    return positions


def _axes(in_axes: Any, args: Sequence[Any], wrt: Sequence[int], keys: Sequence[int]) -> list[Any]:
    """The entry of `in_axes` for each positional argument, None for `argnums` and keys."""
    keys = _positions("keys", keys, len(args)) if keys else ()
    whole = [*wrt, *keys]
    if isinstance(in_axes, int):
        return [None if i in whole else in_axes for i in range(len(args))]
    if not isinstance(in_axes, tuple | list) or len(in_axes) != len(args):
        raise ValueError(
            f"in_axes must be an integer, or a tuple with one entry for each of the {len(args)} "
            f"positional arguments; got {in_axes!r}."
        )
    for i in whole:
        if in_axes[i] is not None:
            what = "argnums differentiates" if i in wrt else "keys splits"
            raise ValueError(
                f"in_axes[{i}] must be None for argument {i}, which {what} and all tasks share; "
                f"got {in_axes[i]!r}."
            )
    return list(in_axes)


def _leaf_axes(axis: Any, arg: Any, count: int) -> list[int | None]:
    """A task axis, or None, for each leaf of one argument; `axis` may be a prefix of its tree."""
    if axis is None or isinstance(axis, int):
        return [axis] * count
    absent = object()
    axis = jax.tree.map(lambda a: absent if a is None else a, axis, is_leaf=lambda a: a is None)
    try:
        full = jax.tree.map(lambda a, part: jax.tree.map(lambda _: a, part), axis, arg)
    except ValueError as error:
        raise ValueError(f"in_axes must be a prefix of its argument's tree: {error}") from None
    return [None if a is absent else a for a in jax.tree.leaves(full)]


def _to_front(x: Any, axis: int) -> Any:
    if axis == 0:
        return x
    if not -jnp.ndim(x) <= axis < jnp.ndim(x):
        raise ValueError(f"in_axes says axis {axis} of an argument of shape {jnp.shape(x)}.")
    return jnp.moveaxis(x, axis, 0)


def _own_keys(
    keys: Sequence[Position], args: Sequence[Any], kwargs: dict[str, Any], number: Any
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of task `number`: keys folded with it."""
    args, kwargs = list(args), dict(kwargs)
    for place in keys:
        if isinstance(place, str) and place not in kwargs:
            raise ValueError(f"keys names the keyword argument {place!r}, which did not come.")
        where: Any = args if isinstance(place, int) else kwargs
        where[place] = jax.tree.map(lambda key: jax.random.fold_in(key, number), where[place])
    return args, kwargs


def _mask(values: Any, grads: Any, present: Any, has_aux: bool) -> tuple[Any, Any]:
    """Losses NaN and gradients 0 where no data is present."""
    losses = values[0] if has_aux else values
    present = jnp.asarray(present)
    if present.shape != losses.shape or present.dtype != bool:
        raise ValueError(
            f"present must be bool {list(losses.shape)}, one for each task; got {present.dtype} "
            f"{list(present.shape)}."
        )

    def only(x: jax.Array) -> jax.Array:
        return jnp.where(present.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.zeros_like(x))

    losses = jnp.where(present, losses, jnp.nan)
    return ((losses, values[1]) if has_aux else losses), jax.tree.map(only, grads)


def _num_tasks(mapped: list[Any]) -> int:
    """K, with which all mapped leaves must lead."""
    leaves = tree_flatten_with_path(mapped)[0]
    if not leaves:
        raise ValueError(
            "no per-task argument: the loss needs a batch that leads with the task axis."
        )
    k, first = None, ""
    for path, leaf in leaves:
        shape = jnp.shape(leaf)
        name = f"batch {path[0].idx}{keystr(path[1:])}"
        if not shape:
            raise ValueError(f"{name} is a scalar; expected a leading task axis.")
        if k is None:
            k, first = shape[0], name
        elif shape[0] != k:
            raise ValueError(f"{name} has shape {shape}, but {first} leads with {k} tasks.")
    assert k is not None
    return int(k)
