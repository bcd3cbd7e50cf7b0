"""An agent that meets tasks one after the other, with a method of `mtrl_jax.continual` around it.

PPO, DQN or SAC: whose `Config` is given. One network for N tasks, of which an update is about one:
`State.task`, a number that is data, so that one program trains every task of a sequence. What
belongs to the other tasks alone does not move. Between two tasks stands `next_task`.

  * Told, networks know the task's number (by an output layer for each, say), and where it changes:
    optimisers begin anew there, replay is emptied, methods remember.
  * Not told, there is one stream, whose spec has one task: everything goes on, and methods remember
    by the clock, every `remember_every` updates.

Choices:
  1. Methods act on the policy, or on the Q-network. What else there is (a value network, SAC's
     critics) is free, as in Continual World (Wolczyk et al. 2021, arXiv 2105.10919): scores do not
     depend on it. Progressive columns are of both.
  2. Fisher information and the like are of `observations` rows: of PPO's newest rollout, evenly
     spread over its time and environments, or drawn from the replay.
  3. `in_turn_ppo`, `in_turn_dqn` and `in_turn_sac` say what each algorithm does besides.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import continual, learner, ranges
from mtrl_jax.algorithms import dqn, in_turn, in_turn_dqn, in_turn_ppo, in_turn_sac, ppo, sac
from mtrl_jax.continual import Method, Situation
from mtrl_jax.ranges import Count, NotNegative, OneOf, Positive, Range, Unit
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Metrics, Rollout, Timestep

__all__ = [
    "METHODS",
    "PROGRESSIVE",
    "Config",
    "Numbers",
    "Policy",
    "State",
    "agent",
    "check",
    "evaluated",
    "make_parts",
    "next_task",
    "update",
]

METHODS = (
    *("finetune", "l2", "ewc", "online_ewc", "mas", "packnet", "progressive"),
    *("reservoir", "a_gem", "distill", "reset"),
)
PROGRESSIVE = "mtrl_jax.networks.progressive:Progressive"
Numbers = ppo.Config | dqn.Config | sac.Config
_Share = Annotated[float, Range(0, 1, open_low=True, open_high=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of the methods; those of the algorithm are its own `Config`."""

    method: Annotated[str, OneOf(METHODS)] = "finetune"
    told: bool = True
    l2: NotNegative = 0.1  # strength of the penalty of each
    ewc: NotNegative = 1_000.0
    online_ewc: NotNegative = 1_000.0
    mas: NotNegative = 10.0
    decay: Unit = 0.9  # of online EWC
    observations: Count = 256  # of a rollout or the replay, that methods look at
    remember_every: Count = 20  # updates, where the agent is not told
    prune_at: _Share = 0.7  # of a task's updates, PackNet
    reservoir: NotNegative = 1.0  # strength of saying again what was said
    distill: NotNegative = 1.0  # the same of what the last agent says
    capacity: Count = 1024  # what reservoir and A-GEM keep, of all tasks together
    batch_size: Count = 64  # of that, or of `observations`, at each step of the optimiser
    q_policy: Annotated[str, OneOf(("softmax", "values"))] = "softmax"  # what a Q-network says
    temperature: Positive = 0.1  # of that; see in_turn_dqn


class State(NamedTuple):
    """Everything learnt.

    Attributes:
      learner: of the algorithm; what belongs to a task alone leads with N, but optimisers, and a
        replay, are of one task.
      task: int32, the number of the task that is learnt; 0 where the agent is not told.
      done: int32, updates of it; of all, where the agent is not told.
      memory: of the method.
      seen: leaves `[M, ...]`, what methods look at.
    """

    learner: Any
    task: Array
    done: Array
    memory: ArrayTree
    seen: Any


class Policy(NamedTuple):
    """What scores of all N tasks read."""

    acting: in_turn.Acting
    task: Array
    memory: ArrayTree


class Parts(NamedTuple):
    """Configs made concrete for one spec."""

    config: Config
    learner: in_turn.Learner
    method: Method


