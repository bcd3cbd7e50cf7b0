"""Multi-task PPO: one network or many, continuous actions or discrete ones.

Schulman et al. 2017, *Proximal Policy Optimization Algorithms*, arXiv 1707.06347. The loss stands
in `losses/ppo`, what a rollout is turned into in `ppo_samples`; here they meet networks, devices
and tasks. What matters with many tasks:

  * advantages are standardised for each task over the whole rollout, so that no task's rewards
    weigh more than another's;
  * each task's value targets are brought to mean 0 and variance 1 by running statistics of its own,
    and the value network's last layer is rescaled when those move, so that its values in units of
    reward do not ("PopArt": van Hasselt et al. 2016, arXiv 1602.07714, for each task as in Hessel
    et al. 2018, arXiv 1809.04474);
  * a task without a valid step in a rollout moves no statistics;
  * every minibatch holds equally much of each task, so that the tasks' gradients exist side by side
    and any method of `surgery` combines them, for the policy and for the value network separately;
  * a time limit is not an end: its last row bootstraps (`returns.gae`), and reset rows weigh 0.

Departures and choices:
  1. The clip is around the policy at the start of the update, and samples are weighted towards it
     from the policy that acted (Hilton et al. 2021, arXiv 2110.00641): on a host suite those differ
     by one update (not with `overlap=False`), on a functional one not at all.
  2. Statistics of observations move when an update is over: all of it reads what acting read, or
     the ratio would not begin at 1. The first rollout is read with its own: the policy's outputs
     start at 0, whatever it reads, and so its log-probabilities are the same.
  3. An update ends early when KL(old || new), averaged over tasks, passes `target_kl`. The step
     that saw it is still made.
  4. A continuous policy is a Gaussian without squashing, cut off by the environment; log-densities
     are those of the draw before the cut.
  5. A minibatch is a random set of time steps, other ones for each task, with all environments: so
     several devices, which share the environments, see the minibatches that one would.
  6. Values are not clipped; policy and value networks share nothing.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import curriculum, distributions, freeze, learner, normalisers, ranges, surgery
from mtrl_jax.algorithms import actor_critic, checks, ppo_samples
from mtrl_jax.losses import ppo as losses
from mtrl_jax.ranges import Count, NotNegative, OneOf, Positive, Unit
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Metrics, Rollout, Timestep

STATISTICS = ("task", "shared", "none")


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one agent."""

    network: str = "onehot"
    hidden: tuple[Count, ...] = (128, 128)
    activation: str = "tanh"
    layer_norm: bool = False
    statistics: Annotated[str, OneOf(STATISTICS)] = "task"  # scale observations of
    observation_limit: Positive = 10.0  # in standard deviations
    initial_std: actor_critic.InitialStd = 0.6  # of a continuous action
    state_std: bool = False  # whether the network decides it; otherwise each task has its own
    discount: Unit = 0.99
    lambda_: Unit = 0.97
    unroll_length: Count = 250
    epochs: Count = 10
    minibatches: Count = 10  # an epoch
    clip: Positive = 0.2
    target_kl: NotNegative = 0.03  # 0: no early stop
    entropy_cost: NotNegative = 0.0
    value_cost: NotNegative = 0.5
    return_memory: Unit = 0.2  # least weight of a rollout in the running statistics of returns
    surgery: checks.Surgery = "mean"
    task_weights: tuple[NotNegative, ...] = ()  # of the tasks' losses; (): 1 each
    curriculum: str = ""  # what moves them: success or progress, with options; "": nothing
    freeze: tuple[str, ...] = ()  # patterns of names of parameters that stay as they are
    learning_rate: Positive = 5e-4
    final_learning_rate: Unit = 1.0  # of the initial one, at the end of a linear decay
    adam_epsilon: Positive = 1e-5
    max_grad_norm: Positive = 1.0  # of each network
    overlap: bool = True  # on a host suite: collect beside the update, one policy behind


class State(NamedTuple):
    """Everything learnt.

    Attributes:
      params: `shared` and `task` (leaves `[K, *param]`) have an "actor" and a "critic" each.
      opt_state: of both halves.
      observations: moments `[K, F]`, equal for all tasks with `statistics="shared"`.
      returns: moments `[K]` of the value targets.
      key: of the minibatches; constant.
      updates: int32, made so far.
      curriculum: what moves the tasks' weights, if anything does.
    """

    params: learner.Params
    opt_state: learner.OptState
    observations: normalisers.Moments
    returns: normalisers.Moments
    key: Key
    updates: Array
    curriculum: ArrayTree = ()


class Policy(NamedTuple):
    """What acting reads."""

    params: learner.Params
    observations: normalisers.Moments


