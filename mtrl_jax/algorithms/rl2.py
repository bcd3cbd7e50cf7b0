"""RL^2: a policy with memory, which is the learner, trained over trials of several episodes.

Duan et al. 2016, *RL^2: fast reinforcement learning via slow reinforcement learning*, arXiv
1611.02779; Wang et al. 2016, *Learning to reinforcement learn*, arXiv 1611.05763. A trial is N
episodes of one task. The GRU is fed (s_t, a_{t-1}, r_{t-1}, d_{t-1}), keeps its state from episode
to episode and forgets where a trial begins. What is maximised is the return of the whole trial:
values bootstrap across the ends of episodes, and not across that of the trial.

Trained by PPO (Duan et al.: TRPO), every gradient step on all trials of an update, through time
over the whole of them. Advantages are normalised over all trials: there is one policy.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtrl_jax import distributions, ranges, returns
from mtrl_jax.algorithms import few_shot
from mtrl_jax.algorithms.few_shot import Learner, Score
from mtrl_jax.envs.task_family import TaskFamily
from mtrl_jax.losses import ppo
from mtrl_jax.networks import columns
from mtrl_jax.ranges import Count, CountOr0, NotNegative, Positive, Unit
from mtrl_jax.types import Array, ArrayTree, EnvSpec, Key, Metrics

__all__ = [
    "Config",
    "Inputs",
    "Parts",
    "State",
    "Trials",
    "act",
    "beside",
    "by_episode",
    "first_inputs",
    "following",
    "fresh",
    "learn",
    "learner_of",
    "make",
    "memory",
    "play_trials",
    "unroll",
]


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one learner.

    `train_tasks=0` draws new tasks at every update. A trial has one episode more than the last
    point of the curve. `eval_trials` are those of each task in an evaluation.

    `reward_scale` multiplies rewards, for the memory and for what is learnt. `value_scale`
    multiplies what the value head emits, and is taken out of its error: of the size of a return, it
    keeps a head that begins near 0 from having far to go, and its error from drowning the policy's
    part of a gradient.
    """

    hidden: tuple[Count, ...] = (32,)
    core_size: Count = 64
    train_tasks: CountOr0 = 1000
    meta_batch: Count = 40
    discount: Unit = 0.99
    lambda_: Unit = 0.3
    epochs: Count = 8
    epsilon: Positive = 0.2
    entropy_cost: NotNegative = 0.01
    value_cost: NotNegative = 0.5
    learning_rate: Positive = 1e-3
    max_grad_norm: Positive = 0.5
    eval_trials: Count = 5
    reward_scale: Positive = 1.0
    value_scale: Positive = 1.0


class State(NamedTuple):
    """Everything learnt, and the training tasks, leaves `[K, ...]`."""

    params: ArrayTree
    opt_state: ArrayTree
    tasks: ArrayTree


class Inputs(NamedTuple):
    """What the column reads, leaves `[L, M, ...]`: L actions of M trials.

    Attributes:
      observation: with whether the episode before has just ended as its last element.
      prev_action: -1, or zeros, where there is none.
      prev_reward: 0 where there is none.
      begins: bool, where a trial begins: the memory forgets before such a row.
    """

    observation: Array
    prev_action: Array
    prev_reward: Array
    begins: Array


class Trials(NamedTuple):
    """Whole trials, leaves `[L, M, ...]` with L = N T."""

    inputs: Inputs
    action: Array
    log_prob: Array
    value: Array
    reward: Any


class Parts(NamedTuple):
    """What is bound once. `family` is a `TaskFamily`; of host environments, whatever has its `spec`
    and `episode_length`, which is all that is read of it but by `play_trials`."""

    family: Any
    config: Config
    curve: tuple[int, ...]
    column: columns.Column
    optimiser: optax.GradientTransformation


def make(family: Any, config: Config, curve: tuple[int, ...]) -> Parts:
    """Raises ValueError for numbers out of range, naming the field."""
    ranges.check(config)
    few_shot.check_curve(curve)
    spec = _with_ended(family.spec)
    column = columns.from_spec(spec, config.hidden, "gru", config.core_size)
    adam = few_shot.adam(config.learning_rate, config.max_grad_norm)
    return Parts(family, config, curve, column, adam)


def learner_of(family: TaskFamily, config: Config, curve: tuple[int, ...]) -> Learner:
    """RL^2 on a family; `curve` are the numbers of episodes after which `evaluate` asks.

    Raises:
      ValueError: naming the field, what came and what is allowed.
    """
    parts = make(family, config, curve)
    return Learner(
        init=lambda key: init(parts, key),
        update=lambda state, key: update(parts, state, key),
        tasks=lambda state: state.tasks,
        evaluate=lambda state, tasks, key: evaluate(parts, state.params, tasks, key),
        episodes_per_update=config.meta_batch * (curve[-1] + 1),
    )


