"""Auxiliary tasks are let in only while their gradients agree with the main one's."""

import jax
import jax.numpy as jnp
import optax

from mtrl_jax.surgery.checks import check_choice
from mtrl_jax.surgery.parts import Mask
from mtrl_jax.surgery.quadratic import unit_gram
from mtrl_jax.surgery.transform import AxisName, Method, Seed, make_transform

__all__ = ["gradient_cosine", "gradient_cosine_weights"]

Array = jax.Array


def gradient_cosine_weights(gram: Array, main: Array | int = 0, gate: str = "soft") -> Array:
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


def gradient_cosine(
    num_tasks: int,
    *,
    main: int = 0,
    gate: str = "soft",
    seed: Seed = 0,
    mask: Mask = None,
    scope: str = "global",
    diagnostics: bool | str = True,
    axis_name: AxisName = None,
    replicated: Mask = False,
) -> optax.GradientTransformationExtraArgs:
    """Gating of auxiliary losses by gradient cosine.

    Du, Czarnecki, Jayakumar, Farajtabar, Pascanu & Lakshminarayanan 2018, "Adapting Auxiliary
    Losses Using Gradient Similarity", arXiv 1812.02224, algorithms 1 (weighted) and 2
    (unweighted):

        d = g_main + sum_i max(0, cos(g_i, g_main)) g_i        or with 1[cos(g_i, g_main) >= 0]

    The update never conflicts with the main task, and stops at its critical points. For one task
    that matters and others that may help. Needs the gradients only.

    Args:
      num_tasks: K.
      main: index of the main task.
      gate: 'soft' weighs by the cosine, 'hard' lets in or keeps out.
      seed: unused; every factory of the family accepts it.
      mask, scope, diagnostics, axis_name, replicated: see `make_transform`.
    """
    check_choice("gate", gate, ("soft", "hard"))

    def weights(inputs, state):
        return (gradient_cosine_weights(inputs.gram, main, gate), state)

    method = Method("gradient_cosine", weights, sums=True)

    return make_transform(
        method,
        num_tasks,
        seed=seed,
        mask=mask,
        scope=scope,
        diagnostics=diagnostics,
        axis_name=axis_name,
        replicated=replicated,
    )