class _Parts(NamedTuple):
    """A config made concrete for one spec."""

    config: Config
    spec: EnvSpec
    nets: actor_critic.ActorCritic
    transforms: learner.Transforms
    numbers: ppo_samples.Numbers
    weights: curriculum.Plan


def check(spec: EnvSpec, config: Config) -> None:
    """Raises ValueError, naming the field, what came and what is allowed."""
    ranges.check(config)
    checks.surgery_without_losses(config, "which a policy's are not")
    checks.task_weights(spec, config)
    if config.unroll_length % config.minibatches:
        raise ValueError(
            f"minibatches must divide unroll_length = {config.unroll_length}; got "
            f"{config.minibatches}"
        )


def agent(
    spec: EnvSpec,
    config: Config,
    num_updates: int = 0,
    collectives: learner.Collectives = learner.ALONE,
) -> Agent:
    """The functions that `train.py` calls.

    Args:
      spec: of the suite.
      config: numbers.
      num_updates: length of the learning-rate decay; 0 for a constant rate.
      collectives: of the devices of the run.

    Raises:
      ValueError: as `check`.
    """
    check(spec, config)
    parts = make_parts(spec, config, num_updates, collectives)

    def act_(
        policy: Policy,
        actor: tuple[()],
        timestep: Timestep,
        keys: Key,
        *,
        distilled: bool = False,
        greedy: bool = False,
    ) -> tuple[Array, Array, tuple[()]]:
        return *act(parts, policy, timestep.observation, keys, greedy=greedy), actor

    return Agent(
        init=lambda key: init(parts, key),
        init_actor=lambda num_envs: (),
        policy_params=lambda state: Policy(state.params, state.observations),
        act=act_,
        update=lambda state, rollout: update(parts, state, rollout),
        unroll_length=config.unroll_length,
        has_distilled=False,
        greedy_eval=True,
        has_greedy=True,
        overlap=config.overlap,
        num_devices=collectives.size,
        observe=curriculum.observer(parts.weights),
        environments=curriculum.stepping(parts.weights),
    )


def make_parts(
    spec: EnvSpec,
    config: Config,
    num_updates: int,
    collectives: learner.Collectives = learner.ALONE,
    at_once: int = 0,
) -> _Parts:
    """Networks and optimisers of the numbers in `config`. An update is of `at_once` of the tasks
    (0: of all), whose numbers whoever calls it puts into `numbers.tasks`."""
    nets = actor_critic.make(
        spec,
        config.network,
        config.hidden,
        state_std=config.state_std,
        limit=0.0 if config.statistics == "none" else config.observation_limit,
        activation=config.activation,
        layer_norm=config.layer_norm,
    )
    rate: Any = config.learning_rate
    if num_updates:  # steps that the early stop leaves out do not count
        steps = num_updates * config.epochs * config.minibatches
        rate = optax.linear_schedule(rate, rate * config.final_learning_rate, steps)

    def step():
        return optax.chain(
            optax.clip_by_global_norm(config.max_grad_norm),
            optax.adam(rate, eps=config.adam_epsilon),
        )

    # Each network has its own norm to clip, as it has its own surgery.
    each = optax.partition({n: step() for n in ("actor", "critic")}, lambda p: {n: n for n in p})
    operate: Any = surgery.METHODS[config.surgery]
    count = at_once or spec.num_tasks
    shared = optax.chain(operate(num_tasks=count, scope="module", diagnostics=True), each)
    numbers = ppo_samples.Numbers(
        nets, config.discount, config.lambda_, config.return_memory, collectives
    )
    frozen = freeze.select(
        config.freeze, lambda key: actor_critic.init_params(nets, key, config.initial_std)
    )
    transforms = learner.Transforms(shared, each, frozen)
    weights = checks.task_weights(spec, config)
    return _Parts(config, spec, nets, transforms, numbers, weights)


def init(parts: _Parts, key: Key) -> State:
    """Fresh parameters, optimiser states and statistics."""
    params = actor_critic.init_params(
        parts.nets, jax.random.fold_in(key, 0), parts.config.initial_std
    )
    opt_state = learner.init_optimisers(parts.transforms, params)
    k = parts.spec.num_tasks
    return State(
        params,
        opt_state._replace(shared=surgery.reseed(opt_state.shared, key)),
        normalisers.init_moments((k, parts.nets.num_inputs)),
        normalisers.init_moments((k,)),
        jax.random.fold_in(key, 1),
        jnp.int32(0),
        curriculum.init(parts.weights, k),
    )


