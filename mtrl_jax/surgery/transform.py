"""One optax transform for the whole family: a method makes K weights of the Gram matrix.

    update = sum_i w_i g_i,    w = weights(G),    G_ij = <g_i, g_j>

so that a step reads the task gradients twice and decides everything on K x K numbers, whatever the
method. `make_transform` adds what all methods share: checks, shared and task-specific leaves,
groups, sharded parameters, randomness, and the record that `surgery.diagnostics` reads.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import optax

from mtrl_jax.surgery.checks import (
    check_choice,
    check_gradients,
    check_groups,
    check_losses,
    check_present,
    static_int,
)
from mtrl_jax.surgery.curvature import init_curvature, update_curvature
from mtrl_jax.surgery.dtypes import accumulator
from mtrl_jax.surgery.groups import combine, decide, grams, record_of
from mtrl_jax.surgery.memory import after, before, init_memory, learned
from mtrl_jax.surgery.method import Inputs, Memory, Method
from mtrl_jax.surgery.options import SCOPES, Options, Scope, Seed, Transform
from mtrl_jax.surgery.parts import AxisName, Layout, Mask, blank, flags, groups
from mtrl_jax.surgery.sharding import in_auto_axes
from mtrl_jax.surgery.state import Record, SurgeryState, empty_record, key_data, new_key, wrap_key

__all__ = [
    "AxisName",
    "Inputs",
    "Memory",
    "Method",
    "Options",
    "Record",
    "Scope",
    "Seed",
    "SurgeryState",
    "Transform",
    "factory",
    "make_transform",
    "new_key",
]

Array = jax.Array
P = ParamSpec("P")
T = TypeVar("T")


def make_transform(
    method: Method,
    num_tasks: int,
    *,
    seed: Seed = 0,
    mask: Mask = None,
    scope: Scope = "global",
    diagnostics: bool | Literal["curvature"] | None = None,
    axis_name: AxisName = None,
    replicated: Mask = False,
) -> Transform:
    """The optax transform of a `Method`.

    Args:
      method: see `Method`.
      num_tasks: K.
      seed, mask, scope, diagnostics, axis_name, replicated: see `Options`.

    Returns:
      `init(params)` takes parameters, and fixes the dtypes of the state: float32, or float64 if a
      parameter is. `update(grads, state, params=None, *, task_losses=None, task_losses_after=None,
      present=None)` takes leaves `[K, *param]` and returns `[*param]` in the dtype of the
      parameters (of the gradients, if `params` is not given), rounded once, from an accumulator of
      at least float32.

    `present`, bool `[K]`, may be traced, and says which tasks had data. The update, and what is
    remembered of the tasks that are present, are those of the method made for these tasks alone
    (in distribution, for a method that draws); the gradients and losses of the others are not
    looked at, and what is remembered of them stays. If no task is present the update is zero and
    the state stays as it is. The price is a pass over the gradients, to blank absent rows.

    What a method remembers changes only in a sound update, and `SurgeryState.unsound` counts the
    others:

      * Nothing that is not finite is dropped in silence. A method that decides from the Gram matrix
        or the losses makes the whole shared update NaN when they are not finite; one that does not
        look (`mean`, `sum`, `graddrop`, random and loss weights) passes a NaN on in the coordinates
        that have it. `optax.apply_if_finite` around the optimiser *behind* surgery skips such
        steps.
      * Where what comes in is finite, but outside the method's domain (a negative loss, in `famo`),
        the weights of the last sound update stand in, and training goes on; `converged` is False in
        the diagnostics.
    """
    check_choice("scope", scope, SCOPES)
    check_choice("diagnostics", diagnostics, (True, False, None, "curvature"))
    records = method.uses_gram if diagnostics is None else bool(diagnostics)
    curvature = diagnostics == "curvature"
    plan = _Plan(method, num_tasks, seed, mask, scope, records, curvature, axis_name, replicated)

    def init(params: Any) -> SurgeryState:
        return _init(plan, params)

    def update(
        grads: Any,
        state: SurgeryState,
        params: Any = None,
        *,
        task_losses: Any = None,
        task_losses_after: Any = None,
        present: Any = None,
        **extra: Any,
    ) -> tuple[Any, SurgeryState]:
        del extra  # other members of a chain may want them
        losses = (task_losses, task_losses_after)
        return in_auto_axes(partial(_update, plan), grads, state, params, present, losses)

    return optax.GradientTransformationExtraArgs(init, update)


class _Plan(NamedTuple):
    """What `make_transform` was told; `records`: whether to keep a `Record`."""

    method: Method
    num_tasks: int
    seed: Seed
    mask: Mask
    scope: Scope
    records: bool
    curvature: bool
    axis_name: AxisName
    replicated: Mask


def _init(plan: _Plan, params: Any) -> SurgeryState:
    method, k = plan.method, static_int("num_tasks", plan.num_tasks)
    parts = groups(plan.scope, params, flags("mask", plan.mask, params, False))
    n = len(parts)
    dtype = accumulator(*map(jnp.result_type, jax.tree.leaves(params)))

    def stack(x: Any) -> Array:
        wide = dtype if jnp.issubdtype(jnp.result_type(x), jnp.floating) else None
        return jnp.repeat(jnp.asarray(x, wide)[None], n, axis=0)

    weighs = method.weights is not None
    return SurgeryState(
        step=jnp.zeros((), jnp.int32),
        key=key_data(plan.seed) if method.uses_key else None,
        method=jax.tree.map(stack, method.init(k)),
        record=empty_record(n, k, weighs, dtype) if plan.records else None,
        curvature=init_curvature(params, k) if plan.curvature else None,
        weights=jnp.full((n, k), 1.0 if method.sums else 1.0 / k, dtype) if weighs else None,
        unsound=jnp.zeros((), jnp.int32),
        scope=jnp.asarray(SCOPES.index(plan.scope), jnp.int32),
        memory=init_memory(method, k, jax.tree.leaves(params), parts, dtype),
    )


def _update(
    plan: _Plan, grads: Any, state: SurgeryState, params: Any, present: Any, losses: tuple[Any, Any]
) -> tuple[Any, SurgeryState]:
    method, k = plan.method, check_gradients(grads, plan.num_tasks, params)
    leaves, treedef = jax.tree.flatten(grads)
    layout = Layout(
        parts=groups(plan.scope, grads, flags("mask", plan.mask, grads, True)),
        whole=flags("replicated", plan.replicated, grads, True),
        axis_name=plan.axis_name,
    )
    check_groups(state, layout.num_groups)
    inputs = _inputs(method, state, leaves, present, losses)
    if present is not None:
        leaves = [blank(inputs.present, leaf, 0.0) for leaf in leaves]
    key = None
    if state.key is not None:
        key = jax.random.fold_in(wrap_key(state.key, plan.seed), state.step)

    new, solution, gram = state._replace(step=optax.safe_increment(state.step)), None, None
    like = leaves if params is None else jax.tree.leaves(params)
    rows, memory, seen = before(method, inputs, leaves, state.memory, layout)
    if layout.parts and (method.uses_gram or plan.records):
        gram = grams(rows, layout)
    if layout.parts and method.weights is not None:
        asked = inputs._replace(gram=gram if method.uses_gram else None, key=key, seen=seen)
        solution, new, sound = decide(method, asked, new)
    weights = None if solution is None else solution.weights
    changes = method.memory is not None and method.memory.after is not None
    wide = [inputs.dtype] * len(rows) if changes else like
    out = combine(method, weights, key, rows, wide, layout)
    if method.memory is not None and solution is not None:
        out, memory = after(method, inputs, new.method, out, memory, layout)
        kept = learned(memory, state.memory, sound, inputs.present, leaves, layout)
        new = new._replace(memory=kept)
    if plan.records and gram is not None:
        scale = 1.0 if method.sums else 1.0 / inputs.num_present
        new = new._replace(
            record=record_of(
                gram, solution, out if weights is None or changes else None, layout, scale
            )
        )
    if state.curvature is not None:
        total = check_losses("task_losses", losses[0], k, "... with diagnostics='curvature'")
        found = update_curvature(state.curvature, params, leaves, total, inputs.present, layout)
        new = new._replace(curvature=found)
    if present is not None:  # if no task is, nothing happened
        new = jax.tree.map(lambda a, b: jnp.where(inputs.present.any(), a, b), new, state)
    new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)
    out = [x.astype(jnp.result_type(y)) for x, y in zip(out, like, strict=True)]
    return jax.tree.unflatten(treedef, out), new


def _inputs(
    method: Method, state: SurgeryState, leaves: list[Array], present: Any, losses: tuple[Any, Any]
) -> Inputs:
    """What the method sees, but for the Gram matrix and the key."""
    k = leaves[0].shape[0] if leaves else 0
    here = jnp.ones((k,), bool) if present is None else check_present(present, k)
    dtype = accumulator(*(leaf.dtype for leaf in leaves))
    checked: list[Any] = [None, None]
    for n, name in enumerate(("task_losses", "task_losses_after")):
        if losses[n] is not None or (method.uses_losses and n == 0):
            given = check_losses(name, losses[n], k, method.name)
            if method.uses_losses:
                checked[n] = blank(here, given.astype(dtype), 1.0)
    return Inputs(k, here, dtype, None, None, state.step, *checked)


def factory(function: Callable[P, T]) -> Callable[P, T]:
    """Shows the keywords of `make_transform` in a method's signature, where `**options` stands.

    For `help`, `inspect.signature`, and `optax.inject_hyperparams`, which binds arguments by that
    signature; the function itself is returned, and type checkers read `Unpack[Options]`.
    """
    own, shared = inspect.signature(function), inspect.signature(make_transform)
    parameters = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters += [p for p in shared.parameters.values() if p.kind is p.KEYWORD_ONLY]
    function.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return function
