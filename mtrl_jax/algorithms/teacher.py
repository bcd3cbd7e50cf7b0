"""Frozen Q-networks of other runs as teachers: what they say and see, and how well they play.

A teacher's parameters are constants of the programs that use them, not part of anybody's state: a
checkpoint does not hold them, and nothing can train them. There may be N sets of them, seeds of the
same teachers, of which each student has one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import learner
from mtrl_jax.algorithms import q_network
from mtrl_jax.networks.multihead import MultiHead
from mtrl_jax.networks.onehot import OneHot
from mtrl_jax.networks.separate import Separate
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Timestep

__all__ = ["Teacher", "agent", "check", "make", "num_features", "num_sets", "outputs"]

# Their last layer is dense on a hidden layer, so that one can look behind it.
_PLAIN = (MultiHead, OneHot, Separate)


class Teacher(NamedTuple):
    """Who teaches one task.

    Attributes:
      net: its Q-network, whose outputs are A values, then F features.
      shared, task: NumPy parameters of that one task, leaves `[N, *param]`.
      number: the task's number in `net`.
      num_features: F, units of the last hidden layer; 0 where they cannot be seen.
    """

    net: q_network.QNetwork
    shared: ArrayTree
    task: ArrayTree
    number: int
    num_features: int


def make(
    net: q_network.QNetwork, params: learner.Params, number: int, *, features: bool = True
) -> Teacher:
    """The teacher of one task, from the Q-network of a run.

    The last hidden layer h is read through the output layer, which becomes [W, 1]: of h it gives
    [W h + b, h], whatever the network in front of it is.

    Args:
      net: of the run.
      params: its parameters, leaves `[N, *param]` (`[N, K, *param]` of the tasks' own); N seeds.
      number: of the task in that run.
      features: whether the features are wanted.

    Raises:
      ValueError: features of a network without a plain output layer, or no such task.
    """
    if not 0 <= number < net.spec.num_tasks:
        raise ValueError(f"number must lie in [0, {net.spec.num_tasks}); got {number}")

    def copy(x):
        return np.array(x)

    shared = jax.tree.map(copy, params.shared)
    task = jax.tree.map(lambda x: np.array(x)[:, number], params.task)
    if not features:
        return Teacher(net, shared, task, number, 0)
    if not isinstance(net.head, _PLAIN):
        raise ValueError(
            f"teachers must be {', '.join(c.__name__ for c in _PLAIN)} for their features to be "
            f"seen; got {type(net.head).__name__}"
        )
    width, size = net.head.hidden[-1], net.head.size

    def widen(kernel, bias):
        n = kernel.shape[0]
        eye = np.broadcast_to(np.eye(width, dtype=kernel.dtype), (n, width, width))
        zeros = np.zeros((n, width), bias.dtype)
        return np.concatenate([kernel, eye], 2), np.concatenate([bias, zeros], 1)

    if "out_kernel" in task:
        kernel, bias = widen(task["out_kernel"], task["out_bias"])
        task = {**task, "out_kernel": kernel, "out_bias": bias}
    else:
        out = shared["head"]["out"]
        kernel, bias = widen(out["kernel"], out["bias"])
        shared = {**shared, "head": {**shared["head"], "out": {"kernel": kernel, "bias": bias}}}
    wide = net._replace(head=net.head.clone(size=size + width))
    return Teacher(wide, shared, task, number, width)


def num_sets(teachers: tuple[Teacher, ...]) -> int:
    """N."""
    return jax.tree.leaves((teachers[0].shared, teachers[0].task))[0].shape[0]


def num_features(teachers: tuple[Teacher, ...]) -> int:
    """F; 0 unless all teachers show as many."""
    found = {teacher.num_features for teacher in teachers}
    return found.pop() if len(found) == 1 else 0


def check(spec: EnvSpec, teachers: tuple[Teacher, ...]) -> None:
    """Raises ValueError unless there is a teacher for each task of `spec`, of one number of sets,
    that reads its observations and values its actions."""
    if len(teachers) != spec.num_tasks:
        raise ValueError(
            f"teachers must be {spec.num_tasks}, one for each task; got {len(teachers)}"
        )
    for name, teacher in zip(spec.task_names, teachers, strict=True):
        own = teacher.net.spec
        seen, wanted = (
            (s.observation_shape, np.dtype(s.observation_dtype), s.num_actions) for s in (own, spec)
        )
        if seen != wanted:
            raise ValueError(
                f"teacher of {name} must read {wanted[1]}{wanted[0]} and have {wanted[2]} actions; "
                f"it reads {seen[1]}{seen[0]} and has {seen[2]}"
            )
        if num_sets((teacher,)) != num_sets(teachers):
            raise ValueError(
                f"teachers must all have as many seeds: {num_sets(teachers)}; that of {name} has "
                f"{num_sets((teacher,))}"
            )


def outputs(
    teachers: tuple[Teacher, ...], which: Array, observation: Array
) -> tuple[Array, list[Array]]:
    """What the networks of one set of teachers give.

    Args:
      teachers: K of them.
      which: int32 [], the set.
      observation: [K, B, ...].

    Returns:
      float32 [K, B, A] action-values, and K arrays [B, F] of features. Without gradient.
    """
    values: list[Array] = []
    features: list[Array] = []
    for k, teacher in enumerate(teachers):
        shared, task = jax.tree.map(lambda x: jnp.asarray(x)[which], (teacher.shared, teacher.task))
        number = jnp.int32(teacher.number)
        out = q_network.values_of_task(teacher.net, shared, task, observation[k], number)
        out = jax.lax.stop_gradient(out)
        size = teacher.net.spec.num_actions
        values.append(out[:, :size])
        features.append(out[:, size:])
    return jnp.stack(values), features


def agent(spec: EnvSpec, teachers: tuple[Teacher, ...], epsilon: float = 0.0) -> Agent:
    """The teachers as an agent that learns nothing, each playing its own task; its policy is the
    number of the set. With probability `epsilon` an action is uniform.

    Raises:
      ValueError: as `check`.
    """
    check(spec, teachers)

    def act(policy: Array, actor: Any, timestep: Timestep, keys: Key, **_: Any) -> Any:
        q = outputs(teachers, policy, timestep.observation)[0]
        chosen = q_network.epsilon_greedy(q, spec.action_mask, jnp.float32(epsilon), keys)
        return *chosen, actor

    return Agent(
        init=lambda key: jnp.int32(0),
        init_actor=lambda num_envs: (),
        policy_params=lambda state: state,
        act=act,
        update=lambda state, rollout: (state, {}),
        unroll_length=1,
        has_distilled=False,
    )
