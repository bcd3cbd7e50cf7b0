"""What else an actor-critic may learn from its own frames and rewards: UNREAL's auxiliary tasks.

Pixel control and value replay; the third, `reward_prediction`, has a file of its own.

Jaderberg et al. 2016, *Reinforcement learning with unsupervised auxiliary tasks*, arXiv 1611.05397:

    L = L_A3C + lambda_VR L_VR + lambda_PC sum_c L_Q^(c) + lambda_RP L_RP

Rows, transitions and their ends are those of `returns`: transition t leads from row t to row t + 1,
`valid_t` is False on the transition into a reset row, and nothing crosses from one episode into
another. Losses are of one trajectory, and as those of `distral` they are sums over valid steps
divided by T, a constant, so that the mean over environments is exact.

Pixel control is summed over cells: its weight is meant for that sum. Squares are whole, as the
paper's equations have them; the released code (miyosuda/unreal) halves them, so that its weight of
.05 for pixel control is .025 here.
"""

import jax
import jax.numpy as jnp

from mtrl_jax import returns
from mtrl_jax._checks import assert_bool, assert_shape, at_least_float32
from mtrl_jax.ranges import Count, CountOr0, check_value
from mtrl_jax.types import Array

__all__ = [
    "dueling",
    "num_cells",
    "pixel_changes",
    "pixel_control_loss",
    "value_replay_loss",
]

_sg = jax.lax.stop_gradient


# ----------------------------------------------------------------------------- pixel control


def num_cells(size: int, cell: int, margin: int = 0) -> int:
    """Whole cells along one side of an image, `(size - 2 margin) // cell`.

    Raises:
      ValueError: if there is none, or for a cell below 1 or a negative margin.
    """
    check_value("cell", cell, Count)
    check_value("margin", margin, CountOr0)
    n = (size - 2 * margin) // cell
    if n < 1:
        raise ValueError(f"cell must fit into {size} pixels less two margins of {margin}: {cell}")
    return n


