"""The plain mean of the task gradients: the baseline of every comparison."""

from typing import Any, Unpack

from jax import Array

from mtrl_jax.surgery.preference import Preference, preferred
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["mean"]


@factory
def mean(num_tasks: int, *, preference: Preference = None, **options: Unpack[Options]) -> Transform:
    """The mean of the task gradients, `(1/K) sum_i g_i`, or a weighted one.

    Equal weights ("linear scalarisation", "unitary scalarisation"); Kurin et al. 2022 (arXiv
    2201.04122) find that, well regularised, it matches specialised multi-task optimisers in many
    settings, so no method should be reported without it. Written as a dot over the task axis,
    which XLA:CPU of jax 0.10 computes many times faster than `jnp.mean(leaf, axis=0)`.

    Args:
      num_tasks: K.
      preference: `[K]`, how much each task counts, not negative; only ratios count. None: equal.
      options: see `Options`.
    """

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        return preferred(preference, inputs), state

    return make_transform(Method("mean", weights, uses_gram=False), num_tasks, **options)
