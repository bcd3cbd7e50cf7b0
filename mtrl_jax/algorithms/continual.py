"""PPO that meets tasks one after the other, with a method of `mtrl_jax.continual` around it.

One policy and one value network for N tasks, of which an update is about one: `State.task`, a
number that is data, so that one program trains every task of a sequence. What belongs to the other
tasks alone does not move. Between two tasks stands `next_task`.

  * Told, networks know the task's number (by an output layer for each, say), and where it changes:
    optimisers begin anew there, methods remember there.
  * Not told, there is one stream, whose spec has one task: everything goes on, and methods remember
    by the clock, every `remember_every` updates.

Choices:
  1. Methods act on the policy. The value network is free, as in Continual World (Wolczyk et al.
     2021, arXiv 2105.10919): scores do not depend on it. Progressive columns are of both.
  2. Fisher information and the like are of `observations` rows of the newest rollout, evenly
     spread over its time and environments.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import continual, learner, ranges
from mtrl_jax.algorithms import actor_critic, ppo
from mtrl_jax.continual import Method, Situation
from mtrl_jax.distributions import Distribution
from mtrl_jax.ranges import Count, NotNegative, OneOf, Range, Unit
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Metrics, Rollout, Timestep

__all__ = [
    "METHODS",
    "Config",
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
_Share = Annotated[float, Range(0, 1, open_low=True, open_high=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of the methods; those of PPO are its own `Config`."""

    method: Annotated[str, OneOf(METHODS)] = "finetune"
    told: bool = True
    l2: NotNegative = 0.1  # strength of the penalty of each
    ewc: NotNegative = 1_000.0
    online_ewc: NotNegative = 1_000.0
    mas: NotNegative = 10.0
    decay: Unit = 0.9  # of online EWC
    observations: Count = 256  # of a rollout, that methods look at
    remember_every: Count = 20  # updates, where the agent is not told
    prune_at: _Share = 0.7  # of a task's updates, PackNet
    reservoir: NotNegative = 1.0  # strength of saying again what was said
    distill: NotNegative = 1.0  # the same of what the last agent says
    capacity: Count = 1024  # observations kept by reservoir and A-GEM, of all tasks together
    batch_size: Count = 64  # of them, or of the last rollout's, at each step of the optimiser


class State(NamedTuple):
    """Everything learnt.

    Attributes:
      learner: of PPO; what belongs to a task alone leads with N, but optimisers are of one task.
      task: int32, the number of the task that is learnt; 0 where the agent is not told.
      done: int32, updates of it; of all, where the agent is not told.
      memory: of the method.
      seen: `[M, ...]`, observations of the newest rollout.
    """

    learner: ppo.State
    task: Array
    done: Array
    memory: ArrayTree
    seen: Array


class Policy(NamedTuple):
    """What scores of all N tasks read."""

    policy: ppo.Policy
    task: Array
    memory: ArrayTree


class _Parts(NamedTuple):
    """Configs made concrete for one spec."""

    config: Config
    ppo: Any
    method: Method


def check(spec: EnvSpec, config: Config, numbers: ppo.Config, num_updates: int) -> None:
    """Raises ValueError, naming the field, what came and what is allowed.

    Args:
      spec: of all N tasks, or of the stream of an agent that is not told.
      config: of the method.
      numbers: of PPO.
      num_updates: of one task.
    """
    ranges.check(config)
    for name in ("surgery", "task_weights", "curriculum", "freeze"):
        default = getattr(ppo.Config(), name)
        if getattr(numbers, name) != default:
            raise ValueError(
                f"{name} must be left alone where one task is learnt at a time; got "
                f"{getattr(numbers, name)!r}"
            )
    if numbers.network == "separate" or (numbers.network == PROGRESSIVE) != (
        config.method == "progressive"
    ):
        raise ValueError(
            "network must share something between tasks (not 'separate'), and progressive columns "
            f"belong to method progressive; got {numbers.network!r} for {config.method}"
        )
    if numbers.final_learning_rate != 1.0 or numbers.statistics == "shared":
        raise ValueError(
            "final_learning_rate must be 1 and statistics not shared where one task follows the "
            f"other; got {numbers.final_learning_rate} and {numbers.statistics!r}"
        )
    if not config.told and _method(config, 1, 2).needs_told:
        raise ValueError(f"method {config.method} must be told where tasks change")
    if config.told and config.method == "packnet" and num_updates < 2:
        raise ValueError(f"a task must have at least 2 updates for packnet; got {num_updates}")
    if (
        len(spec.observation_shape) == 3
        and spec.vocabulary is None
        and spec.observation_dtype == ("uint8")
        and config.method == "progressive"
    ):
        raise ValueError("method progressive must be given no images: its columns have no torsos")
    ppo.check(spec, numbers)


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
    numbers: ppo.Config,
    num_updates: int,
    collectives: learner.Collectives = learner.ALONE,
) -> _Parts:
    """Networks, optimisers and the method; arguments and errors as of `check`."""
    check(spec, config, numbers, num_updates)
    parts = ppo.make_parts(spec, numbers, 0, collectives, at_once=1)
    return _Parts(config, parts, _method(config, spec.num_tasks, num_updates))


