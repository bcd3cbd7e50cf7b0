"""MAML: parameters from which a policy gradient step or two on a task's own episodes helps.

Finn, Abbeel and Levine 2017, arXiv 1703.03400, with an outer loss of PPO (the paper's is TRPO):

    theta'_i = theta - rate dL(theta; D_i),   D_i: E episodes of task i with pi_theta
    min over theta of  mean_i L_ppo(theta'_i(theta); D'_i),   D'_i with pi_theta'_i

The inner loss is `losses.dice.loaded_dice`, so that its second derivative is that of the return,
and the outer gradient goes through the step; not through the drawing of D_i (as the paper, where
E-MAML would). In the second and later epochs of an update D_i is that of the update's start.

Advantages of the inner loss are returns minus the mean of the block's other episodes at that time;
of a single episode, minus a critic that learns what theta earns before it adapts (`baseline`: one
of the two, or "either"). Those of the outer loss are minus the other episodes' too, and scaled by
task. Nothing is normalised across tasks.

With `inner_steps=0` it is PPO on all tasks at once, whose policy may be fine-tuned: `evaluate`
adapts as ever.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import distributions, ranges
from mtrl_jax.algorithms import few_shot
from mtrl_jax.algorithms.few_shot import Episodes, Learner, Score
from mtrl_jax.envs.task_family import TaskFamily
from mtrl_jax.losses import dice, maml, ppo
from mtrl_jax.networks import columns
from mtrl_jax.ranges import Count, CountOr0, NotNegative, OneOf, Positive, Unit
from mtrl_jax.types import Array, ArrayTree, Key, Metrics

__all__ = [
    "Config",
    "Params",
    "State",
    "adapt_to",
    "fresh",
    "learner_of",
    "make",
    "meta_loss",
    "policy_of",
    "values_of",
]


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one learner.

    `train_tasks=0` draws new tasks at every update. `rate` is of the inner steps, in training and
    evaluation; `episodes` E are those of one inner step, of which `inner_steps` are taken in
    training, and of the outer loss. `dice_lambda` is `loaded_dice`'s. `reward_scale` multiplies
    what is learnt from.
    """

    hidden: tuple[Count, ...] = (32, 32)
    train_tasks: CountOr0 = 1000
    meta_batch: Count = 40
    episodes: Count = 5
    outer_episodes: Count = 20
    inner_steps: CountOr0 = 1
    rate: NotNegative = 0.5
    first_order: bool = False
    baseline: Annotated[str, OneOf(("critic", "episodes", "either"))] = "either"
    discount: Unit = 0.99
    dice_lambda: Unit = 1.0
    epochs: Count = 4
    epsilon: Positive = 0.2
    entropy_cost: NotNegative = 0.0
    value_cost: NotNegative = 0.5
    learning_rate: Positive = 1e-3
    max_grad_norm: Positive = 1.0
    eval_episodes: Count = 20
    reward_scale: Positive = 1.0


class Params(NamedTuple):
    """Of the policy, which adapts, and of the critic, which does not."""

    policy: ArrayTree
    critic: ArrayTree


class State(NamedTuple):
    """Everything learnt, and the training tasks, leaves `[K, ...]`."""

    params: Params
    opt_state: ArrayTree
    tasks: ArrayTree


class Parts(NamedTuple):
    """What is bound once: columns without memory, which read no previous action. `family` is as in
    `rl2.Parts`; `collect` plays in it."""

    family: Any
    config: Config
    curve: tuple[int, ...]
    policy: columns.Column
    critic: columns.Column
    optimiser: optax.GradientTransformation


def make(family: Any, config: Config, curve: tuple[int, ...]) -> Parts:
    """Raises ValueError for numbers out of range, naming the field."""
    ranges.check(config)
    few_shot.check_curve(curve)
    policy, critic = (
        columns.from_spec(family.spec, config.hidden, "none", 1, has_policy=p, has_value=not p)
        for p in (True, False)
    )
    adam = few_shot.adam(config.learning_rate, config.max_grad_norm)
    return Parts(family, config, curve, policy, critic, adam)


def learner_of(family: TaskFamily, config: Config, curve: tuple[int, ...]) -> Learner:
    """MAML on a family; `curve` are the numbers of episodes after which `evaluate` asks.

    Raises:
      ValueError: naming the field, what came and what is allowed.
    """
    parts = make(family, config, curve)
    inner = config.inner_steps * config.episodes
    return Learner(
        init=lambda key: init(parts, key),
        update=lambda state, key: update(parts, state, key),
        tasks=lambda state: state.tasks,
        evaluate=lambda state, tasks, key: evaluate(parts, state.params, tasks, key),
        episodes_per_update=config.meta_batch * (inner + config.outer_episodes),
    )


def init(parts: Parts, key: Key) -> State:
    """Fresh parameters, and training tasks drawn for this state alone."""
    *for_params, for_tasks = jax.random.split(key, 3)
    params = _fresh(parts, *for_params)
    tasks = few_shot.training_tasks(parts.family, for_tasks, parts.config.train_tasks)
    return State(params, parts.optimiser.init(params), tasks)


