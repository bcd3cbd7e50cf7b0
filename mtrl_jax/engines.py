"""The two paths of a run, behind one record: compiled whole, or a host loop beside the learner.

On a functional suite `updates_per_dispatch` rollouts and updates are one program. On a host suite
the pool steps while the learner updates: the policy that collects rollout n + 1 is always the one
of before update n, whatever the timing, so the numbers do not depend on it; or, for an agent
that does not want that (`Agent.overlap`), the one of after it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import by_name, learner, processes, ranges, rollout, writers
from mtrl_jax.dispatch import program_of, split_tasks, stream, with_episodes
from mtrl_jax.envs.check import check_shapes
from mtrl_jax.envs.functional import strong
from mtrl_jax.ranges import Count, CountOr0, Seed, Steps
from mtrl_jax.types import Agent, ArrayTree, EnvSpec, FunctionalSuite, HostSuite, Key, Metrics

NUM_GROUPS = 2  # groups of host environments that take turns
MOST_AHEAD = 64  # dispatches on their way to an accelerator


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How long and on what a run goes. Counts are environment steps over all tasks and
    environments.

    Reset rows count as steps, and rows of environments that rest (`curriculum`): they cost as much.
    Totals are rounded up to whole dispatches.
    """

    total_env_steps: Steps
    num_envs_per_task: Count
    seed: Seed = 0
    num_seeds: Count = 1
    num_devices: int = 1
    updates_per_dispatch: Count = 10
    log_every: Steps = 50_000
    eval_every: Steps = 1_000_000
    checkpoint_every: Steps = 500_000
    eval_episodes: Count = 32  # of every task, at the end
    early_episodes: CountOr0 = 0  # of the evaluations before; 0: as many
    keep: Count = 2  # checkpoints, the newest; an older one goes
    keep_best: str = ""  # and the one of the best evaluation: see `evaluations.Best.metric`
    stagger: bool = False  # of a host suite: environments begin at different points of an episode
    writers: tuple[str, ...] = ("tensorboard",)  # beside metrics.jsonl; keys of `writers.WRITERS`


class Engine(NamedTuple):
    """What `train.py` drives. A carry is opaque to it.

    Attributes:
      start: `() -> carry`, at update 0.
      advance: `(carry, update) -> (carry, metrics)`; metrics are NumPy leaves `[N, ...]` of the N
        updates that finished, `[N, S, ...]` with several seeds, {} if none has.
      launch: `(carry, update) -> (carry, pending)`, without waiting for the device.
      read: `(pending) -> metrics`, which are all that comes from the device, in one transfer.
      most_ahead: how many may be launched before the first of them is read (`mtrl_jax.pace`).
      flush: `(carry) -> (carry, metrics)`, waits for what still runs.
      save: `(carry) -> tree` for a checkpoint, of all processes, which must all ask for it.
      load: `(tree) -> carry`.
      state: `(carry) -> state` of the agent, `[S, ...]` with several seeds.
      updates: how many updates one `advance` makes.
      close: `(carry) -> None`.
    """

    start: Callable[[], Any]
    advance: Callable[[Any, int], tuple[Any, Metrics]]
    launch: Callable[[Any, int], tuple[Any, Metrics]]
    read: Callable[[Metrics], Metrics]
    most_ahead: int
    flush: Callable[[Any], tuple[Any, Metrics]]
    save: Callable[[Any], ArrayTree]
    load: Callable[[ArrayTree], Any]
    state: Callable[[Any], ArrayTree]
    updates: int
    close: Callable[[Any], None]


def check(
    config: RunConfig,
    suite: FunctionalSuite | HostSuite,
    agent: Agent | None = None,
    name: str = "",
) -> None:
    """Raises ValueError, naming the field, for what cannot run, and `name` where it is the suite;
    builds and writes nothing."""
    ranges.check(config)
    writers.check(config.writers)
    check_shapes(suite, name)
    check_best(config.keep_best, suite.spec, agent is None or agent.has_distilled)
    if config.seed >= 2**31 - config.num_seeds:
        raise ValueError(f"seed must lie in [0, 2**31 - num_seeds); got {config.seed}")
    num_devices = learner.across(config.num_devices).size
    host = isinstance(suite, HostSuite)
    parts = math.lcm(num_devices, NUM_GROUPS * jax.process_count()) if host else num_devices
    if config.num_envs_per_task % parts:
        groups = f", {NUM_GROUPS} groups of host environments" if host else ""
        raise ValueError(
            f"num_envs_per_task must be a multiple of {parts} ({num_devices} devices{groups}); "
            f"got {config.num_envs_per_task}"
        )
    if config.stagger and not (host and suite.spec.episode_limit.all()):
        raise ValueError(
            "stagger must be False on a functional suite and where episodes have no limit; got True"
        )
    make_pool = getattr(suite, "make_pool", None)
    if config.stagger and make_pool and not by_name.accepts(make_pool, "stagger"):
        raise ValueError("stagger must be False on a suite whose pools do not take it; got True")
    if host and config.num_seeds > 1:
        raise ValueError(
            "num_seeds must be 1 on a host suite (only a functional suite runs several seeds as "
            f"one program); got {config.num_seeds}"
        )
    if agent is not None and agent.environments is not None:
        if host:
            raise ValueError(
                "curriculum over=environments must be over=losses on a host suite, whose "
                "environments all step together"
            )
        if config.num_envs_per_task < 2:
            raise ValueError(
                "num_envs_per_task must be at least 2 for a curriculum over=environments, which "
                f"lets some of them rest; got {config.num_envs_per_task}"
            )
    if agent is not None and agent.num_devices != num_devices:
        raise ValueError(
            f"agent must be made with the collectives of the run's {num_devices} devices "
            f"(learner.across); it was made with those of {agent.num_devices}"
        )


