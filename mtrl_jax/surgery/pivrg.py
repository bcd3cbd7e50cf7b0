"""PIVRG: fair to the tasks, and more so to those that perform worst."""

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.powers import solve_power_equation
from mtrl_jax.surgery.quadratic import Solution
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["pivrg", "pivrg_importance", "pivrg_weights"]


def pivrg_importance(
    scores: Array,
    bound: Array | float,
    least_temperature: Array | float,
    present: Array | None = None,
) -> Array:
    """`c = K softmax(s / T)` with `T = max((max s - min s) / log(bound), least)`: no two of them
    differ by more than the factor `bound`.

    Args:
      scores: float32 `[K]`, s, how much worse than its reference each task is.
      bound: above 1.
      least_temperature: positive.
      present: bool `[K]`, the tasks that count; None: all.

    Returns:
      float32 `[K]`, mean 1 (over the tasks present).
    """
    here = jnp.ones(scores.shape, bool) if present is None else present
    low = jnp.min(scores, where=here, initial=jnp.inf)
    spread = jnp.max(scores, where=here, initial=-jnp.inf) - low
    temperature = jnp.maximum(spread / jnp.log(bound), least_temperature)
    return here.sum() * jax.nn.softmax(scores / temperature, where=here)


def pivrg_weights(gram: Array, importance: Array) -> Array:
    """The w > 0 with `G w = (c / w)^(1/2)`.

    Args:
      gram: float32 `[K, K]`.
      importance: float32 `[K]`, c, positive (0 for an absent task, whose weight is 0).

    Returns:
      float32 `[K]`; 0 for a zero gradient.
    """
    return solve_pivrg(gram, importance).weights


def solve_pivrg(gram: Array, importance: Array) -> Solution:
    """`pivrg_weights`, and whether they converged."""
    inverse = jnp.where(importance > 0, 1.0 / jnp.where(importance > 0, importance, 1.0), 0.0)
    # With w = y / c it is FairGrad's equation in y, of the gradients over c.
    y, converged = solve_power_equation(gram * inverse[:, None] * inverse[None, :], 0.5)
    return Solution(y * inverse, converged)


@factory
def pivrg(
    num_tasks: int,
    *,
    scores: Sequence[float] | Array | None = None,
    bound: float = 2.0,
    least_temperature: float = 10.0,
    **options: Unpack[Options],
) -> Transform:
    """PIVRG, performance-informed variance reduction gradient.

    Qin, Wang & Yan 2025, "Revisiting Fairness in Multitask Learning: A Performance-Driven Approach
    for Variance Reduction", CVPR. FairGrad (with alpha = 2), in which a task counts for more the
    worse it performs:

        G w = (c / w)^(1/2),    c = K softmax(s / T),    T = max((max s - min s) / log(bound), T_0)

    The paper was not seen: this is the method of the authors' released code (MTLlib), without its
    clipping of the update to norm 1. s_i is how many percent task i is worse, on data of validation
    and in its own metric, than the same network trained on it alone. It changes once an epoch: give
    it to `optax.inject_hyperparams(surgery.pivrg, static_args=("num_tasks",))` and write
    `state.hyperparams["scores"]`.

    Needs the gradients and `scores`. As with `fairgrad` the length of the update depends on the
    scale of the gradients: clip, or use a scale-free optimiser.

    Args:
      num_tasks: K.
      scores: s, `[K]`; may be traced. None: all equal, which is `fairgrad`.
      bound: largest ratio of two c, above 1; 2 in the authors' code.
      least_temperature: T_0, in the unit of the scores (percent); 10 in the authors' code.
      options: see `Options`.
    """
    check_positive("least_temperature", least_temperature)
    if not isinstance(bound, jax.Array) and not bound > 1:
        raise ValueError(f"bound must be above 1, got {bound!r}.")

    def weights(inputs: Inputs, state: Any) -> tuple[Solution, Any]:
        given = 0.0 if scores is None else jnp.asarray(scores, inputs.dtype)
        s = jnp.broadcast_to(given, (inputs.num_tasks,))
        c = pivrg_importance(s, bound, least_temperature, inputs.present)
        return solve_pivrg(inputs.gram, c), state

    return make_transform(Method("pivrg", weights), num_tasks, **options)
