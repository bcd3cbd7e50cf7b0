"""Multi-task PPO: one network or many, continuous actions or discrete ones.

Schulman et al. 2017, *Proximal Policy Optimization Algorithms*, arXiv 1707.06347. The loss stands in
`losses/ppo`; here it meets networks, rollouts and tasks. What matters with many tasks, and is done:

  * advantages are standardised for each task over the whole rollout, so that no task's rewards
    weigh more than another's;
  * each task's value targets are brought to mean 0 and variance 1 by running statistics of its own;
  * every minibatch holds equally much of each task, so that the tasks' gradients exist side by side
    and any method of `surgery` combines them, for the policy and for the value network separately;
  * a time limit is not an end: its last row bootstraps (`returns.gae`), and reset rows weigh 0.

Departures and choices:
  1. The clip is around the policy at the start of the update, and samples are weighted towards it
     from the policy that acted (Hilton et al. 2021, arXiv 2110.00641): on a host suite those differ
     by one update, on a functional one not at all.
  2. An update ends early when KL(old || new), averaged over tasks, passes `target_kl`. The step
     that saw it is still made.
  3. A continuous policy is a Gaussian without squashing, cut off by the environment; log-densities
     are those of the draw before the cut.
  4. A minibatch is a random set of time steps, other ones for each task, with all environments: so
     several devices, which share the environments, see the minibatches that one would.
  5. Values are not clipped; policy and value networks share nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtrl_jax import distributions, learner, normalisers, returns, surgery
from mtrl_jax.losses import ppo as losses
from mtrl_jax.networks import columns, multitask
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Metrics, Rollout, Timestep

# These follow the size of losses, which for a policy may be negative and says nothing.
_NEED_LOSSES = ("dwa", "famo", "gradnorm", "uncertainty_weighting")
STATISTICS = ("task", "shared", "none")
STD_RANGE = (0.03, 2.0)  # of a continuous action, whose range is [-1, 1]


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one agent."""

    network: str = "onehot"
    hidden: tuple[int, ...] = (128, 128)
    activation: str = "tanh"
    layer_norm: bool = False
    statistics: str = "task"  # whose observations are brought to variance 1 together
    observation_limit: float = 10.0  # in standard deviations
    initial_std: float = 0.6  # of a continuous action
    state_std: bool = False  # whether the network decides it; otherwise each task has its own
    discount: float = 0.99
    lambda_: float = 0.97
    unroll_length: int = 250
    epochs: int = 10
    minibatches: int = 10  # an epoch
    clip: float = 0.2
    target_kl: float = 0.03  # 0: no early stop
    entropy_cost: float = 0.0
    value_cost: float = 0.5
    return_memory: float = 0.2  # least weight of a rollout in the running statistics of returns
    surgery: str = "mean"
    learning_rate: float = 5e-4
    final_learning_rate: float = 1.0  # of the initial one, at the end of a linear decay
    adam_epsilon: float = 1e-5
    max_grad_norm: float = 1.0  # of each network


class State(NamedTuple):
    """Everything learnt.

    Attributes:
      params: `shared` and `task` (leaves `[K, *param]`) have an "actor" and a "critic" each.
      opt_state: of both halves.
      observations: moments `[K, F]`, equal for all tasks with `statistics="shared"`.
      returns: moments `[K]` of the value targets.
      key: of the minibatches; constant.
      updates: int32, made so far.
    """

    params: learner.Params
    opt_state: learner.OptState
    observations: normalisers.Moments
    returns: normalisers.Moments
    key: Key
    updates: Array


class Policy(NamedTuple):
    """What acting reads."""

    params: learner.Params
    observations: normalisers.Moments


class _Parts(NamedTuple):
    """A config made concrete for one spec."""

    config: Config
    spec: EnvSpec
    actor: Any
    critic: Any
    num_inputs: int
    transforms: learner.Transforms


class _Samples(NamedTuple):
    """What a minibatch's loss reads; leaves `[K, T, E, ...]`, `[K, B, ...]`, then `[B, ...]`."""

    observation: Array
    action: Array
    proximal_log_prob: Array
    advantage: Array
    v_target: Array
    weight: Array
    importance: Array


