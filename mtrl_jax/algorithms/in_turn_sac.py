"""SAC as a learner of tasks in turn. Methods act on the policy; the critics are free.

So it is in Continual World (Wolczyk et al. 2021, arXiv 2105.10919), which regularises the policy
alone and empties the replay where a task begins; there the first `warmup` steps are uniform again,
and optimisers are fresh. The task's temperature is its own and starts as every task's. The slow
critics go on. Progressive columns are of the critics too.

Reservoir and A-GEM keep what the policy said, as with PPO, not transitions: an old transition needs
critics that still know its task.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import learner, replay
from mtrl_jax.algorithms import actor_q, experience, in_turn, sac
from mtrl_jax.algorithms.in_turn import Acting, Learner, Wrap
from mtrl_jax.continual import Situation
from mtrl_jax.distributions import Distribution
from mtrl_jax.types import Array, ArrayTree, EnvSpec, Key, Rollout

__all__ = ["check", "make"]

_KEY = 1 << 30  # apart from those of batches, which count gradient steps


def check(spec: EnvSpec, numbers: sac.Config) -> None:
    """Raises ValueError, naming the field, what came and what is allowed."""
    if not spec.action_size:
        raise ValueError("suite must have continuous actions for SAC; got discrete ones")
    in_turn.refuse(numbers, reset_every=0, reward_scaling="none")
    if numbers.statistics == "shared":
        raise ValueError("statistics must not be shared where one task is learnt at a time")
    sac.check(spec, numbers)


def make(
    spec: EnvSpec, numbers: sac.Config, observations: int, collectives: learner.Collectives
) -> Learner:
    """The functions.

    Args:
      spec: of all tasks.
      numbers: of SAC.
      observations: M, observations drawn from the replay for methods to look at.
      collectives: of the devices.
    """
    parts: Any = sac.make_parts(spec, numbers, collectives, at_once=1)
    nets = parts.numbers.nets
    return Learner(
        spec=spec,
        config=numbers,
        collectives=collectives,
        part="",
        init=lambda key: sac.init(parts, key),
        shared=lambda state: state.learned.actor.shared,
        with_shared=_with_shared,
        own=_own,
        with_own=_with_own,
        acting=functools.partial(_acting, numbers),
        act=functools.partial(_act, parts),
        situation=functools.partial(_situation, nets),
        network=lambda state, k, x: (nets.actor, "", _inputs(nets, state, k, x)),
        unseen=jnp.zeros((observations, *spec.observation_shape), spec.observation_dtype),
        seen=functools.partial(_seen, observations),
        update=lambda state, task, rollout, wrap: sac.update(
            _bound(parts, task, wrap), state, rollout
        ),
        begin=functools.partial(_begin, parts),
    )


def _bound(parts: Any, task: Array, wrap: Wrap | None = None) -> Any:
    """SAC's parts for one task, with a method around the optimisers of what is shared."""
    of = parts.numbers._replace(tasks=task[None])
    if wrap is not None:
        actor, critic = of.transforms, of.critic_transforms
        of = of._replace(
            transforms=actor._replace(shared=wrap(actor.shared)),
            critic_transforms=critic._replace(shared=wrap(critic.shared, critic=True)),
        )
    return parts._replace(numbers=of)


def _own(state: sac.State) -> Any:
    of = state.learned
    halves = (of.actor.task, of.critic.task, of.target.task)
    return halves, of.log_temperature, state.observations


def _with_own(state: sac.State, own: Any) -> sac.State:
    of, ((actor, critic, target), log_temperature, observations) = state.learned, own
    of = of._replace(
        actor=of.actor._replace(task=actor),
        critic=of.critic._replace(task=critic),
        target=of.target._replace(task=target),
        log_temperature=log_temperature,
    )
    return state._replace(learned=of, observations=observations)


def _with_shared(state: sac.State, shared: Any) -> sac.State:
    actor = state.learned.actor._replace(shared=shared)
    return state._replace(learned=state.learned._replace(actor=actor))


def _acting(numbers: sac.Config, state: sac.State) -> Acting:
    actor = state.learned.actor
    return Acting(actor.shared, (actor.task, state.observations), state.steps < numbers.warmup)


def _act(
    parts: Any, acting: Acting, task: Array, observation: Array, keys: Key, greedy: bool
) -> tuple[Array, Array]:
    own, moments = acting.own
    policy = sac.Policy(learner.Params(acting.shared, own), moments, acting.rest)
    return sac.act(_bound(parts, task), policy, observation, keys, greedy=greedy)


def _inputs(nets: Any, state: sac.State, k: Array, observation: Array) -> Array:
    moments = jax.tree.map(lambda x: x[k], state.observations)
    return actor_q.inputs(nets, moments, observation)


def _situation(
    nets: Any, state: sac.State, task: Array, done: Array, seen: Array, told: bool
) -> Situation:
    def policy(actor: ArrayTree, own: ArrayTree, observation: Array, k: Array) -> Distribution:
        return actor_q.head(nets, actor, own, _inputs(nets, state, k, observation), k)

    key = jax.random.fold_in(jax.random.fold_in(state.key, _KEY + task), done)
    return Situation(policy, state.learned.actor.task, task, done, seen, told, key)


def _seen(observations: int, state: sac.State, rollout: Rollout) -> Array:
    key = jax.random.fold_in(jax.random.fold_in(state.key, _KEY - 1), state.steps)
    drawn: Any = replay.sample(state.rings, key, observations)
    found: Array = drawn.observation[0]
    return found


def _begin(parts: Any, state: sac.State, task: Array, wrap: Wrap) -> sac.State:
    of, learned = _bound(parts, task, wrap).numbers, state.learned
    learned = learned._replace(
        actor_opt=learner.init_optimisers(of.transforms, learned.actor),
        critic_opt=learner.init_optimisers(of.critic_transforms, learned.critic),
        temperature_opt=of.temperature.init(learned.log_temperature),
    )
    return state._replace(
        learned=learned,
        rings=replay.init(experience.item_spec(parts.spec), 1, parts.config.capacity),
        steps=jnp.zeros_like(state.steps),
    )
