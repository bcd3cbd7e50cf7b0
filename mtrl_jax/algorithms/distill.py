"""Policy distillation and Actor-Mimic: one student of several frozen teachers.

Rusu et al. 2015, *Policy Distillation*, arXiv 1511.06295; Parisotto, Ba & Salakhutdinov 2015,
*Actor-Mimic*, arXiv 1511.06342. Teachers are action-values (`teachers`), a student is a body with
outputs (`student`), and both papers are one algorithm with two sets of numbers::

                      distillation                      Actor-Mimic
    loss              nll, mse or kl, temperature .01   actor_mimic, temperature 1
    actor             teacher (epsilon .05)             student (epsilon .1)
    outputs           controllers, or separate          shared
    feature_cost      0                                 0 or .01

  * A ring for each task holds observations and what the teacher said about them when they were
    seen: a teacher is asked once a row, not once a sample.
  * A gradient step draws `batch_size` rows of every task, so that tasks weigh the same, and their
    gradients exist side by side for `surgery`.
  * Actions that a task does not have are out of targets, students' policies and acting.

Departures and choices:
  1. Environments are stepped in batches of T rows; the gradient steps come after each batch. Both
     papers alternate longer phases or steps of one environment.
  2. Adam and means over a batch stand for RMSProp (Rusu et al.) and for sums and an Adam without
     bias correction (Actor-Mimic's code). The mean over tasks is `surgery="mean"`.
  3. Every batch holds every task, as Actor-Mimic has it; Rusu et al. draw from one game at a time.
  4. Features are the body's, also where controllers have a hidden layer of their own.
  5. On several devices all hold all of the replay, as in `dqn`, and compute what one does.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import learner, ranges, replay, surgery
from mtrl_jax.algorithms import checks, q_network, student, teacher
from mtrl_jax.losses import distillation as losses
from mtrl_jax.ranges import Count, CountOr0, NotNegative, OneOf, Positive, Steps, Unit
from mtrl_jax.types import Agent, Array, EnvSpec, Key, Metrics, Rollout, Timestep

__all__ = [
    "ACTORS",
    "LOSSES",
    "Config",
    "Item",
    "Policy",
    "State",
    "agent",
    "assign_teachers",
    "check",
    "check_numbers",
    "gradient_step",
    "init",
    "item_spec",
    "make_parts",
    "update",
]

# (teacher [A], student [A], temperature, action_mask [A]) -> []
LOSSES: dict[str, Callable[[Array, Array, float, Array], Array]] = {
    "nll": lambda q, z, temperature, mask: losses.nll(q, z, mask),
    "mse": lambda q, z, temperature, mask: losses.mse(q, z, mask),
    "kl": losses.kl,
    "actor_mimic": losses.policy_regression,
}
ACTORS = ("teacher", "student")


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one student. Steps are of one task over all its environments."""

    loss: Annotated[str, OneOf(LOSSES)] = "kl"  # key of LOSSES
    temperature: Positive = 0.01  # of the teacher's values, in their units; nll and mse do without
    feature_cost: NotNegative = 0.0  # of the regression on the teacher's features; 0: none
    actor: Annotated[str, OneOf(ACTORS)] = "teacher"  # who acts while training
    epsilon: Unit = 0.05  # of its actions are uniform
    eval_epsilon: Unit = 0.0
    outputs: str = "controllers"  # a name of networks.student.OUTPUTS
    torso: str = "auto"
    hidden: tuple[Count, ...] = (32,)
    controller: CountOr0 = 16  # units of a controller's hidden layer; 0: none
    unroll_length: Count = 8
    replay_size: Steps = 20_000  # rows of each task
    min_replay: Count = 1_000  # rows of each task before learning begins
    replay_ratio: Positive = 8.0  # samples drawn for each step of a task
    batch_size: Count = 32  # of each task
    surgery: checks.Surgery = "mean"
    learning_rate: Positive = 1e-3
    max_grad_norm: Positive = 10.0
    overlap: bool = True  # on a host suite: step beside the update, one policy behind


class Item(NamedTuple):
    """A row of the replay; leaves `[K, N, ...]`, `[K, B, ...]`, or of one item.

    Attributes:
      observation: that an action was chosen on.
      values: float32 `[A]`, the teacher's.
      features: float32 `[F]`, the teacher's last hidden layer, or () where nobody asks.
    """

    observation: Any
    values: Any
    features: Any


class State(NamedTuple):
    """Everything learnt and remembered; the teachers are not in it.

    Attributes:
      params: of the student; `task` holds "head", the tasks' own outputs, and "map", kernels
        `[K, H, F]` from its features to the teachers', each where there is one.
      opt_state: both halves.
      replay: rings of `Item`.
      key: of the batches; constant.
      which: int32, the set of teachers; constant.
      updates: int32, gradient steps so far.
    """

    params: learner.Params
    opt_state: learner.OptState
    replay: replay.ReplayState
    key: Key
    which: Array
    updates: Array