def check(spec: EnvSpec, config: Config) -> None:
    """Raises ValueError, naming the field, what came and what is allowed."""
    known = (("surgery", surgery.METHODS), ("statistics", STATISTICS))
    for name, allowed in known:
        if getattr(config, name) not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(allowed)}; got {getattr(config, name)!r}"
            )
    if config.surgery in _NEED_LOSSES:
        raise ValueError(
            f"surgery {config.surgery!r} follows the size of positive losses, which a policy's are "
            f"not; any of {', '.join(m for m in surgery.METHODS if m not in _NEED_LOSSES)} works"
        )
    above_0 = ("unroll_length", "epochs", "minibatches", "clip", "learning_rate", "max_grad_norm")
    for name in (*above_0, "observation_limit"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be above 0; got {getattr(config, name)}")
    for name in ("target_kl", "entropy_cost", "value_cost"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must not be negative; got {getattr(config, name)}")
    for name in ("discount", "lambda_", "return_memory", "final_learning_rate"):
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1]; got {getattr(config, name)}")
    if not STD_RANGE[0] < config.initial_std < STD_RANGE[1]:
        raise ValueError(f"initial_std must lie inside {STD_RANGE}; got {config.initial_std}")
    if config.unroll_length % config.minibatches:
        raise ValueError(
            f"minibatches must divide unroll_length = {config.unroll_length}; got "
            f"{config.minibatches}"
        )
    if columns.torso_kind(spec) == "conv":
        raise ValueError(f"ppo reads no images; got observations {spec.observation_shape}")


def agent(spec: EnvSpec, config: Config, num_updates: int = 0) -> Agent:
    """The functions that `train.py` calls.

    Args:
      spec: of the suite.
      config: numbers.
      num_updates: length of the learning-rate decay; 0 for a constant rate.

    Raises:
      ValueError: as `check`.
    """
    check(spec, config)
    parts = make_parts(spec, config, num_updates)

    def act_(
        policy: Policy, actor: tuple[()], timestep: Timestep, keys: Key, *,
        distilled: bool = False, greedy: bool = False,
    ) -> tuple[Array, Array, tuple[()]]:  # fmt: skip
        return *act(parts, policy, timestep.observation, keys, greedy=greedy), actor

    return Agent(
        init=lambda key: init(parts, key),
        init_actor=lambda num_envs: (),
        policy=lambda state: Policy(state.params, state.observations),
        act=act_,
        update=lambda state, rollout, axis_name: update(parts, state, rollout, axis_name),
        unroll_length=config.unroll_length,
        has_distilled=False,
        greedy_eval=True,
    )


def make_parts(spec: EnvSpec, config: Config, num_updates: int) -> _Parts:
    outputs = spec.action_size * (2 if config.state_std else 1) or spec.num_actions
    net = lambda size, scale: multitask.make(
        config.network, spec.num_tasks, config.hidden, size, activation=config.activation,
        layer_norm=config.layer_norm, out_scale=scale,
    )  # fmt: skip
    rate: Any = config.learning_rate
    if num_updates:  # steps that the early stop leaves out do not count
        steps = num_updates * config.epochs * config.minibatches
        rate = optax.linear_schedule(rate, rate * config.final_learning_rate, steps)
    step = lambda: optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm), optax.adam(rate, eps=config.adam_epsilon)
    )
    # Each network has its own norm to clip, as it has its own surgery.
    each = optax.partition({n: step() for n in ("actor", "critic")}, lambda p: {n: n for n in p})
    operate: Any = surgery.METHODS[config.surgery]
    shared = optax.chain(operate(num_tasks=spec.num_tasks, scope="module", diagnostics=True), each)
    inputs = int(np.prod(spec.observation_shape) if spec.vocabulary is None else spec.vocabulary.sum())
    return _Parts(
        config, spec, net(outputs, 1e-4), net(1, 1.0), inputs, learner.Transforms(shared, each)
    )


