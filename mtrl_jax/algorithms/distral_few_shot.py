"""Distral's distilled policy as a start for tasks never met.

Teh et al. 2017, arXiv 1707.04175: K training tasks have a column each beside the shared one, whose
policy pi_0 is what all of them are held to (`losses.distral`). Here pi_0 then meets a new task as
any fresh policy does, by the policy gradient steps of `algorithms.maml`: before the first of them
it acts as the training tasks' policies do on average.

Columns read observations alone, as on a new task. A task's value is a column of its own, which also
reads how much of the episode is over.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import distributions, ranges
from mtrl_jax.algorithms import few_shot, maml
from mtrl_jax.algorithms.few_shot import Episodes, Learner, Score
from mtrl_jax.envs.task_family import TaskFamily
from mtrl_jax.losses import distral
from mtrl_jax.ranges import Count, NotNegative, OneOf, Positive, Unit
from mtrl_jax.types import Array, ArrayTree, Key, Metrics

__all__ = ["Config", "Params", "State", "learner_of", "loss", "make", "mean_loss", "update"]

# Those of Table 1 that have a pi_0 beside the tasks' policies.
ALGORITHMS = tuple(
    name for name, x in distral.ALGORITHMS.items() if x.has_shared_column and x.has_task_column
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one learner.

    `train_tasks` K have a column each, and `outer_episodes` at every update. What follows
    `max_grad_norm` is of adapting, as in `maml.Config`.
    """

    algorithm: Annotated[str, OneOf(ALGORITHMS)] = "kl_ent_2col"
    hidden: tuple[Count, ...] = (32, 32)
    train_tasks: Count = 16
    outer_episodes: Count = 20
    entropy_cost: Positive = 0.05
    discount: Unit = 0.99
    lambda_: Unit = 0.95
    value_cost: NotNegative = 0.5
    learning_rate: Positive = 3e-3
    max_grad_norm: Positive = 1.0
    episodes: Count = 5
    rate: NotNegative = 0.3
    eval_episodes: Count = 20


class Params(NamedTuple):
    """Columns: pi_0's, and leaves `[K, ...]`, each task's policy and value."""

    shared: ArrayTree
    task: ArrayTree
    value: ArrayTree


_OWN = Params(shared=None, task=0, value=0)  # axes of K


class State(NamedTuple):
    """Everything learnt, and the training tasks, leaves `[K, ...]`."""

    params: Params
    opt_state: ArrayTree
    tasks: ArrayTree


class Parts(NamedTuple):
    """What is bound once; `adapting` is `maml`'s, with pi_0's column for its policy."""

    family: TaskFamily
    config: Config
    coefficients: distral.Coefficients
    optimiser: optax.GradientTransformation
    adapting: maml.Parts


def make(family: TaskFamily, config: Config, curve: tuple[int, ...]) -> Parts:
    """Raises ValueError for numbers out of range, naming the field."""
    ranges.check(config)
    names = ("hidden", "episodes", "rate", "discount", "eval_episodes")
    same = {name: getattr(config, name) for name in names}
    adapting = maml.make(family, maml.Config(inner_steps=0, baseline="episodes", **same), curve)
    variant = distral.ALGORITHMS[config.algorithm]
    coefficients = distral.coefficients(variant, 1.0 / config.entropy_cost)
    adam = few_shot.adam(config.learning_rate, config.max_grad_norm)
    return Parts(family, config, coefficients, adam, adapting)


def learner_of(family: TaskFamily, config: Config, curve: tuple[int, ...]) -> Learner:
    """Distral on a family; `curve` are the numbers of episodes after which `evaluate` asks.

    Raises:
      ValueError: naming the field, what came and what is allowed.
    """
    parts = make(family, config, curve)

    def evaluate(state: State, tasks: ArrayTree, key: Key) -> Score:
        distilled = maml.Params(state.params.shared, {})
        return maml.evaluate(parts.adapting, distilled, tasks, key)

    return Learner(
        init=lambda key: init(parts, key),
        update=lambda state, key: update(parts, state, key),
        tasks=lambda state: state.tasks,
        evaluate=evaluate,
        episodes_per_update=config.train_tasks * config.outer_episodes,
    )


