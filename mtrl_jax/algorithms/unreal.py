"""UNREAL: an actor-critic with memory that also learns auxiliary tasks from what it has played.

Jaderberg et al. 2016, *Reinforcement learning with unsupervised auxiliary tasks*, arXiv 1611.05397.
The base agent is `distral` with `algorithm="a3c_multitask"`, one column for all tasks; without
auxiliary tasks this *is* that agent. Their losses stand in `losses/auxiliary` and
`losses/reward_prediction`, on networks in `auxiliaries`. One gradient of the main loss and one of
each auxiliary one meet in `combine`::

    sum                    L_main + sum_k lambda_k L_k, UNREAL's own
    gradient_cosine        Du et al. 2018: each by the cosine with the main gradient, never negative
    pcgrad                 Yu et al. 2020, off the main gradient alone: what opposes it is removed
    gradnorm, uncertainty_weighting, dwa    weights by the size and the speed of losses
    ol_aux                 Lin et al. 2019: weights by what has agreed with the main gradient
    auxilearn              Navon et al. 2021: weights by implicit gradients of the main loss

Departures and choices:
  1. A synchronous batched actor-critic stands for A3C, as in `distral`; Adam by default.
  2. A replay of stretches, as many rows as an unroll, instead of one of steps; one batch of
     stretches of each task serves all auxiliary tasks of an update.
  3. Methods that follow the size of losses see the main task's value loss, since that of a policy
     has no sign. Uncertainty takes cross-entropy as it takes squares.
  4. Surgery is on the column. Each head gets the gradient of its own loss, as it is.
  5. `auxilearn`: lambda_k softplus(phi_k), phi descended every `phi_every` updates along the
     implicit gradient. One half of the environments is the training loss's main part, the other
     half the validation loss; a policy's loss has an indefinite Hessian, so that the series is
     three steps of unrolled descent rather than an inverse.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import learner, ranges, replay, surgery
from mtrl_jax.algorithms import auxiliaries, distral
from mtrl_jax.algorithms.auxiliaries import AUXILIARIES, COMBINE, Stretch
from mtrl_jax.losses import auxiliary
from mtrl_jax.losses import distral as losses
from mtrl_jax.networks import columns
from mtrl_jax.ranges import Count, CountOr0, NotNegative, OneOf, Positive, Unit
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Metrics, Rollout

__all__ = ["Config", "State", "agent", "base_config", "check"]

_TERMS, _CLIP_PHI, _ONE = 3, 10.0, 0.5413248546  # softplus of the last is 1


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one agent; those from `entropy_cost` on are `distral.Config`'s."""

    auxiliaries: tuple[str, ...] = ("pixel_control", "reward_prediction", "value_replay")
    combine: Annotated[str, OneOf(COMBINE)] = "sum"
    pixel_control: NotNegative = 0.025  # weights; of the sum over cells
    reward_prediction: NotNegative = 1.0
    value_replay: NotNegative = 0.5
    noise: NotNegative = 10.0
    cell: Count = 4  # pixels of a side
    margin: CountOr0 = 0  # pixels left out on each side
    control_discount: Unit = 0.9
    history: Count = 3  # frames from which a reward is foretold
    reward_samples: Count = 64
    noise_size: Count = 32
    replay_size: Count = 128  # stretches of each task
    replay_batch: Count = 8  # of each task
    phi_every: Count = 10
    phi_rate: Positive = 1e-2
    entropy_cost: Positive = 0.01
    entropy_form: Annotated[str, OneOf(losses.ENTROPY_FORMS)] = "reward"
    discount: Unit = 0.99
    lambda_: Unit = 1.0
    unroll_length: Count = 20
    value_cost: NotNegative = 0.5
    reward_scale: float = 1.0
    optimiser: Annotated[str, OneOf(distral.OPTIMISERS)] = "adam"
    learning_rate: Positive = 5e-4
    final_learning_rate: Unit = 1 / 6
    adam_epsilon: Positive = 1e-5
    max_grad_norm: Positive = 1.0
    hidden: tuple[Count, ...] = (128,)
    core: Annotated[str, OneOf(distral.CORES)] = "lstm"
    core_size: Count = 128