def init(parts: _Parts, key: Key) -> State:
    """Fresh parameters, optimiser states and statistics."""
    spec = parts.spec
    x = jnp.zeros((1, parts.num_inputs))

    def variables(key: Key) -> dict[str, Any]:
        nets = {"actor": parts.actor, "critic": parts.critic}
        keys = dict(zip(nets, jax.random.split(key), strict=True))
        return {name: net.init(keys[name], x, jnp.int32(0)) for name, net in nets.items()}

    # One program for all tasks, whose own parameters differ.
    every = jax.vmap(variables)(jax.random.split(jax.random.fold_in(key, 0), spec.num_tasks))
    shared = {n: jax.tree.map(lambda p: p[0], v.get("params", {})) for n, v in every.items()}
    task: dict[str, Any] = {n: {"net": v.get("task", {})} for n, v in every.items()}
    if spec.action_size:
        raw = jnp.full((spec.num_tasks, spec.action_size), _raw_std(parts.config.initial_std))
        task["actor"]["std"] = raw
    params = learner.Params(shared if jax.tree.leaves(shared) else {}, task)
    opt_state = learner.init_optimisers(parts.transforms, params)
    opt_state = opt_state._replace(shared=surgery.reseed(opt_state.shared, key))
    moments = jax.vmap(lambda _: normalisers.init_moments((parts.num_inputs,)))
    return State(
        params,
        opt_state,
        moments(jnp.arange(spec.num_tasks))._replace(batches=jnp.int32(0)),
        normalisers.init_moments((spec.num_tasks,)),
        jax.random.fold_in(key, 1),
        jnp.int32(0),
    )


# ---------------------------------------------------------------------------------- one task's view


def _raw_std(std: Any) -> Any:
    """What `_log_std` maps to log(std)."""
    low, high = np.log(STD_RANGE)
    return np.arctanh(2.0 * (np.log(std) - low) / (high - low) - 1.0)


def _log_std(raw: Array) -> Array:
    """Within `STD_RANGE`, with a gradient everywhere, which a clip does not have."""
    low, high = (float(x) for x in np.log(STD_RANGE))
    return low + 0.5 * (high - low) * (1.0 + jnp.tanh(raw))


def _inputs(parts: _Parts, moments: normalisers.Moments, observation: Array) -> Array:
    """What networks read, `[B, F]`, of observations `[B, ...]`."""
    x = observation.reshape(observation.shape[0], -1)
    if parts.spec.vocabulary is not None:
        return columns.one_hot(x, tuple(int(n) for n in parts.spec.vocabulary.flat))
    x = x.astype(jnp.float32)
    if parts.config.statistics == "none":
        return x
    return normalisers.normalise(x, moments, parts.config.observation_limit)


def _head(parts: _Parts, shared: Any, task: Any, x: Array, k: Array) -> tuple[Array, Array]:
    """The policy's distribution: mean and log_std `[B, A]`, or logits `[B, A]` and their mask."""
    variables = {"params": shared.get("actor", {}), "task": task["actor"]["net"]}
    out = parts.actor.apply(variables, x, k).astype(jnp.float32)
    size = parts.spec.action_size
    if not size:
        mask = jnp.asarray(parts.spec.action_mask)[k]
        return out, jnp.broadcast_to(mask, out.shape)
    raw = jnp.broadcast_to(task["actor"]["std"], out[:, :size].shape)
    return out[:, :size], _log_std(raw + out[:, size:] if parts.config.state_std else raw)


def _log_prob(parts: _Parts, head: tuple[Array, Array], action: Array) -> Array:
    if parts.spec.action_size:
        return distributions.gaussian_log_prob(*head, action)
    return distributions.categorical_log_prob(head[0], action, head[1])


def _entropy(parts: _Parts, head: tuple[Array, Array]) -> Array:
    if parts.spec.action_size:
        return distributions.gaussian_entropy(head[1])
    return distributions.categorical_entropy(*head)


def _value(parts: _Parts, shared: Any, task: Any, x: Array, k: Array) -> Array:
    """`[B]`, in units of the task's own standard deviation."""
    variables = {"params": shared.get("critic", {}), "task": task["critic"]["net"]}
    return parts.critic.apply(variables, x, k)[:, 0].astype(jnp.float32)