def init(parts: Parts, key: Key) -> State:
    """Fresh columns, and training tasks drawn for this state alone."""
    for_shared, for_columns, for_tasks = jax.random.split(key, 3)
    num_tasks = parts.config.train_tasks

    own = jax.vmap(lambda k: maml.fresh(parts.adapting, k))(
        jax.random.split(for_columns, num_tasks)
    )
    params = Params(maml.fresh(parts.adapting, for_shared).policy, own.policy, own.critic)
    tasks = few_shot.training_tasks(parts.family, for_tasks, num_tasks)
    return State(params, parts.optimiser.init(params), tasks)


def _policy(parts: Parts, params: Params, observation: Array) -> tuple[Any, Any]:
    """h and g, logits or Gaussians, of one task's observations `[E, T, ...]`."""
    heads = (maml.policy_of(parts.adapting, x, observation) for x in (params.shared, params.task))
    h, g = (x if isinstance(x, distributions.Gaussian) else x.log_probs for x in heads)
    return h, g


def collect(parts: Parts, params: Params, task: ArrayTree, keys: Key) -> Episodes:
    """Episodes of one task by its own policy pi_i; no gradient."""
    params = jax.lax.stop_gradient(params)

    def act(observation: Array, key: Key) -> tuple[Array, Array]:
        h, g = _policy(parts, params, observation[None, None])
        head = distral.distribution(distral.task_policy(h, g, parts.coefficients), None)
        action = distributions.sample(head, key[None, None])
        return action[0, 0], distributions.log_prob(head, action)[0, 0]

    return few_shot.play(parts.family, act, task, keys)


def loss(parts: Parts, params: Params, episodes: Episodes) -> tuple[Array, Metrics]:
    """Of one task: `losses.distral_loss`, mean over its episodes `[E, T, ...]`.

    Args:
      parts: of `make`.
      params: of this task, leaves without K. Carries gradient, as Table 1 says.
      episodes: that pi_i has played.
    """
    config = parts.config
    h, g = _policy(parts, params, episodes.observation)
    v = maml.values_of(parts.adapting, params.value, episodes.observation)
    v = jnp.pad(v, ((0, 0), (0, 1)))  # nothing is to be had behind an episode's end
    t = episodes.reward.shape[1]
    discount = jnp.full((t,), config.discount).at[-1].set(0.0)

    def one(h: Any, g: Any, v: Array, action: Array, reward: Array) -> tuple[Array, Metrics]:
        steps = distral.Trajectory(action, reward, discount, jnp.ones(t, bool))
        return distral.distral_loss(
            distral.Columns(h, g, v),
            steps,
            parts.coefficients,
            value_cost=config.value_cost,
            lambda_=config.lambda_,
        )

    total, metrics = jax.vmap(one)(h, g, v, episodes.action, episodes.reward)
    metrics = jax.tree.map(jnp.mean, metrics)
    return total.mean(), metrics | {"return/mean": episodes.reward.sum(1).mean()}


def mean_loss(parts: Parts, params: Params, episodes: Episodes) -> tuple[Array, Metrics]:
    """`loss` of K tasks, leaves `[K, E, T, ...]`, and metrics, means over them."""
    each, metrics = jax.vmap(lambda p, e: loss(parts, p, e), (_OWN, 0))(params, episodes)
    return each.mean(), jax.tree.map(jnp.mean, metrics)


def update(parts: Parts, state: State, key: Key) -> tuple[State, Metrics]:
    """A gradient step on new episodes of all K tasks."""
    config = parts.config
    keys = jax.random.split(key, (config.train_tasks, config.outer_episodes))
    episodes = jax.vmap(lambda p, t, k: collect(parts, p, t, k), (_OWN, 0, 0))(
        state.params, state.tasks, keys
    )
    params, opt_state, metrics = few_shot.descend(
        parts.optimiser,
        lambda params: mean_loss(parts, params, episodes),
        state.params,
        state.opt_state,
        1,
    )
    return State(params, opt_state, state.tasks), jax.tree.map(lambda x: x[0], metrics)