class State(NamedTuple):
    """Everything learnt, and what is kept of what was played.

    Attributes:
      params: `column`, that of the base agent, and `heads` by auxiliary task.
      opt_state: of both.
      replay: stretches.
      phi: float32 `[N]`, of `auxilearn`'s weights; else ().
      phi_state: of its optimiser; else ().
      key: constant.
      updates: int32, made so far.
    """

    params: dict[str, ArrayTree]
    opt_state: ArrayTree
    replay: replay.ReplayState
    phi: Any
    phi_state: ArrayTree
    key: Key
    updates: Array


class _Parts(NamedTuple):
    """A config made concrete for one spec."""

    config: Config
    spec: EnvSpec
    base: Any  # of `distral.make_parts`
    numbers: auxiliaries.Numbers
    transform: optax.GradientTransformationExtraArgs
    phi_optimiser: optax.GradientTransformation
    mask: Array
    collectives: learner.Collectives


def base_config(config: Config) -> distral.Config:
    """The agent without auxiliary tasks."""
    fields = {field.name for field in dataclasses.fields(distral.Config)}
    own = {k: v for k, v in vars(config).items() if k in fields}
    return distral.Config(algorithm="a3c_multitask", surgery="sum", **own)


def check(spec: EnvSpec, config: Config, num_seeds: int = 1, num_envs: int = 2) -> None:
    """Raises ValueError, naming the field, for what cannot be, and where the replay does not fit
    into memory. `num_envs` are those of a task on one device."""
    ranges.check(config)
    distral.check(spec, base_config(config))
    names = config.auxiliaries
    if not set(names) <= set(AUXILIARIES) or len(set(names)) != len(names):
        raise ValueError(
            f"auxiliaries must be some of {', '.join(AUXILIARIES)}, each once; got {names}"
        )
    if not names:
        return
    if columns.torso_kind(spec) != "conv" or spec.action_size:
        raise ValueError(
            "auxiliaries are of images (C, H, W) and discrete actions; got observations of shape "
            f"{spec.observation_shape} and {spec.action_size or 'discrete'} actions"
        )
    for size in spec.observation_shape[1:]:
        auxiliary.num_cells(size, config.cell, config.margin)
    if config.history > config.unroll_length:
        raise ValueError(
            f"history must be at most unroll_length = {config.unroll_length}; got {config.history}"
        )
    if config.combine == "auxilearn" and num_envs < 2:
        raise ValueError(
            f"num_envs_per_task must be at least 2 a device for combine=auxilearn; got {num_envs}"
        )
    item = auxiliaries.stretch_spec(spec, config.unroll_length)
    replay.check_memory(item, spec.num_tasks, config.replay_size, num_seeds + 2)


def agent(
    spec: EnvSpec,
    config: Config,
    num_updates: int = 0,
    collectives: learner.Collectives = learner.ALONE,
) -> Agent:
    """The functions that `train.py` calls; the base agent's own where `auxiliaries` is ().

    Args:
      spec: of the suite.
      config: numbers.
      num_updates: length of the learning-rate decay; 0 for a constant rate.
      collectives: of the devices of the run.

    Raises:
      ValueError: as `check`.
    """
    check(spec, config)
    numbers = base_config(config)
    base = distral.agent(spec, numbers, num_updates, collectives)
    if not config.auxiliaries:
        return base
    parts = _make_parts(spec, config, num_updates, collectives)
    return base._replace(
        init=lambda key: init(parts, key),
        policy_params=lambda state: learner.Params(state.params["column"], {}),
        update=lambda state, rollout: update(parts, state, rollout),
    )