def _over_tasks(fn: Callable[..., Any], in_axes: tuple[Any, ...]) -> Callable[..., Any]:
    """vmap over K; moments lead with K, but for their counter."""
    moments = normalisers.Moments(0, 0, None)  # type: ignore[arg-type]
    return jax.vmap(fn, in_axes=tuple(moments if a == "moments" else a for a in in_axes))


def act(
    parts: _Parts, policy: Policy, observation: Array, keys: Key, *, greedy: bool = False
) -> tuple[Array, Array]:
    """Actions `[K, E, ...]`, drawn or (greedy) likeliest, and their log-probabilities `[K, E]`."""

    def one_task(task, moments, observation, keys, k):
        x = _inputs(parts, moments, observation)
        head = _head(parts, policy.params.shared, task, x, k)
        if parts.spec.action_size:
            mean, log_std = head
            noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
            action = mean if greedy else mean + jnp.exp(log_std) * noise
        else:
            log_probs = distributions.categorical_log_probs(*head)
            drawn = log_probs.argmax(-1) if greedy else jax.vmap(jax.random.categorical)(keys, log_probs)
            action = drawn.astype(jnp.int32)
        return action, _log_prob(parts, head, action)

    return _over_tasks(one_task, (0, "moments", 0, 0, 0))(
        policy.params.task, policy.observations, observation, keys, jnp.arange(parts.spec.num_tasks)
    )