def check(spec: EnvSpec, config: Config, numbers: Numbers, num_updates: int) -> None:
    """Raises ValueError, naming the field, what came and what is allowed.

    Args:
      spec: of all N tasks, or of the stream of an agent that is not told.
      config: of the method.
      numbers: of the algorithm.
      num_updates: of one task.
    """
    ranges.check(config)
    in_turn.refuse(numbers, surgery="mean", task_weights=(), curriculum="", freeze=())
    progressive = config.method == "progressive"
    if numbers.network == "separate" or (numbers.network == PROGRESSIVE) != progressive:
        raise ValueError(
            "network must share something between tasks (not 'separate'), and progressive columns "
            f"belong to method progressive; got {numbers.network!r} for {config.method}"
        )
    if not config.told and _method(config, 1, 2).needs_told:
        raise ValueError(f"method {config.method} must be told where tasks change")
    if config.told and config.method == "packnet" and num_updates < 2:
        raise ValueError(f"a task must have at least 2 updates for packnet; got {num_updates}")
    shape, dtype = spec.observation_shape, spec.observation_dtype
    if progressive and len(shape) == 3 and spec.vocabulary is None and dtype == "uint8":
        raise ValueError("method progressive must be given no images: its columns have no torsos")
    if isinstance(numbers, ppo.Config):
        in_turn_ppo.check(spec, numbers)
    elif isinstance(numbers, dqn.Config):
        in_turn_dqn.check(spec, numbers, progressive)
    else:
        in_turn_sac.check(spec, numbers)


def _method(config: Config, num_tasks: int, num_updates: int) -> Method:
    prune_at = min(max(round(config.prune_at * num_updates), 1), max(num_updates - 1, 1))
    return {
        "finetune": lambda: continual.FINETUNE,
        "reset": lambda: continual.FINETUNE,
        "l2": lambda: continual.l2(config.l2),
        "ewc": lambda: continual.ewc(config.ewc),
        "online_ewc": lambda: continual.online_ewc(config.online_ewc, config.decay),
        "mas": lambda: continual.mas(config.mas),
        "packnet": lambda: continual.packnet(num_tasks, prune_at),
        "progressive": continual.progressive,
        "reservoir": lambda: continual.reservoir(
            config.reservoir, config.capacity, config.batch_size
        ),
        "a_gem": lambda: continual.a_gem(config.capacity, config.batch_size),
        "distill": lambda: continual.distill(config.distill, config.batch_size),
    }[config.method]()


def make_parts(
    spec: EnvSpec,
    config: Config,
    numbers: Numbers,
    num_updates: int,
    collectives: learner.Collectives = learner.ALONE,
) -> Parts:
    """Networks, optimisers and the method; arguments and errors as of `check`."""
    check(spec, config, numbers, num_updates)
    m = config.observations
    if isinstance(numbers, ppo.Config):
        of = in_turn_ppo.make(spec, numbers, m, collectives)
    elif isinstance(numbers, dqn.Config):
        said = (config.q_policy, config.temperature)
        of = in_turn_dqn.make(spec, numbers, m, collectives, said)
    else:
        of = in_turn_sac.make(spec, numbers, m, collectives)
    return Parts(config, of, _method(config, spec.num_tasks, num_updates))


def agent(parts: Parts) -> Agent:
    """Who learns on a suite of the one task that its state names."""
    of = parts.learner

    def act(policy, actor, timestep, keys, *, distilled=False, greedy=False):
        task, acting = policy
        return *of.act(acting, task, timestep.observation, keys, greedy), actor

    return Agent(
        init=lambda key: init(parts, key),
        init_actor=lambda num_envs: (),
        policy_params=lambda state: (
            state.task,
            of.acting(in_turn.alone(of, state.learner, state.task)),
        ),
        act=act,
        update=lambda state, rollout: update(parts, state, rollout),
        unroll_length=of.config.unroll_length,
        has_distilled=False,
        greedy_eval=True,
        has_greedy=True,
        overlap=of.config.overlap,
        num_devices=of.collectives.size,
    )


def evaluated(parts: Parts) -> Agent:
    """Who is scored on all N tasks, each as the method has kept it; it does not learn."""
    of, view = parts.learner, parts.method.view

    def act(
        policy: Policy,
        actor: tuple[()],
        timestep: Timestep,
        keys: Key,
        *,
        distilled: bool = False,
        greedy: bool = False,
    ) -> tuple[Array, Array, tuple[()]]:
        shared, every, rest = policy.acting

        def one_task(own, observation, keys, k):
            seen = shared
            if view is not None:
                kept = view(policy.memory, continual.part_of(shared, of.part), k, policy.task)
                seen = continual.with_part(shared, of.part, kept)
            mine = in_turn.Acting(seen, _lead(own), rest)
            found = of.act(mine, k, observation[None], keys[None], greedy)
            return jax.tree.map(lambda x: x[0], found)

        tasks = jnp.arange(of.spec.num_tasks)
        return *jax.vmap(one_task)(every, timestep.observation, keys, tasks), actor

    def policy_params(state: State) -> Policy:  # nothing is looked up: seeds may lead
        memory = state.memory if view is not None else ()
        return Policy(of.acting(state.learner), state.task, memory)

    return agent(parts)._replace(policy_params=policy_params, act=act)


