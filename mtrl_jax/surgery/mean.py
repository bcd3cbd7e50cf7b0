"""The plain mean of the task gradients: the baseline of every comparison."""

import jax.numpy as jnp
import optax

from mtrl_jax.surgery.parts import Mask
from mtrl_jax.surgery.transform import AxisName, Method, Seed, make_transform

__all__ = ["mean"]


def mean(
    num_tasks: int,
    *,
    seed: Seed = 0,
    mask: Mask = None,
    scope: str = "global",
    diagnostics: bool | str = False,
    axis_name: AxisName = None,
    replicated: Mask = False,
) -> optax.GradientTransformationExtraArgs:
    """The mean of the task gradients, `(1/K) sum_i g_i`.

    Equal weights ("linear scalarisation", "unitary scalarisation"); Kurin et al. 2022 (arXiv
    2201.04122) find that, well regularised, it matches specialised multi-task optimisers in many
    settings, so no method should be reported without it. Written as a dot over the task axis,
    which XLA:CPU of jax 0.10 computes many times faster than `jnp.mean(leaf, axis=0)`.

    Args:
      num_tasks: K.
      seed: unused; every factory of the family accepts it.
      diagnostics: as in `make_transform`; off by default, since only they need the Gram matrix
      here.
      mask, scope, axis_name, replicated: see `make_transform`.
    """

    def weights(inputs, state):
        return jnp.full((inputs.num_tasks,), 1.0 / inputs.num_tasks, jnp.float32), state

    return make_transform(
        Method("mean", weights, uses_gram=False, sums=False),
        num_tasks,
        seed=seed,
        mask=mask,
        scope=scope,
        diagnostics=diagnostics,
        axis_name=axis_name,
        replicated=replicated,
    )
