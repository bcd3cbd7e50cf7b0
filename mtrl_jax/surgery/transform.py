"""One optax transform for the whole family: a method makes K weights of the Gram matrix.

    update = sum_i w_i g_i,    w = weights(G),    G_ij = <g_i, g_j>

so that a step reads the task gradients twice and decides everything on K x K numbers, whatever the
method. `make_transform` adds what all methods share: checks, shared and task-specific leaves,
groups, sharded parameters, randomness, and the record that `surgery.diagnostics` reads.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax.surgery.checks import (
    check_choice,
    check_gradients,
    check_losses,
    check_not_wrapped,
    static_int,
)
from mtrl_jax.surgery.curvature import CurvatureState, init_curvature, update_curvature
from mtrl_jax.surgery.gram import gram_matrix, weighted_sum
from mtrl_jax.surgery.parts import Mask, flags, groups

__all__ = ["Inputs", "Method", "Record", "Seed", "SurgeryState", "make_transform", "new_key"]

Array = jax.Array
Seed = int | Array
AxisName = str | tuple[str, ...] | None


class Inputs(NamedTuple):
    """What a method may decide from, for one group of leaves.

    Attributes:
      num_tasks: K, a Python int.
      gram: float32 `[K, K]`, or None for a method that does not ask for it.
      key: typed key, fresh at every update, or None for a deterministic method.
      step: int32 `[]`, number of updates before this one.
      task_losses: float32 `[K]`, or None for a method that does not ask for them.
      task_losses_after: float32 `[K]` or None; see `famo`.
    """

    num_tasks: int
    gram: Any
    key: Any
    step: Array
    task_losses: Any
    task_losses_after: Any


class Method(NamedTuple):
    """A method of the family, as `make_transform` wants it.

    Attributes:
      name: of the public function, for errors.
      weights: `(inputs, state) -> (weights float32 [K], state)`; or None for a method that looks at
        coordinates instead.
      combine: `(key, grads leaf [K, *param]) -> float32 [*param]`, used where `weights` is None.
      init: `num_tasks -> state`, a pytree; () for a method that remembers nothing.
      uses_gram, uses_key, uses_losses: what `Inputs` must hold.
      sums: whether the update stands beside the sum of the task gradients (else beside their mean).
    """

    name: str
    weights: Callable[[Inputs, Any], tuple[Array, Any]] | None
    combine: Callable[[Array, Array], Array] | None = None
    init: Callable[[int], Any] = lambda num_tasks: ()
    uses_gram: bool = True
    uses_key: bool = False
    uses_losses: bool = False
    sums: bool = False


class Record(NamedTuple):
    """What `surgery.diagnostics` is computed from; G groups (1 for `scope='global'`).

    Attributes:
      gram: float32 `[G, K, K]`, of the shared leaves.
      weights: float32 `[G, K]`, or None for a method without weights.
      norm_before: float32 `[]`, norm of the plain sum (or mean, if the method's scale is that of a
        mean) of the task gradients over the shared leaves.
      norm_after: float32 `[]`, norm of the update over the shared leaves.
    """

    gram: Array
    weights: Any
    norm_before: Array
    norm_after: Array


class SurgeryState(NamedTuple):
    """State of every transform in `mtrl_jax.surgery`; nothing in it is of the size of the
    parameters unless `diagnostics='curvature'` asks for that.

    Attributes:
      step: int32 `[]`, number of updates so far.
      key: typed key, or None for deterministic methods. Constant: update n draws from
        `fold_in(key, n)`, so that a resumed run draws what the uninterrupted one would have.
      method: what the method remembers, leaves `[G, ...]`.
      record: a `Record`, or None without diagnostics.
      curvature: a `CurvatureState`, or None unless asked for.
    """

    step: Array
    key: Any
    method: Any
    record: Record | None
    curvature: CurvatureState | None


def new_key(seed: Seed) -> Array:
    """A typed key in a buffer of its own, so that donating the state cannot delete the caller's."""
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(seed, 0)
    if jnp.shape(seed) != ():
        raise ValueError(
            f"seed must be an integer or a typed key (jax.random.key), got shape "
            f"{jnp.shape(seed)}; wrap raw keys with jax.random.wrap_key_data."
        )
    return jax.random.key(seed)