def _with_ended(spec: EnvSpec) -> EnvSpec:
    """Observations with one element more."""
    shape = (int(np.prod(spec.observation_shape)) + 1,)
    if spec.vocabulary is None:
        return spec._replace(observation_shape=shape)
    return spec._replace(observation_shape=shape, vocabulary=np.append(spec.vocabulary, 2))


def first_inputs(parts: Parts, observation: Array) -> Inputs:
    """Of the first row of M trials, whose environments show `[M, ...]`; nothing came before."""
    m = observation.shape[0]
    return Inputs(
        beside(observation, jnp.zeros(m, bool)),
        columns.no_action(parts.family.spec, (m,)),
        jnp.zeros(m),
        jnp.ones(m, bool),
    )


def beside(observation: Array, ended: Array) -> Array:
    """Observations `[M, ...]` flat, with whether the episode before has just ended `[M]`."""
    flat = observation.reshape(ended.shape[0], -1)
    return jnp.concatenate([flat, ended[:, None].astype(flat.dtype)], -1)


def init(parts: Parts, key: Key) -> State:
    """Fresh parameters, and training tasks drawn for this state alone."""
    for_params, for_tasks = jax.random.split(key)
    params = fresh(parts, for_params)
    tasks = few_shot.training_tasks(parts.family, for_tasks, parts.config.train_tasks)
    return State(params, parts.optimiser.init(params), tasks)


def fresh(parts: Parts, key: Key) -> ArrayTree:
    """Parameters that have learnt nothing."""
    spec = parts.family.spec
    nothing = jnp.zeros((1, *spec.observation_shape), spec.observation_dtype)
    rows = jax.tree.map(lambda x: x[None], first_inputs(parts, nothing))
    params: ArrayTree = parts.column.init(key, *rows, memory(parts, 1))["params"]
    return params


def memory(parts: Parts, num_trials: int) -> Array:
    """The GRU's state before anything was seen, `[M, core_size]`."""
    core: Array = columns.initial_carry("gru", parts.config.core_size, (num_trials,))
    return core


def unroll(
    parts: Parts, params: ArrayTree, inputs: Inputs, core: Array
) -> tuple[distributions.Distribution, Array, Array]:
    """Policy and value `[L, M]` of each row, and the memory after the last.

    Args:
      parts: of `make`.
      params: of the column. Carries gradient through the whole of it.
      inputs: leaves `[L, M, ...]`.
      core: `[M, core_size]`, before row 0; whatever it holds, NaN included, is forgotten where
        `inputs.begins`.
    """
    outputs, value, core = parts.column.apply(  # type: ignore[misc]
        {"params": params}, *inputs, core
    )
    return few_shot.head_of(parts.family, outputs), value * parts.config.value_scale, core


def act(
    parts: Parts, params: ArrayTree, inputs: Inputs, core: Array, keys: Key
) -> tuple[Array, Array, Array, Array]:
    """An action of M trials, drawn with keys `[M]`, its log-probability, the value and the memory
    behind it; of inputs `[M, ...]`. No gradient is meant to pass."""
    one = jax.tree.map(lambda x: x[None], inputs)
    head, value, core = unroll(parts, params, one, core)
    action = distributions.sample(head, keys[None])
    return action[0], distributions.log_prob(head, action)[0], value[0], core


def following(
    parts: Parts, observation: Array, ended: Array, action: Array, reward: Array
) -> Inputs:
    """Of the next row of M trials: what is seen now, whether it is an episode's first row, and what
    was done and earned before."""
    begins = jnp.zeros(ended.shape, bool)
    sent = columns.previous_action(action, begins)
    return Inputs(beside(observation, ended), sent, reward * parts.config.reward_scale, begins)


