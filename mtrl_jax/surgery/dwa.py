"""Dynamic weight average: more weight to tasks whose loss falls slowly."""

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["DWAState", "dwa", "dwa_weights"]


class DWAState(NamedTuple):
    """Attributes, all `[K]`: total, float32, losses summed over the running period; newer and
    older, the mean losses of the last period and of the one before; periods, int32, how many have
    ended; updates, int32, how many losses are in the total."""

    total: Array
    newer: Array
    older: Array
    periods: Array
    updates: Array


def dwa_weights(
    newer: Array, older: Array, temperature: Array | float = 2.0, present: Array | None = None
) -> Array:
    """`w_i = K softmax_i(r_i / T)`, `r_i = L_i(t - 1) / L_i(t - 2)`.

    Args:
      newer, older: float32 `[K]`, mean losses of the last two periods. Where the older one is 0,
        r_i is 1.
      temperature: T, positive.
      present: bool `[K]`, the tasks that the softmax is over; None: all.

    Returns:
      float32 `[K]`, sum K (the number of tasks present).
    """
    rate = jnp.where(older != 0, newer / jnp.where(older != 0, older, 1.0), 1.0)
    rate = jnp.clip(rate, -1e30, 1e30)  # of means so far apart that their ratio leaves the range
    here = jnp.ones(rate.shape, bool) if present is None else present
    return here.sum() * jax.nn.softmax(rate / temperature, where=here)


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
    (Where tasks are absent at times, an epoch of a task is one in which it had data.)

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
        older = jnp.where(state.periods >= 2, state.older, 0.0)
        w = dwa_weights(state.newer, older, temperature, inputs.present)
        going = state._replace(total=state.total + inputs.task_losses, updates=state.updates + 1)
        ends = (inputs.step + 1) % period == 0
        ended = DWAState(
            total=jnp.zeros_like(going.total),
            newer=going.total / going.updates,
            older=state.newer,
            periods=state.periods + 1,
            updates=jnp.zeros_like(going.updates),
        )
        return w, jax.tree.map(lambda a, b: jnp.where(ends, a, b), ended, going)

    def init(k: int) -> DWAState:
        f32, i32 = jnp.float32, jnp.int32
        return DWAState(*(jnp.zeros((k,), dtype) for dtype in (f32, f32, f32, i32, i32)))

    method = Method("dwa", weights, init=init, uses_gram=False, uses_losses=True, sums=True)
    return make_transform(method, num_tasks, **options)
