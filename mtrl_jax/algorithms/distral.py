"""Distral: task policies regularised towards a distilled policy that they share.

Teh et al., *Distral: Robust Multitask Reinforcement Learning*, NeurIPS 2017, arXiv 1707.04175. The
equations stand in `losses/distral`; here they meet networks, optimisers and environments. All seven
algorithms of the paper's Table 1 are rows of `losses.distral.ALGORITHMS`.

Departures:
  1. A synchronous batched actor-critic stands for asynchronous A3C.
  2. Adam by default (RMSProp is an option): the shared column's gradient in one-column form is
     scaled by alpha / beta ~ 1e-3, where RMSProp's epsilon decides the step.
  3. The clip by global norm acts on each task's parameters apart and on the shared ones after
     surgery, so that no task changes another's step except through the shared column.
  4. Continuous actions, which the paper's equations are not for: Gaussians, cut off by the
     environment, whose log-densities are those of the draw before the cut.
  5. With `overlap`, off by default, a host suite's actions are of the policy before the last
     update, and nothing corrects for that. The loss is on-policy.
"""

import dataclasses
import functools
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import curriculum, distributions, freeze, learner, ranges, surgery
from mtrl_jax.algorithms import actor_critic, alone, checks
from mtrl_jax.losses import distral as losses
from mtrl_jax.networks import columns
from mtrl_jax.ranges import Count, NotNegative, OneOf, Positive, Unit
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Metrics, Rollout, Timestep

OPTIMISERS = ("adam", "rmsprop")
CORES = ("none", "lstm")


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one agent. `entropy_cost` is the paper's 1/beta, in units of reward per nat."""

    algorithm: Annotated[str, OneOf(losses.ALGORITHMS)] = "kl_ent_2col"
    alpha: float = -1.0  # share of entropy_cost that is divergence cost; -1: the algorithm's own
    entropy_cost: Positive = 0.01
    task_cost_scales: tuple[Positive, ...] = ()  # multiplies entropy_cost for each task; (): 1
    entropy_form: Annotated[str, OneOf(losses.ENTROPY_FORMS)] = "reward"
    discount: Unit = 0.99
    lambda_: Unit = 1.0
    unroll_length: Count = 20
    value_cost: NotNegative = 0.5
    reward_scale: float = 1.0
    surgery: checks.Surgery = "sum"
    task_weights: tuple[NotNegative, ...] = ()  # of the tasks' losses; (): 1 each
    curriculum: str = ""  # what moves them: success or progress, with options; "": nothing
    freeze: tuple[str, ...] = ()  # patterns of names of parameters that stay as they are
    optimiser: Annotated[str, OneOf(OPTIMISERS)] = "adam"
    learning_rate: Positive = 5e-4
    final_learning_rate: Unit = 1 / 6  # of the initial one, at the end of a linear decay
    adam_epsilon: Positive = 1e-5
    max_grad_norm: Positive = 1.0
    hidden: tuple[Count, ...] = (128, 128)
    core: Annotated[str, OneOf(CORES)] = "none"
    core_size: Count = 128
    initial_std: actor_critic.InitialStd = 1.0  # of an action, in every column
    separate: bool = False  # every task by itself: as many runs of one task, in one program
    overlap: bool = False  # on a host suite: step beside the update, one policy behind


class State(NamedTuple):
    """Everything learnt. With `separate`, every leaf leads with K: K states of one task."""

    params: learner.Params
    opt_state: learner.OptState
    curriculum: ArrayTree = ()  # what moves the tasks' weights, if anything does


class ActorState(NamedTuple):
    """The agent's memory, leaves `[K, E, ...]`; cores are () where there is none."""

    prev_action: Array  # int32 [K, E], or float32 [K, E, A] before the cut
    shared_core: ArrayTree
    task_core: ArrayTree


class Batch(NamedTuple):
    """What one task's loss reads, leaves `[K, ...]` outside the vmap over tasks: see `batch_of`."""

    timestep: Timestep  # [K, T + 1, E, ...]
    action: Array  # [K, T, E, ...]
    actor_state: ActorState  # [K, E, ...]
    action_mask: Array | None  # [K, A]; None where actions are continuous, all of one size
    cost_scale: Array  # [K]


