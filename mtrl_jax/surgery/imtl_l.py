"""IMTL-L: loss scales are learned until every scaled loss is 1; IMTL: the same with IMTL-G."""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.imtl_g import imtl_g_weights
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["imtl_l", "imtl_l_step"]


def imtl_l_step(log_scale: Array, task_losses: Array, learning_rate: Array | float) -> Array:
    """One gradient step on s of `sum_i exp(s_i) L_i - s_i`, float32 `[K]`.

    Where a loss is not positive the sum has no minimum, and s_i stays.
    """
    step = learning_rate * (jnp.exp(log_scale) * task_losses - 1.0)
    return jnp.where(task_losses > 0, log_scale - step, log_scale)


@factory
def imtl_l(
    num_tasks: int,
    *,
    learning_rate: float = 0.01,
    hybrid: bool = False,
    **options: Unpack[Options],
) -> Transform:
    """IMTL-L, the loss half of impartial multi-task learning, or the whole of it.

    Liu, Li, Kuang, Xue, Chen, Yang, Liao & Zhang 2021, "Towards Impartial Multi-task Learning",
    ICLR, section 3.2, equation 6 (of the submission): every task minimises, also over s_i,

        exp(s_i) L_i - s_i

    so that its gradient is scaled by exp(s_i), which tends to 1 / L_i. `hybrid` is section 3.3: the
    gradients scaled so are combined by IMTL-G, whose direction the scales leave alone. Each s_i is
    learned here by plain gradient descent (the paper uses the network's optimiser) from 0 on.

    Needs positive `task_losses`; one that is not leaves its s_i alone. For losses of very
    different size. `uncertainty_weighting` learns twice the same objective with s negated.

    Args:
      num_tasks: K.
      learning_rate: of s.
      hybrid: whether IMTL-G combines the scaled gradients (else their sum is taken).
      options: see `Options`.
    """
    check_positive("learning_rate", learning_rate)

    def weights(inputs: Inputs, s: Array) -> tuple[Array, Any]:
        scales = jnp.exp(s)
        new = imtl_l_step(s, inputs.task_losses, learning_rate)
        if not hybrid:
            return scales, new
        return imtl_g_weights(inputs.gram * scales[:, None] * scales[None, :]) * scales, new

    def init(k: int) -> Any:
        return jnp.zeros((k,), jnp.float32)

    method = Method(
        "imtl_l", weights, init=init, uses_gram=hybrid, uses_losses=True, sums=not hybrid
    )
    return make_transform(method, num_tasks, **options)