def act(
    parts: _Parts, policy: Policy, observation: Array, keys: Key, *, greedy: bool = False
) -> tuple[Array, Array]:
    """Actions `[K, E, ...]`, drawn or (greedy) likeliest, and their log-probabilities `[K, E]`."""
    nets, numbers = parts.nets, parts.numbers.task_numbers()

    def one_task(task, moments, observation, keys, k):
        x = actor_critic.inputs(nets, moments, observation)
        head = actor_critic.policy(nets, policy.params.shared, task, x, k)
        action = distributions.mode(head) if greedy else distributions.sample(head, keys)
        return action, distributions.log_prob(head, action)

    return jax.vmap(one_task)(policy.params.task, policy.observations, observation, keys, numbers)


def loss(
    parts: _Parts, shared: ArrayTree, task: ArrayTree, batch: tuple[Any, ...]
) -> tuple[Array, Metrics]:
    """`losses.ppo_loss` of one task; `batch` is (samples `[B, ...]`, moments `[F]`, number)."""
    samples, moments, k = batch
    config, nets = parts.config, parts.nets
    x = actor_critic.inputs(nets, moments, samples.observation)
    head = actor_critic.policy(nets, shared, task, x, k)
    predictions = losses.Predictions(
        distributions.log_prob(head, samples.action),
        distributions.entropy(head),
        actor_critic.value(nets, shared, task, x, k),
    )
    return losses.ppo_loss(
        predictions,
        samples.data,
        epsilon=config.clip,
        entropy_cost=config.entropy_cost,
        value_cost=config.value_cost,
    )


# ------------------------------------------------------------------------------------------ update


def update(parts: _Parts, state: State, rollout: Rollout) -> tuple[State, Metrics]:
    """All epochs on a rollout, as one scan; metrics `[K]` are means over the steps made."""
    config, tasks = parts.config, parts.numbers.task_numbers()
    weights = curriculum.weights(parts.weights, state.curriculum)
    moved = observe(parts, state.observations, rollout)
    fresh = state.observations.batches == 0
    acted = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), moved, state.observations)
    params, returns, samples, metrics = ppo_samples.prepare(
        parts.numbers, state.params, acted, state.returns, rollout
    )
    rows = ppo_samples.minibatch_rows(
        (config.epochs, config.minibatches, len(tasks), config.unroll_length),
        jax.random.fold_in(state.key, state.updates),
    )

    def gradient_step(params, opt_state, index):
        def flat(x):
            return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

        take = jax.vmap(lambda x, i: flat(x[i]))  # [K, T, E, ...] to [K, B, ...]
        chosen = jax.tree.map(lambda x: take(x, index), samples)
        return learner.gradient_step(
            lambda shared, task, one: loss(parts, shared, task, one),
            parts.transforms,
            params,
            opt_state,
            (chosen, acted, tasks),
            parts.numbers.collectives,
            weights,
        )

    shapes = jax.eval_shape(gradient_step, params, state.opt_state, rows[0])[2]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def learn(carry, index):
        params, opt_state, total, steps, _ = carry
        params, opt_state, values = gradient_step(params, opt_state, index)
        stop = (config.target_kl > 0) & (values["policy/kl"].mean() > config.target_kl)
        return params, opt_state, jax.tree.map(jnp.add, total, values), steps + 1.0, stop

    def one(carry, index):
        return jax.lax.cond(carry[-1], lambda c, i: c, learn, carry, index), None

    carry = (params, state.opt_state, zeros, jnp.float32(0.0), jnp.bool_(False))
    (params, opt_state, total, steps, _), _ = jax.lax.scan(one, carry, rows)
    metrics |= jax.tree.map(lambda x: x / steps, total) | {"policy/steps": steps}
    if parts.spec.action_size:
        std = actor_critic.own_std(params.task["actor"]["std"])
        real = parts.numbers.of_tasks(parts.spec.coordinate_mask)
        metrics["policy/std"] = std.mean(-1, where=real)
    metrics |= curriculum.logged(parts.weights, state.curriculum)
    return state._replace(
        params=params,
        opt_state=opt_state,
        observations=moved,
        returns=returns,
        updates=state.updates + 1,
    ), metrics


def observe(
    parts: _Parts, observations: normalisers.Moments, rollout: Rollout
) -> normalisers.Moments:
    """Moments for the next policy: with the observations of a rollout from which one may learn."""
    config, rows = parts.config, rollout.timestep
    raw = parts.spec.vocabulary is not None or parts.nets.torso is not None
    if config.statistics == "none" or raw:
        return observations
    return normalisers.observe(
        observations,
        jnp.moveaxis(rows.observation[:-1], 1, 0),
        jnp.moveaxis(rows.valid[1:], 1, 0),
        config.statistics == "shared",
        parts.numbers.collectives.sum,
        parts.numbers.of_tasks(parts.spec.observation_mask),
    )
