"""What PPO makes of a rollout before its gradient steps: log-probabilities, advantages, targets.

All of it is what the networks say as they stand when the update begins, read with the moments of
observations that acting read. So the policy that these log-probabilities are of is the one that
acted, or one update younger.

The moments of value targets move here. Targets are computed in units of reward and normalised with
the moments that have seen them; the value network's last layer is rescaled by the same step
(`normalisers.change_of_units`), so that what it says in units of reward stays.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import distributions, learner, normalisers, returns
from mtrl_jax.algorithms import actor_critic
from mtrl_jax.losses import ppo as losses
from mtrl_jax.types import Array, Key, Metrics, Rollout

__all__ = ["Numbers", "Prepared", "Samples", "minibatch_rows", "prepare"]


class Numbers(NamedTuple):
    """What is needed besides parameters and data.

    Attributes:
      nets: of actor and critic.
      discount: gamma.
      lambda_: of the advantages.
      return_memory: least weight of a rollout in the moments of value targets.
      collectives: of the devices that share the environments.
      tasks: int32 `[K]`, which of the networks' tasks a rollout is of; None: all, in their order.
    """

    nets: actor_critic.ActorCritic
    discount: float
    lambda_: float
    return_memory: float
    collectives: learner.Collectives
    tasks: Any = None

    def task_numbers(self) -> Array:
        """int32 `[K]`."""
        return jnp.arange(self.nets.spec.num_tasks) if self.tasks is None else self.tasks

    def of_tasks(self, mask: Any) -> Any:
        """The rows `[K, ...]` of a mask of all tasks, or None of None."""
        return mask if self.tasks is None or mask is None else jnp.asarray(mask)[self.tasks]


class Samples(NamedTuple):
    """What a minibatch's loss reads; leaves `[K, T, E, ...]`, `[K, B, ...]`, then `[B, ...]`."""

    observation: Array
    action: Array
    data: losses.Data


class Prepared(NamedTuple):
    """A rollout turned into samples.

    Attributes:
      params: whose values are in the units of `returns`, and otherwise as before.
      returns: moments `[K]` of the value targets, this rollout's among them.
      samples: leaves `[K, T, E, ...]`.
      metrics: `[K]`; `value/mean`, `value/explained`, and `policy/behind`, the mean |ratio - 1| of
        this policy to the one that acted: 0 up to rounding where they are the same.
    """

    params: learner.Params
    returns: normalisers.Moments
    samples: Samples
    metrics: Metrics


def prepare(
    numbers: Numbers,
    params: learner.Params,
    observations: normalisers.Moments,
    seen: normalisers.Moments,
    rollout: Rollout,
) -> Prepared:
    """Samples of a rollout, and values in the units that their targets are in.

    Args:
      numbers: of the agent.
      params: of `actor_critic`.
      observations: moments `[K, F]` that acting read; of a first rollout, on which they have no
        bearing, its own.
      seen: moments `[K]` of the value targets of earlier rollouts. The first rollout of a task sets
        its units: values before it are of no use and are not kept.
      rollout: leaves `[T, K, E, ...]`.
    """
    nets, (t, _, e), total = numbers.nets, rollout.log_prob.shape, numbers.collectives.sum

    def lead(x):
        return jnp.moveaxis(x, 1, 0)

    rows, action = jax.tree.map(lead, (rollout.timestep, rollout.action))

    def look(task, moments, observation, action, k):
        def flat(x):
            return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

        x = actor_critic.inputs(nets, moments, flat(observation))
        head = actor_critic.policy(nets, params.shared, task, x[: t * e], k)
        v = actor_critic.value(nets, params.shared, task, x, k)
        return v.reshape(t + 1, e), distributions.log_prob(head, flat(action)).reshape(t, e)

    v, proximal = jax.vmap(look)(
        params.task, observations, rows.observation, action, numbers.task_numbers()
    )
    v = jax.vmap(normalisers.restore)(v, seen)
    valid = rows.valid[:, 1:]

    def gae(r_t, discount_t, v, valid_t):
        return returns.gae(r_t, discount_t, v, valid_t, numbers.lambda_)

    advantage = jax.vmap(jax.vmap(gae, 1, 1))(
        rows.reward[:, 1:], rows.discount[:, 1:] * numbers.discount, v, valid
    )
    target = advantage + v[:, :-1]
    batch = normalisers.masked_moments(target, valid, (1, 2), total)
    now = normalisers.update_moments(seen, batch, numbers.return_memory)
    change = normalisers.change_of_units(seen, now)
    kept = actor_critic.change_units(nets, params, change, seen.batches > 0)
    missed = normalisers.masked_moments(advantage, valid, (1, 2), total).variance
    behaviour = lead(rollout.log_prob)
    off = jnp.abs(jnp.expm1(jnp.where(valid, proximal - behaviour, 0.0)))
    real = numbers.collectives.mean(valid.mean((1, 2)))[:, None, None]  # share of the rows
    data = losses.Data(
        proximal,
        normalisers.standardise(advantage, valid, total),
        jax.vmap(normalisers.normalise)(target, now),
        jnp.where(valid, 1.0 / jnp.maximum(real, 1e-8), 0.0),
        losses.importance_weights(proximal, behaviour),
    )
    metrics = {
        "policy/behind": normalisers.masked_moments(off, valid, (1, 2), total).mean,
        "value/mean": batch.mean,
        "value/explained": 1.0 - missed / jnp.maximum(batch.variance, 1e-8),
    }
    return Prepared(kept, now, Samples(rows.observation[:, :-1], action, data), metrics)


def minibatch_rows(size: tuple[int, int, int, int], key: Key) -> Array:
    """int32 `[epochs * minibatches, K, T / minibatches]` for `size` (epochs, minibatches, K, T):
    each time step once an epoch and task."""
    epochs, minibatches, num_tasks, t = size
    keys = jax.random.split(key, (epochs, num_tasks))

    def shuffle(key):
        return jax.random.permutation(key, t)

    rows: Any = jax.vmap(jax.vmap(shuffle))(keys)
    rows = rows.reshape(epochs, num_tasks, minibatches, -1)
    return jnp.moveaxis(rows, 2, 1).reshape(epochs * minibatches, num_tasks, -1)
