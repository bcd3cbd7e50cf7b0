"""STCH: the gradient of a smooth maximum of the losses."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.preference import Preference, preferred
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["STCHState", "stch", "stch_weights"]


class STCHState(NamedTuple):
    """Attributes: total, float32 `[K]`, losses summed over the warm-up; updates, int32 `[K]`, how
    many losses that is."""

    total: Array
    updates: Array


def stch_weights(
    values: Array, preference: Array, mu: Array | float, present: Array | None = None
) -> Array:
    """The gradient of `mu log sum_i exp(lambda_i f_i / mu)`: `lambda_i softmax(lambda f / mu)_i`.

    Args:
      values: float32 `[K]`, f, losses above their ideal point.
      preference: float32 `[K]`, lambda, positive.
      mu: smoothing; towards 0 all weight goes to the largest `lambda_i f_i`.
      present: bool `[K]`, the tasks that the maximum is over; None: all.

    Returns:
      float32 `[K]`.
    """
    return preference * jax.nn.softmax(preference * values / mu, where=present)


@factory
def stch(
    num_tasks: int,
    *,
    mu: float = 1.0,
    preference: Preference = None,
    ideal: float | Sequence[float] = 0.0,
    warmup: int = 0,
    **options: Unpack[Options],
) -> Transform:
    """STCH, smooth Tchebycheff scalarisation.

    Lin, Zhang, Yang, Liu, Wang & Zhang 2024, "Smooth Tchebycheff Scalarization for Multi-Objective
    Optimization", ICML, arXiv 2402.19078. The gradient of

        mu log sum_i exp(lambda_i (L_i - z_i) / mu)

    a smooth form of max_i lambda_i (L_i - z_i), with the ideal point z. (The paper itself was not
    seen: the formula is that of TorchJD's documentation.) lambda has mean 1 here, where the paper's
    sums to 1: the same as mu / K, and an update K times as long, which stands beside the mean.

    With `warmup` as in the authors' multi-task code: the losses are replaced by log(L_i / n_i), n_i
    the mean loss of the warm-up, in which the mean of log L_i is minimised. That needs positive
    losses, and no ideal point.

    Needs `task_losses`. Gradients enter the update only. For when the worst task counts.

    Args:
      num_tasks: K.
      mu: smoothing, in units of the loss; the paper reports 0.01 to 1, the authors' code has 1.
      preference: lambda, `[K]`, positive; only ratios count. None: equal.
      ideal: z, lower bounds of the losses, one number or one a task.
      warmup: number of updates of the warm-up; 0: none, and plain losses.
      options: see `Options`.
    """
    check_positive("mu", mu)
    check_positive("warmup", warmup, or_zero=True)
    bound = jnp.asarray(ideal, jnp.float32)

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        lam = preferred(preference, inputs) * inputs.num_present
        losses = inputs.task_losses
        if not isinstance(state, STCHState):
            return stch_weights(losses - bound, lam, mu, inputs.present), state
        going = state.updates < warmup
        new = STCHState(jnp.where(going, state.total + losses, state.total), state.updates + going)
        usual = jnp.where(going, losses, state.total / jnp.maximum(state.updates, 1))
        values = jnp.log(losses / usual)
        w = stch_weights(values, lam, mu, inputs.present)
        # A task of the warm-up weighs as in the mean of the logarithms.
        w = jnp.where(going, lam / inputs.num_present, w) / losses
        return jnp.where((losses > 0) | ~inputs.present, w, jnp.nan), new

    def init(k: int) -> Any:
        return STCHState(jnp.zeros((k,)), jnp.zeros((k,), jnp.int32)) if warmup else ()

    method = Method("stch", weights, init=init, uses_gram=False, uses_losses=True)
    return make_transform(method, num_tasks, **options)
