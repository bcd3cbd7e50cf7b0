"""Returns and advantages of one trajectory: `[T]` in, `[T]` out; vmap for more.

All functions follow the row convention of `types.Timestep`. Transition t leads from row t to
row t + 1; ``r_t, discount_t, valid_t`` belong to it, and ``v`` has one entry more::

    v_tm1 = v[:-1]   value of the row on which the action was chosen
    v_t   = v[1:]    value of the row it led to; v[T] bootstraps the end of the unroll

An episode's last row holds its true final observation and the next row is a reset row, so the
transition between them, ``valid_t == False``, is not the environment's answer to any action. There
the return is V(s_tm1), the value of the final observation, and the advantage is 0.

The transition before it ended the episode and hence bootstraps from V(final observation) times its
own discount: 0 at true termination, gamma at truncation. Nothing crosses from one episode into
another, and whatever stands in ``r_t, discount_t, log_rho`` where ``valid_t`` is False, NaN
included, changes neither the results nor their gradients.

Everything carries gradient (to r_t, discount_t, v, log_rho); a loss wants `jax.lax.stop_gradient`
around its targets. Results are float32 for narrower inputs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_bool, assert_shape, at_least_float32, check_range
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array

__all__ = [
    "NStep",
    "VTrace",
    "discounted_returns",
    "gae",
    "lambda_returns",
    "n_step_returns",
    "n_step_transitions",
    "vtrace",
]


def n_step_returns(r_t: Array, discount_t: Array, v: Array, valid_t: Array, n: int) -> Array:
    """Returns of n steps, bootstrapped; fewer steps where the unroll or the episode ends earlier.

    Sutton & Barto 2018, section 7.1:

        G_t = r_{t+1} + d_{t+1} r_{t+2} + ... + (d_{t+1} ... d_{t+n}) V(s_{t+n})

    Args:
      r_t: [T] rewards.
      discount_t: [T], gamma times (0 at true termination, else 1).
      v: [T + 1] values of the rows.
      valid_t: bool [T], False on the transition into a reset row.
      n: number of rewards summed, at least 1; above T it is T.

    Returns:
      [T] returns; V(s_tm1) where not valid.

    Raises:
      ValueError: for a wrong shape, a `valid_t` that is not bool, or n below 1.
    """
    check_value("n", n, Count)
    r_t, discount_t, v = _cut(r_t, discount_t, v, valid_t)

    def one_step_longer(_: int, g_t: Array) -> Array:
        return r_t + discount_t * jnp.append(g_t[1:], v[-1])

    # The m-step return from the (m-1)-step return of the next row; the 0-step return is the value.
    g_t: Array = jax.lax.fori_loop(0, min(n, r_t.shape[0]), one_step_longer, v[:-1])
    return g_t


class NStep(NamedTuple):
    """What `n_step_transitions` returns, for the transition that begins at each row.

    Attributes:
      reward: [T] discounted sum of its m rewards, r_{t+1} + d_{t+1} r_{t+2} + ...
      discount: [T] product of its m discounts.
      steps: int32 [T], m, in 1..n: row t + m is where it leads.
    """

    reward: Array
    discount: Array
    steps: Array


def n_step_transitions(r_t: Array, discount_t: Array, valid_t: Array, n: int) -> NStep:
    """Transitions of n steps, as a replay buffer keeps them; fewer where unroll or episode ends.

    For any V this is `n_step_returns`:

        G_t = reward_t + discount_t V(s_{t + steps_t})

    Args:
      r_t: [T] rewards.
      discount_t: [T], gamma times (0 at true termination, else 1).
      valid_t: bool [T], False on the transition into a reset row.
      n: most steps, at least 1.

    Returns:
      `NStep`; where not valid 0, 0 and 1, of no use.

    Raises:
      ValueError: for a wrong shape, a `valid_t` that is not bool, or n below 1.
    """
    check_value("n", n, Count)
    r_t, discount_t, _ = _cut(r_t, discount_t, jnp.zeros(jnp.size(r_t) + 1), valid_t)
    one = NStep(r_t, discount_t, jnp.ones(r_t.shape, jnp.int32))
    goes_on = valid_t & jnp.append(valid_t[1:], False)

    def one_step_longer(_: int, longest: NStep) -> NStep:
        after = NStep(*(jnp.append(x[1:], x[-1:]) for x in longest))
        longer = NStep(
            r_t + discount_t * after.reward, discount_t * after.discount, 1 + after.steps
        )
        return NStep(*(jnp.where(goes_on, a, b) for a, b in zip(longer, one, strict=True)))

    longest: NStep = jax.lax.fori_loop(0, min(n, r_t.shape[0]) - 1, one_step_longer, one)
    return longest


def discounted_returns(r_t: Array, discount_t: Array, v: Array, valid_t: Array) -> Array:
    """Returns to the end of the unroll, bootstrapped with v[T]: what A3C regresses on.

    Mnih et al. 2016, arXiv 1602.01783, Algorithm S3, backwards from V(s_T):

        R := r_i + gamma R

    Arguments, result and errors as in `lambda_returns`, of which this is lambda = 1.
    """
    return lambda_returns(r_t, discount_t, v, valid_t, 1.0)


def lambda_returns(
    r_t: Array, discount_t: Array, v: Array, valid_t: Array, lambda_: Array | float
) -> Array:
    """Exponentially weighted mean of the n-step returns.

    Sutton & Barto 2018, section 12.1:

        G_t = r_{t+1} + d_{t+1} [ (1 - lambda) V(s_{t+1}) + lambda G_{t+1} ]

    Args:
      r_t: [T] rewards.
      discount_t: [T], gamma times (0 at true termination, else 1).
      v: [T + 1] values of the rows.
      valid_t: bool [T], False on the transition into a reset row.
      lambda_: scalar in [0, 1]: 0 is one-step TD, 1 the discounted return.

    Returns:
      [T] returns; V(s_tm1) where not valid.

    Raises:
      ValueError: for a wrong shape, a `valid_t` that is not bool, or a lambda_ outside [0, 1] whose
        value is known.
    """
    return gae(r_t, discount_t, v, valid_t, lambda_) + at_least_float32(v)[:-1]


def gae(r_t: Array, discount_t: Array, v: Array, valid_t: Array, lambda_: Array | float) -> Array:
    """Generalised advantage estimates: lambda-return minus value.

    Schulman et al. 2016, arXiv 1506.02438, equation 16, with the unroll's end as its horizon:

        A_t = delta_t + d_{t+1} lambda A_{t+1}
        delta_t = r_{t+1} + d_{t+1} V(s_{t+1}) - V(s_t)

    Args:
      r_t: [T] rewards.
      discount_t: [T], gamma times (0 at true termination, else 1).
      v: [T + 1] values of the rows.
      valid_t: bool [T], False on the transition into a reset row.
      lambda_: scalar in [0, 1].

    Returns:
      [T] advantages; 0 where not valid.

    Raises:
      ValueError: for a wrong shape, a `valid_t` that is not bool, or a lambda_ outside [0, 1] whose
        value is known.
    """
    check_range("lambda_", lambda_, 0.0, 1.0)
    r_t, discount_t, v = _cut(r_t, discount_t, v, valid_t)
    return _discounted_sum(r_t + discount_t * v[1:] - v[:-1], discount_t * lambda_)


class VTrace(NamedTuple):
    """What `vtrace` returns.

    Attributes:
      target: [T] what V(s_tm1) should regress on; V(s_tm1) itself where not valid.
      advantage: [T] the policy gradient's weight of log pi(a_tm1), its clipped ratio included; 0
        where not valid.
    """

    target: Array
    advantage: Array


def vtrace(
    r_t: Array,
    discount_t: Array,
    v: Array,
    valid_t: Array,
    log_rho: Array,
    lambda_: Array | float = 1.0,
    clip_rho: float = 1.0,
    clip_pg_rho: float = 1.0,
) -> VTrace:
    """V-trace targets and advantages for actions drawn from an older policy.

    Espeholt et al. 2018, arXiv 1802.01561, section 4, the first three lines being equation 1:

        vs_t = V(s_t) + sum_{u >= t} (prod_{t <= k < u} d_{k+1} c_k) rho_u delta_u
        delta_u = r_{u+1} + d_{u+1} V(s_{u+1}) - V(s_u)
        rho_u = min(clip_rho, pi/mu),   c_k = lambda min(1, pi/mu)
        A_t = min(clip_pg_rho, pi/mu) (r_{t+1} + d_{t+1} vs_{t+1} - V(s_t))

    The paper's c-bar is 1, and past the unroll vs is V. This is for an actor-critic of one's own
    that learns beside its environments (`types.Agent.overlap`); log mu is `Rollout.log_prob`.
    Agents of this library wait for the new policy, weight by ratios, or learn off-policy.

    Args:
      r_t: [T] rewards.
      discount_t: [T], gamma times (0 at true termination, else 1).
      v: [T + 1] values of the rows under the policy that learns.
      valid_t: bool [T], False on the transition into a reset row.
      log_rho: [T] log pi(a_tm1) - log mu(a_tm1): learning policy against acting policy.
      lambda_: scalar in [0, 1], mixing as in `lambda_returns`.
      clip_rho: rho-bar, chooses the fixed point; infinity does not clip.
      clip_pg_rho: the clip of the ratio in the advantage.

    Returns:
      `VTrace(target, advantage)`, each [T].

    Raises:
      ValueError: for a wrong shape, a `valid_t` that is not bool, or a lambda_ outside [0, 1] whose
        value is known.
    """
    check_range("lambda_", lambda_, 0.0, 1.0)
    assert_shape("[T]", jnp.shape(r_t), log_rho=log_rho)
    r_t, discount_t, v = _cut(r_t, discount_t, v, valid_t)
    v_tm1, v_t = v[:-1], v[1:]
    rho = jnp.exp(jnp.where(valid_t, at_least_float32(log_rho), 0.0))
    delta_t = jnp.minimum(clip_rho, rho) * (r_t + discount_t * v_t - v_tm1)
    target = v_tm1 + _discounted_sum(delta_t, discount_t * lambda_ * jnp.minimum(1.0, rho))
    target_t = jnp.append(target[1:], v[-1])
    advantage = jnp.minimum(clip_pg_rho, rho) * (r_t + discount_t * target_t - v_tm1)
    return VTrace(target, advantage)


def _cut(r_t: Array, discount_t: Array, v: Array, valid_t: Array) -> tuple[Array, Array, Array]:
    """Checks shapes and turns each invalid transition into one of reward V(s_tm1) and discount 0.

    That one substitution gives every recursion here its rule for resets: the return is V(s_tm1) and
    nothing from beyond leaks in. It stands before any arithmetic so that a NaN meets no product.
    """
    assert_shape("[T]", (None,), r_t=r_t)
    (num_steps,) = shape = jnp.shape(r_t)
    if num_steps < 1:
        raise ValueError("r_t must have shape [T] with T >= 1, got (0,)")
    assert_shape("[T]", shape, discount_t=discount_t, valid_t=valid_t)
    assert_shape("[T + 1]", (num_steps + 1,), v=v)
    assert_bool(valid_t=valid_t)
    v = at_least_float32(v)
    r_t = jnp.where(valid_t, at_least_float32(r_t), v[:-1])
    discount_t = jnp.where(valid_t, at_least_float32(discount_t), 0.0)
    return r_t, discount_t, v


def _discounted_sum(x_t: Array, decay_t: Array) -> Array:
    """y_t = x_t + decay_t y_{t+1} with y_T = 0, backwards over [T]."""

    def step(y: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        x, decay = row
        y = x + decay * y
        return y, y

    dtype = jnp.result_type(x_t, decay_t)
    rows = (x_t.astype(dtype), decay_t.astype(dtype))
    return jax.lax.scan(step, jnp.zeros((), dtype), rows, reverse=True)[1]