def pixel_changes(frames: Array, valid_t: Array, cell: int = 4, margin: int = 0) -> Array:
    """How much each cell of the image changes from one row to the next: the pseudo-rewards.

    1611.05397, section 3.1 and appendix B: the mean absolute change over the pixels and channels of
    a cell, images in [0, 1],

        r_t[i, j] = mean_{c, (y, x) in cell ij} |x_{t+1} - x_t|

    The central part of the image that whole cells fill counts. The paper's 84 x 84 with
    `margin=2, cell=4` are 20 x 20 cells.

    Args:
      frames: [T + 1, C, H, W] of the rows; bytes are divided by 255, floats are taken as they are.
      valid_t: bool [T]; False on the transition into a reset row, where the change is 0, whatever
        the two frames hold, NaN included.
      cell: pixels of a cell's side.
      margin: pixels left out on each side.

    Returns:
      float32 [T, H', W'], H' = `num_cells(H, cell, margin)`. Carries no gradient.

    Raises:
      ValueError: for a wrong shape, a mask that is not bool, or an image without a whole cell.
    """
    assert_shape("[T + 1, C, H, W]", (None,) * 4, frames=frames)
    t, _, height, width = jnp.shape(frames)
    assert_shape("[T]", (t - 1,), valid_t=valid_t)
    assert_bool(valid_t=valid_t)
    cells = num_cells(height, cell, margin), num_cells(width, cell, margin)
    top, left = ((n - m * cell) // 2 for n, m in zip((height, width), cells, strict=True))
    x = frames[:, :, top : top + cells[0] * cell, left : left + cells[1] * cell]
    scale = 255.0 if jnp.issubdtype(x.dtype, jnp.integer) else 1.0
    x = _sg(at_least_float32(x)) / scale
    change = jnp.abs(x[1:] - x[:-1]).mean(1)
    change = change.reshape(t - 1, cells[0], cell, cells[1], cell).mean((2, 4))
    return jnp.where(valid_t[:, None, None], change, 0.0)


def dueling(value: Array, advantage: Array) -> Array:
    """Values of actions from two heads.

    Wang et al. 2016, arXiv 1511.06581, equation 9, in every cell:

        Q(a) = V + A(a) - mean_b A(b)

    Args:
      value: [..., H', W'].
      advantage: [..., A, H', W'].

    Returns:
      [..., A, H', W']. Carries gradient to both.

    Raises:
      ValueError: for shapes that differ in more than A.
    """
    shape = jnp.shape(advantage)
    assert_shape("[..., H', W']", (*shape[:-3], *shape[-2:]), value=value)
    advantage = at_least_float32(advantage)
    return at_least_float32(value)[..., None, :, :] + advantage - advantage.mean(-3, keepdims=True)


def pixel_control_loss(
    q: Array, action: Array, change_t: Array, discount_t: Array, valid_t: Array
) -> Array:
    """n-step Q-learning of every cell's changes, to the end of the unroll.

    1611.05397, section 3.1, with the largest value of the last row behind it:

        L_Q = 1/T sum_t sum_c (sg G_t^c - Q^c(s_t, a_t))^2,    G_t = r_{t+1} + d_{t+1} G_{t+1}

    Args:
      q: [T + 1, A, H', W'] of the rows, as `dueling` gives them; row T bootstraps. A truncated
        episode bootstraps from its own last row.
      action: int [T].
      change_t: [T, H', W'] of `pixel_changes`.
      discount_t: [T], its own gamma (.9) times (0 at true termination, else 1).
      valid_t: bool [T].

    Returns:
      [] a sum over cells, and over valid steps divided by T. Carries gradient to `q` only, and to
      the values of the actions that were taken.

    Raises:
      ValueError: for a wrong shape, or a mask that is not bool.
    """
    assert_shape("[T + 1, A, H', W']", (None,) * 4, q=q)
    rows, _, height, width = jnp.shape(q)
    assert_shape("[T, H', W']", (rows - 1, height, width), change_t=change_t)
    assert_shape("[T]", (rows - 1,), action=action, discount_t=discount_t, valid_t=valid_t)
    q = at_least_float32(q)
    v = _sg(q.max(1)).reshape(rows, -1)
    change = _sg(at_least_float32(change_t)).reshape(rows - 1, -1)

    def one_cell(r_t: Array, v: Array) -> Array:
        return returns.discounted_returns(r_t, discount_t, v, valid_t)

    target = jax.vmap(one_cell, 1, 1)(change, v)
    taken = jnp.where(valid_t, action, 0)[:, None, None, None]
    q_a = jnp.take_along_axis(q[:-1], taken, 1)[:, 0].reshape(rows - 1, -1)
    error = jnp.where(valid_t[:, None], _sg(target) - q_a, 0.0)
    return jnp.square(error).sum() / (rows - 1)


# ------------------------------------------------------------------------------ value replay


def value_replay_loss(v: Array, r_t: Array, discount_t: Array, valid_t: Array) -> Array:
    """Regression of values on the returns of a recorded stretch, a second time.

    1611.05397, section 3.3: A3C's value loss off a replay, without its policy gradient,

        L_VR = 1/T sum_t (sg G_t - V(s_t))^2

    with G_t the return to the end of the stretch, bootstrapped (`returns.discounted_returns`).

    Args:
      v: [T + 1] values of the rows, as they are now.
      r_t: [T] rewards.
      discount_t: [T], gamma times (0 at true termination, else 1).
      valid_t: bool [T].

    Returns:
      [] a sum over valid steps divided by T. Carries gradient to `v` only.

    Raises:
      ValueError: for a wrong shape, or a mask that is not bool.
    """
    target = returns.discounted_returns(_sg(r_t), _sg(discount_t), _sg(v), valid_t)
    error = jnp.where(valid_t, target - at_least_float32(v)[:-1], 0.0)
    return jnp.square(error).mean()
