"""Critics, a policy and a value for K tasks, of discrete or continuous actions.

Everything is one task's view, for a vmap over tasks, as in `actor_q`. A module is one of
`networks.multitask`; parameters are `learner.Params`, each half with a part for "critic0",
"critic1", ... and for "actor" and "value", where there are such.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import distributions, learner
from mtrl_jax.algorithms import actor_q
from mtrl_jax.distributions import Distribution, Gaussian
from mtrl_jax.networks import columns, multitask
from mtrl_jax.types import Array, EnvSpec, Key

__all__ = [
    "Nets",
    "chosen",
    "init_params",
    "inputs",
    "least",
    "make",
    "policy",
    "q_at",
    "q_values",
    "value",
]


class Nets(NamedTuple):
    """Modules by their part's name, and what they read.

    Attributes:
      spec: of the suite.
      modules: part to module; the critics are one module with parameters each.
      num_inputs: F.
    """

    spec: EnvSpec
    modules: dict[str, Any]
    num_inputs: int


def make(
    spec: EnvSpec, network: str, hidden: tuple[int, ...], num_critics: int, parts: tuple[str, ...]
) -> Nets:
    """Networks by their name in `networks.multitask`, whose errors it raises.

    Args:
      spec: of the suite.
      network: of every part.
      hidden: widths.
      num_critics: C. Of discrete actions a critic has an output each, else it reads the action.
      parts: "actor", "value", or both.

    Raises:
      ValueError: for image observations.
    """
    if columns.torso_kind(spec) == "conv":
        raise ValueError(f"observation must be a vector; got an image {spec.observation_shape}")
    vocabulary = spec.vocabulary
    num_inputs = int(np.prod(spec.observation_shape) if vocabulary is None else vocabulary.sum())

    def module(size: int, more: int = 0) -> Any:
        return multitask.make(
            network,
            spec.num_tasks,
            hidden,
            size,
            num_inputs=num_inputs + more,
            task_names=spec.task_names,
        )

    modules = {
        f"critic{c}": module(spec.num_actions or 1, spec.action_size) for c in range(num_critics)
    }
    if "actor" in parts:
        modules["actor"] = module(spec.num_actions or 2 * spec.action_size)
    if "value" in parts:
        modules["value"] = module(1)
    return Nets(spec, modules, num_inputs)


def init_params(nets: Nets, key: Key) -> learner.Params:
    """Fresh parameters of all parts, `[*param]` shared and `[K, *param]` of the tasks."""
    shared, task = {}, {}
    for n, (part, module) in enumerate(nets.modules.items()):
        more = nets.spec.action_size if part.startswith("critic") else 0
        drawn = multitask.init(module, jax.random.fold_in(key, n), nets.num_inputs + more)
        shared[part], task[part] = drawn
    return learner.Params(shared, task)


def inputs(nets: Nets, observation: Array) -> Array:
    """What the networks read, `[B, F]`, of observations `[B, ...]`."""
    x = observation.reshape(observation.shape[0], -1)
    if nets.spec.vocabulary is not None:
        return columns.one_hot(x, tuple(int(n) for n in nets.spec.vocabulary.flat))
    return x.astype(jnp.float32)


def _apply(nets: Nets, part: str, shared: Any, own: Any, x: Array, k: Array) -> Array:
    out = nets.modules[part].apply({"params": shared[part], "task": own[part]}, x, k)
    return out.astype(jnp.float32)


def q_values(nets: Nets, shared: Any, own: Any, x: Array, k: Array) -> Array:
    """`[C, B, A]` of discrete actions at inputs `[B, F]`, task number `k`."""
    parts = [part for part in nets.modules if part.startswith("critic")]
    return jnp.stack([_apply(nets, part, shared, own, x, k) for part in parts])


def q_at(nets: Nets, shared: Any, own: Any, x: Array, action: Array, k: Array) -> Array:
    """`[C, B]` at actions int `[B]` or float32 `[B, A]`."""
    if nets.spec.action_size:
        return q_values(nets, shared, own, jnp.concatenate([x, action], -1), k)[..., 0]
    return chosen(q_values(nets, shared, own, x, k), action)


def chosen(q: Array, action: Array) -> Array:
    """`[C, B]` of values `[C, B, A]` at actions int `[B]`."""
    at = jnp.broadcast_to(action[None, :, None], (*q.shape[:2], 1))
    return jnp.take_along_axis(q, at, -1)[..., 0]


def least(nets: Nets, shared: Any, own: Any, x: Array, action: Array, k: Array) -> Array:
    """`[B]`, the smallest critic: what is called conservative, and what data are shared by."""
    return q_at(nets, shared, own, x, action, k).min(0)


def value(nets: Nets, shared: Any, own: Any, x: Array, k: Array) -> Array:
    """`[B]` of the "value" part."""
    return _apply(nets, "value", shared, own, x, k)[:, 0]


def policy(nets: Nets, shared: Any, own: Any, x: Array, k: Array) -> Distribution:
    """Of the "actor" part, leaves `[B, A]`: a categorical, or the Gaussian before its squash."""
    out = _apply(nets, "actor", shared, own, x, k)
    if not nets.spec.action_size:
        return distributions.categorical(out, jnp.asarray(nets.spec.action_mask)[k])
    mean, raw = jnp.split(out, 2, -1)
    shift = distributions.unbounded_log_std(0.0, *actor_q.LOG_STD_RANGE)
    log_std = distributions.bounded_log_std(raw + shift, *actor_q.LOG_STD_RANGE)
    mask = nets.spec.coordinate_mask
    gaussian = Gaussian(mean, log_std)
    return distributions.masked(gaussian, None if mask is None else jnp.asarray(mask)[k])
