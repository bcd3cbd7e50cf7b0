"""The programs that a TPU runs, as the TPU's compiler is given them: `tpu_gate`, `tpu_plan`.

    train       `updates_per_dispatch` rollouts and updates, on one or several devices: what
                `engines` compiles for a functional suite
    evaluate    the episodes of an evaluation, on one device
    learn       the update alone, of an agent whose environments step on the host
    tabular     soft Q-learning by tables in two rooms, with and without distillation, many seeds

Nothing is run: states and rollouts are shapes.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.distral import tabular_run
from experiments.dqn.presets import ON_SMALL_GAMES
from experiments.episodic.presets import preset_of
from mtrl_jax import engines, evaluate, learner, rollout
from mtrl_jax.algorithms import distill, distral, dqn, mfec, nec, ppo, q_network, sac, teacher
from mtrl_jax.benchmark import regime
from mtrl_jax.dispatch import program_of, split_tasks
from mtrl_jax.envs import suites, two_rooms
from mtrl_jax.types import Agent, EnvSpec, FunctionalSuite, Rollout, Timestep

__all__ = [
    "AGENTS",
    "DISTRAL",
    "EPISODIC",
    "HOST",
    "MT10",
    "SUITES",
    "TWO_GAMES",
    "evaluation",
    "learning",
    "lowered",
    "mapped",
    "shapes_of",
    "tabular",
    "training",
]


class Maker(NamedTuple):
    """An algorithm: how its agent is made, and on how many environments of each task it is tried
    (of each device)."""

    make: Callable[[EnvSpec, learner.Collectives], Agent]
    num_envs: int


def _distill(spec: EnvSpec, collectives: learner.Collectives) -> Agent:
    net = q_network.make(spec, "multihead", "auto", (128,))
    shapes = jax.eval_shape(lambda: q_network.init_params(net, jax.random.key(0)))
    params = jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), shapes)
    teachers = tuple(teacher.make(net, params, k, features=False) for k in range(spec.num_tasks))
    return distill.agent(spec, distill.Config(), teachers, collectives=collectives)


def _stream() -> FunctionalSuite:
    suite = suites.make("small_games")
    return regime.random_games(suite, range(suite.spec.num_tasks))


SUITES: dict[str, Callable[[], Any]] = {
    "maze8": lambda: suites.make("maze8"),
    "small_games": lambda: suites.make("small_games"),
    "rooms": lambda: suites.make("rooms:split=source"),
    "two_rooms": lambda: two_rooms.two_rooms(num_tasks=4),
    "stream": _stream,
}
_DISTRAL = distral.Config(hidden=(64, 64), lambda_=0.95)
_PPO = ppo.Config(unroll_length=64, minibatches=4, epochs=4)
_DQN = dqn.Config(**ON_SMALL_GAMES)
AGENTS = {
    "distral": Maker(lambda spec, c: distral.agent(spec, _DISTRAL, collectives=c), 32),
    "ppo": Maker(lambda spec, c: ppo.agent(spec, _PPO, collectives=c), 32),
    "dqn": Maker(lambda spec, c: dqn.agent(spec, _DQN, collectives=c), 8),
    "distill": Maker(_distill, 8),
}
# Columns that the algorithm of `AGENTS`, with two, does not have alone; with and without a memory.
DISTRAL = {
    name: Maker(
        lambda spec, c, more=more: distral.agent(
            spec, dataclasses.replace(_DISTRAL, **more), collectives=c
        ),
        32,
    )
    for name, more in {
        "a3c": {"algorithm": "a3c"},
        "a3c_multitask": {"algorithm": "a3c_multitask"},
        "kl_ent_1col": {"algorithm": "kl_ent_1col"},
        "kl_ent_2col, lstm": {"core": "lstm", "core_size": 64},
    }.items()
}
# Agents whose memory are tables, with what `experiments.episodic` begins with on the small games;
# two of them, since every task has tables of its own.
TWO_GAMES = partial(suites.make, "small_games:catch,snake")
_TABLES = preset_of("small_games")
EPISODIC = {
    "mfec": Maker(
        lambda spec, c: mfec.agent(spec, mfec.Config(**_TABLES["mfec"]), collectives=c), 8
    ),
    "nec": Maker(lambda spec, c: nec.agent(spec, nec.Config(**_TABLES["nec"]), collectives=c), 8),
}
# Continuous actions: what Meta-World's MT10 shows, whose environments step on the host.
MT10 = EnvSpec(
    task_names=tuple(f"task{k}" for k in range(10)),
    observation_shape=(39,),
    observation_dtype=np.dtype(np.float32),
    vocabulary=None,
    num_actions=0,
    action_mask=np.ones((10, 0), bool),
    episode_limit=np.full(10, 500),
    has_success=True,
    action_size=4,
)
HOST = {
    "ppo": Maker(lambda spec, c: ppo.agent(spec, ppo.Config(), collectives=c), 8),
    "sac": Maker(lambda spec, c: sac.agent(spec, sac.Config(), collectives=c), 8),
    "distral": Maker(lambda spec, c: distral.agent(spec, _DISTRAL, collectives=c), 8),
}


def shapes_of(suite: FunctionalSuite, agent: Agent, num_envs: int) -> tuple[Any, ...]:
    """Shapes of a state, of what acting reads, of an environment loop and a rollout of `[K, E]`,
    and of a key."""
    spec, t = suite.spec, agent.unroll_length
    key = jax.eval_shape(lambda: jax.random.key(0))
    index = jax.ShapeDtypeStruct((spec.num_tasks, num_envs), jnp.int32)
    state = jax.eval_shape(agent.init, key)
    loop = jax.eval_shape(
        lambda key, index: rollout.init_env_loop(suite, key, index, agent.init_actor), key, index
    )
    policy = jax.eval_shape(agent.policy_params, state)
    _, rows = jax.eval_shape(
        lambda policy, loop, key: rollout.unroll(suite, agent.act, policy, loop, key, t),
        policy,
        loop,
        key,
    )
    return state, policy, loop, rows, key


def _placed(tree: Any, sharding: Any, *lead: int) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype, sharding=sharding), tree
    )


def lowered(function: Callable[..., Any], arguments: Any, device: Any) -> Any:
    """Lowered for one device."""
    return jax.jit(function).lower(*_placed(arguments, jax.sharding.SingleDeviceSharding(device)))


def mapped(function: Callable[..., Any], arguments: Any, devices: Any, donated: Any) -> Any:
    """Lowered as `learner.pmap` maps it."""
    mesh = jax.sharding.Mesh(np.array(devices), (learner.AXIS,))
    sharding = jax.NamedSharding(mesh, jax.P(learner.AXIS))
    mapped = jax.pmap(
        function, axis_name=learner.AXIS, devices=list(devices), donate_argnums=donated
    )
    return mapped.lower(*_placed(arguments, sharding, len(devices)))


def training(suite: FunctionalSuite, maker: Maker, devices: Any, num_envs: int = 0) -> Any:
    """Lowered: a dispatch on these devices, each with `num_envs` environments of every task."""
    num_envs, collectives = num_envs or maker.num_envs, learner.across(len(devices))
    agent = maker.make(suite.spec, collectives)
    run = engines.RunConfig(1, num_envs * len(devices), num_devices=len(devices))
    state, _, loop, _, key = shapes_of(suite, agent, num_envs)
    update = jax.ShapeDtypeStruct((), jnp.int32)
    arguments = (state, loop, key, split_tasks(suite)[0], update)
    dispatch = program_of(suite, agent, collectives, run.updates_per_dispatch)
    return mapped(dispatch, arguments, devices, (0, 1))


def evaluation(suite: FunctionalSuite, maker: Maker, device: Any, episodes: int = 32) -> Any:
    """Lowered: an evaluation on one device."""
    agent = maker.make(suite.spec, learner.ALONE)
    _, policy, _, _, key = shapes_of(suite, agent, 1)
    scorer: Any = evaluate.functional_scorer(suite, agent, episodes)
    return scorer.lower(*_placed((policy, key), jax.sharding.SingleDeviceSharding(device)))


def learning(spec: EnvSpec, maker: Maker, devices: Any) -> Any:
    """Lowered: an update on a rollout of the host."""
    agent = maker.make(spec, learner.across(len(devices)))
    t, shape = agent.unroll_length, (spec.num_tasks, maker.num_envs)

    def rows(dtype, *own):
        return jax.ShapeDtypeStruct((t + 1, *shape, *own), dtype)

    number, flag = rows(jnp.float32), rows(jnp.bool_)
    observation = rows(spec.observation_dtype, *spec.observation_shape)
    action = jax.ShapeDtypeStruct((t, *shape, *spec.action_shape), spec.action_dtype)
    log_prob = jax.ShapeDtypeStruct((t, *shape), jnp.float32)
    actor = jax.eval_shape(lambda: agent.init_actor(maker.num_envs))
    timestep = Timestep(observation, number, number, flag, flag, flag)
    state = jax.eval_shape(agent.init, jax.eval_shape(lambda: jax.random.key(0)))
    arguments = (state, Rollout(timestep, action, log_prob, actor))
    return mapped(agent.update, arguments, devices, (0,))


def tabular(device: Any) -> Any:
    """Lowered: `experiments.distral.tabular`, all of a run."""
    learn, arguments, _ = tabular_run.program(tabular_run.Config())
    return lowered(learn, jax.eval_shape(lambda: arguments), device)
