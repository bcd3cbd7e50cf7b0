"""Agents whose policies are exported: numbers for their parameters, and rows to act on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.algorithms import distral, dqn, ppo, sac
from mtrl_jax.envs import pad
from mtrl_jax.types import EnvSpec, FunctionalSuite, Timestep

K, STEPS = 3, 4
VECTOR = EnvSpec(
    task_names=("reach", "push", "pull"),
    observation_shape=(5,),
    observation_dtype=np.dtype(np.float32),
    vocabulary=None,
    num_actions=4,
    action_mask=np.array([[1, 1, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0]], bool),
    episode_limit=np.full(K, 9),
    has_success=True,
)
BOX = VECTOR._replace(num_actions=0, action_mask=np.ones((K, 0), bool), action_size=2)
BOARD = VECTOR._replace(
    observation_shape=(3, 2), observation_dtype=np.dtype(np.uint8), vocabulary=np.full((3, 2), 6)
)
ONE = BOX._replace(
    task_names=("reach",), action_mask=np.ones((1, 0), bool), episode_limit=np.full(1, 9)
)
TWO = BOX._replace(
    task_names=("push", "pull"),
    observation_shape=(3,),
    action_mask=np.ones((2, 0), bool),
    episode_limit=np.full(2, 9),
    action_size=1,
)
PADDED = pad.join([FunctionalSuite(s, None, np.zeros(s.num_tasks)) for s in (ONE, TWO)]).spec
DISTRAL = functools.partial(distral.Config, hidden=(8, 8), entropy_cost=0.1)
# Spec, agent, rows a task, and whether the likeliest actions are exported (None: the agent's way).
AGENTS: dict[str, tuple[EnvSpec, Any, int, bool | None]] = {
    "distral": (VECTOR, distral.agent(VECTOR, DISTRAL()), 2, None),
    "distral-lstm": (BOARD, distral.agent(BOARD, DISTRAL(core="lstm", core_size=4)), 2, None),
    "distral-many-rows": (BOARD, distral.agent(BOARD, DISTRAL()), 40, None),
    "distral-continuous": (BOX, distral.agent(BOX, DISTRAL(core="lstm", core_size=4)), 3, None),
    "distral-likeliest": (VECTOR, distral.agent(VECTOR, DISTRAL(algorithm="kl_1col")), 2, True),
    "distral-alone": (
        VECTOR,
        distral.agent(VECTOR, DISTRAL(algorithm="a3c", separate=True)),
        2,
        None,
    ),
    "ppo": (VECTOR, ppo.agent(VECTOR, ppo.Config(hidden=(8, 8))), 4, False),
    "ppo-board": (BOARD, ppo.agent(BOARD, ppo.Config(hidden=(8,), network="moore")), 4, None),
    "ppo-continuous": (BOX, ppo.agent(BOX, ppo.Config(hidden=(8, 8), state_std=True)), 4, False),
    "ppo-padded": (PADDED, ppo.agent(PADDED, ppo.Config(hidden=(8, 8))), 2, False),
    "ppo-likeliest": (BOX, ppo.agent(BOX, ppo.Config(hidden=(8, 8), network="care")), 1, None),
    "dqn": (BOARD, dqn.agent(BOARD, dqn.Config(hidden=(8,), network="multihead")), 3, None),
    "dqn-drawn": (VECTOR, dqn.agent(VECTOR, dqn.Config(hidden=(8,))), 3, False),
    "sac": (BOX, sac.agent(BOX, sac.Config(hidden=(8, 8), capacity=5_000)), 3, False),
    "sac-likeliest": (BOX, sac.agent(BOX, sac.Config(hidden=(8,), capacity=5_000)), 3, None),
}


@functools.cache
def learnt(name: str) -> Any:
    """What acting reads, of random numbers: fresh parameters prefer no action."""
    agent, rng = AGENTS[name][1], np.random.default_rng(1)

    def numbers(x: Any) -> Any:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.asarray(0.7 * rng.normal(size=x.shape), x.dtype)
        return jnp.zeros(x.shape, x.dtype)

    shapes = jax.eval_shape(lambda key: agent.policy_params(agent.init(key)), jax.random.key(0))
    policy = jax.tree.map(numbers, shapes)
    if hasattr(policy, "observations"):
        variance = jnp.square(policy.observations.variance)
        policy = policy._replace(observations=policy.observations._replace(variance=variance))
    return policy._replace(epsilon=jnp.float32(0.3)) if hasattr(policy, "epsilon") else policy


def rows_of(spec: EnvSpec, envs: int, t: int) -> Timestep:
    """Row t of `[K, E]` environments; all begin at 0, some again later."""
    rng = np.random.default_rng(t)
    shape = (K, envs)
    if spec.vocabulary is None:
        observation = rng.normal(size=(*shape, *spec.observation_shape)).astype(np.float32)
    else:
        observation = rng.integers(0, 6, (*shape, *spec.observation_shape), np.uint8)
    first = (rng.random(shape) < 0.3) | (t == 0)
    reward = rng.normal(size=shape).astype(np.float32)
    ones = np.ones(shape, np.float32)
    return Timestep(observation, reward, ones, first, ~first, np.zeros(shape, bool))