def play_trials(
    parts: Parts, params: ArrayTree, tasks: ArrayTree, keys: Key, episodes: int
) -> Trials:
    """A trial of so many episodes of each task `[M, ...]`, with keys `[M]`; no gradient."""
    env, params = parts.family.env, jax.lax.stop_gradient(params)
    reset, step_env = jax.vmap(env.reset), jax.vmap(env.step)

    def step(carry: Any, t: Array) -> tuple[Any, Trials]:
        state, inputs, core = carry
        each = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, t), 3))(keys)
        action, log_prob, value, core = act(parts, params, inputs, core, each[:, 0])
        state, row, ended = step_env(each[:, 1], state, action, tasks)
        fresh, fresh_row = reset(each[:, 2], tasks)
        state, observation = jax.tree.map(
            lambda a, b: jax.vmap(jnp.where)(ended, a, b),
            (fresh, fresh_row.observation),
            (state, row.observation),
        )
        here = Trials(inputs, action, log_prob, value, row.reward)
        inputs = following(parts, observation, ended, action, row.reward)
        return (state, inputs, core), here

    length = episodes * parts.family.episode_length
    state, row = reset(jax.vmap(lambda key: jax.random.fold_in(key, length))(keys), tasks)
    start = (state, first_inputs(parts, row.observation), memory(parts, keys.shape[0]))
    return jax.lax.scan(step, start, jnp.arange(length))[1]


def trial_loss(
    parts: Parts, params: ArrayTree, trials: Trials, advantage: Array, target: Array
) -> tuple[Array, Metrics]:
    """PPO's loss of whole trials; `advantage` and `target` are `[L, M]`."""
    config, m = parts.config, trials.reward.shape[1]
    head, value, _ = unroll(parts, params, trials.inputs, memory(parts, m))
    log_prob, nats = distributions.log_prob(head, trials.action), distributions.entropy(head)
    ones = jnp.ones(trials.reward.size)
    return ppo.ppo_loss(
        ppo.Predictions(log_prob.ravel(), nats.ravel(), value.ravel()),
        ppo.Data(trials.log_prob.ravel(), advantage.ravel(), target.ravel(), ones, ones),
        epsilon=config.epsilon,
        entropy_cost=config.entropy_cost,
        value_cost=config.value_cost / config.value_scale**2,
    )


def advantages(parts: Parts, trials: Trials) -> Array:
    """`[L, M]`, bootstrapped across episodes up to the trial's end."""
    length, _ = trials.reward.shape
    rewards = trials.reward * parts.config.reward_scale
    discount = jnp.full((length,), parts.config.discount).at[-1].set(0.0)
    valid = jnp.ones(length, bool)

    def one(reward: Array, value: Array) -> Array:
        values = jnp.append(value, 0.0)
        return returns.gae(reward, discount, values, valid, parts.config.lambda_)

    return jax.vmap(one, 1, 1)(rewards, trials.value)


def update(parts: Parts, state: State, key: Key) -> tuple[State, Metrics]:
    """Some gradient steps on one trial of each of `meta_batch` tasks; metrics are means."""
    config = parts.config
    for_tasks, for_trials = jax.random.split(key)
    tasks = few_shot.choose(parts.family, state.tasks, for_tasks, config.meta_batch)
    keys = jax.random.split(for_trials, config.meta_batch)
    episodes = parts.curve[-1] + 1
    return learn(parts, state, play_trials(parts, state.params, tasks, keys, episodes))


def learn(parts: Parts, state: State, trials: Trials) -> tuple[State, Metrics]:
    """The gradient steps of an update, on trials of whole episodes that `state` has played."""
    raw = advantages(parts, trials)
    target, advantage = raw + trials.value, (raw - raw.mean()) / (raw.std() + 1e-8)

    def loss(params: ArrayTree) -> tuple[Array, Metrics]:
        return trial_loss(parts, params, trials, advantage, target)

    params, opt_state, metrics = few_shot.descend(
        parts.optimiser, loss, state.params, state.opt_state, parts.config.epochs
    )
    metrics = jax.tree.map(jnp.mean, metrics)
    earned = by_episode(parts, trials).mean(1)
    metrics |= {"return/before": earned[0], "return/after": earned[-1]}
    return State(params, opt_state, state.tasks), metrics


def by_episode(parts: Parts, trials: Trials) -> Array:
    """Returns of the episodes of trials, `[N, M]`."""
    length, m = trials.reward.shape
    t = parts.family.episode_length
    return trials.reward.reshape(length // t, t, m).sum(1)


def evaluate(parts: Parts, params: ArrayTree, tasks: ArrayTree, key: Key) -> Score:
    """Trials with drawn actions; a point of the curve is the episode behind so many."""
    (m, *_) = (x.shape[0] for x in jax.tree.leaves(tasks))
    repeats = parts.config.eval_trials
    many = jax.tree.map(lambda x: jnp.repeat(x, repeats, 0), tasks)
    keys = jax.random.split(key, m * repeats)
    trials = play_trials(parts, params, many, keys, parts.curve[-1] + 1)
    earned = by_episode(parts, trials).reshape(-1, m, repeats).mean(-1)
    online = earned[: max(parts.curve[-1], 1)].mean(0)
    return Score(jnp.stack([earned[n] for n in parts.curve], 1), online)