def _make_parts(
    spec: EnvSpec, config: Config, num_updates: int, collectives: learner.Collectives
) -> _Parts:
    numbers, k = base_config(config), spec.num_tasks
    variant = distral.check(spec, numbers)
    base = distral.make_parts(spec, numbers, variant, k, num_updates, collectives)
    height, width = (
        auxiliary.num_cells(n, config.cell, config.margin) for n in spec.observation_shape[1:]
    )
    told = auxiliaries.Numbers(
        base.shared,
        config.core,
        config.core_size,
        spec.num_actions,
        k,
        (height, width),
        config.cell,
        config.margin,
        config.control_discount,
        config.discount,
        config.reward_scale,
        config.history,
        config.reward_samples,
        config.noise_size,
    )
    combine = COMBINE[config.combine](
        1 + len(config.auxiliaries), mask={"column": True, "heads": False}, diagnostics=True
    )
    phi = optax.chain(optax.clip_by_global_norm(_CLIP_PHI), optax.adam(config.phi_rate))
    # Behind the surgery stands what the base agent's one gradient goes through: clip, optimiser.
    transform = optax.chain(combine, base.transforms.task)
    mask = jnp.asarray(spec.action_mask)
    return _Parts(config, spec, base, told, transform, phi, mask, collectives)


def init(parts: _Parts, key: Key) -> State:
    """Fresh parameters, the column's those of the base agent with this key."""
    config, k = parts.config, parts.spec.num_tasks
    column = distral.init_params(parts.base, parts.spec, k, key).shared
    item = auxiliaries.stretch_spec(parts.spec, config.unroll_length)
    one = jax.tree.map(lambda x: jnp.zeros((x.shape[0], 1, *x.shape[1:]), x.dtype), item)
    own = jax.random.fold_in(key, 1)
    heads = auxiliaries.init_heads(parts.numbers, column, one, config.auxiliaries, own)
    params = {"column": column, "heads": heads}
    learns = config.combine == "auxilearn"
    phi = jnp.full(len(config.auxiliaries), _ONE, jnp.float32) if learns else ()
    return State(
        params,
        surgery.reseed(parts.transform.init(params), key),
        replay.init(item, k, config.replay_size),
        phi,
        parts.phi_optimiser.init(phi) if learns else (),
        jax.random.fold_in(key, 2),
        jnp.int32(0),
    )


# ------------------------------------------------------------------------------------------ update


def update(parts: _Parts, state: State, rollout: Rollout) -> tuple[State, Metrics]:
    """One gradient step on a rollout and on stretches of the replay, which holds it already.

    Metrics are those of the base agent's loss, `[K]`, and of each auxiliary task scalars: its loss,
    times its weight, the cosine of its gradient with the main one, and what `combine` made of it.
    """
    config, names, k = parts.config, parts.config.auxiliaries, parts.spec.num_tasks
    batch = distral.batch_of(rollout, parts.mask, jnp.ones(k))
    collected = parts.collectives.gather(auxiliaries.recorded(rollout), 1)
    rings = replay.add(state.replay, collected)
    key = jax.random.fold_in(state.key, state.updates)
    drawn = replay.sample(rings, jax.random.fold_in(key, 0), config.replay_batch)
    rows = auxiliaries.time_major(parts.collectives.scatter(drawn, 1))

    def main(params: Any) -> tuple[Array, Metrics]:
        return _main(parts, params, batch)

    def one(name: str, i: int) -> Callable[[Any], tuple[Array, Metrics]]:
        own = jax.random.fold_in(key, i)
        return lambda params: (_auxiliary(parts, params, name, rows, own), {})

    each = [main, *(one(name, i + 1) for i, name in enumerate(names))]
    found = surgery.per_task_value_and_grad(losses=each, has_aux=True)(state.params)
    ((values, told), grads) = parts.collectives.mean(found)
    metrics = told[0]
    sizes, learns = values.at[0].set(metrics["loss/value"].sum()), config.combine == "auxilearn"
    if learns:
        state = _move_phi(parts, state, batch, rows, key)
        w = jnp.append(1.0, jax.nn.softplus(state.phi))
        column = jax.tree.map(lambda g: g * w.reshape(-1, *(1,) * (g.ndim - 1)), grads["column"])
        grads = {**grads, "column": column}
    updates, opt_state = parts.transform.update(
        grads, state.opt_state, state.params, task_losses=sizes
    )
    params = optax.apply_updates(state.params, updates)
    record = surgery.diagnostics(opt_state)
    weights = jax.nn.softplus(state.phi) if learns else record.weights[1:]
    for i, name in enumerate(names):
        metrics[f"aux/{name}/loss"] = values[i + 1]
        metrics[f"aux/{name}/cosine"] = record.cosine[0, i + 1]
        metrics[f"aux/{name}/weight"] = weights[i]
        metrics[f"aux/{name}/norm"] = record.task_norms[i + 1]
    metrics["aux/main/norm"] = record.task_norms[0]
    if record.update_cosine is not None:
        metrics["aux/main/cosine_update"] = record.update_cosine[0]
    new = state._replace(params=params, opt_state=opt_state, replay=rings)
    return new._replace(updates=state.updates + 1), metrics


