"""CAGrad: near the mean gradient, the direction that is best for the worst task."""

from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_choice, check_positive
from mtrl_jax.surgery.quadratic import Solution, nonnegative, ridge, ridged, unit_gram
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform
from mtrl_jax.surgery.varying import vary_like

__all__ = ["cagrad", "cagrad_weights"]


def cagrad_weights(gram: Array, c: Array | float, present: Array | None = None) -> Array:
    """Weights of the d that maximises `min_i <g_i, d>` in the ball `|d - g_0| <= c |g_0|`.

    Where the ball holds more than one such d (no d gains for every task, and 0 gains as much as
    any), the one nearest to g_0: its projection onto `{d : <g_i, d> >= 0 for all i}`. A zero
    gradient holds the minimum at 0: then too it is the projection, if the ball holds it.

    Args:
      gram: `[K, K]`.
      c: radius of the ball over |g_0|, at least 0.
      present: bool `[K]`, the tasks that the minimum is over; None: all. g_0 is over all.

    Returns:
      `[K]`, each at least 1/K.
    """
    return solve_cagrad(gram, c, present).weights


def solve_cagrad(gram: Array, c: Array | float, present: Array | None = None) -> Solution:
    """`cagrad_weights`, and whether they converged.

    With d = g_0 + sum_i v_i g_i, v >= 0, and m the worst inner product, optimality reads

        G v + b - m >= 0, complementary to v,    b_i = <g_i, g_0>,    v'Gv = c^2 |g_0|^2

    For a given m this is the quadratic programme of the d nearest to g_0 with all inner products at
    least m. Its distance sqrt(v'Gv) is convex in m, with slope sum(v) / sqrt(v'Gv): the m of the
    right distance is found by Newton's method, and by halving its bracket where that does not help.
    Where it is not found, the d is the best one seen inside the ball, at first g_0 itself.
    No weights w = v / sum(v) are divided by |g_w|, as in the paper's dual `min_w <g_w, g_0> + c
    |g_0| |g_w|` over the simplex: where |g_w| = 0 the ball need not be reached, and m is 0.
    """
    problem, unit = _in_unit_gradients(gram, c)
    low = jnp.min(problem.plain / problem.relative)
    high = jnp.min((problem.plain + problem.radius) / problem.relative)
    zero = jnp.diagonal(gram) <= 0
    held = (zero if present is None else zero & present).any()
    high = jnp.where(held, jnp.minimum(high, 0.0), high)
    nothing = jnp.zeros_like(problem.plain)
    start = _Search(
        low, high, low, low, nothing, nothing, problem.radius, jnp.asarray(False), jnp.asarray(0)
    )
    start = vary_like(start, gram)
    found = jax.lax.while_loop(
        lambda s: _unfinished(problem, s), lambda s: _improve(problem, s), start
    )
    reached = found.gap <= _closeness(gram.dtype) * problem.radius
    x = jnp.where(reached, found.x, found.inside)
    converged = reached | (~found.lost & (found.step < _MOST))
    return Solution(1.0 / gram.shape[0] + x * unit, converged)


class _Problem(NamedTuple):
    """In unit gradients and units of |g_0|: `matrix x + plain - m relative >= 0`."""

    matrix: Array
    plain: Array  # [K], <u_i, g_0> / |g_0|; infinite for a zero gradient
    relative: Array  # [K], min_j |g_j| / |g_i|
    radius: Array
    noise: Array  # rounding of `plain`
    floor: Array  # the m > 0 below which gradients that sum to 0 cannot be told from others


class _Search(NamedTuple):
    low: Array  # bracket of m
    high: Array
    m: Array
    proposal: Array  # the next m, by Newton's method; equal to m where it is not to be trusted
    x: Array
    inside: Array  # the last x inside the ball
    gap: Array
    lost: Array  # whether of some m it is not known on which side of the ball it is
    step: Array


_MOST = 100  # values of m tried; ten are typical


def _closeness(dtype: Any) -> float:
    return 16 * float(jnp.finfo(dtype).eps)


def _in_unit_gradients(gram: Array, c: Array | float) -> tuple[_Problem, Array]:
    cosines, norms, inverse = unit_gram(gram)
    largest = jnp.max(norms)
    mean = norms / jnp.where(largest > 0, largest, 1.0) / gram.shape[0]
    plain = jnp.dot(cosines, mean, precision="highest")
    length = jnp.sqrt(jnp.maximum(jnp.dot(mean, plain, precision="highest"), 0.0))
    some = length > 0
    alive = (norms > 0) & some
    plain = jnp.where(alive, plain / jnp.where(some, length, 1.0), jnp.inf)
    smallest = jnp.min(jnp.where(alive, norms, jnp.inf))
    relative = jnp.where(alive, smallest * inverse, 1.0)
    radius = jnp.where(some, jnp.asarray(c, gram.dtype), 0.0)
    floor = 4 * ridge(cosines) ** 0.5 * radius
    noise = jnp.finfo(gram.dtype).eps * jnp.sum(mean) / jnp.where(some, length, 1.0)
    return _Problem(
        ridged(cosines), plain, relative, radius, noise, floor
    ), length * largest * inverse


