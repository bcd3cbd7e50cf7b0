"""What a method of the family is: K weights from K x K numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.quadratic import Solution

__all__ = ["Decision", "Inputs", "Method"]

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
    """

    num_tasks: int
    present: Array
    dtype: Any
    gram: Any
    key: Any
    step: Array
    task_losses: Any
    task_losses_after: Any

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
      sums: whether the update stands beside the sum of the task gradients (else beside their mean).
    """

    name: str
    weights: Callable[[Inputs, Any], Decision] | None
    combine: Callable[[Array, Array], Array] | None = None
    init: Callable[[int], Any] = _nothing
    uses_gram: bool = True
    uses_key: bool = False
    uses_losses: bool = False
    sums: bool = False