class _Parts(NamedTuple):
    """A config made concrete for one spec."""

    config: Config
    variant: losses.Variant
    coefficients: losses.Coefficients
    shared: columns.Column
    task: columns.Column
    transforms: learner.Transforms
    collectives: learner.Collectives
    weights: curriculum.Plan


def check(spec: EnvSpec, config: Config) -> losses.Variant:
    """The row of Table 1 that `config` asks for.

    Numbers may be traced, for a vmap over settings; those have no value yet and pass.

    Raises:
      ValueError: naming the field, what came and what is allowed.
    """
    ranges.check(config)
    if config.alpha != -1.0 and not 0.0 <= config.alpha <= 1.0:
        raise ValueError(
            f"alpha must lie in [0, 1], or be -1 for the algorithm's own; got {config.alpha}"
        )
    scales = config.task_cost_scales
    if scales and len(scales) != spec.num_tasks:
        raise ValueError(
            f"task_cost_scales must hold {spec.num_tasks} positive numbers, one per task; "
            f"got {scales}"
        )
    checks.task_weights(spec, config)
    variant = losses.ALGORITHMS[config.algorithm]
    return variant if config.alpha == -1.0 else variant._replace(alpha=config.alpha)


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
      ValueError: as `check`, and for observations that no torso reads.
    """
    variant = check(spec, config)
    num_tasks = 1 if config.separate else spec.num_tasks
    parts = make_parts(spec, config, variant, num_tasks, num_updates, collectives)
    mask = jax.tree.map(jnp.asarray, spec.coordinate_mask if spec.action_size else spec.action_mask)
    scales = jnp.asarray(config.task_cost_scales or (1.0,) * spec.num_tasks)

    def init_(key: Key) -> State:
        if not config.separate:
            return init(parts, spec, num_tasks, key)
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(spec.num_tasks))
        return jax.vmap(lambda k: init(parts, spec, 1, k))(keys)

    def act_(
        policy: ArrayTree,
        actor: ActorState,
        timestep: Timestep,
        keys: Key,
        *,
        distilled: bool = False,
        greedy: bool = False,
    ) -> tuple[Array, Array, ActorState]:
        fn = functools.partial(act, parts, distilled=distilled, greedy=greedy)
        if config.separate:
            return alone.drop_task_axis(alone.each_alone(fn)(policy, mask, actor, timestep, keys))
        return fn(policy, mask, actor, timestep, keys)

    def update_(state: State, rollout: Rollout) -> tuple[State, Metrics]:
        batch = batch_of(rollout, mask, scales)
        fn = functools.partial(update, parts)
        if config.separate:
            state, metrics = alone.each_alone(fn)(state, batch)
            return state, alone.drop_task_axis(metrics)
        return fn(state, batch)

    return Agent(
        init=init_,
        init_actor=lambda num_envs: init_actor(spec, config, variant, num_envs),
        policy_params=lambda state: state.params,
        act=act_,
        update=update_,
        unroll_length=config.unroll_length,
        has_distilled=variant.has_shared_column and variant.has_task_column,
        has_greedy=True,
        overlap=config.overlap,
        num_devices=collectives.size,
        observe=curriculum.observer(parts.weights),
        environments=curriculum.stepping(parts.weights),
    )


def batch_of(rollout: Rollout, action_mask: Array | None, cost_scale: Array) -> Batch:
    """A rollout as `update` reads it, with the masks `[K, A]` and the scales `[K]` of costs."""
    rows = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), rollout.timestep)
    action = jnp.moveaxis(rollout.action, 1, 0)
    return Batch(rows, action, rollout.actor_state, action_mask, cost_scale)


def init(parts: _Parts, spec: EnvSpec, num_tasks: int, key: Key) -> State:
    """Fresh parameters and optimiser states."""
    params = init_params(parts, spec, num_tasks, key)
    opt_state = learner.init_optimisers(parts.transforms, params)
    # Runs and tasks that were initialised by one program must not share surgery's random orders.
    reseeded = surgery.reseed(opt_state.shared, key)
    moved = curriculum.init(parts.weights, num_tasks)
    return State(params, opt_state._replace(shared=reseeded), moved)


def init_params(parts: _Parts, spec: EnvSpec, num_tasks: int, key: Key) -> learner.Params:
    """Fresh parameters, every task column of its own draw."""
    observation = jnp.zeros((1, 1, *spec.observation_shape), spec.observation_dtype)
    row = jnp.zeros((1, 1))
    carry = columns.initial_carry(parts.config.core, parts.config.core_size, (1,))
    args = (observation, columns.no_action(spec, (1, 1)), row, row > 0, carry)
    # One program for all columns, which differ in nothing but their heads: compiling is what init
    # costs.
    keys = jax.random.split(key, num_tasks + 1)
    every = jax.vmap(lambda k: parts.task.init(k, *args)["params"])(keys)
    shared = jax.tree.map(lambda x: x[0], every)
    if parts.variant.has_task_column:
        shared = {name: x for name, x in shared.items() if name != "value"}
    return learner.Params(
        shared=shared if parts.variant.has_shared_column else {},
        task=jax.tree.map(lambda x: x[1:], every) if parts.variant.has_task_column else {},
    )


def act(
    parts: _Parts,
    params: learner.Params,
    action_mask: Array | None,
    actor: ActorState,
    timestep: Timestep,
    keys: Key,
    *,
    distilled: bool = False,
    greedy: bool = False,
) -> tuple[Array, Array, ActorState]:
    """Actions of pi_i, or of pi_0 if `distilled`, drawn or (`greedy`) likeliest, `[K, E, ...]`."""
    # One column chooses actions without looking at the other, whose memory must go on all the same.
    alone = parts.variant.task_policy == "own" and parts.config.core == "none"
    need_shared = distilled or not alone

    def one_task(task, mask, actor, timestep, keys):
        row = jax.tree.map(lambda x: x[None], timestep)
        prev_action = actor.prev_action[None]
        h, g, _, cores = columns_of(
            parts, params.shared, task, row, prev_action, actor, need_shared=need_shared
        )
        policy: Any = h if distilled else losses.task_policy(h, g, parts.coefficients)
        policy = jax.tree.map(lambda x: x[0], policy)
        head = losses.distribution(policy, mask)
        action = distributions.mode(head) if greedy else distributions.sample(head, keys)
        return action, distributions.log_prob(head, action), ActorState(action, *cores)

    return jax.vmap(one_task)(params.task, action_mask, actor, timestep, keys)


def update(parts: _Parts, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on a rollout; metrics `[K]`."""
    num_envs = batch.action.shape[2] * parts.collectives.size
    ratio = curriculum.all_to_stepping(parts.weights, state.curriculum, num_envs)
    params, opt_state, metrics = learner.gradient_step(
        lambda shared, task, one: curriculum.scaled(loss(parts, shared, task, one[0]), one[1]),
        parts.transforms,
        state.params,
        state.opt_state,
        (batch, ratio),
        parts.collectives,
        curriculum.weights(parts.weights, state.curriculum),
    )
    metrics |= curriculum.logged(parts.weights, state.curriculum)
    return State(params, opt_state, state.curriculum), metrics


