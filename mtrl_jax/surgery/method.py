"""What a method of the family is: K weights from K x K numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.quadratic import Solution

__all__ = ["Decision", "Inputs", "Memory", "Method"]

Array = jax.Array
Decision = tuple[Array | Solution, Any]


class Inputs(NamedTuple):
    """What a method may decide from, for one group of leaves. Floats are of `dtype`.

    A task that is absent has a zero gradient here and a loss of 1, and whatever weight or memory a
    method gives it is dropped afterwards. So a method need only look at `present` where a task with
    a zero gradient would count.

    Attributes:
      num_tasks: K, a Python int.
      present: bool `[K]`, which tasks had data.
      dtype: of the accumulators: float32, or float64 for float64 gradients.
      gram: `[K, K]`, or None for a method that does not ask for it.
      key: typed key, fresh at every update, or None for a deterministic method.
      step: int32 `[]`, number of updates before this one.
      task_losses: `[K]`, or None for a method that does not ask for them.
      task_losses_after: `[K]` or None; see `famo`.
      seen: what `Memory.before` found out for the weights, or None.
    """

    num_tasks: int
    present: Array
    dtype: Any
    gram: Any
    key: Any
    step: Array
    task_losses: Any
    task_losses_after: Any
    seen: Any = None

    @property
    def num_present(self) -> Array:
        """Number of tasks present, `[]`, at least 1."""
        return jnp.maximum(jnp.sum(self.present, dtype=self.dtype), 1.0)

    @property
    def ones(self) -> Array:
        """1 for every task that is present, `[K]`: the weights of the plain sum."""
        return self.present.astype(self.dtype)


def _nothing(num_tasks: int) -> Any:
    """The state of a method that remembers nothing."""
    del num_tasks
    return ()


class Memory(NamedTuple):
    """What a method remembers of the size of the gradients: one tree of arrays a shared leaf.

    Its arrays `[K, *param]` hold something of each task, whose rows stay where the task is absent;
    all stay where the update is unsound. `inputs` are those of one group, without Gram matrix and
    key, and the lists hold its leaves, in floats of the accumulators.

    Attributes:
      init: `(num_tasks, leaf of parameters) -> tree`, before the first update.
      before: `(inputs, gradients, memory, total) -> (gradients, memory, seen)`: the rows `[K,
        *param]` that the Gram matrix and the update are made of, the new memory, and a tree of
        what the weights need to know besides (leaves of any shape), which becomes `inputs.seen`.
        `total` sums a list of arrays, one a leaf, over leaves and shards.
      after: `(inputs, state, update, memory) -> (update, memory)`, on leaves `[*param]`, with what
        the method remembers of the group now; or None.
    """

    init: Callable[[int, Any], Any]
    before: Callable[
        [Inputs, list[Array], list[Any], Callable[[list[Array]], Array]],
        tuple[list[Array], list[Any], Any],
    ]
    after: Callable[[Inputs, Any, list[Array], list[Any]], tuple[list[Array], list[Any]]] | None = (
        None
    )


class Method(NamedTuple):
    """A method of the family, as `make_transform` wants it.

    Attributes:
      name: of the public function, for errors.
      weights: `(inputs, state) -> (weights, state)`, weights being `[K]` or, from an iterative
        solver, a `Solution`; or None for a method that looks at coordinates instead. What is not
        finite in either says that the inputs were outside the method's domain: then the weights of
        the last update that was sound are used, and the state stays.
      combine: `(key, grads leaf [K, *param]) -> [*param]`, used where `weights` is None.
      init: `num_tasks -> state`, a pytree; () for a method that remembers nothing. A leaf that
        leads with K is taken to hold what is remembered of each task, one that leads with K x K of
        each pair; the entries of absent tasks stay as they are.
      uses_gram, uses_key, uses_losses: what `Inputs` must hold.
      memory: see `Memory`; or None, as for all but the methods that average gradients over time.
      sums: whether the update stands beside the sum of the task gradients (else beside their mean).
    """

    name: str
    weights: Callable[[Inputs, Any], Decision] | None
    combine: Callable[[Array, Array], Array] | None = None
    init: Callable[[int], Any] = _nothing
    uses_gram: bool = True
    uses_key: bool = False
    uses_losses: bool = False
    memory: Memory | None = None
    sums: bool = False