def _unfinished(problem: _Problem, search: _Search) -> Array:
    low, high = search.low, search.high
    size = jnp.maximum(jnp.maximum(jnp.abs(low), jnp.abs(high)), problem.radius)
    rounding = 4 * jnp.finfo(low.dtype).eps * size
    stationary = (low >= 0) & (high <= problem.floor)
    wide = (high - low > rounding) & ~stationary & (search.step < _MOST)
    return wide & (search.gap > _closeness(low.dtype) * problem.radius)


def _improve(problem: _Problem, search: _Search) -> _Search:
    """Looks at one more m: first 0, then the floor, then Newton's or the middle."""
    matrix, plain, relative, radius, noise, floor = problem
    low, high = search.low, search.high
    apart = (low > 0) & (high > 16 * low) | (high < 0) & (low < 16 * high)
    middle = jnp.where(apart, jnp.sign(low) * jnp.sqrt(low * high), 0.5 * (low + high))
    newton = (search.proposal > low) & (search.proposal < high)
    m = jnp.where(newton, search.proposal, middle)
    m = jnp.where((low < floor) & (high > floor), jnp.where(low < 0, 0.0, floor), m)

    alive = jnp.isfinite(plain)
    q = jnp.where(alive, jnp.where(alive, plain, 0.0) - m * relative, 0.0)
    x, converged = nonnegative(matrix, q, noise, search.x)
    square = jnp.dot(x, jnp.dot(matrix, x, precision="highest"), precision="highest")
    length = jnp.sqrt(jnp.maximum(square, 0.0))
    # An m that no d fulfils has no x either. But any x >= 0 bounds the square of the distance from
    # below, which says that such an m is outside the ball.
    bound = -(square + 2.0 * jnp.dot(q, x, precision="highest"))
    gap = jnp.where(converged, jnp.abs(length - radius), jnp.inf)
    slope = jnp.dot(relative, x, precision="highest")
    better = (slope > 0) & (gap < 0.5 * search.gap) | (search.step < 3)
    change = length * (length - radius) / jnp.where(slope > 0, slope, 1.0)
    within = converged & (length <= radius)
    return _Search(
        low=jnp.where(within, m, low),
        high=jnp.where(within, high, m),
        m=m,
        proposal=jnp.where(better & (slope > 0), m - change, m),
        x=x,
        inside=jnp.where(within, x, search.inside),
        gap=gap,
        lost=search.lost | ~(converged | (bound > radius**2)),
        step=search.step + 1,
    )


@factory
def cagrad(
    num_tasks: int,
    *,
    c: float = 0.4,
    rescale: Literal["none", "square", "linear"] = "none",
    **options: Unpack[Options],
) -> Transform:
    """CAGrad, conflict-averse gradient descent.

    Liu, Liu, Jin, Stone & Liu 2021, "Conflict-Averse Gradient Descent for Multi-task Learning",
    arXiv 2110.14048, equation 3 and algorithm 1, with g_0 the mean gradient:

        max_d min_i <g_i, d>    subject to |d - g_0| <= c |g_0|

    c = 0 is mean training; for c < 1 it converges to a minimum of the mean loss, and towards MGDA
    as c grows. Solved exactly, with no external solver. Needs the gradients only. The authors'
    code optionally divides the update by 1 + c^2 (their supervised experiments, `rescale=1`) or 1
    + c: see `rescale`.

    Args:
      num_tasks: K.
      c: radius of the ball, relative to |g_0|.
      rescale: divide the update by 1 ('none', the paper), 1 + c^2 ('square') or 1 + c ('linear').
      options: see `Options`.
    """
    check_positive("c", c, or_zero=True)
    check_choice("rescale", rescale, ("none", "square", "linear"))
    divisor = {"none": 1.0, "square": 1.0 + c**2, "linear": 1.0 + c}[rescale]

    def weights(inputs: Inputs, state: Any) -> tuple[Solution, Any]:
        w, converged = solve_cagrad(inputs.gram, c, inputs.present)
        # With absent tasks the solver's mean gradient is shorter than theirs, and so is its update.
        scale = inputs.num_tasks / inputs.num_present
        return Solution(w * scale / divisor, converged), state

    return make_transform(Method("cagrad", weights), num_tasks, **options)
