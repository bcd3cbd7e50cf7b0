"""Auxiliary tasks are weighed by how much they have helped the main one lately."""

from typing import Any, NamedTuple, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive, check_task
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["OLAuxState", "ol_aux", "ol_aux_step"]


class OLAuxState(NamedTuple):
    """Attributes, both float32 `[K]`: weights; total, of the inner products with the main
    gradient since the weights last moved."""

    weights: Array
    total: Array


def ol_aux_step(
    weights: Array, total: Array, learning_rate: Array | float, main: Array | int = 0
) -> Array:
    """`w_i + b total_i`, at least 0, and 1 for the main task, float32 `[K]`.

    Args:
      weights: float32 `[K]`.
      total: float32 `[K]`, sums of <g_i, g_main>.
      learning_rate: b.
      main: index of the main task.
    """
    moved = jnp.maximum(weights + learning_rate * total, 0.0)
    return jnp.where(jnp.arange(weights.shape[0]) == main, 1.0, moved)


@factory
def ol_aux(
    num_tasks: int,
    *,
    main: int = 0,
    learning_rate: float = 0.1,
    period: int = 5,
    **options: Unpack[Options],
) -> Transform:
    """OL-AUX, online learning for auxiliary losses.

    Lin, Baweja, Kantor & Held 2019, "Adaptive Auxiliary Task Weighting for Reinforcement Learning",
    NeurIPS 32. What N gradient steps with weights w did to the main loss is, to first order, minus
    the sum of their inner products, and w descends that:

        d = g_main + sum_i w_i g_i,    w_i <- w_i + b sum_{N updates} <g_i, g_main>

    b is the paper's rate of the weights times the rate of the parameters. The rule is quoted from
    memory. Departures: both gradients are those of one update (the paper has the main one a step
    later), and weights stay at 0 where they would turn negative: a task that has harmed is left
    out, not unlearnt, and comes back when it agrees.

    Needs the gradients only. Inner products grow with the square of the losses' scale, and b has to
    fit them; see `gradient_cosine` for a gate without a scale or a memory.

    Args:
      num_tasks: K.
      main: index of the main task. While it is absent the others move by the weights they have.
      learning_rate: b.
      period: N, updates between two moves of the weights.
      options: see `Options`.
    """
    check_task("main", main, num_tasks)
    check_positive("learning_rate", learning_rate)
    check_positive("period", period)

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        total = state.total + inputs.gram[main]
        moved = OLAuxState(
            ol_aux_step(state.weights, total, learning_rate, main), jnp.zeros_like(total)
        )
        ends = (inputs.step + 1) % period == 0
        kept = OLAuxState(state.weights, total)
        new = OLAuxState(*(jnp.where(ends, a, b) for a, b in zip(moved, kept, strict=True)))
        return state.weights, new

    def init(k: int) -> Any:
        return OLAuxState(jnp.ones((k,), jnp.float32), jnp.zeros((k,), jnp.float32))

    method = Method("ol_aux", weights, init=init, sums=True)
    return make_transform(method, num_tasks, **options)