def check_best(metric: str, spec: EnvSpec, has_distilled: bool) -> None:
    """Raises ValueError unless evaluations have the metric `RunConfig.keep_best`; "" is none.

    Args:
      metric: as in `evaluations.Best`.
      spec: of the suite.
      has_distilled: whether the agent has a shared policy.
    """
    policies = ["task_policy"] + ["distilled_policy"] * has_distilled
    quantities = ["return"] + ["success"] * spec.has_success
    known = [f"eval/{policy}/{quantity}" for policy in policies for quantity in quantities]
    if metric and metric not in known:
        raise ValueError(f"keep_best must be one of {', '.join(known)}; got {metric!r}")


def dispatch_steps(
    config: RunConfig, suite: FunctionalSuite | HostSuite, unroll_length: int
) -> int:
    """Environment steps of one dispatch."""
    updates = config.updates_per_dispatch if isinstance(suite, FunctionalSuite) else 1
    return unroll_length * suite.spec.num_tasks * config.num_envs_per_task * updates


def make(
    config: RunConfig, suite: FunctionalSuite | HostSuite, agent: Agent, name: str = ""
) -> Engine:
    """The engine for this kind of suite; nothing is compiled yet.

    Raises:
      ValueError: as `check`.
    """
    check(config, suite, agent, name)
    if isinstance(suite, FunctionalSuite):
        return _functional(config, suite, agent)
    return _host(config, suite, agent)


def root_key(config: RunConfig) -> Key:
    """The key of a run, or keys `[S]`; seed n of several is the run with `seed + n` alone."""
    keys = [jax.random.key(config.seed + n) for n in range(config.num_seeds)]
    return jnp.stack(keys) if config.num_seeds > 1 else keys[0]


