"""DQN as a learner of tasks in turn. Methods act on all shared parameters of the Q-network.

Where a task begins: the replay is emptied (Continual World empties that of SAC: Wolczyk et al.
2021, arXiv 2105.10919), epsilon falls from 1 again, the target network is the network as it
stands, and the optimisers are fresh. An agent that is not told where tasks change goes on instead.

What a Q-network says, for anchors and distillation, is a choice (`continual.Config.q_policy`):

    softmax    pi(a|x) = exp(Q(x, a) / tau) / sum_b exp(Q(x, b) / tau)
    values     N(Q(x, a), tau^2) for each action a

The first is that of policy distillation (Rusu et al. 2015, arXiv 1511.06295); Kirkpatrick et al.
2017 do not say which log pi their Fisher information is of. With the second, the Fisher information
is E_x sum_a (dQ(x, a) / dtheta)^2 / tau^2, a divergence the squared difference of values over 2
tau^2, and MAS is of the values themselves.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import distributions, learner, replay
from mtrl_jax.algorithms import dqn, q_network
from mtrl_jax.algorithms.in_turn import Acting, Learner, Wrap
from mtrl_jax.continual import Lesson, Situation
from mtrl_jax.distributions import Distribution, Gaussian
from mtrl_jax.losses import q_learning
from mtrl_jax.networks import torsos
from mtrl_jax.types import Array, ArrayTree, EnvSpec, Key, Rollout

__all__ = ["check", "make", "said"]

_KEY = 1 << 30  # apart from those of batches, which count gradient steps


def check(spec: EnvSpec, numbers: dqn.Config, progressive: bool) -> None:
    """Raises ValueError, naming the field, what came and what is allowed."""
    dqn.check(spec, numbers)
    if progressive and torsos.TORSOS[torsos.choose(spec, numbers.torso).kind]:
        raise ValueError("method progressive must have no torso: its columns are dense; got one")


def said(q: Array, mask: Array, kind: str, tau: float) -> Distribution:
    """The distribution `[B, A]` of values `[B, A]`; `mask` bool `[A]`, the actions there are."""
    if kind == "softmax":
        return distributions.categorical(q / tau, mask)
    return distributions.masked(Gaussian(q, jnp.full_like(q, math.log(tau))), mask)


def make(
    spec: EnvSpec,
    numbers: dqn.Config,
    observations: int,
    collectives: learner.Collectives,
    q_policy: tuple[str, float] = ("softmax", 1.0),
) -> Learner:
    """The functions.

    Args:
      spec: of all tasks.
      numbers: of DQN.
      observations: M, transitions drawn from the replay for methods to look at.
      collectives: of the devices.
      q_policy: kind and tau of `said`.
    """
    parts: Any = dqn.make_parts(spec, numbers, collectives, at_once=1)
    item, net = dqn.item_spec(spec), parts.net
    return Learner(
        spec=spec,
        config=numbers,
        collectives=collectives,
        part="",
        init=lambda key: dqn.init(parts, key),
        shared=lambda state: state.params.shared,
        with_shared=lambda state, x: state._replace(params=state.params._replace(shared=x)),
        own=lambda state: (state.params.task, state.target.task),
        with_own=_with_own,
        acting=lambda state: Acting(
            state.params.shared, state.params.task, dqn.epsilon_at(numbers, state.steps)
        ),
        act=functools.partial(_act, parts),
        situation=functools.partial(_situation, parts, q_policy),
        network=lambda state, k, x: (net.head, "head", net.torso.apply({}, x)),  # without layers
        unseen=jax.tree.map(lambda x: jnp.zeros((observations, *x.shape), x.dtype), item),
        seen=functools.partial(_seen, observations),
        update=lambda state, task, rollout, wrap: dqn.update(
            _bound(parts, task, wrap), state, rollout
        ),
        begin=functools.partial(_begin, parts),
    )


def _bound(parts: Any, task: Array, wrap: Wrap | None = None) -> Any:
    """DQN's parts for one task, with a method around the optimiser of what is shared."""
    of = parts._replace(tasks=task[None])
    if wrap is None:
        return of
    shared = wrap(parts.transforms.shared)
    return of._replace(transforms=parts.transforms._replace(shared=shared))


def _with_own(state: dqn.State, own: Any) -> dqn.State:
    halves = zip((state.params, state.target), own, strict=True)
    params, target = (half._replace(task=x) for half, x in halves)
    return state._replace(params=params, target=target)


def _act(
    parts: Any, acting: Acting, task: Array, observation: Array, keys: Key, greedy: bool
) -> tuple[Array, Array]:
    policy = dqn.Policy(learner.Params(acting.shared, acting.own), acting.rest)
    return dqn.act(_bound(parts, task), policy, observation, keys, greedy=greedy)


def _situation(
    parts: Any,
    q_policy: tuple[str, float],
    state: dqn.State,
    task: Array,
    done: Array,
    seen: dqn.Transition,
    told: bool,
) -> Situation:
    masks = jnp.asarray(parts.spec.action_mask)

    def policy(actor: ArrayTree, own: ArrayTree, observation: Array, k: Array) -> Distribution:
        q = q_network.values_of_task(parts.net, actor, own, observation, k)
        return said(q, masks[k], *q_policy)

    def loss(actor: ArrayTree, own: ArrayTree, item: dqn.Transition, k: Array) -> Array:
        return _loss(parts, state.target, task, actor, own, item, k)

    key = jax.random.fold_in(jax.random.fold_in(state.key, _KEY + task), done)
    lesson = Lesson(seen, loss)
    return Situation(policy, state.params.task, task, done, seen.observation, told, key, lesson)


def _loss(
    parts: Any,
    target: learner.Params,
    task: Array,
    actor: ArrayTree,
    own: ArrayTree,
    item: dqn.Transition,
    k: Array,
) -> Array:
    """DQN's own of one kept transition of task k, with the target network as it stood when the
    update of task `task` began."""
    net, config = parts.net, parts.config
    one = jax.tree.map(lambda x: x[None], item)
    # The head of a task before does not move: it is its own target.
    slow = jax.tree.map(lambda x, y: jnp.where(k == task, x[k], y), target.task, own)
    q_tm1 = q_network.values_of_task(net, actor, own, one.observation, k)
    q_t = q_network.values_of_task(net, target.shared, slow, one.next_observation, k)
    chosen = q_t
    if config.double_q:
        chosen = q_network.values_of_task(net, actor, own, one.next_observation, k)
    delta = dqn.errors(q_tm1, one, q_t, chosen, jnp.asarray(parts.spec.action_mask)[k])
    return q_learning.huber(delta, config.huber)[0]


def _seen(observations: int, state: dqn.State, rollout: Rollout) -> Any:
    key = jax.random.fold_in(jax.random.fold_in(state.key, _KEY - 1), state.steps)
    return jax.tree.map(lambda x: x[0], replay.sample(state.replay, key, observations))


def _begin(parts: Any, state: dqn.State, task: Array, wrap: Wrap) -> dqn.State:
    bound = _bound(parts, task, wrap)
    return state._replace(
        opt_state=learner.init_optimisers(bound.transforms, state.params),
        target=jax.tree.map(jnp.copy, state.params),
        replay=replay.init(dqn.item_spec(parts.spec), 1, parts.config.replay_size),
        steps=jnp.zeros_like(state.steps),
    )
