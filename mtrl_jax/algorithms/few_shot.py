"""What learners that adapt share: episodes of one task, the record of one learner, its scores.

Tasks are of a `TaskFamily`, whose episodes all have T actions. Axes besides those of `types.py`::

    M  tasks of one update or one evaluation
    E  episodes of one task
    N  points of an adaptation curve
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import distributions, returns
from mtrl_jax.envs.task_family import TaskFamily, draw_tasks
from mtrl_jax.envs.trials import TrialFamily, TrialPool
from mtrl_jax.types import Array, ArrayTree, Key, Metrics

__all__ = [
    "Episodes",
    "HostLearner",
    "Learner",
    "Score",
    "adam",
    "check_curve",
    "check_host",
    "choose",
    "descend",
    "head_of",
    "play",
    "returns_to_go",
    "training_tasks",
]

LOG_STD = (-2.0, 1.0)  # of a Gaussian policy whose actions are in [-1, 1]


class Episodes(NamedTuple):
    """E episodes of one task, leaves `[E, T, ...]`.

    Attributes:
      observation: what actions were chosen on.
      action: int32, or float32 `[E, T, A]`.
      log_prob: of those actions, under the policy that drew them.
      reward: that followed.
    """

    observation: Array
    action: Array
    log_prob: Array
    reward: Array


class Score(NamedTuple):
    """What came of adapting to M tasks, means over episodes.

    Attributes:
      curve: float32 `[M, N]`, mean return of an episode after so many of adaptation.
      online: float32 `[M]`, mean return of the episodes that were adapted on.
      success: float32 `[M, N]`, share of solved episodes at the points of the curve, where
        environments say so.
    """

    curve: Any
    online: Any
    success: Any = None


class Learner(NamedTuple):
    """A meta-learner bound to a family and its numbers; all of it pure.

    Attributes:
      init: `(key) -> state`.
      update: `(state, key) -> (state, metrics)`, on tasks that it chooses of its training tasks.
      tasks: `(state) -> tasks`, the training tasks, leaves `[K, ...]`.
      evaluate: `(state, tasks, key) -> Score`.
      episodes_per_update: of all tasks together.
    """

    init: Callable[[Key], Any]
    update: Callable[[Any, Key], tuple[Any, Metrics]]
    tasks: Callable[[Any], ArrayTree]
    evaluate: Callable[[Any, ArrayTree, Key], Score]
    episodes_per_update: int


class HostLearner(NamedTuple):
    """A meta-learner whose environments live on the host: it plays in the pools that it is given.

    Attributes:
      init: `(key) -> state`.
      update: `(state, pool, key) -> (state, metrics)`, on the pool's next draw.
      evaluate: `(state, pool, key) -> Score` of the pool's M slots, on its next draw.
      num_slots: M of the pools to learn in.
      train_tasks: how many tasks there are to learn from, a multiple of M; 0: new ones for ever.
      copies, eval_copies: of a slot (`envs.trials.TrialPool`), in learning and in scoring.
      episodes_per_update: of all tasks together.
    """

    init: Callable[[Key], Any]
    update: Callable[[Any, TrialPool, Key], tuple[Any, Metrics]]
    evaluate: Callable[[Any, TrialPool, Key], Score]
    num_slots: int
    train_tasks: int
    copies: int
    eval_copies: int
    episodes_per_update: int


Act = Callable[[Array, Key], tuple[Array, Array]]  # of an observation, an action and its log-prob


def play(family: TaskFamily, act: Act, task: ArrayTree, keys: Key) -> Episodes:
    """Episodes of one task by a policy without memory; no gradient is meant to pass.

    Args:
      family: of the task.
      act: `(observation, key) -> (action, log_prob)`, of one environment.
      task: of the family.
      keys: `[E]`, one an episode.
    """

    def episode(key: Key) -> Episodes:
        for_reset, for_steps = jax.random.split(key)
        state, row = family.env.reset(for_reset, task)

        def step(carry: Any, key: Key) -> tuple[Any, Episodes]:
            state, observation = carry
            for_action, for_env = jax.random.split(key)
            action, log_prob = act(observation, for_action)
            state, row, _ = family.env.step(for_env, state, action, task)
            return (state, row.observation), Episodes(observation, action, log_prob, row.reward)

        keys = jax.random.split(for_steps, family.episode_length)
        return jax.lax.scan(step, (state, row.observation), keys)[1]

    return jax.vmap(episode)(keys)


def training_tasks(family: TaskFamily, key: Key, num_tasks: int) -> ArrayTree:
    """K tasks to learn from, leaves `[K, ...]`; K may be 0: see `choose`."""
    tasks = draw_tasks(family, key, max(num_tasks, 1))
    return tasks if num_tasks else jax.tree.map(lambda x: x[:0], tasks)


def choose(family: TaskFamily, tasks: ArrayTree, key: Key, num_tasks: int) -> ArrayTree:
    """M of the training tasks `[K, ...]`, with replacement; fresh ones of the family where there
    are none (K = 0)."""
    (known, *_) = (x.shape[0] for x in jax.tree.leaves(tasks))
    if not known:
        return draw_tasks(family, key, num_tasks)
    chosen = jax.random.randint(key, (num_tasks,), 0, known)
    return jax.tree.map(lambda x: x[chosen], tasks)


def adam(learning_rate: float, max_grad_norm: float) -> optax.GradientTransformation:
    """Of the outer loop."""
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate))


def descend(
    optimiser: optax.GradientTransformation,
    loss: Callable[[Any], tuple[Array, Metrics]],
    params: Any,
    opt_state: ArrayTree,
    epochs: int,
) -> tuple[Any, ArrayTree, Metrics]:
    """Gradient steps on one loss.

    Args:
      optimiser: of `params`.
      loss: `(params) -> (loss [], metrics)`, of the same data in all epochs.
      params: before the first step.
      opt_state: of the optimiser.
      epochs: steps.

    Returns:
      Parameters and optimiser's state after them, and metrics `[epochs]` of each before its step,
      with the gradient's norm.
    """

    def epoch(carry: Any, _: None) -> tuple[Any, Metrics]:
        params, opt_state = carry
        gradient, metrics = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimiser.update(gradient, opt_state, params)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        return (optax.apply_updates(params, updates), opt_state), metrics

    (params, opt_state), metrics = jax.lax.scan(epoch, (params, opt_state), None, epochs)
    return params, opt_state, metrics


def returns_to_go(reward: Array, discount: float) -> Array:
    """What follows each action, R_t = sum_n discount^n r_{t + n + 1}, `[E, T]` as `reward` is:
    nothing is to be had behind an episode's end."""
    t = reward.shape[1]
    discount_t = jnp.full((t,), discount).at[-1].set(0.0)

    def one(reward: Array) -> Array:
        return returns.discounted_returns(reward, discount_t, jnp.zeros(t + 1), jnp.ones(t, bool))

    return jax.vmap(one)(reward)


