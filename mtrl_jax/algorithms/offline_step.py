"""The loss of one task on one batch: of conservative and of implicit Q-learning, and who acts how.

Critics, policy and value learn in one gradient step from one loss, the sum of theirs; each sees the
others as they were before the step and sends them no gradient. The mathematics stands in
`losses.offline` and `losses.iql`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import distributions
from mtrl_jax.algorithms import offline_nets
from mtrl_jax.algorithms.offline_nets import Nets
from mtrl_jax.distributions import Gaussian
from mtrl_jax.losses import iql, offline
from mtrl_jax.types import Array, Key, Metrics

__all__ = ["Numbers", "Samples", "cql", "greedy", "implicit", "parts_of"]

_EDGE = 0.999  # recorded actions are moved so far into the box: arctanh of its faces is infinite


class Numbers(NamedTuple):
    """What the losses need besides parameters and data; of `offline.Config`."""

    nets: Nets
    cql_strength: float
    cql_samples: int
    temperature: float
    expectile: float
    sharpness: float


class Samples(NamedTuple):
    """One task's batch, leaves `[B, ...]`.

    Attributes:
      x_tm1, x_t: what networks read of the rows before and after the action.
      action: recorded.
      reward: as labelled for this task.
      discount: gamma, or 0 at a true end.
      weight: of the sample.
      own: bool.
      key: [], of this task's noise.
    """

    x_tm1: Any
    x_t: Any
    action: Any
    reward: Any
    discount: Any
    weight: Any
    own: Any
    key: Any


def parts_of(base: str, continuous: bool) -> tuple[str, ...]:
    """What there is besides critics: with discrete actions CQL acts by its critics alone."""
    if base == "iql":
        return ("actor", "value")
    return ("actor",) if continuous else ()


def cql(
    numbers: Numbers, shared: Any, own: Any, slow: tuple[Any, Any], s: Samples, k: Array
) -> tuple[Array, Metrics]:
    """Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779): of discrete actions double
    Q-learning, else soft actor-critic with no entropy in the target.

    Args:
      numbers: of the agent.
      shared, own: parameters of task `k`, which carry gradient.
      slow: the same of the slow critics.
      s: samples.
      k: int [].

    Returns:
      The loss [], and metrics.
    """
    nets = numbers.nets
    still = jax.lax.stop_gradient((shared, own))
    if nets.spec.action_size:
        q_tm1 = offline_nets.q_at(nets, shared, own, s.x_tm1, s.action, k)
        every, a_t, actor_loss, more = _continuous(numbers, shared, own, s, k)
    else:
        q = offline_nets.q_values(nets, shared, own, s.x_tm1, k)
        q_tm1 = offline_nets.chosen(q, s.action)
        every = offline.log_sum_exp(q, jnp.asarray(nets.spec.action_mask)[k])
        a_t = _best(nets, *still, s.x_t, k)
        actor_loss, more = jnp.float32(0.0), {}
    v_t = offline_nets.least(nets, *slow, s.x_t, a_t, k)
    y = s.reward + s.discount * v_t
    loss, metrics = offline.cql_loss(q_tm1, every, y, numbers.cql_strength, s.weight)
    distance = _distance(nets, greedy(nets, *still, s.x_tm1, k), s)
    return loss + actor_loss, {**metrics, **more, "policy/distance": distance}


def _continuous(
    numbers: Numbers, shared: Any, own: Any, s: Samples, k: Array
) -> tuple[Array, Array, Array, Metrics]:
    """log-sum-exp `[C, B]` of the critics, actions `[B, A]` at s_t, and the actor's loss."""
    nets, n = numbers.nets, numbers.cql_samples
    keys = jax.random.split(s.key, 4)
    shape = (*s.weight.shape, nets.spec.action_size)
    still = jax.lax.stop_gradient((shared, own))

    def draw(params: tuple[Any, Any], x: Array, key: Key, count: int) -> tuple[Array, Array]:
        gaussian = offline_nets.policy(nets, *params, x, k)
        assert isinstance(gaussian, Gaussian)
        wide = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), gaussian)
        noise = jax.random.normal(key, (count, *shape))
        u = wide.mean + jnp.exp(wide.log_std) * noise
        return jnp.tanh(u), distributions.tanh_gaussian_log_prob(wide, u)

    uniform = jax.random.uniform(keys[0], (n, *shape), minval=-1.0)
    density = jnp.full((n, shape[0]), -shape[1] * np.log(2.0), jnp.float32)
    now, log_now = draw(still, s.x_tm1, keys[1], n)
    later, log_later = draw(still, s.x_t, keys[2], n)
    actions = jnp.concatenate([uniform, now, later])
    q = jax.vmap(lambda a: offline_nets.q_at(nets, shared, own, s.x_tm1, a, k))(actions)
    log_density = jnp.concatenate([density, log_now, log_later])[:, None]
    every = offline.sampled_log_sum_exp(q, log_density)
    mine, log_prob = draw((shared, own), s.x_tm1, keys[3], 1)
    q_mine = offline_nets.least(nets, *still, s.x_tm1, mine[0], k)
    loss = offline.weighted_mean(numbers.temperature * log_prob[0] - q_mine, s.weight)
    # The first of the policy's draws at s_t serves the target too.
    return every, later[0], loss, {"loss/actor": jax.lax.stop_gradient(loss)}