def loss(parts: _Parts, shared: ArrayTree, task: ArrayTree, batch: Batch) -> tuple[Array, Metrics]:
    """Mean over environments of `losses.distral_loss` for one task; leaves of `batch` without K."""
    config, rows = parts.config, batch.timestep
    prev_action = jnp.concatenate([batch.actor_state.prev_action[None], batch.action])
    h, g, v, _ = columns_of(parts, shared, task, rows, prev_action, batch.actor_state)
    h, g = jax.tree.map(lambda x: x[:-1], (h, g))
    costs = parts.coefficients._replace(
        c_kl=parts.coefficients.c_kl * batch.cost_scale,
        c_ent=parts.coefficients.c_ent * batch.cost_scale,
    )

    def trajectory(h, g, v, action, reward, discount, valid):
        steps = losses.Trajectory(
            action, reward * config.reward_scale, discount * config.discount, valid
        )
        return losses.distral_loss(
            losses.Columns(h, g, v),
            steps,
            costs,
            value_cost=config.value_cost,
            lambda_=config.lambda_,
            entropy_form=config.entropy_form,
            action_mask=batch.action_mask,
        )

    total, metrics = jax.vmap(trajectory, in_axes=1)(
        h, g, v, batch.action, rows.reward[1:], rows.discount[1:], rows.valid[1:]
    )
    return total.mean(), jax.tree.map(jnp.mean, metrics)