def fresh(parts: Parts, key: Key) -> Params:
    """Parameters that have learnt nothing."""
    return _fresh(parts, *jax.random.split(key))


def _fresh(parts: Parts, for_policy: Key, for_critic: Key) -> Params:
    spec, first = parts.family.spec, jnp.ones((1, 1), bool)
    observation = jnp.zeros((1, 1, *spec.observation_shape), spec.observation_dtype)
    inputs = (observation, columns.no_action(spec, (1, 1)), jnp.zeros((1, 1)), first, ())
    columns_and_keys = ((parts.policy, for_policy), (parts.critic, for_critic))
    return Params(*(column.init(key, *inputs)["params"] for column, key in columns_and_keys))


# ------------------------------------------------------------------------------ networks


def policy_of(parts: Parts, params: ArrayTree, observation: Array) -> distributions.Distribution:
    """What the policy's column says of observations `[E, T, ...]`."""
    batch, spec = observation.shape[:2], parts.family.spec
    inputs = (observation, columns.no_action(spec, batch), jnp.zeros(batch), jnp.ones(batch, bool))
    outputs, _, _ = parts.policy.apply({"params": params}, *inputs, ())  # type: ignore[misc]
    return few_shot.head_of(parts.family, outputs)


def values_of(parts: Parts, params: ArrayTree, observation: Array) -> Array:
    """What the critic's column says, `[E, T]`. The share of the episode that is over stands where a
    column reads a reward."""
    batch, spec = observation.shape[:2], parts.family.spec
    time = jnp.broadcast_to(jnp.arange(batch[1]) / jnp.float32(batch[1]), batch)
    inputs = (observation, columns.no_action(spec, batch), time, jnp.ones(batch, bool))
    _, values, _ = parts.critic.apply({"params": params}, *inputs, ())  # type: ignore[misc]
    return values


def _returns_to_go(parts: Parts, episodes: Episodes) -> Array:
    """`[E, T]`, in the losses' units."""
    return few_shot.returns_to_go(
        episodes.reward * parts.config.reward_scale, parts.config.discount
    )


def _minus_others(to_go: Array) -> Array:
    """Minus the mean of the other episodes at that time; `[E, T]`. A single one has no others."""
    e = to_go.shape[0]
    others = (to_go.sum(0, keepdims=True) - to_go) / max(e - 1, 1)
    return to_go - others


# ------------------------------------------------------------------------- inner and outer


def collect(parts: Parts, policy: ArrayTree, task: ArrayTree, keys: Key) -> Episodes:
    """Episodes of one task with a policy's parameters; no gradient."""
    policy = jax.lax.stop_gradient(policy)

    def act(observation: Array, key: Key) -> tuple[Array, Array]:
        head = policy_of(parts, policy, observation[None, None])
        action = distributions.sample(head, key[None, None])
        return action[0, 0], distributions.log_prob(head, action)[0, 0]

    return few_shot.play(parts.family, act, task, keys)


def _inner_loss(parts: Parts, critic: ArrayTree, policy: ArrayTree, episodes: Episodes) -> Array:
    """Mean over episodes and time; the gradient's is the policy gradient."""
    to_go = _returns_to_go(parts, episodes)
    alone = to_go.shape[0] == 1 and parts.config.baseline == "either"
    if parts.config.baseline == "critic" or alone:
        advantage = to_go - values_of(parts, critic, episodes.observation)
    else:
        advantage = _minus_others(to_go)
    head = policy_of(parts, policy, episodes.observation)
    log_prob = distributions.log_prob(head, episodes.action)
    each = jax.vmap(dice.loaded_dice, (0, 0, None))(log_prob, advantage, parts.config.dice_lambda)
    return -each.mean() / to_go.shape[1]


def adapt_to(parts: Parts, params: Params, blocks: Episodes) -> ArrayTree:
    """The policy's parameters after an inner step on each block, leaves `[N, E, T, ...]`; carries
    gradient to the policy's through all of them. Blocks of fewer episodes than were trained with
    take a step as much shorter."""

    def loss(policy: ArrayTree, block: Episodes) -> Array:
        return _inner_loss(parts, params.critic, policy, block)

    config = parts.config
    rate = config.rate * (blocks.reward.shape[1] / config.episodes)
    return maml.adapt(loss, params.policy, blocks, rate, first_order=config.first_order)