def loss(
    parts: _Parts, shared: ArrayTree, task: ArrayTree, batch: tuple[Any, ...]
) -> tuple[Array, Metrics]:
    """`losses.ppo_loss` of one task; `batch` is (samples `[B, ...]`, moments `[F]`, number)."""
    samples, moments, k = batch
    config = parts.config
    x = _inputs(parts, moments, samples.observation)
    head = _head(parts, shared, task, x, k)
    return losses.ppo_loss(
        _log_prob(parts, head, samples.action), _entropy(parts, head),
        _value(parts, shared, task, x, k), samples.proximal_log_prob, samples.advantage,
        samples.v_target, samples.weight, samples.importance,
        epsilon=config.clip, entropy_cost=config.entropy_cost, value_cost=config.value_cost,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ update


def update(
    parts: _Parts, state: State, rollout: Rollout, axis_name: str | None
) -> tuple[State, Metrics]:
    """All epochs on a rollout, as one scan; metrics `[K]` are means over the steps made."""
    state, samples, metrics = prepare(parts, state, rollout, axis_name)
    config, numbers = parts.config, jnp.arange(parts.spec.num_tasks)
    rows = minibatch_rows(config, parts.spec.num_tasks, jax.random.fold_in(state.key, state.updates))
    moments = state.observations
    count = jnp.broadcast_to(moments.batches, numbers.shape)

    def gradient_step(params, opt_state, index):
        flat = lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
        take = jax.vmap(lambda x, i: flat(x[i]))  # [K, T, E, ...] to [K, B, ...]
        chosen = jax.tree.map(lambda x: take(x, index), samples)
        return learner.gradient_step(
            lambda shared, task, one: loss(parts, shared, task, one), parts.transforms, params,
            opt_state, (chosen, moments._replace(batches=count), numbers), axis_name,
        )  # fmt: skip

    shapes = jax.eval_shape(gradient_step, state.params, state.opt_state, rows[0])[2]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def learn(carry, index):
        params, opt_state, total, steps, _ = carry
        params, opt_state, values = gradient_step(params, opt_state, index)
        stop = (config.target_kl > 0) & (values["policy/kl"].mean() > config.target_kl)
        return params, opt_state, jax.tree.map(jnp.add, total, values), steps + 1.0, stop

    def one(carry, index):
        return jax.lax.cond(carry[-1], lambda c, i: c, learn, carry, index), None

    carry = (state.params, state.opt_state, zeros, jnp.float32(0.0), jnp.bool_(False))
    (params, opt_state, total, steps, _), _ = jax.lax.scan(one, carry, rows)
    metrics |= jax.tree.map(lambda x: x / steps, total) | {"policy/steps": steps}
    if parts.spec.action_size:
        metrics["policy/std"] = jnp.exp(_log_std(params.task["actor"]["std"])).mean(-1)
    state = state._replace(params=params, opt_state=opt_state, updates=state.updates + 1)
    return state, metrics


def minibatch_rows(config: Config, num_tasks: int, key: Key) -> Array:
    """int32 `[epochs * minibatches, K, T / minibatches]`: every time step once an epoch and task."""
    keys = jax.random.split(key, (config.epochs, num_tasks))
    shuffle = lambda key: jax.random.permutation(key, config.unroll_length)
    rows = jax.vmap(jax.vmap(shuffle))(keys)
    rows = rows.reshape(config.epochs, num_tasks, config.minibatches, -1)
    return jnp.moveaxis(rows, 2, 1).reshape(config.epochs * config.minibatches, num_tasks, -1)


def prepare(
    parts: _Parts, state: State, rollout: Rollout, axis_name: str | None
) -> tuple[State, _Samples, Metrics]:
    """Statistics brought up to date, advantages and targets; samples `[K, T, E, ...]`.

    Targets are computed in units of reward, with values as they were before the statistics move.
    """
    config, (t, _, e) = parts.config, rollout.log_prob.shape
    lead = lambda x: jnp.moveaxis(x, 1, 0)
    rows, action = jax.tree.map(lead, (rollout.timestep, rollout.action))
    observations = _observe(parts, state.observations, rows.observation[:, :-1], axis_name)

    def look(task, moments, observation, action, k):
        flat = lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
        x = _inputs(parts, moments, flat(observation))
        head = _head(parts, state.params.shared, task, x[: t * e], k)
        v = _value(parts, state.params.shared, task, x, k)
        return v.reshape(t + 1, e), _log_prob(parts, head, flat(action)).reshape(t, e)

    v, proximal = _over_tasks(look, (0, "moments", 0, 0, 0))(
        state.params.task, observations, rows.observation, action, jnp.arange(parts.spec.num_tasks)
    )
    v = _over_tasks(normalisers.restore, (0, "moments"))(v, state.returns)
    valid = rows.valid[:, 1:]
    gae = lambda *args: returns.gae(*args, config.lambda_)
    advantage = jax.vmap(jax.vmap(gae, 1, 1))(
        rows.reward[:, 1:], rows.discount[:, 1:] * config.discount, v, valid
    )
    target = advantage + v[:, :-1]
    moments = normalisers.masked_moments(target, valid, (1, 2), axis_name)
    seen = normalisers.update_moments(state.returns, *moments, config.return_memory)
    _, missed = normalisers.masked_moments(advantage, valid, (1, 2), axis_name)
    share = learner.pmean(valid.mean((1, 2)), axis_name)[:, None, None]
    samples = _Samples(
        rows.observation[:, :-1],
        action,
        proximal,
        normalisers.standardise(advantage, valid, axis_name),
        _over_tasks(normalisers.normalise, (0, "moments"))(target, seen),
        jnp.where(valid, 1.0 / jnp.maximum(share, 1e-8), 0.0),
        losses.importance_weights(proximal, lead(rollout.log_prob)),
    )
    metrics = {
        "value/mean": moments[0],
        "value/explained": 1.0 - missed / jnp.maximum(moments[1], 1e-8),
    }
    return state._replace(observations=observations, returns=seen), samples, metrics


def _observe(
    parts: _Parts, moments: normalisers.Moments, observation: Array, axis_name: str | None
) -> normalisers.Moments:
    """Moments with a rollout's observations `[K, T, E, ...]` mixed in."""
    if parts.config.statistics == "none" or parts.spec.vocabulary is not None:
        return moments
    x = observation.reshape(*observation.shape[:3], -1).astype(jnp.float32)
    if parts.config.statistics == "task":
        batch = normalisers.masked_moments(x, jnp.ones_like(x, bool), (1, 2), axis_name)
    else:
        both = normalisers.masked_moments(x, jnp.ones_like(x, bool), (0, 1, 2), axis_name)
        batch = tuple(jnp.broadcast_to(y, moments.mean.shape) for y in both)  # type: ignore[assignment]
    return normalisers.update_moments(moments, *batch)
