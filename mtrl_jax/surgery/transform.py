"""One optax transform for the whole family: a method makes K weights of the Gram matrix.

    update = sum_i w_i g_i,    w = weights(G),    G_ij = <g_i, g_j>

so that a step reads the task gradients twice and decides everything on K x K numbers, whatever the
method. `make_transform` adds what all methods share: checks, shared and task-specific leaves,
groups, sharded parameters, randomness, and the record that `surgery.diagnostics` reads.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import optax

from mtrl_jax.surgery.checks import check_choice, check_gradients, check_losses, static_int
from mtrl_jax.surgery.curvature import init_curvature, update_curvature
from mtrl_jax.surgery.groups import Layout, combine, decide, grams, record_of, summed
from mtrl_jax.surgery.method import Inputs, Method
from mtrl_jax.surgery.options import AxisName, Options, Scope, Seed, Transform
from mtrl_jax.surgery.parts import Mask, flags, groups
from mtrl_jax.surgery.state import Record, SurgeryState, empty_record, new_key

__all__ = [
    "AxisName",
    "Inputs",
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
      `init(params)` takes parameters. `update(grads, state, params=None, *, task_losses=None, ...)`
      takes leaves `[K, *param]` and returns `[*param]` in the dtype of the parameters (of the
      gradients, if `params` is not given).

    Nothing that is not finite is dropped in silence. A method that decides from the Gram matrix or
    the losses makes the whole shared update NaN when they are not finite, and keeps what it
    remembers; one that does not look (`mean`, `sum`, `graddrop`, random and loss weights) passes a
    NaN on in the coordinates that have it. `optax.apply_if_finite` around the optimiser *behind*
    surgery skips such steps.
    """
    check_choice("scope", scope, ("global", "leaf", "module"))
    check_choice("diagnostics", diagnostics, (True, False, None, "curvature"))
    records = method.uses_gram if diagnostics is None else bool(diagnostics)

    def init(params: Any) -> SurgeryState:
        k = static_int("num_tasks", num_tasks)
        n = len(groups(scope, params, flags("mask", mask, params, False)))

        def stack(x: Any) -> Array:
            return jnp.repeat(jnp.asarray(x)[None], n, axis=0)

        return SurgeryState(
            step=jnp.zeros((), jnp.int32),
            key=new_key(seed) if method.uses_key else None,
            method=jax.tree.map(stack, method.init(k)),
            record=empty_record(n, k, method.weights is not None) if records else None,
            curvature=init_curvature(params) if diagnostics == "curvature" else None,
        )

    def update(
        grads: Any,
        state: SurgeryState,
        params: Any = None,
        *,
        task_losses: Any = None,
        task_losses_after: Any = None,
        **extra: Any,
    ) -> tuple[Any, SurgeryState]:
        del extra  # other members of a chain may want them
        k = check_gradients(grads, num_tasks, params)
        leaves, treedef = jax.tree.flatten(grads)
        layout = Layout(
            parts=groups(scope, grads, flags("mask", mask, grads, True)),
            whole=flags("replicated", replicated, grads, True),
            axis_name=axis_name,
        )
        if method.uses_losses:
            task_losses = check_losses("task_losses", task_losses, k, method.name)
        if task_losses_after is not None:
            task_losses_after = check_losses("task_losses_after", task_losses_after, k, method.name)

        key = None if state.key is None else jax.random.fold_in(state.key, state.step)
        needs_gram = bool(layout.parts) and (method.uses_gram or records)
        gram = grams(leaves, layout, k) if needs_gram else None
        solution, remembered = None, state.method
        if layout.parts and method.weights is not None:
            inputs = Inputs(
                num_tasks=k,
                gram=gram if method.uses_gram else None,
                key=key,
                step=state.step,
                task_losses=task_losses if method.uses_losses else None,
                task_losses_after=task_losses_after if method.uses_losses else None,
            )
            solution, remembered = decide(method, inputs, state.method, layout.num_groups)
        weights = None if solution is None else solution.weights
        out = combine(method, weights, key, leaves, layout)

        record, curvature = state.record, state.curvature
        if records and gram is not None:
            record = record_of(method, gram, solution, out, layout)
        if curvature is not None:
            losses = check_losses("task_losses", task_losses, k, "... with diagnostics='curvature'")
            total = summed(leaves)
            curvature = update_curvature(
                curvature, state.step, params, total, losses, axis_name, layout.whole
            )
        like = leaves if params is None else jax.tree.leaves(params)
        out = [x.astype(jnp.result_type(y)) for x, y in zip(out, like, strict=True)]
        step = optax.safe_increment(state.step)
        new_state = SurgeryState(step, state.key, remembered, record, curvature)
        return jax.tree.unflatten(treedef, out), new_state

    return optax.GradientTransformationExtraArgs(init, update)


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
