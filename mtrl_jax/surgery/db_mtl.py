"""DB-MTL: gradients of the logarithms of the losses, all made as long as the longest."""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_fraction, check_positive
from mtrl_jax.surgery.memory import zero_rows
from mtrl_jax.surgery.method import Memory
from mtrl_jax.surgery.parts import per_task
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["db_mtl", "db_mtl_weights"]


def db_mtl_weights(gram: Array) -> Array:
    """`w_i = max_j |g_j| / |g_i|`, float32 `[K]`; 0 for a zero gradient."""
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0.0))
    alive = norms > 0
    return jnp.where(alive, jnp.max(norms) / jnp.where(alive, norms, 1.0), 0.0)


@factory
def db_mtl(
    num_tasks: int,
    *,
    beta: float = 0.9,
    beta_decay: float = 0.0,
    **options: Unpack[Options],
) -> Transform:
    """DB-MTL, dual-balancing multi-task learning.

    Lin, Jiang, Ye, Zhang, Chen, Chen, Liu, Tsang & Kwok 2023, "Dual-Balancing for Multi-Task
    Learning", arXiv 2308.12029. With running means of the gradients of log L_i,

        y_i := b y_i + (1 - b) g_i / L_i,    b = beta / n^decay
        d = sum_i (max_j |y_j| / |y_i|) y_i

    at update n = 1, 2, ... (Of the paper the abstract was seen; the equations are those of
    LibMTL, by the same authors, whose epsilon of 1e-8 is left out.) y starts at 0, which makes
    the first updates short.

    Needs the gradients, and positive `task_losses`. For losses of different scales. Its state has
    the size of the task gradients, `[K, *param]`.

    Args:
      num_tasks: K.
      beta: weight of the past at first, from 0 (none is kept) to below 1; LibMTL has 0.9.
      beta_decay: how fast it falls; LibMTL has 0.
      options: see `Options`.
    """
    check_fraction("beta", beta)
    check_positive("beta_decay", beta_decay, or_zero=True)

    def before(inputs: Inputs, grads: list[Array], memory: list[Any], total: Any) -> Any:
        good = inputs.task_losses > 0
        scale = jnp.where(good, 1.0 / jnp.where(good, inputs.task_losses, 1.0), 0.0)
        b = beta / (inputs.step + 1.0).astype(inputs.dtype) ** beta_decay

        def mean(y: Array, g: Array) -> Array:
            return jnp.where(per_task(good, g), b * y + (1.0 - b) * per_task(scale, g) * g, y)

        means = [mean(y, g) for y, g in zip(memory, grads, strict=True)]
        return means, means, ()

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        w = db_mtl_weights(inputs.gram)
        return jnp.where(inputs.task_losses > 0, w, jnp.nan), state

    memory = Memory(zero_rows, before)
    method = Method("db_mtl", weights, uses_losses=True, memory=memory, sums=True)
    return make_transform(method, num_tasks, **options)
