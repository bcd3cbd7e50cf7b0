"""IMTL-G: an update with the same projection onto every task gradient."""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.quadratic import solve_psd, unit_gram
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["imtl_g", "imtl_g_weights"]


def imtl_g_weights(gram: Array) -> Array:
    """Weights with sum 1 for which `<u_i, sum_j w_j g_j>` is the same for all unit gradients u_i.

    `w = D C^+ 1`, divided by its sum, with D = diag(1/|g_i|) and C the cosine matrix; equal to the
    paper's closed form where the gradients are independent, else its least-squares extension.

    Args:
      gram: float32 `[K, K]`.

    Returns:
      float32 `[K]`, of any sign, sum 1. Zeros where the sum vanishes, as the paper's form is
      undefined there; 0 for a zero gradient.
    """
    cosines, norms, inverse = unit_gram(gram)
    alive = norms > 0
    w = solve_psd(cosines, alive.astype(gram.dtype)) * inverse * jnp.max(norms)
    total = w.sum()
    defined = jnp.abs(total) > 1e-6 * jnp.abs(w).sum()
    return jnp.where(defined, w / jnp.where(defined, total, 1.0), 0.0)


@factory
def imtl_g(num_tasks: int, **options: Unpack[Options]) -> Transform:
    """IMTL-G, impartial multi-task learning (its gradient half).

    Liu, Li, Kuang, Xue, Chen, Yang, Liao & Zhang 2021, "Towards Impartial Multi-task Learning",
    ICLR, equation 2: the update d = sum_i w_i g_i, sum_i w_i = 1, with <d, g_i / |g_i|> equal for
    all tasks.

    Needs the gradients only. No task is favoured by the size of its gradient. Weights may be
    negative, and where gradients conflict strongly the common projection can be negative too,
    which sets every task back; `config` has the same direction with a length that follows the
    conflict. Where gradients are dependent no such update need exist: it is along the least-squares
    solution of U d = 1, U the unit gradients, as in `config`.

    Args:
      num_tasks: K.
      options: see `Options`.
    """

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        return imtl_g_weights(inputs.gram), state

    return make_transform(Method("imtl_g", weights), num_tasks, **options)