def over_seeds(config: RunConfig, fn: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
    """vmaps `fn` over S where there are several seeds."""
    return jax.vmap(fn, in_axes=in_axes) if config.num_seeds > 1 else fn


def _local_envs(config: RunConfig, spec: EnvSpec) -> np.ndarray:
    """Global numbers of this process's environments, int32 `[K, E / processes]`."""
    return processes.scatter(rollout.env_indices(spec.num_tasks, config.num_envs_per_task), axis=1)


def _functional(config: RunConfig, suite: FunctionalSuite, agent: Agent) -> Engine:
    devices = learner.local_devices(config.num_devices)
    axis = 2 if config.num_seeds > 1 else 1  # of E
    env_index = jnp.asarray(_local_envs(config, suite.spec))
    dispatch = program_of(
        suite, agent, learner.across(config.num_devices), config.updates_per_dispatch
    )
    program = learner.pmap(
        over_seeds(config, dispatch, in_axes=(0, 0, 0, None, None)), devices, donate_argnums=(0, 1)
    )
    root = learner.replicate(root_key(config), devices)
    data = learner.replicate(split_tasks(suite)[0], devices)

    def init(key):
        loop = rollout.init_env_loop(suite, stream(key, "reset"), env_index, agent.init_actor)
        # A weak type would be a strong one after the first dispatch, and compile everything again.
        return strong((agent.init(stream(key, "params")), loop))

    def put(state, loop):
        return learner.replicate(state, devices), learner.shard(loop, devices, axis)

    def launch(carry, update):
        state, loop, values = program(*carry, root, data, np.full(len(devices), update, np.int32))
        return (state, loop), learner.first(values)

    def read(pending):
        values = jax.device_get(pending)  # also the synchronisation: see learner.py
        if config.num_seeds > 1:  # [S, N, ...] to [N, S, ...]
            values = {k: np.moveaxis(v, 0, 1) for k, v in values.items()}
        return values

    def advance(carry, update):
        carry, pending = launch(carry, update)
        return carry, read(pending)

    def save(carry):
        state, loop = carry
        environments = processes.gather(learner.unshard(loop, axis), axis)
        return {"state": learner.first(state), "loop": environments}

    alone = jax.process_count() == 1 and devices[0].platform != "cpu"
    return Engine(
        start=lambda: put(*jax.jit(over_seeds(config, init))(root_key(config))),
        advance=advance,
        launch=launch,
        read=read,
        most_ahead=MOST_AHEAD if alone else 1,
        flush=lambda carry: (carry, {}),
        save=save,
        load=lambda tree: put(tree["state"], processes.scatter(tree["loop"], axis)),
        state=lambda carry: learner.first(carry[0]),
        updates=config.updates_per_dispatch,
        close=lambda carry: None,
    )


class _HostCarry(NamedTuple):
    """Learner and environments of the host path.

    Attributes:
      state: replicated, of the running update.
      policy: on one device, of before the running update.
      next_policy: replicated, of after it.
      stats: running episodes, sharded.
      pool, loop: the environments, None until the first step.
      pending: metrics of the running update, None once read.
    """

    state: ArrayTree
    policy: ArrayTree
    next_policy: ArrayTree
    stats: rollout.EpisodeStats
    pool: Any
    loop: Any
    pending: Metrics | None


def _open_pool(config: RunConfig, suite: HostSuite, u: int, num_envs: int) -> Any:
    """The environments of this process from update u on, which play new episodes: a pool cannot be
    restored, so a run that continues has seeds of its own."""
    key = jax.random.fold_in(stream(root_key(config), "reset"), u)
    key = jax.random.fold_in(key, jax.process_index())
    seed = int(jax.random.randint(key, (), 0, 2**30))
    stagger = {"stagger": True} if config.stagger else {}
    return suite.make_pool(num_envs, seed, NUM_GROUPS, **stagger)


def _shard_rollout(experience: rollout.Rollout, devices: Sequence[jax.Device]) -> rollout.Rollout:
    """A rollout of the host, its environments divided among the devices."""
    return rollout.Rollout(
        timestep=learner.shard(experience.timestep, devices, axis=2),
        action=learner.shard(experience.action, devices, axis=2),
        log_prob=learner.shard(experience.log_prob, devices, axis=2),
        actor_state=learner.shard(experience.actor_state, devices, axis=1),
    )


def _host(config: RunConfig, suite: HostSuite, agent: Agent) -> Engine:
    devices = learner.local_devices(config.num_devices)
    collectives = learner.across(config.num_devices)
    root = root_key(config)
    env_index = _local_envs(config, suite.spec)
    num_envs = env_index.shape[1]
    act = rollout.act_at(agent.act)
    rollout_key = jax.jit(lambda u: jax.random.fold_in(stream(root, "rollout"), u))

    def update(state, stats, experience):
        state, values = agent.update(state, experience)
        stats, episodes = rollout.episode_statistics(stats, experience.timestep)
        state, values = with_episodes(agent, state, values, collectives.sum(episodes))
        return state, stats, agent.policy_params(state), values

    program = learner.pmap(update, devices, donate_argnums=(0, 1))

    def begin(state: ArrayTree) -> _HostCarry:
        policy = jax.jit(agent.policy_params)(state)
        return _HostCarry(
            state=learner.replicate(state, devices),
            policy=policy,
            next_policy=learner.replicate(policy, devices),
            stats=learner.shard(rollout.init_stats(env_index.shape), devices, axis=1),
            pool=None,
            loop=None,
            pending=None,
        )

    def flush(carry: _HostCarry) -> tuple[_HostCarry, Metrics]:
        if carry.pending is None:
            return carry, {}
        values = jax.device_get(learner.first(carry.pending))
        return carry._replace(pending=None), {k: v[None] for k, v in values.items()}

    def advance(carry: _HostCarry, u: int) -> tuple[_HostCarry, Metrics]:
        if carry.pool is None:
            pool = _open_pool(config, suite, u, num_envs)
            loop = rollout.init_host_loop(pool, num_envs, agent.init_actor)
            carry = carry._replace(pool=pool, loop=loop)
        # While update u - 1 runs in the background, its predecessor's policy collects rollout u.
        loop, experience = rollout.collect(
            carry.pool,
            act,
            carry.policy,
            carry.loop,
            rollout_key(u),
            env_index,
            agent.unroll_length,
        )
        carry, values = flush(carry)
        policy = learner.first(carry.next_policy)
        batch = _shard_rollout(experience, devices)
        state, stats, next_policy, pending = program(carry.state, carry.stats, batch)
        if not agent.overlap:
            policy = learner.first(next_policy)
        carry = _HostCarry(state, policy, next_policy, stats, carry.pool, loop, pending)
        return carry, values

    return Engine(
        start=lambda: begin(jax.jit(lambda key: strong(agent.init(key)))(stream(root, "params"))),
        advance=advance,
        launch=advance,
        read=lambda metrics: metrics,
        most_ahead=1,
        flush=flush,
        save=lambda carry: {"state": learner.first(carry.state)},
        load=lambda tree: begin(tree["state"]),
        state=lambda carry: learner.first(carry.state),
        updates=1,
        close=lambda carry: None if carry.pool is None else carry.pool.close(),
    )
