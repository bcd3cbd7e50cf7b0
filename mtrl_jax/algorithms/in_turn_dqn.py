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
from mtrl_jax.types import Array, ArrayTree, EnvSpec, Key, Metrics, Rollout

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
    net, masks = parts.net, jnp.asarray(spec.action_mask)

    def bound(task: Array, wrap: Wrap | None = None) -> Any:
        of = parts._replace(tasks=task[None])
        if wrap is None:
            return of
        shared = wrap(parts.transforms.shared)
        return of._replace(transforms=parts.transforms._replace(shared=shared))

    def with_own(state: dqn.State, own: Any) -> dqn.State:
        halves = zip((state.params, state.target), own, strict=True)
        params, target = (half._replace(task=x) for half, x in halves)
        return state._replace(params=params, target=target)

    def act(
        acting: Acting, task: Array, observation: Array, keys: Key, greedy: bool
    ) -> tuple[Array, Array]:
        policy = dqn.Policy(learner.Params(acting.shared, acting.own), acting.rest)
        return dqn.act(bound(task), policy, observation, keys, greedy=greedy)

    def situation(state: dqn.State, task: Array, done: Array, seen: Any, told: bool) -> Situation:
        def policy(actor: ArrayTree, own: ArrayTree, observation: Array, k: Array) -> Distribution:
            return said(
                q_network.values_of_task(net, actor, own, observation, k), masks[k], *q_policy
            )

        def loss(actor: ArrayTree, own: ArrayTree, item: dqn.Transition, k: Array) -> Array:
            """DQN's own, with the target network as it stood when the update began."""
            one = jax.tree.map(lambda x: x[None], item)
            # The head of a task before does not move: it is its own target.
            slow = jax.tree.map(lambda x, y: jnp.where(k == task, x[k], y), state.target.task, own)
            q_tm1 = q_network.values_of_task(net, actor, own, one.observation, k)
            q_t = q_network.values_of_task(net, state.target.shared, slow, one.next_observation, k)
            chosen = q_t
            if numbers.double_q:
                chosen = q_network.values_of_task(net, actor, own, one.next_observation, k)
            delta = dqn.errors(q_tm1, one, q_t, chosen, masks[k])
            return q_learning.huber(delta, numbers.huber)[0]

        key = jax.random.fold_in(jax.random.fold_in(state.key, _KEY + task), done)
        own = state.params.task
        lesson = Lesson(seen, loss)
        return Situation(policy, own, task, done, seen.observation, told, key, lesson)

    def seen(state: dqn.State, rollout: Rollout) -> dqn.Transition:
        key = jax.random.fold_in(jax.random.fold_in(state.key, _KEY - 1), state.steps)
        drawn = replay.sample(state.replay, key, observations)
        return jax.tree.map(lambda x: x[0], drawn)

    def update(
        state: dqn.State, task: Array, rollout: Rollout, wrap: Wrap
    ) -> tuple[dqn.State, Metrics]:
        return dqn.update(bound(task, wrap), state, rollout)

    def begin(state: dqn.State, task: Array, wrap: Wrap) -> dqn.State:
        return state._replace(
            opt_state=learner.init_optimisers(bound(task, wrap).transforms, state.params),
            target=jax.tree.map(jnp.copy, state.params),
            replay=replay.init(dqn.item_spec(spec), 1, numbers.replay_size),
            steps=jnp.zeros_like(state.steps),
        )

    return Learner(
        spec=spec,
        config=numbers,
        collectives=collectives,
        part="",
        init=lambda key: dqn.init(parts, key),
        shared=lambda state: state.params.shared,
        with_shared=lambda state, x: state._replace(params=state.params._replace(shared=x)),
        own=lambda state: (state.params.task, state.target.task),
        with_own=with_own,
        acting=lambda state: Acting(
            state.params.shared, state.params.task, dqn.epsilon_at(numbers, state.steps)
        ),
        act=act,
        situation=situation,
        network=lambda state, k, x: (net.head, "head", net.torso.apply({}, x)),  # without layers
        unseen=jax.tree.map(
            lambda x: jnp.zeros((observations, *x.shape), x.dtype), dqn.item_spec(spec)
        ),
        seen=seen,
        update=update,
        begin=begin,
    )
