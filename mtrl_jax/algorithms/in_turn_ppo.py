"""PPO as a learner of tasks in turn. Methods act on the policy; the value network is free."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import learner
from mtrl_jax.algorithms import actor_critic, in_turn, ppo
from mtrl_jax.algorithms.in_turn import Acting, Learner, Wrap
from mtrl_jax.continual import Situation
from mtrl_jax.distributions import Distribution
from mtrl_jax.types import Array, ArrayTree, EnvSpec, Key, Rollout

__all__ = ["check", "make"]


def check(spec: EnvSpec, numbers: ppo.Config) -> None:
    """Raises ValueError, naming the field, what came and what is allowed."""
    in_turn.refuse(numbers, final_learning_rate=1.0)
    if numbers.statistics == "shared":
        raise ValueError("statistics must not be shared where one task is learnt at a time")
    ppo.check(spec, numbers)


def make(
    spec: EnvSpec, numbers: ppo.Config, observations: int, collectives: learner.Collectives
) -> Learner:
    """The functions.

    Args:
      spec: of all tasks.
      numbers: of PPO.
      observations: M, rows of the newest rollout that methods look at, evenly spread over its time
        and environments.
      collectives: of the devices.
    """
    parts: Any = ppo.make_parts(spec, numbers, 0, collectives, at_once=1)
    nets = parts.nets
    return Learner(
        spec=spec,
        config=numbers,
        collectives=collectives,
        part="actor",
        init=lambda key: ppo.init(parts, key),
        shared=lambda state: state.params.shared,
        with_shared=lambda state, x: state._replace(params=state.params._replace(shared=x)),
        own=lambda state: (state.params.task, state.observations, state.returns),
        with_own=_with_own,
        acting=lambda state: Acting(state.params.shared, (state.params.task, state.observations)),
        act=functools.partial(_act, parts),
        situation=functools.partial(_situation, nets),
        network=lambda state, k, x: (nets.actor, "", _inputs(nets, state, k, x)),
        unseen=jnp.zeros((observations, *spec.observation_shape), spec.observation_dtype),
        seen=lambda state, rollout: _seen(collectives, observations, rollout),
        update=lambda state, task, rollout, wrap: ppo.update(
            _bound(parts, task, wrap), state, rollout
        ),
        begin=functools.partial(_begin, parts),
    )


def _bound(parts: Any, task: Array, wrap: Wrap | None = None) -> Any:
    """PPO's parts for one task, with a method around the optimiser of what is shared."""
    of = parts._replace(numbers=parts.numbers._replace(tasks=task[None]))
    if wrap is None:
        return of
    shared = wrap(parts.transforms.shared)
    return of._replace(transforms=parts.transforms._replace(shared=shared))


def _with_own(state: ppo.State, own: Any) -> ppo.State:
    task, observations, returns = own
    params = state.params._replace(task=task)
    return state._replace(params=params, observations=observations, returns=returns)


def _act(
    parts: Any, acting: Acting, task: Array, observation: Array, keys: Key, greedy: bool
) -> tuple[Array, Array]:
    own, moments = acting.own
    policy = ppo.Policy(learner.Params(acting.shared, own), moments)
    return ppo.act(_bound(parts, task), policy, observation, keys, greedy=greedy)


def _inputs(nets: Any, state: ppo.State, k: Array, observation: Array) -> Array:
    moments = jax.tree.map(lambda x: x[k], state.observations)
    return actor_critic.inputs(nets, moments, observation)


def _situation(
    nets: Any, state: ppo.State, task: Array, done: Array, seen: Array, told: bool
) -> Situation:
    def policy(actor: ArrayTree, own: ArrayTree, observation: Array, k: Array) -> Distribution:
        x = _inputs(nets, state, k, observation)
        return actor_critic.policy(nets, {"actor": actor}, own, x, k)

    key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.updates)
    return Situation(policy, state.params.task, task, done, seen, told, key)


def _seen(collectives: learner.Collectives, observations: int, rollout: Rollout) -> Array:
    """Of all devices, so that all have the same."""
    rows = collectives.gather(rollout.timestep.observation[:-1], 2)[:, 0]
    flat = rows.reshape(-1, *rows.shape[2:])
    return flat[jnp.arange(observations) * flat.shape[0] // observations]


def _begin(parts: Any, state: ppo.State, task: Array, wrap: Wrap) -> ppo.State:
    fresh = learner.init_optimisers(_bound(parts, task, wrap).transforms, state.params)
    return state._replace(opt_state=fresh)