def implicit(
    numbers: Numbers, shared: Any, own: Any, slow: tuple[Any, Any], s: Samples, k: Array
) -> tuple[Array, Metrics]:
    """Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169); arguments as of `cql`."""
    nets = numbers.nets
    still = jax.lax.stop_gradient((shared, own))
    v_tm1 = offline_nets.value(nets, shared, own, s.x_tm1, k)
    v_t = offline_nets.value(nets, *still, s.x_t, k)
    q_slow = offline_nets.least(nets, *slow, s.x_tm1, s.action, k)
    q_tm1 = offline_nets.q_at(nets, shared, own, s.x_tm1, s.action, k)
    critic, metrics = offline.critic_loss(q_tm1, s.reward + s.discount * v_t, s.weight)
    value = iql.expectile_loss(v_tm1, q_slow, numbers.expectile, s.weight)
    policy = offline_nets.policy(nets, shared, own, s.x_tm1, k)
    if isinstance(policy, Gaussian):
        u = jnp.arctanh(jnp.clip(s.action, -_EDGE, _EDGE))
        log_prob = distributions.tanh_gaussian_log_prob(policy, u)
    else:
        log_prob = distributions.log_prob(policy, s.action)
    advantage = q_slow - jax.lax.stop_gradient(v_tm1)
    actor = iql.advantage_weighted_loss(log_prob, advantage, numbers.sharpness, weight=s.weight)
    more = jax.lax.stop_gradient({"loss/value": value, "loss/actor": actor})
    distance = _distance(nets, _mode(policy), s)
    return critic + value + actor, {**metrics, **more, "policy/distance": distance}


# ------------------------------------------------------------------------------------------- acting


def greedy(nets: Nets, shared: Any, own: Any, x: Array, k: Array) -> Array:
    """The policy's likeliest actions at inputs `[B, F]`; without one, the critics' best."""
    if "actor" in nets.modules:
        return _mode(offline_nets.policy(nets, shared, own, x, k))
    return _best(nets, shared, own, x, k)


def _mode(policy: distributions.Distribution) -> Array:
    found = distributions.mode(policy)
    return jnp.tanh(found) if isinstance(policy, Gaussian) else found


def _best(nets: Nets, shared: Any, own: Any, x: Array, k: Array) -> Array:
    q = offline_nets.q_values(nets, shared, own, x, k).min(0)
    mask = jnp.broadcast_to(jnp.asarray(nets.spec.action_mask)[k], q.shape)
    return jnp.where(mask, q, -jnp.inf).argmax(-1).astype(jnp.int32)


def _distance(nets: Nets, action: Array, s: Samples) -> Array:
    """How far the policy is from what was recorded for this very task: the share of other actions,
    or the mean squared distance."""
    apart = jnp.square(action - s.action).sum(-1) if nets.spec.action_size else action != s.action
    found = offline.weighted_mean(apart.astype(jnp.float32), s.own.astype(jnp.float32))
    return jax.lax.stop_gradient(found)
