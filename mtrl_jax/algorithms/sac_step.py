"""One gradient step of multi-task soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905).

Critics, then the actor with the critics just updated, then temperatures, then the slow critics;
each task on samples of its own, so that `learner.gradient_step` sees the tasks' gradients apart and
surgery combines those of the critics (as one module) and those of the actor.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtrl_jax import learner, normalisers, surgery
from mtrl_jax.algorithms import actor_q
from mtrl_jax.algorithms.experience import Transition
from mtrl_jax.losses import sac as losses
from mtrl_jax.types import Array, ArrayTree, Key, Metrics

__all__ = ["Learned", "Numbers", "init_learned", "step"]


class Numbers(NamedTuple):
    """What a step needs besides parameters and data.

    Attributes:
      nets: of actor and critics.
      transforms: of the actor's gradients.
      critic_transforms: of the critics'.
      temperature: optimiser of `[K]` log temperatures; tasks do not meet in it.
      discount: gamma.
      target_entropy: nats of each task's policy, `[K]`.
      max_temperature: 0 for no bound.
      target_rate: weight of the newest critics in the slow ones.
      collectives: of the devices to average over.
      tasks: int32 `[K]`, which of the networks' tasks a step is of; None: all, in their order.
    """

    nets: actor_q.ActorQ
    transforms: learner.Transforms
    critic_transforms: learner.Transforms
    temperature: optax.GradientTransformation
    discount: float
    target_entropy: np.ndarray
    max_temperature: float
    target_rate: float
    collectives: learner.Collectives
    tasks: Any = None

    def task_numbers(self) -> Array:
        """int32 `[K]`."""
        return jnp.arange(self.nets.spec.num_tasks) if self.tasks is None else self.tasks

    def of_tasks(self, rows: Any) -> Any:
        """The rows `[K, ...]` of something of all tasks, or None of None."""
        return rows if self.tasks is None or rows is None else jnp.asarray(rows)[self.tasks]


class Learned(NamedTuple):
    """What gradient steps change, and what a reset makes anew.

    Attributes:
      actor: parameters, `[*param]` shared and `[K, *param]` of the tasks.
      critic, target: the same of all critics, and of their slow copies.
      actor_opt, critic_opt: their optimisers'.
      log_temperature: `[K]`.
      temperature_opt: its optimiser's.
    """

    actor: learner.Params
    critic: learner.Params
    target: learner.Params
    actor_opt: learner.OptState
    critic_opt: learner.OptState
    log_temperature: Array
    temperature_opt: ArrayTree


def init_learned(numbers: Numbers, key: Key, temperature: float) -> Learned:
    """Fresh networks and optimisers, and every task's temperature as given."""
    actor, critic = actor_q.init_params(numbers.nets, key)

    def reseeded(opt, n):
        return opt._replace(shared=surgery.reseed(opt.shared, jax.random.fold_in(key, n)))

    pairs = ((numbers.transforms, actor), (numbers.critic_transforms, critic))
    opts = [learner.init_optimisers(*pair) for pair in pairs]
    alpha = jnp.full(numbers.nets.spec.num_tasks, np.log(temperature), jnp.float32)
    return Learned(
        actor,
        critic,
        jax.tree.map(jnp.copy, critic),  # a donated state may not hold one buffer twice
        reseeded(opts[0], 0),
        reseeded(opts[1], 1),
        alpha,
        numbers.temperature.init(alpha),
    )


