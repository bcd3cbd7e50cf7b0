"""Q-networks for K tasks: what they are made of, their values, and acting on those.

A torso that all tasks share, and one of the networks of `networks.multitask` behind it. Parameters
are `learner.Params`: `shared` has a "torso" and a "head", `task` is the head's own part.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import learner
from mtrl_jax.networks import multitask, torsos
from mtrl_jax.types import Array, ArrayTree, EnvSpec, Key

__all__ = [
    "BLIND",
    "QNetwork",
    "epsilon_greedy",
    "init_params",
    "make",
    "values",
    "values_of_task",
]

BLIND = "blind"  # one network that is not told which task it is


class QNetwork(NamedTuple):
    """A network's two parts, and what it reads."""

    torso: torsos.Torso
    head: Any
    blind: bool
    spec: EnvSpec


def make(spec: EnvSpec, network: str, torso: str, hidden: tuple[int, ...]) -> QNetwork:
    """The network that these names mean for `spec`.

    Args:
      spec: of the suite.
      network: `BLIND` or a name that `multitask.make` takes.
      torso: "auto" or a key of `torsos.TORSOS`.
      hidden: widths of the dense layers behind the torso.

    Raises:
      ValueError: for an unknown name, a torso that does not read these observations, no hidden
        layer, or "separate" behind convolutions, which would be shared.
    """
    known = (BLIND, *multitask.NETWORKS)
    if network not in known and ":" not in network:
        raise ValueError(f"network must be {multitask.names(BLIND)}; got {network!r}")
    chosen = torsos.choose(spec, torso)
    if network == "separate" and torsos.TORSOS[chosen.kind]:
        raise ValueError(
            f"network 'separate' shares nothing, but the torso {chosen.kind!r} is shared; any of "
            f"{', '.join(n for n in known if n != 'separate')} works"
        )
    blind = network == BLIND
    head = multitask.make(
        "onehot" if blind else network,
        1 if blind else spec.num_tasks,
        hidden,
        spec.num_actions,
        num_inputs=torsos.num_features(chosen, spec),
        task_names=spec.task_names[:1] if blind else spec.task_names,
    )
    return QNetwork(chosen, head, blind, spec)


def init_params(net: QNetwork, key: Key) -> learner.Params:
    """Fresh parameters."""
    observation = jnp.zeros((1, *net.spec.observation_shape), net.spec.observation_dtype)
    torso = net.torso.init(jax.random.fold_in(key, 0), observation)
    num_inputs = torsos.num_features(net.torso, net.spec)
    shared, task = multitask.init(net.head, jax.random.fold_in(key, 1), num_inputs)
    halves = {"torso": torso.get("params", {}), "head": shared}
    return learner.Params(halves if jax.tree.leaves(halves) else {}, task)


def values(
    net: QNetwork, params: learner.Params, observation: Array, tasks: Array | None = None
) -> Array:
    """float32 `[K, B, A]` of observations `[K, B, ...]` of the network's tasks number `tasks`,
    int32 `[K]`; None: all of them, in their order."""
    numbers = jnp.arange(net.spec.num_tasks) if tasks is None else tasks

    def one(task, observation, k):
        return values_of_task(net, params.shared, task, observation, k)

    return jax.vmap(one)(params.task, observation, numbers)


def values_of_task(
    net: QNetwork, shared: ArrayTree, task: ArrayTree, observation: Array, k: Array
) -> Array:
    """`[B, A]` of task number `k` at observations `[B, ...]`; `task` holds its own parameters."""
    x: Any = net.torso.apply({"params": shared.get("torso", {})}, observation)
    variables = {"params": shared.get("head", {}), "task": task}
    return net.head.apply(variables, x, jnp.zeros_like(k) if net.blind else k).astype(jnp.float32)


def epsilon_greedy(
    q: Array, action_mask: np.ndarray | Array, epsilon: Array, keys: Key
) -> tuple[Array, Array]:
    """The best action, or with probability `epsilon` a uniform one.

    Args:
      q: [K, E, A]; of equal values the first action counts as best.
      action_mask: bool [K, A], actions that a task has.
      epsilon: [] in [0, 1].
      keys: [K, E].

    Returns:
      int32 [K, E] actions, and float32 [K, E] their log-probabilities.
    """
    mask = jnp.asarray(action_mask)
    best = jnp.where(mask[:, None], q, -jnp.inf).argmax(-1).astype(jnp.int32)

    def one(best, mask, key):
        count = mask.sum(dtype=jnp.int32)
        bits = jax.random.bits(key, (2,), jnp.uint32)
        nth = (bits[0] >> 16).astype(jnp.int32) * count >> 16
        drawn = (jnp.cumsum(mask, dtype=jnp.int32) <= nth).sum(dtype=jnp.int32)
        explores = (bits[1] >> 8).astype(jnp.float32) * 2.0**-24 < epsilon
        action = jnp.where(explores, drawn, best)
        return action, jnp.log(epsilon / count + (1.0 - epsilon) * (action == best))

    return jax.vmap(jax.vmap(one, (0, None, 0)))(best, mask, keys)