def make_transform(
    method: Method,
    num_tasks: int,
    *,
    seed: Seed = 0,
    mask: Mask = None,
    scope: str = "global",
    diagnostics: bool | str = True,
    axis_name: AxisName = None,
    replicated: Mask = False,
) -> optax.GradientTransformationExtraArgs:
    """The optax transform of a `Method`. The keyword arguments are those of every public method:

    Args:
      method: see `Method`.
      num_tasks: K.
      seed: integer, traced integer or typed key; only methods that draw use it. Under `vmap` over
        seeds make the transform inside the mapped function, or use `surgery.reseed` on the states.
      mask: which leaves are shared by the tasks, as for `optax.masked`: a prefix tree of booleans,
        or a function of the parameters that returns one. Surgery sees these leaves only. The
        others (heads) come out as the sum of their task gradients.
      scope: 'global' takes all shared leaves as one vector; 'leaf' and 'module' do surgery
        separately for each leaf, or for each part that the tree of parameters first branches into.
      diagnostics: True records what `surgery.diagnostics` reads (K x K numbers; for a method that
        does not otherwise need the Gram matrix that costs one). 'curvature' also estimates the
        multi-task curvature, which needs `params` and `task_losses` at every update and keeps one
        copy of the parameters and of the summed gradient in the state.
      axis_name: the mapped axis (or axes) over which the *parameters* are sharded, inside
        `shard_map` or `pmap`: partial Gram matrices are summed over it. Not for data parallelism:
        there, average the task gradients over devices before surgery and leave this None.
      replicated: with `axis_name`, which leaves every shard holds in full (same forms as `mask`);
        they are counted once. Default: none.

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
    check_choice("diagnostics", diagnostics, (True, False, "curvature"))
    uses_gram = method.uses_gram or bool(diagnostics)

    def init(params: Any) -> SurgeryState:
        k = static_int("num_tasks", num_tasks)
        n = len(groups(scope, params, flags("mask", mask, params, False)))

        def stack(x):
            return jnp.repeat(jnp.asarray(x)[None], n, axis=0)

        record = None
        if diagnostics:
            weights = None if method.weights is None else jnp.zeros((n, k), jnp.float32)
            gram = jnp.zeros((n, k, k), jnp.float32)
            norms = (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
            record = Record(gram, weights, *norms)
        return SurgeryState(
            step=jnp.zeros((), jnp.int32),
            key=new_key(seed) if method.uses_key else None,
            method=jax.tree.map(stack, method.init(k)),
            record=record,
            curvature=init_curvature(params) if diagnostics == "curvature" else None,
        )

    def update(grads, state, params=None, *, task_losses=None, task_losses_after=None, **extra):
        del extra  # other members of a chain may want them
        check_not_wrapped()
        k = check_gradients(grads, num_tasks, params)
        leaves, treedef = jax.tree.flatten(grads)
        whole = flags("replicated", replicated, grads, True)
        parts = groups(scope, grads, flags("mask", mask, grads, True))
        if method.uses_losses:
            task_losses = check_losses("task_losses", task_losses, k, method.name)
        after = task_losses_after
        if after is not None:
            after = check_losses("task_losses_after", after, k, method.name)

        out: list[Any] = [None] * len(leaves)
        key = None if state.key is None else jax.random.fold_in(state.key, state.step)
        gram = _grams(leaves, parts, whole, axis_name, k) if parts and uses_gram else None
        weights, remembered, record = None, state.method, state.record
        if parts and method.weights is not None:
            inputs = Inputs(k, gram if method.uses_gram else None, key, state.step, None, None)
            if method.uses_losses:
                inputs = inputs._replace(task_losses=task_losses, task_losses_after=after)
            weights, remembered = _decide(method.weights, inputs, state.method, len(parts))
        for g, part in enumerate(parts):
            pick = [leaves[i] for i in part]
            if weights is not None:
                done = weighted_sum(weights[g], pick)
            else:
                assert method.combine is not None and key is not None
                keys = jax.random.split(jax.random.fold_in(key, g), len(part))
                done = [method.combine(keys[n], leaf) for n, leaf in enumerate(pick)]
            for i, leaf in zip(part, done, strict=True):
                out[i] = leaf
        if parts and diagnostics:
            record = _record(method, gram, weights, parts, out, whole, axis_name)
        ones = jnp.ones((k,), jnp.float32)
        rest = [i for i, leaf in enumerate(out) if leaf is None]
        for i, leaf in zip(rest, weighted_sum(ones, [leaves[i] for i in rest]), strict=True):
            out[i] = leaf

        curvature = state.curvature
        if diagnostics == "curvature":
            total = check_losses("task_losses", task_losses, k, "... with diagnostics='curvature'")
            summed = weighted_sum(ones, leaves)
            curvature = update_curvature(
                curvature, state.step, params, summed, total, axis_name, whole
            )
        like = leaves if params is None else jax.tree.leaves(params)
        out = [x.astype(jnp.result_type(y)) for x, y in zip(out, like, strict=True)]
        step = optax.safe_increment(state.step)
        new_state = SurgeryState(step, state.key, remembered, record, curvature)
        return jax.tree.unflatten(treedef, out), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def _grams(leaves, parts, whole, axis_name, k):
    """Gram matrices of the groups, `[G, K, K]`; of sharded leaves summed over `axis_name`."""

    def stack(want):
        chosen = [[leaves[i] for i in part if want(i)] for part in parts]
        zeros = jnp.zeros((k, k), jnp.float32)
        grams = [gram_matrix(part) if part else zeros for part in chosen]
        return jnp.stack(grams).astype(jnp.float32)  # also where gradients are float64

    if axis_name is None:
        return stack(lambda i: True)
    return jax.lax.psum(stack(lambda i: not whole[i]), axis_name) + stack(lambda i: whole[i])


def _decide(weights, inputs, state, n):
    """Weights `[G, K]` and new state of n groups, NaN and unchanged where what was seen is not
    finite."""
    if n == 1:  # no vmap, which would only slow the solvers
        first = jax.tree.map(lambda x: x[0], state)
        one = inputs._replace(gram=None if inputs.gram is None else inputs.gram[0])
        w, new = weights(one, first)
        w, new = w[None], jax.tree.map(lambda x: x[None], new)
    else:
        keys = None if inputs.key is None else jax.random.split(inputs.key, n)
        axes = (None if inputs.gram is None else 0, None if keys is None else 0, 0)

        def each(gram, key, s):
            return weights(inputs._replace(gram=gram, key=key), s)

        w, new = jax.vmap(each, in_axes=axes, axis_size=n)(inputs.gram, keys, state)
    seen = (inputs.gram, inputs.task_losses, inputs.task_losses_after)
    sound = [jnp.isfinite(x).all() for x in seen if x is not None]
    if sound:
        finite = jnp.stack(sound).all()
        new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        w = jnp.where(finite, w, jnp.nan)
    return w, new


def _record(method, gram, weights, parts, out, whole, axis_name):
    """The `Record` of one update."""
    k = gram.shape[-1]
    scale = 1.0 if method.sums else 1.0 / k
    before = jnp.sqrt(jnp.maximum(gram.sum(), 0.0)) * scale
    if weights is not None:
        quadratic = jnp.einsum("gi,gij,gj->", weights, gram, weights, precision="highest")
        after = jnp.sqrt(jnp.maximum(quadratic, 0.0))
    else:

        def square(x):
            return jnp.sum(jnp.square(x.astype(jnp.float32)))

        own = sum(square(out[i]) for part in parts for i in part if not whole[i] or not axis_name)
        if axis_name is not None:
            own = jax.lax.psum(own, axis_name)
            own += sum(square(out[i]) for part in parts for i in part if whole[i])
        after = jnp.sqrt(own)
    return Record(gram, weights, before, after)
