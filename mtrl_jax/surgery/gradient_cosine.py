"""Auxiliary tasks are let in only while their gradients agree with the main one's."""

from typing import Any, Literal, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_choice, check_task
from mtrl_jax.surgery.quadratic import unit_gram
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["gradient_cosine", "gradient_cosine_weights"]


def gradient_cosine_weights(
    gram: Array, main: Array | int = 0, gate: Literal["soft", "hard"] = "soft"
) -> Array:
    """`w_main = 1`; `w_i = max(0, cos(g_i, g_main))` ('soft') or `1[cos >= 0]` ('hard').

    Args:
      gram: float32 `[K, K]`.
      main: index of the main task.
      gate: 'soft' or 'hard'.
    """
    cosines, _, _ = unit_gram(gram)
    cosine = cosines[main]
    gates = jnp.maximum(cosine, 0.0) if gate == "soft" else (gram[main] >= 0).astype(gram.dtype)
    return jnp.where(jnp.arange(gram.shape[0]) == main, 1.0, gates)


@factory
def gradient_cosine(
    num_tasks: int,
    *,
    main: int = 0,
    gate: Literal["soft", "hard"] = "soft",
    **options: Unpack[Options],
) -> Transform:
    """Gating of auxiliary losses by gradient cosine.

    Du, Czarnecki, Jayakumar, Farajtabar, Pascanu & Lakshminarayanan 2018, "Adapting Auxiliary
    Losses Using Gradient Similarity", arXiv 1812.02224, algorithms 1 (weighted) and 2 (not):

        d = g_main + sum_i max(0, cos(g_i, g_main)) g_i        or with 1[cos(g_i, g_main) >= 0]

    The update never conflicts with the main task, and stops at its critical points. For one task
    that matters and others that may help. Needs the gradients only.

    Args:
      num_tasks: K.
      main: index of the main task. While it is absent nothing moves.
      gate: 'soft' weighs by the cosine, 'hard' lets in or keeps out.
      options: see `Options`.
    """
    check_task("main", main, num_tasks)
    check_choice("gate", gate, ("soft", "hard"))

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        w = gradient_cosine_weights(inputs.gram, main, gate)
        return jnp.where(inputs.present[main], w, 0.0), state

    method = Method("gradient_cosine", weights, sums=True)
    return make_transform(method, num_tasks, **options)