def _main(parts: _Parts, params: Any, batch: distral.Batch) -> tuple[Array, Metrics]:
    """The base agent's loss, a sum over tasks."""
    total, metrics = jax.vmap(lambda one: distral.loss(parts.base, params["column"], {}, one))(
        batch
    )
    return total.sum(), metrics


def _auxiliary(parts: _Parts, params: Any, name: str, rows: Stretch, key: Key) -> Array:
    """One auxiliary loss with its weight, a sum over tasks."""
    seen = auxiliaries.look(parts.numbers, params["column"], rows)
    loss = AUXILIARIES[name](parts.numbers, params["heads"][name], seen, rows, key)
    return getattr(parts.config, name) * parts.spec.num_tasks * loss


def _move_phi(parts: _Parts, state: State, batch: distral.Batch, rows: Stretch, key: Key) -> State:
    """`auxilearn`'s weights after this update, every so often."""
    config, names = parts.config, parts.config.auxiliaries
    half = batch.action.shape[2] // 2

    def part(first: int, last: int) -> distral.Batch:
        # Environments come behind time in rows and actions, first in the memory.
        def cut(axis: int, tree: ArrayTree) -> ArrayTree:
            return jax.tree.map(lambda x: jax.lax.slice_in_dim(x, first, last, axis=axis), tree)

        return batch._replace(
            timestep=cut(2, batch.timestep),
            action=cut(2, batch.action),
            actor_state=cut(1, batch.actor_state),
        )

    def train(params: Any, phi: Array) -> Array:
        keys = [jax.random.fold_in(key, i + 1) for i in range(len(names))]
        each = [_auxiliary(parts, params, n, rows, k) for n, k in zip(names, keys, strict=True)]
        return _main(parts, params, part(0, half))[0] + jax.nn.softplus(phi) @ jnp.stack(each)

    def validation(params: Any) -> Array:
        return _main(parts, params, part(half, 2 * half))[0]

    def move(phi: Array, phi_state: Any) -> tuple[Array, Any]:
        gradient = surgery.auxilearn_gradient(
            train, validation, state.params, phi, step_size=config.learning_rate, terms=_TERMS
        )
        gradient = parts.collectives.mean(gradient)
        updates, phi_state = parts.phi_optimiser.update(gradient, phi_state, phi)
        return optax.apply_updates(phi, updates), phi_state

    due = state.updates % config.phi_every == 0
    kept = (state.phi, state.phi_state)
    phi, phi_state = jax.lax.cond(due, move, lambda *kept: kept, *kept)
    return state._replace(phi=phi, phi_state=phi_state)