def agent(parts: _Parts) -> Agent:
    """Who learns on a suite of the one task that its state names."""

    def policy_params(state: State) -> ppo.Policy:
        mine = _mine(state.learner, state.task)
        return ppo.Policy(mine.params, mine.observations)

    def act(policy, actor, timestep, keys, *, distilled=False, greedy=False):
        task, own = policy
        bound = _of_task(parts.ppo, task)
        return *ppo.act(bound, own, timestep.observation, keys, greedy=greedy), actor

    return Agent(
        init=lambda key: init(parts, key),
        init_actor=lambda num_envs: (),
        policy_params=lambda state: (state.task, policy_params(state)),
        act=act,
        update=lambda state, rollout: update(parts, state, rollout),
        unroll_length=parts.ppo.config.unroll_length,
        has_distilled=False,
        greedy_eval=True,
        has_greedy=True,
        overlap=parts.ppo.config.overlap,
        num_devices=parts.ppo.numbers.collectives.size,
    )


def evaluated(parts: _Parts) -> Agent:
    """Who is scored on all N tasks, each as the method has kept it; it does not learn."""
    method = parts.method

    def act(
        policy: Policy,
        actor: tuple[()],
        timestep: Timestep,
        keys: Key,
        *,
        distilled: bool = False,
        greedy: bool = False,
    ) -> tuple[Array, Array, tuple[()]]:
        params, moments = policy.policy
        shared: Any = params.shared

        def one_task(own, moments, observation, keys, k):
            seen = shared
            if method.view is not None:
                kept = method.view(policy.memory, shared["actor"], k, policy.task)
                seen = {**shared, "actor": kept}
            mine = ppo.Policy(learner.Params(seen, _lead(own)), _lead(moments))
            found = ppo.act(
                _of_task(parts.ppo, k), mine, observation[None], keys[None], greedy=greedy
            )
            return jax.tree.map(lambda x: x[0], found)

        tasks = jnp.arange(parts.ppo.spec.num_tasks)
        found = jax.vmap(one_task)(params.task, moments, timestep.observation, keys, tasks)
        return *found, actor

    def policy_params(state: State) -> Policy:  # nothing is looked up: seeds may lead
        own = ppo.Policy(state.learner.params, state.learner.observations)
        return Policy(own, state.task, state.memory if method.view is not None else ())

    return agent(parts)._replace(policy_params=policy_params, act=act)


def init(parts: _Parts, key: Key) -> State:
    """A fresh agent at its first task."""
    spec = parts.ppo.spec
    fresh, task = ppo.init(parts.ppo, key), jnp.int32(0)
    seen = jnp.zeros((parts.config.observations, *spec.observation_shape), spec.observation_dtype)
    state = State(fresh, task, jnp.int32(0), (), seen)
    state = state._replace(memory=parts.method.init(_actor(fresh), _situation(parts, state)))
    return _optimisers_anew(parts, state)


def next_task(parts: _Parts, state: State, fresh: State) -> State:
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
        memory = parts.method.remember(
            state.memory, _actor(state.learner), _situation(parts, state)
        )
        state = state._replace(memory=memory)
    state = state._replace(task=moved, done=jnp.zeros_like(state.done))
    return _optimisers_anew(parts, state)


# ------------------------------------------------------------------------------------------ update


