"""GO4Align: tasks of like risk share a weight, which aligns how fast they learn."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive, static_int
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["cluster_means", "go4align", "go4align_step"]


def cluster_means(values: Array, num_groups: int, present: Array | None = None) -> Array:
    """K-means in one dimension, solved exactly: each value replaced by the mean of its cluster.

    The clusters of sorted numbers are segments, so that dynamic programming over where they end
    finds the best of all partitions.

    Args:
      values: float32 `[K]`.
      num_groups: largest number of clusters.
      present: bool `[K]`, the values that count; None: all.

    Returns:
      float32 `[K]`; of values that do not count, anything.
    """
    k = values.shape[0]
    here = jnp.ones((k,), bool) if present is None else present
    count = jnp.maximum(here.sum(), 1)
    centred = jnp.where(here, values - jnp.sum(values, where=here) / count, 0.0)
    centred = centred / jnp.maximum(jnp.max(jnp.abs(centred)), jnp.finfo(values.dtype).tiny)
    order = jnp.argsort(jnp.where(here, values, jnp.inf))
    x, m = centred[order], here[order].astype(values.dtype)

    def sums(y: Array) -> Array:  # [i, j]: over the segment from i up to, without, j
        total = jnp.concatenate([jnp.zeros((1,), y.dtype), jnp.cumsum(y)])
        return total[None, :] - total[:, None]

    squared = sums(x**2) - sums(x) ** 2 / jnp.maximum(sums(m), 1.0)
    cost = jnp.where(jnp.tri(k + 1, dtype=bool).T, jnp.maximum(squared, 0.0), jnp.inf)
    best = jnp.where(jnp.arange(k + 1) == 0, 0.0, jnp.inf).astype(values.dtype)
    begins = []
    for _ in range(num_groups):
        through = best[:, None] + cost
        begins.append(jnp.argmin(through, axis=0))
        best = jnp.min(through, axis=0)
    end, segment = jnp.asarray(k), jnp.zeros((k,), jnp.int32)
    for begin in reversed(begins):
        end = begin[end]
        segment = segment + (jnp.arange(k) >= end)
    same = (segment[:, None] == segment[None, :]) * m[None, :]
    raw = jnp.where(here, values, 0.0)[order]
    means = jnp.dot(same, raw, precision="highest") / jnp.maximum(same.sum(1), 1.0)
    return jnp.zeros_like(values).at[order].set(means)


def go4align_step(
    logits: Array, task_losses: Array, beta: Array | float, present: Array | None = None
) -> tuple[Array, Array]:
    """The group indicators `gamma_i = (mean(L) / L_i) q_i` and the new logits of q.

    q is the softmax of the logits, from which every update takes `beta L`; what is common to all
    tasks is left out of it, so that they stay in range.

    Args:
      logits: float32 `[K]`.
      task_losses: float32 `[K]`, positive.
      beta: how much the present losses change q.
      present: bool `[K]`, the tasks that take part; None: all.
    """
    mean = jnp.mean(task_losses, where=present)
    logits = logits - beta * (task_losses - mean)
    return mean / task_losses * jax.nn.softmax(logits, where=present), logits


@factory
def go4align(
    num_tasks: int,
    *,
    num_groups: int | None = None,
    beta: float = 1e-4,
    **options: Unpack[Options],
) -> Transform:
    """GO4Align, group optimisation for multi-task alignment.

    Shen, Wang, Xiao, van Noord & Worring 2024, "GO4Align: Group Optimization for Multi-Task
    Alignment", NeurIPS, arXiv 2404.06486, equations 3 and 5 to 7:

        gamma_i = p_i q_i,    p_i = mean(L) / L_i,    q := sigma(q exp(-beta L))

    where sigma divides by the sum, and the gammas are clustered by K-means; a task's weight is the
    centre of its cluster. Departure: the clustering is solved exactly (the authors iterate from
    random centres). Their code has the sum of the losses for the mean in p_i, an update K times as
    long.

    Needs positive `task_losses`. Gradients enter the update only. For many tasks of
    different loss scales.

    Args:
      num_tasks: K.
      num_groups: number of clusters, 2 if not given; 1 gives all tasks the mean indicator.
      beta: temperature; 0.0001 is the default of the authors' code.
      options: see `Options`.
    """
    clusters = 2 if num_groups is None else static_int("num_groups", num_groups)
    check_positive("beta", beta, or_zero=True)

    def weights(inputs: Inputs, logits: Array) -> tuple[Array, Any]:
        losses = jnp.where(inputs.task_losses > 0, inputs.task_losses, jnp.nan)
        indicators, new = go4align_step(logits, losses, beta, inputs.present)
        return cluster_means(indicators, clusters, inputs.present), new

    def init(k: int) -> Any:
        return jnp.zeros((k,), jnp.float32)

    method = Method("go4align", weights, init=init, uses_gram=False, uses_losses=True)
    return make_transform(method, num_tasks, **options)
