"""What a method of the family is: K weights from K x K numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mtrl_jax.surgery.quadratic import Solution

__all__ = ["Decision", "Inputs", "Method"]

Array = jax.Array
Decision = tuple[Array | Solution, Any]


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


def _nothing(num_tasks: int) -> Any:
    """The state of a method that remembers nothing."""
    del num_tasks
    return ()


class Method(NamedTuple):
    """A method of the family, as `make_transform` wants it.

    Attributes:
      name: of the public function, for errors.
      weights: `(inputs, state) -> (weights, state)`, weights being float32 `[K]` or, from an
        iterative solver, a `Solution`; or None for a method that looks at coordinates instead.
      combine: `(key, grads leaf [K, *param]) -> float32 [*param]`, used where `weights` is None.
      init: `num_tasks -> state`, a pytree; () for a method that remembers nothing.
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