def init(parts: Parts, key: Key) -> State:
    """A fresh agent at its first task."""
    of = parts.learner
    state = State(of.init(key), jnp.int32(0), jnp.int32(0), (), of.unseen)
    memory = parts.method.init(_actor(parts, state.learner), _situation(parts, state))
    return _begin(parts, state._replace(memory=memory))


def next_task(parts: Parts, state: State, fresh: State) -> State:
    """Where the next task begins: for an agent that is not told, as if nothing had happened; but
    "reset", which is a control, begins anew.

    Args:
      parts: of the agent.
      state: in which the last task has ended.
      fresh: an agent that has learnt nothing, which "reset" goes on with.
    """
    moved = state.task + 1 if parts.config.told else state.task
    if parts.config.method == "reset":
        return fresh._replace(task=moved)
    if not parts.config.told:
        return state
    if parts.method.remember is not None:
        actor = _actor(parts, state.learner)
        memory = parts.method.remember(state.memory, actor, _situation(parts, state))
        state = state._replace(memory=memory)
    return _begin(parts, state._replace(task=moved, done=jnp.zeros_like(state.done)))


# ------------------------------------------------------------------------------------------ update


def update(parts: Parts, state: State, rollout: Rollout) -> tuple[State, Metrics]:
    """The algorithm's steps on a rollout of the task that is learnt, and what the method does
    then."""
    method, of = parts.method, parts.learner
    mine = in_turn.alone(of, state.learner, state.task)
    mine, metrics = of.update(mine, state.task, rollout, _wrap(parts, state))
    state = state._replace(
        learner=_put(parts, state, mine), done=state.done + 1, seen=of.seen(mine, rollout)
    )
    situation = _situation(parts, state)
    if method.after is not None:
        shared = of.shared(state.learner)
        part = continual.part_of(shared, of.part)
        actor, memory = method.after(state.memory, part, situation)
        moved = of.with_shared(state.learner, continual.with_part(shared, of.part, actor))
        state = state._replace(learner=moved, memory=memory)
    remember = method.remember
    if remember is not None and not parts.config.told:
        memory = jax.lax.cond(
            state.done % parts.config.remember_every == 0,
            lambda memory, actor: remember(memory, actor, situation),
            lambda memory, actor: memory,
            state.memory,
            _actor(parts, state.learner),
        )
        state = state._replace(memory=memory)
    return state, metrics


def _wrap(parts: Parts, state: State) -> in_turn.Wrap:
    method, situation = parts.method, _situation(parts, state)
    free = continual.Method(trainable=method.trainable, everything=True)

    def wrap(inner: Any, critic: bool = False) -> Any:
        if not critic:
            return continual.around(inner, method, state.memory, situation, parts.learner.part)
        if not method.everything:
            return inner
        return continual.around(inner, free, state.memory, situation, "")

    return wrap


def _situation(parts: Parts, state: State) -> Situation:
    return parts.learner.situation(
        state.learner, state.task, state.done, state.seen, parts.config.told
    )


def _begin(parts: Parts, state: State) -> State:
    of = parts.learner
    mine = in_turn.alone(of, state.learner, state.task)
    mine = of.begin(mine, state.task, _wrap(parts, state))
    return state._replace(learner=_put(parts, state, mine))


def _put(parts: Parts, state: State, mine: Any) -> Any:
    """The algorithm's state with that of one task in it."""
    of = parts.learner
    own = in_turn.put_row(of.own(state.learner), of.own(mine), state.task)
    return of.with_own(mine, own)


def _actor(parts: Parts, state: Any) -> ArrayTree:
    return continual.part_of(parts.learner.shared(state), parts.learner.part)


def _lead(tree: ArrayTree) -> Any:
    return jax.tree.map(lambda x: x[None], tree)