def head_of(family: TaskFamily, outputs: Array) -> distributions.Distribution:
    """The policy that a column's outputs `[..., A]` or `[..., 2 A]` stand for."""
    if not family.spec.action_size:
        return distributions.categorical(outputs)
    mean, raw = jnp.split(outputs, 2, -1)
    return distributions.Gaussian(mean, distributions.bounded_log_std(raw, *LOG_STD))


def check_curve(curve: tuple[int, ...]) -> None:
    """Raises ValueError unless `curve` holds numbers of episodes, none below 0, each larger than
    the one before."""
    rising = all(a < b for a, b in itertools.pairwise(curve))
    if not curve or min(curve) < 0 or not rising:
        raise ValueError(f"curve must hold rising numbers of episodes from 0 on; got {curve}")


def check_host(family: TrialFamily, meta_batch: int, train_tasks: int) -> None:
    """Raises ValueError unless slots can be shared among environments, and tasks among slots."""
    known = len(family.train)
    if meta_batch % known:
        raise ValueError(f"meta_batch must be a multiple of {known} environments; got {meta_batch}")
    if train_tasks % meta_batch:
        raise ValueError(
            f"train_tasks must be a multiple of meta_batch = {meta_batch}, or 0 for new ones at "
            f"every update; got {train_tasks}"
        )
