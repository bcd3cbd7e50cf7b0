"""What comes in is checked while tracing, because the natural mistakes broadcast silently.

A gradient that has lost its task axis, or an update that has kept it, is a legal argument of every
jax.numpy function; training then goes on with wrong numbers. So each message names the leaf, what
came and what was expected.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

__all__ = [
    "check_choice",
    "check_fraction",
    "check_gradients",
    "check_groups",
    "check_losses",
    "check_positive",
    "check_present",
    "check_task",
    "static_int",
]

_BEHIND = (
    "Gradients must not be summed or averaged over tasks before surgery, and transforms that wrap "
    "an optimiser (optax.MultiSteps, optax.apply_if_finite) belong behind it: "
    "optax.chain(surgery, optax.MultiSteps(optimiser, k))."
)


def static_int(name: str, value: Any) -> int:
    """`value` as a Python int, for arguments that decide shapes."""
    if isinstance(value, jax.core.Tracer):
        raise ValueError(
            f"{name} decides the shapes of the state and so cannot be traced; with "
            f"optax.inject_hyperparams pass static_args=({name!r},)."
        )
    number = _number(value)
    if number is None or not math.isfinite(number) or int(number) != number or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    return int(number)


def _number(value: Any) -> float | None:
    """A Python, NumPy or JAX number as Python's; None for what is none, truth values among it."""
    if isinstance(value, np.ndarray | np.generic | jax.Array) and np.ndim(value) == 0:
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raises unless `value` is one of `allowed`."""
    if not any(value is a or value == a for a in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def check_fraction(name: str, value: Any) -> None:
    """Raises unless `value` is from 0 to below 1; traced values pass unseen."""
    if not isinstance(value, jax.Array) and not 0 <= value < 1:
        raise ValueError(f"{name} must be from 0 to below 1, got {value!r}.")


def check_positive(name: str, value: Any, *, or_zero: bool = False) -> None:
    """Raises unless `value` is a positive, finite number; traced values pass unseen."""
    if isinstance(value, jax.core.Tracer):
        return
    number = _number(value)
    if number is None or not math.isfinite(number) or not (number > 0 or (or_zero and number == 0)):
        raise ValueError(f"{name} must be positive{' or zero' if or_zero else ''}, got {value!r}.")


def check_task(name: str, value: Any, num_tasks: Any) -> None:
    """Raises unless `value` is the number of one of `num_tasks` tasks; traced ones pass unseen."""
    if isinstance(value, jax.core.Tracer):
        return
    number = _number(value)
    top = math.inf if isinstance(num_tasks, jax.core.Tracer) else num_tasks
    if number is None or number != math.floor(number) or not 0 <= number < top:
        raise ValueError(f"{name} must be a task's number, 0 to {top} - 1, got {value!r}.")


def check_gradients(grads: Any, num_tasks: Any, params: Any = None) -> int:
    """Checks that every leaf of `grads` is a floating `[K, *param]`; returns K.

    Args:
      grads: the pytree handed to `update`.
      num_tasks: K as the factory was told; ignored when traced (see `optax.inject_hyperparams`).
      params: the parameters, or None; when given, every leaf is compared with its parameter.

    Raises:
      ValueError: names the first leaf that is wrong, and why.
    """
    leaves, treedef = tree_flatten_with_path(grads)
    structure: Any = treedef
    shapes: list[Any] = [None] * len(leaves)
    if params is not None:
        reference, expected = tree_flatten_with_path(params)
        if expected != structure:
            ours, theirs = {keystr(p) for p, _ in leaves}, {keystr(p) for p, _ in reference}
            odd = sorted(ours ^ theirs)
            where = f"they differ at {odd[0] or 'the root'}" if odd else f"{structure}, {expected}"
            raise ValueError(f"Gradients and params must be the same kind of tree; {where}.")
        shapes = [jnp.shape(leaf) for _, leaf in reference]
    k = None if isinstance(num_tasks, jax.core.Tracer) else int(num_tasks)
    first = None
    for (path, leaf), shape in zip(leaves, shapes, strict=True):
        name, got = keystr(path) or "(the only leaf)", tuple(jnp.shape(leaf))
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"Gradient leaf {name} must be of a real floating type, got {dtype}.")
        if not got or (shape is not None and got == shape):
            what = "is a scalar" if not got else f"has the shape {got} of the parameter itself"
            raise ValueError(
                f"Gradient leaf {name} {what}: the leading task axis is missing; "
                f"expected [{k if k is not None else 'K'}, *param]. {_BEHIND}"
            )
        if shape is not None and got[1:] != shape:
            raise ValueError(
                f"Gradient leaf {name} has shape {got}; expected [K, *param] = "
                f"{(k if k is not None else got[0], *shape)}: the task axis, then the parameter."
            )
        if k is None:
            k, first = got[0], name
        elif got[0] != k:
            source = f"as {first} has" if first else f"num_tasks={k}"
            raise ValueError(
                f"Gradient leaf {name} has shape {got}, whose leading axis is not the task axis of "
                f"{k} ({source}); expected [{k}, *param]. {_BEHIND}"
            )
    return 0 if k is None else k


def check_groups(state: Any, num_groups: int) -> None:
    """Raises if a surgery state was made for another number of groups of leaves."""
    for leaf in jax.tree.leaves((state.method, state.weights)):
        if jnp.shape(leaf)[0] != num_groups:
            raise ValueError(
                f"the surgery state remembers {jnp.shape(leaf)[0]} groups of leaves, but the "
                f"gradients have {num_groups}: make it with tx.init(params), for these parameters."
            )


def check_losses(name: str, losses: Any, num_tasks: int, method: str) -> jax.Array:
    """Checks the extra argument `losses` of `method`; returns it as an array `[K]`."""
    if losses is None:
        raise ValueError(
            f"surgery.{method} weights tasks by their losses: pass them, shape [{num_tasks}], as "
            f"tx.update(grads, state, params, {name}=losses). TrainState.apply_gradients has no "
            f"place for them: call ts.tx.update and ts.replace instead."
        )
    if jnp.shape(losses) != (num_tasks,) or not jnp.issubdtype(
        jnp.result_type(losses), jnp.floating
    ):
        raise ValueError(
            f"{name} must be {num_tasks} floating numbers, one a task; got shape "
            f"{jnp.shape(losses)} of {jnp.result_type(losses)}."
        )
    return jnp.asarray(losses)


def check_present(present: Any, num_tasks: int) -> jax.Array:
    """Checks the extra argument `present`; returns it as bool `[K]`."""
    shape, dtype = jnp.shape(present), jnp.result_type(present)
    if shape != (num_tasks,) or dtype != jnp.bool_:
        raise ValueError(
            f"present must be bool [{num_tasks}], whether each task had data; got {dtype} "
            f"{list(shape)}."
        )
    return jnp.asarray(present)