def columns_of(
    parts: _Parts,
    shared: ArrayTree,
    task: ArrayTree,
    rows: Timestep,
    prev_action: Array,
    actor: ActorState,
    *,
    need_shared: bool = True,
) -> tuple[Any, Any, Any, tuple[ArrayTree, ArrayTree]]:
    """h and g `[T, E, A]`, logits or Gaussians (None: no such column), v `[T, E]`, both cores."""
    variant = parts.variant
    has_shared = variant.has_shared_column and need_shared
    h, g, v, shared_core, task_core = None, None, None, (), ()
    inputs = (
        rows.observation,
        columns.previous_action(prev_action, rows.first),
        jnp.where(rows.valid, rows.reward * parts.config.reward_scale, 0.0),
        rows.first,
    )
    if has_shared and variant.has_task_column:
        cores = (actor.shared_core, actor.task_core)
        (h, _, shared_core), (g, v, task_core) = columns.apply_pair(
            parts.shared, parts.task, (shared, task), inputs, cores
        )
    elif has_shared:
        h, v, shared_core = _apply(parts.shared, shared, inputs, actor.shared_core)
    else:
        g, v, task_core = _apply(parts.task, task, inputs, actor.task_core)
    if parts.task.action_size:  # what a column emits describes a Gaussian
        h, g = jax.tree.map(lambda x: actor_critic.gaussian(x, parts.config.initial_std), (h, g))
    return h, g, v, (shared_core, task_core)


def _apply(column: columns.Column, params: ArrayTree, inputs: tuple[Array, ...], core: Any) -> Any:
    return column.apply({"params": params}, *inputs, core)


def make_parts(
    spec: EnvSpec,
    config: Config,
    variant: losses.Variant,
    num_tasks: int,
    num_updates: int,
    collectives: learner.Collectives = learner.ALONE,
) -> _Parts:
    def column(has_value):
        return columns.from_spec(
            spec, config.hidden, config.core, config.core_size, has_value=has_value
        )

    rate: Any = config.learning_rate
    if num_updates:
        rate = optax.linear_schedule(rate, rate * config.final_learning_rate, num_updates)
    make = {
        "adam": lambda: optax.adam(rate, eps=config.adam_epsilon),
        "rmsprop": lambda: optax.rmsprop(rate, decay=0.99, eps=config.adam_epsilon),
    }[config.optimiser]
    task = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), make())
    operate: Any = surgery.METHODS[config.surgery]
    shared = optax.chain(operate(num_tasks=num_tasks, diagnostics=True), task)
    parts = _Parts(
        config,
        variant,
        losses.coefficients(variant, 1.0 / config.entropy_cost),
        column(not variant.has_task_column),
        column(True),
        learner.Transforms(shared, task),
        collectives,
        checks.task_weights(spec, config),
    )
    fixed = freeze.select(config.freeze, lambda key: init_params(parts, spec, num_tasks, key))
    return parts._replace(transforms=parts.transforms._replace(frozen=fixed))


def init_actor(spec: EnvSpec, config: Config, variant: losses.Variant, num_envs: int) -> ActorState:
    """The memory of E environments of each task before anything was seen."""
    batch = (spec.num_tasks, num_envs)

    def core(exists):
        return columns.initial_carry(config.core, config.core_size, batch) if exists else ()

    return ActorState(
        columns.no_action(spec, batch),
        core(variant.has_shared_column),
        core(variant.has_task_column),
    )