def step(
    numbers: Numbers,
    learned: Learned,
    moments: normalisers.Moments,
    batch: Transition,
    noise: Array,
    weights: Any = None,
) -> tuple[Learned, Metrics]:
    """One step of everything.

    Args:
      numbers: of the agent.
      learned: before.
      moments: of observations, `[K, F]`.
      batch: leaves `[K, B, ...]`, rewards already scaled.
      noise: standard normal `[K, B, 2, A]`, of the next actions and of the actor's.
      weights: `[K]` of the tasks' losses, of actor and critics alike; None: 1.

    Returns:
      What has been learnt, and metrics `[K]`: of the losses, and of `learner.gradient_step` the
      sum over both networks and each one's own with `_critic` or `_actor` behind the name.
    """
    nets, tasks = numbers.nets, numbers.task_numbers()
    read = jax.vmap(lambda moments, x: actor_q.inputs(nets, moments, x))
    x_tm1, x_t = read(moments, batch.observation), read(moments, batch.next_observation)
    alpha = jnp.exp(learned.log_temperature)
    y = _targets(numbers, learned, x_t, batch, noise[:, :, 0], alpha)

    def critic_loss(shared, own, one):
        x, action, y, k = one
        return losses.critic_loss(actor_q.q_values(nets, shared, own, x, action, k), y)

    critic, critic_opt, metrics = learner.gradient_step(
        critic_loss,
        numbers.critic_transforms,
        learned.critic,
        learned.critic_opt,
        (x_tm1, batch.action, y, tasks),
        numbers.collectives,
        weights,
    )

    def actor_loss(shared, own, one):
        x, noise, alpha, own_critic, k = one
        action, log_prob = actor_q.draw(nets, shared, own, x, noise, k)
        q = actor_q.q_values(nets, critic.shared, own_critic, x, action, k)
        return losses.actor_loss(log_prob, q, alpha)

    actor, actor_opt, more = learner.gradient_step(
        actor_loss,
        numbers.transforms,
        learned.actor,
        learned.actor_opt,
        (x_tm1, noise[:, :, 1], alpha, critic.task, tasks),
        numbers.collectives,
        weights,
    )

    log_temperature, temperature_opt = _temperature(numbers, learned, more["policy/log_prob"])
    slow = optax.incremental_update(critic, learned.target, numbers.target_rate)
    learned = Learned(actor, critic, slow, actor_opt, critic_opt, log_temperature, temperature_opt)
    return learned, _merge(metrics, more)


def _targets(
    numbers: Numbers, learned: Learned, x: Array, batch: Transition, noise: Array, alpha: Array
) -> Array:
    """What the critics are to say, `[K, B]`, of next observations `x` `[K, B, F]`."""
    nets = numbers.nets
    discount_t = jnp.where(batch.ended, 0.0, numbers.discount)

    def target(actor, slow, x, r_t, discount_t, noise, alpha, k):
        action, log_prob = actor_q.draw(nets, learned.actor.shared, actor, x, noise, k)
        q = actor_q.q_values(nets, learned.target.shared, slow, x, action, k)
        return losses.soft_target(r_t, discount_t, q, log_prob, alpha)

    own, tasks = (learned.actor.task, learned.target.task), numbers.task_numbers()
    return jax.vmap(target)(*own, x, batch.reward, discount_t, noise, alpha, tasks)


def _temperature(numbers: Numbers, learned: Learned, log_prob: Array) -> tuple[Array, Any]:
    """The log temperatures `[K]` and their optimiser's state after one step."""
    # The loss is linear in log pi, so the mean over samples and devices serves as a batch of one.
    slope = jax.vmap(jax.grad(losses.temperature_loss))(
        learned.log_temperature,
        log_prob[:, None],
        jnp.asarray(numbers.of_tasks(numbers.target_entropy), jnp.float32),
    )
    change, temperature_opt = numbers.temperature.update(slope, learned.temperature_opt)
    log_temperature = optax.apply_updates(learned.log_temperature, change)
    if numbers.max_temperature:
        log_temperature = jnp.minimum(log_temperature, np.log(numbers.max_temperature))
    return log_temperature, temperature_opt


def _merge(critic: Metrics, actor: Metrics) -> Metrics:
    """Both networks' metrics; what train.py reads of a step is the sum of both."""
    both = critic.keys() & actor.keys()
    merged = {n: x for m in (critic, actor) for n, x in m.items() if n not in both}
    for name in both:
        if name in ("loss/total", "grad/shared_norm", "grad/task_norm"):
            merged[name] = critic[name] + actor[name]
        if name.startswith("grad/"):
            merged[f"{name}_critic"], merged[f"{name}_actor"] = critic[name], actor[name]
    return merged