def update(parts: _Parts, state: State, rollout: Rollout) -> tuple[State, Metrics]:
    """PPO's epochs on a rollout of the task that is learnt, and what the method does then."""
    method, situation = parts.method, _situation(parts, state)
    bound = _bound(parts, state.memory, situation)
    mine, metrics = ppo.update(bound, _mine(state.learner, state.task), rollout)
    state = state._replace(
        learner=_put(state.learner, mine, state.task),
        done=state.done + 1,
        seen=_seen(parts, rollout),
    )
    situation = _situation(parts, state)
    if method.after is not None:
        actor, memory = method.after(state.memory, _actor(state.learner), situation)
        state = state._replace(learner=_with_actor(state.learner, actor), memory=memory)
    remember = method.remember
    if remember is not None and not parts.config.told:
        memory = jax.lax.cond(
            state.done % parts.config.remember_every == 0,
            lambda memory, actor: remember(memory, actor, situation),
            lambda memory, actor: memory,
            state.memory,
            _actor(state.learner),
        )
        state = state._replace(memory=memory)
    return state, metrics


def _bound(parts: _Parts, memory: ArrayTree, situation: Situation) -> Any:
    """PPO's parts for one update, with the method around the optimiser of what is shared."""
    transforms = parts.ppo.transforms
    shared = continual.around(transforms.shared, parts.method, memory, situation)
    bound = _of_task(parts.ppo, situation.task)
    return bound._replace(transforms=transforms._replace(shared=shared))


def _situation(parts: _Parts, state: State) -> Situation:
    nets, moments = parts.ppo.nets, state.learner.observations

    def policy(actor: ArrayTree, own: ArrayTree, observation: Array, k: Array) -> Distribution:
        read = jax.tree.map(lambda x: x[k], moments)
        x = actor_critic.inputs(nets, read, observation)
        return actor_critic.policy(nets, {"actor": actor}, own, x, k)

    key = jax.random.fold_in(jax.random.fold_in(state.learner.key, 1), state.learner.updates)
    own = state.learner.params.task
    return Situation(policy, own, state.task, state.done, state.seen, parts.config.told, key)


def _seen(parts: _Parts, rollout: Rollout) -> Array:
    """`[M, ...]` of a rollout of one task, evenly spread; of all devices, so that all have them."""
    rows = parts.ppo.numbers.collectives.gather(rollout.timestep.observation[:-1], 2)[:, 0]
    flat = rows.reshape(-1, *rows.shape[2:])
    return flat[jnp.arange(parts.config.observations) * flat.shape[0] // parts.config.observations]


def _of_task(parts: Any, task: Array) -> Any:
    return parts._replace(numbers=parts.numbers._replace(tasks=task[None]))


def _mine(state: ppo.State, task: Array) -> ppo.State:
    """PPO's state of one task, leaves `[1, ...]` of what is a task's own."""

    def row(tree: ArrayTree) -> Any:
        return jax.tree.map(lambda x: x[task][None], tree)

    params = state.params._replace(task=row(state.params.task))
    return state._replace(
        params=params, observations=row(state.observations), returns=row(state.returns)
    )


def _put(state: ppo.State, mine: ppo.State, task: Array) -> ppo.State:
    """`state` with that of one task in its place."""

    def put(tree: ArrayTree, row: ArrayTree) -> Any:
        return jax.tree.map(lambda x, y: x.at[task].set(y[0]), tree, row)

    params = mine.params._replace(task=put(state.params.task, mine.params.task))
    return mine._replace(
        params=params,
        observations=put(state.observations, mine.observations),
        returns=put(state.returns, mine.returns),
    )


def _optimisers_anew(parts: _Parts, state: State) -> State:
    mine = _mine(state.learner, state.task).params
    bound = _bound(parts, state.memory, _situation(parts, state))
    fresh = learner.init_optimisers(bound.transforms, mine)
    return state._replace(learner=state.learner._replace(opt_state=fresh))


def _actor(state: ppo.State) -> ArrayTree:
    shared: Any = state.params.shared
    return shared["actor"]


def _with_actor(state: ppo.State, actor: ArrayTree) -> ppo.State:
    shared: Any = state.params.shared
    return state._replace(params=state.params._replace(shared={**shared, "actor": actor}))


def _lead(tree: ArrayTree) -> Any:
    return jax.tree.map(lambda x: x[None], tree)
