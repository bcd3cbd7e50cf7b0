"""SDMGrad: the shortest combination of the task gradients beside a preferred direction."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.preference import Preference, preferred
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform
from mtrl_jax.surgery.varying import vary_like

__all__ = ["project_to_simplex", "sdmgrad", "sdmgrad_step"]


def project_to_simplex(v: Array, present: Array | None = None) -> Array:
    """The nearest point with `w >= 0, sum w = 1` (and 0 for absent tasks), `[K]`."""
    v = v if present is None else jnp.where(present, v, -jnp.inf)
    ordered = jnp.sort(v)[::-1]
    level = (jnp.cumsum(ordered) - 1.0) / jnp.arange(1, v.shape[0] + 1)
    last = jnp.sum(ordered > level) - 1  # how many stay positive
    return jnp.maximum(v - level[last], 0.0)


def sdmgrad_step(
    w: Array,
    products: Array,
    preference: Array,
    strength: Array | float,
    learning_rate: Array | float,
    iterations: int,
    present: Array | None = None,
) -> Array:
    """Projected gradient descent on `1/2 |sum_i (w_i + lambda p_i) g_i|^2` over the simplex.

    Each iteration steps along `A (w + lambda p)`, with a momentum of 1/2 that begins at zero.

    Args:
      w: float32 `[K]`, on the simplex, where to start.
      products: float32 `[K, K]`, A, inner products of the task gradients (of two independent
        batches, or of one); divided here by the square of the mean norm.
      preference: float32 `[K]`, p, sum 1.
      strength: lambda.
      learning_rate: of the iterations.
      iterations: how many.
      present: bool `[K]`, the tasks that get weight; None: all.

    Returns:
      float32 `[K]`, on the simplex.
    """
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(products), 0.0))
    size = jnp.mean(norms, where=present)
    inverse = 1.0 / jnp.where(size > 0, size, 1.0)
    scaled = products * inverse * inverse  # one after the other: the square may leave the range

    def iterate(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        w, velocity = carry
        slope = jnp.dot(scaled, w + strength * preference, precision="highest")
        velocity = 0.5 * velocity + slope
        return project_to_simplex(w - learning_rate * velocity, present), velocity

    start = vary_like((w, jnp.zeros_like(w)), products)
    last: tuple[Array, Array] = jax.lax.fori_loop(0, iterations, iterate, start)
    return last[0]


@factory
def sdmgrad(
    num_tasks: int,
    *,
    strength: float = 0.3,
    preference: Preference = None,
    learning_rate: float = 10.0,
    iterations: int = 20,
    **options: Unpack[Options],
) -> Transform:
    """SDMGrad, stochastic direction-oriented multi-objective gradient descent.

    Xiao, Ban & Ji 2023, "Direction-oriented Multi-objective Learning: Simple and Provable
    Stochastic Algorithms", arXiv 2305.18409. With a preferred direction g_0 = sum_i p_i g_i,

        d = (g_w + lambda g_0) / (1 + lambda),    w = argmin |g_w + lambda g_0|^2

    with w on the simplex, where it follows a few steps of projected gradient descent from where it
    was. Only the abstract of the paper was seen; the method is that of the authors' released code.
    There w is learned from the inner products of two independent batches, which leaves it unbiased,
    in supervised learning, and from one batch in reinforcement learning: here it is one, and
    `sdmgrad_step` takes either.

    lambda = 0 is MGDA with slow weights, lambda large the plain preference. Needs the gradients
    only; remembers w.

    Args:
      num_tasks: K.
      strength: lambda; the authors' experiments have 0.3 (0.6 is the default of their class).
      preference: p, `[K]`, not negative; only ratios count. None: the mean.
      learning_rate: of w, for gradients of mean norm 1; 10 in the authors' code.
      iterations: steps on w an update.
      options: see `Options`.
    """
    check_positive("strength", strength, or_zero=True)
    check_positive("learning_rate", learning_rate)
    check_positive("iterations", iterations)

    def weights(inputs: Inputs, kept: Array) -> tuple[Array, Any]:
        p, here = preferred(preference, inputs), inputs.present
        kept = jnp.where(here, kept, 0.0)
        start = jnp.where(kept.sum() > 0, kept, inputs.ones)
        start = start / start.sum()
        w = sdmgrad_step(start, inputs.gram, p, strength, learning_rate, iterations, here)
        # What is kept has mean 1, so that it says the same whatever other tasks are present.
        return (w + strength * p) / (1.0 + strength), w * inputs.num_present

    def init(k: int) -> Any:
        return jnp.ones((k,), jnp.float32)

    return make_transform(Method("sdmgrad", weights, init=init), num_tasks, **options)