class Policy(NamedTuple):
    """What acting reads."""

    params: learner.Params
    which: Array


class _Parts(NamedTuple):
    """A config made concrete for one spec and its teachers; F is 0 where features do not count."""

    config: Config
    spec: EnvSpec
    net: student.Net
    teachers: tuple[teacher.Teacher, ...]
    num_features: int
    transforms: learner.Transforms
    collectives: learner.Collectives


def check_numbers(spec: EnvSpec, config: Config) -> None:
    """What can be asked before there are teachers.

    Raises:
      ValueError: naming the field, what came and what is allowed.
    """
    if spec.action_size:
        raise ValueError("suite must have discrete actions for distillation; got continuous ones")
    ranges.check(config)
    if config.min_replay > (most := config.replay_size):
        raise ValueError(
            f"min_replay must not exceed replay_size = {most}; got {config.min_replay}"
        )
    _network(spec, config)  # raises


def check(spec: EnvSpec, config: Config, teachers: tuple[teacher.Teacher, ...]) -> None:
    """Raises ValueError, naming the field, what came and what is allowed."""
    check_numbers(spec, config)
    teacher.check(spec, teachers)
    if config.feature_cost and not teacher.num_features(teachers):
        raise ValueError(
            "feature_cost must be 0 unless all teachers show as many features; they show "
            f"{', '.join(str(one.num_features) for one in teachers)}"
        )


def item_spec(spec: EnvSpec, num_features: int = 0) -> Item:
    """One row of the replay, for `replay.check_memory`; F is 0 without `feature_cost`."""

    def vector(n):
        return jax.ShapeDtypeStruct((n,), jnp.float32)

    observation = jax.ShapeDtypeStruct(spec.observation_shape, spec.observation_dtype)
    return Item(observation, vector(spec.num_actions), vector(num_features) if num_features else ())


def agent(
    spec: EnvSpec,
    config: Config,
    teachers: tuple[teacher.Teacher, ...],
    num_updates: int = 0,
    collectives: learner.Collectives = learner.ALONE,
) -> Agent:
    """The functions that `train.py` calls; `num_updates` is not used (the rate is constant).

    Scores are of the student's best actions, whoever acts while training.

    Args:
      spec: of the suite.
      config: the student's numbers.
      teachers: a teacher for each task; constants of the programs. A fresh state has the first set
        of them (`assign_teachers`).
      collectives: of the devices of the run.

    Raises:
      ValueError: as `check`.
    """
    check(spec, config, teachers)
    parts = make_parts(spec, config, teachers, collectives)

    def act_(
        policy: Policy,
        actor: tuple[()],
        timestep: Timestep,
        keys: Key,
        *,
        distilled: bool = False,
        greedy: bool = False,
    ) -> tuple[Array, Array, tuple[()]]:
        epsilon = jnp.float32(config.eval_epsilon if greedy else config.epsilon)
        if greedy or config.actor == "student":
            y = student.outputs(parts.net, policy.params, timestep.observation)
        else:
            y, _ = teacher.outputs(teachers, policy.which, timestep.observation)
        return *q_network.epsilon_greedy(y, spec.action_mask, epsilon, keys), actor

    return Agent(
        init=lambda key: init(parts, key),
        init_actor=lambda num_envs: (),
        policy_params=lambda state: Policy(state.params, state.which),
        act=act_,
        update=lambda state, rollout: update(parts, state, rollout),
        unroll_length=config.unroll_length,
        has_distilled=False,
        greedy_eval=True,
        has_greedy=True,
        overlap=config.overlap,
        num_devices=collectives.size,
    )


def assign_teachers(state: State, num_sets: int) -> State:
    """States `[S, ...]` of S seeds, of which seed n has set n mod `num_sets`; for `train.run`'s
    `begin_from`."""
    which = jnp.arange(state.which.size, dtype=jnp.int32) % num_sets
    return state._replace(which=which.reshape(state.which.shape))


def _network(spec: EnvSpec, config: Config) -> student.Net:
    return student.make(spec, config.outputs, config.torso, config.hidden, config.controller)


def make_parts(
    spec: EnvSpec,
    config: Config,
    teachers: tuple[teacher.Teacher, ...],
    collectives: learner.Collectives = learner.ALONE,
) -> _Parts:
    """Network, optimisers and teachers of the numbers in `config`."""
    adam = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate)
    )
    operate: Any = surgery.METHODS[config.surgery]
    shared = optax.chain(operate(num_tasks=spec.num_tasks, diagnostics=True), adam)
    num_features = teacher.num_features(teachers) if config.feature_cost else 0
    transforms = learner.Transforms(shared, adam)
    net = _network(spec, config)
    return _Parts(config, spec, net, teachers, num_features, transforms, collectives)