def meta_loss(
    parts: Parts, params: Params, blocks: Episodes, outer: Episodes
) -> tuple[Array, Metrics]:
    """PPO's loss of one task behind its inner steps, with the critic's beside it.

    Args:
      parts: of `make`.
      params: theta. Carries gradient, to the policy through the inner steps.
      blocks: D, leaves `[inner_steps, E, T, ...]`.
      outer: D', drawn behind those steps.

    Returns:
      The loss, and metrics.
    """
    config = parts.config
    policy = adapt_to(parts, params, blocks)
    head = policy_of(parts, policy, outer.observation)
    advantage = _minus_others(_returns_to_go(parts, outer))
    advantage /= advantage.std() + 1e-3  # of this task alone
    flat = outer.reward.size
    zeros, ones = jnp.zeros(flat), jnp.ones(flat)
    log_prob = distributions.log_prob(head, outer.action)
    predictions = ppo.Predictions(log_prob.ravel(), distributions.entropy(head).ravel(), zeros)
    data = ppo.Data(outer.log_prob.ravel(), advantage.ravel(), zeros, ones, ones)
    loss, metrics = ppo.ppo_loss(
        predictions, data, epsilon=config.epsilon, entropy_cost=config.entropy_cost, value_cost=0.0
    )
    before = jax.tree.map(lambda x: x[0], blocks) if config.inner_steps else outer
    error = values_of(parts, params.critic, before.observation) - _returns_to_go(parts, before)
    critic = jnp.square(error).mean()
    metrics = {
        "loss/policy": loss,
        "loss/critic": critic,
        "policy/entropy": metrics["policy/entropy"],
        "return/before": before.reward.sum(1).mean(),
        "return/after": outer.reward.sum(1).mean(),
    }
    return loss + config.value_cost * critic, metrics


def experience(
    parts: Parts, params: Params, task: ArrayTree, key: Key
) -> tuple[Episodes, Episodes]:
    """D, a block for each inner step, and D' of one task."""
    config, policy = parts.config, params.policy
    for_inner, for_outer = jax.random.split(key)

    def inner(policy: ArrayTree, key: Key) -> tuple[ArrayTree, Episodes]:
        block = collect(parts, policy, task, jax.random.split(key, config.episodes))
        one = jax.tree.map(lambda x: x[None], block)
        return adapt_to(parts, params._replace(policy=policy), one), block

    policy, blocks = jax.lax.scan(inner, policy, jax.random.split(for_inner, config.inner_steps))
    keys = jax.random.split(for_outer, config.outer_episodes)
    return blocks, collect(parts, policy, task, keys)


def update(parts: Parts, state: State, key: Key) -> tuple[State, Metrics]:
    """Some epochs of gradient steps on the episodes of `meta_batch` tasks; metrics are means over
    them, before the first step."""
    config = parts.config
    for_tasks, for_episodes = jax.random.split(key)
    tasks = few_shot.choose(parts.family, state.tasks, for_tasks, config.meta_batch)
    keys = jax.random.split(for_episodes, config.meta_batch)
    blocks, outer = jax.vmap(lambda t, k: experience(parts, state.params, t, k))(tasks, keys)
    return learn(parts, state, blocks, outer)


def learn(parts: Parts, state: State, blocks: Episodes, outer: Episodes) -> tuple[State, Metrics]:
    """The gradient steps of an update; leaves of what was played lead with M tasks."""

    def loss(params: Params) -> tuple[Array, Metrics]:
        each, metrics = jax.vmap(lambda b, o: meta_loss(parts, params, b, o))(blocks, outer)
        return each.mean(), jax.tree.map(jnp.mean, metrics)

    params, opt_state, metrics = few_shot.descend(
        parts.optimiser, loss, state.params, state.opt_state, parts.config.epochs
    )
    return State(params, opt_state, state.tasks), jax.tree.map(lambda x: x[0], metrics)


# ----------------------------------------------------------------------------- evaluation


def evaluate(parts: Parts, params: Params, tasks: ArrayTree, key: Key) -> Score:
    """Adapts to every task by itself: an inner step behind each `episodes`, and one on what is left
    of them at a point of the curve between two."""
    block, last = parts.config.episodes, parts.curve[-1]

    def stepped(policy: ArrayTree, task: ArrayTree, keys: Key) -> tuple[ArrayTree, Array]:
        """One step on an episode a key, and their returns."""
        episodes = collect(parts, policy, task, keys)
        one = jax.tree.map(lambda x: x[None], episodes)
        return adapt_to(parts, params._replace(policy=policy), one), episodes.reward.sum(1)

    def one_task(task: ArrayTree, key: Key) -> Score:
        for_steps, for_rest, for_scores = jax.random.split(key, 3)

        def whole(policy: ArrayTree, keys: Key) -> tuple[ArrayTree, tuple[ArrayTree, Array]]:
            following, earned = stepped(policy, task, keys)
            return following, (policy, earned)

        keys = jax.random.split(for_steps, (last // block, block))
        end, (before, earned) = jax.lax.scan(whole, params.policy, keys)
        chain = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), before, end)
        policies, earned = [], earned.ravel()
        for point in parts.curve:
            policy, left = jax.tree.map(lambda x, n=point // block: x[n], chain), point % block
            if left:
                keys = jax.random.split(jax.random.fold_in(for_rest, point), left)
                policy, rest = stepped(policy, task, keys)
                earned = jnp.append(earned, rest) if point == last else earned
            policies.append(policy)
        scores = jax.random.split(for_scores, (len(policies), parts.config.eval_episodes))
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *policies)
        found = jax.vmap(lambda p, k: collect(parts, p, task, k))(stacked, scores)
        curve = found.reward.sum(2).mean(1)
        return Score(curve, earned.mean() if last else curve[0])

    (num_tasks, *_) = (x.shape[0] for x in jax.tree.leaves(tasks))
    return jax.vmap(one_task)(tasks, jax.random.split(key, num_tasks))
