"""Dynamic weight average: more weight to tasks whose loss falls slowly."""

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["DWAState", "dwa", "dwa_weights"]


class DWAState(NamedTuple):
    """Attributes: total, float32 `[K]`, losses summed over the running period; newer and older,
    the mean losses of the last period and of the one before; periods, int32 `[]`, how many have
    ended."""

    total: Array
    newer: Array
    older: Array
    periods: Array


def dwa_weights(newer: Array, older: Array, temperature: Array | float = 2.0) -> Array:
    """`w_i = K softmax_i(r_i / T)`, `r_i = L_i(t - 1) / L_i(t - 2)`.

    Args:
      newer, older: float32 `[K]`, mean losses of the last two periods. Where the older one is 0,
        r_i is 1.
      temperature: T, positive.

    Returns:
      float32 `[K]`, sum K.
    """
    rate = jnp.where(older != 0, newer / jnp.where(older != 0, older, 1.0), 1.0)
    return newer.shape[0] * jax.nn.softmax(rate / temperature)


@factory
def dwa(
    num_tasks: int,
    *,
    temperature: float = 2.0,
    period: int = 1,
    **options: Unpack[Options],
) -> Transform:
    """DWA, dynamic weight average.

    Liu, Johns & Davison 2019, "End-to-End Multi-Task Learning with Attention", arXiv 1803.10704,
    equation 7:

        w_i = K exp(r_i / T) / sum_j exp(r_j / T),    r_i = L_i(t - 1) / L_i(t - 2)

    with L(t) the mean losses of epoch t; weights are 1 for the first two epochs.

    Needs `task_losses` (of one sign). Gradients enter the update only.

    Args:
      num_tasks: K.
      temperature: T; 2 in the paper; larger is more even.
      period: updates in one epoch, over which losses are averaged. 1 compares single minibatches.
      options: see `Options`.
    """
    check_positive("temperature", temperature)
    check_positive("period", period)

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        w = dwa_weights(state.newer, state.older, temperature)
        w = jnp.where(state.periods >= 2, w, 1.0)
        total = state.total + inputs.task_losses
        ends = (inputs.step + 1) % period == 0
        ended = DWAState(jnp.zeros_like(total), total / period, state.newer, state.periods + 1)
        going = state._replace(total=total)
        return w, jax.tree.map(lambda a, b: jnp.where(ends, a, b), ended, going)

    def init(k):
        def zeros():
            return jnp.zeros((k,), jnp.float32)

        return DWAState(zeros(), zeros(), zeros(), jnp.zeros((), jnp.int32))

    method = Method("dwa", weights, init=init, uses_gram=False, uses_losses=True, sums=True)
    return make_transform(method, num_tasks, **options)