def init(parts: _Parts, key: Key) -> State:
    """Fresh parameters, optimiser states and empty replay."""
    params = student.init_params(parts.net, key, parts.num_features)
    opt_state = learner.init_optimisers(parts.transforms, params)
    item = item_spec(parts.spec, parts.num_features)
    return State(
        params=params,
        opt_state=opt_state._replace(shared=surgery.reseed(opt_state.shared, key)),
        replay=replay.init(item, parts.spec.num_tasks, parts.config.replay_size),
        key=jax.random.fold_in(key, 2),
        which=jnp.int32(0),
        updates=jnp.int32(0),
    )


# ------------------------------------------------------------------------------------------ update


def update(parts: _Parts, state: State, rollout: Rollout) -> tuple[State, Metrics]:
    """Stores a rollout's rows and what the teachers say about them, then makes the gradient steps
    that it pays for, none until all tasks have `min_replay` rows; metrics are means over them, 0
    of none."""
    config = parts.config
    items, valid = _items(parts, state.which, rollout)
    rings = replay.add(state.replay, items, valid)
    n = valid.shape[1]  # T * E, of all devices
    ready = replay.size(rings).min() >= config.min_replay

    def step(carry, i):
        params, opt_state = carry
        key = jax.random.fold_in(state.key, state.updates + i)
        index = parts.collectives.scatter(replay.indices(rings, key, config.batch_size), 1)
        params, opt_state, values = gradient_step(
            parts, params, opt_state, replay.take(rings, index)
        )
        return (params, opt_state), values

    count = jnp.where(ready, max(round(config.replay_ratio * n / config.batch_size), 1), 0)
    learnt = (state.params, state.opt_state)
    (params, opt_state), metrics = learner.repeat(step, learnt, count)
    metrics["replay/size"] = replay.size(rings).astype(jnp.float32)
    return state._replace(
        params=params, opt_state=opt_state, replay=rings, updates=state.updates + count
    ), metrics


def gradient_step(
    parts: _Parts,
    params: learner.Params,
    opt_state: learner.OptState,
    batch: Item,
) -> tuple[learner.Params, learner.OptState, Metrics]:
    """One step of every task on its batch, leaves `[K, B, ...]`; metrics `[K]`."""
    config, spec, net = parts.config, parts.spec, parts.net
    imitate = jax.vmap(LOSSES[config.loss], (0, 0, None, None))
    entropy = jax.vmap(losses.target_entropy, (0, None, None))

    def loss(shared, task, one):
        batch, mask, k = one
        y, features = student.outputs_of_task(net, shared, task, batch.observation, k)
        total = imitate(batch.values, y, config.temperature, mask).mean()
        best = [jnp.where(mask[None], x, -jnp.inf).argmax(-1) for x in (batch.values, y)]
        values = {
            "loss/imitation": total,
            "student/agreement": (best[0] == best[1]).mean(dtype=jnp.float32),
            "teacher/entropy": entropy(batch.values, config.temperature, mask).mean(),
        }
        if parts.num_features:
            regress = jax.vmap(losses.feature_regression, (0, 0, None))
            values["loss/features"] = regress(features, batch.features, task["map"]).mean()
            total = total + config.feature_cost * values["loss/features"]
        return total, values

    rows = (batch, jnp.asarray(spec.action_mask), jnp.arange(spec.num_tasks))
    return learner.gradient_step(loss, parts.transforms, params, opt_state, rows, parts.collectives)


def _items(parts: _Parts, which: Array, rollout: Rollout) -> tuple[Item, Array]:
    """Rows `[K, T * E, ...]` of all devices, time-major, and which of them may be learnt from: not
    those that end an episode, on which no action matters."""

    def lead(x):
        return jnp.moveaxis(x, 1, 0)  # [K, T, E, ...]

    observation = lead(rollout.timestep.observation[:-1])
    k, t, e = observation.shape[:3]
    values, seen = teacher.outputs(
        parts.teachers, which, observation.reshape(k, t * e, *observation.shape[3:])
    )

    def again(x):
        return x.reshape(k, t, e, x.shape[-1])

    features = again(jnp.stack(seen)) if parts.num_features else ()
    rows = (Item(observation, again(values), features), lead(rollout.timestep.valid[1:]))
    rows = parts.collectives.gather(rows, 2)
    return jax.tree.map(lambda x: x.reshape(k, -1, *x.shape[3:]), rows)
