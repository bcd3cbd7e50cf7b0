"""A squashed Gaussian policy and C action-value networks for K tasks, for soft actor-critic.

Everything is one task's view, for a vmap over tasks, as in `actor_critic`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import distributions, freeze, learner, normalisers
from mtrl_jax.distributions import Gaussian
from mtrl_jax.networks import columns, multitask
from mtrl_jax.types import Array, EnvSpec, Key

__all__ = [
    "LOG_STD_RANGE",
    "ActorQ",
    "draw",
    "frozen",
    "head",
    "init_params",
    "inputs",
    "make",
    "q_values",
]

LOG_STD_RANGE = (-10.0, 2.0)  # of the Gaussian before the squash


class ActorQ(NamedTuple):
    """The policy's network and that of one critic, of one kind; they share nothing.

    Attributes:
      spec: of the suite.
      actor, critic: modules of `networks.multitask`; the critic reads `[x; action]`.
      num_critics: C.
      num_inputs: F.
      limit: of normalised observations, in standard deviations; 0 leaves them raw.
    """

    spec: EnvSpec
    actor: Any
    critic: Any
    num_critics: int
    num_inputs: int
    limit: float


def make(
    spec: EnvSpec,
    network: str,
    hidden: tuple[int, ...],
    *,
    num_critics: int,
    layer_norm: bool,
    limit: float,
    **options: Any,
) -> ActorQ:
    """Both networks by their name in `networks.multitask`, whose errors it raises.

    The policy starts near N(0, 1) before the squash and the critics near 0. `layer_norm` is the
    critics'.

    Raises:
      ValueError: for discrete actions or image observations.
    """
    if not spec.action_size:
        raise ValueError("actions must be continuous; the suite's are discrete")
    if columns.torso_kind(spec) == "conv":
        raise ValueError(f"observation must be a vector; got an image {spec.observation_shape}")
    vocabulary = spec.vocabulary
    num_inputs = int(np.prod(spec.observation_shape) if vocabulary is None else vocabulary.sum())

    def net(n, scale, norm, more):
        return multitask.make(
            network,
            spec.num_tasks,
            hidden,
            n,
            num_inputs=num_inputs + more,
            task_names=spec.task_names,
            out_scale=scale,
            layer_norm=norm,
            **options,
        )

    actor = net(2 * spec.action_size, 1e-4, False, 0)
    critic = net(1, 1e-3, layer_norm, spec.action_size)
    return ActorQ(spec, actor, critic, num_critics, num_inputs, limit)


def init_params(nets: ActorQ, key: Key) -> tuple[learner.Params, learner.Params]:
    """Fresh parameters, `[*param]` shared and `[K, *param]` of the tasks: of the actor, and of all
    critics, whose halves have a "critic0", "critic1", ... each."""
    actor_key, critic_key = jax.random.split(key)
    actor = multitask.init(nets.actor, actor_key, nets.num_inputs)
    size = nets.num_inputs + nets.spec.action_size

    def one(key):
        return multitask.init(nets.critic, key, size)

    drawn = jax.vmap(one)(jax.random.split(critic_key, nets.num_critics))
    halves = (
        {n: jax.tree.map(lambda p, c=c: p[c], half) for c, n in enumerate(_critics(nets))}
        for half in drawn
    )
    return learner.Params(*actor), learner.Params(*halves)


def frozen(
    nets: ActorQ, patterns: tuple[str, ...]
) -> tuple[learner.Params | None, learner.Params | None]:
    """Which parameters of the actor and of the critics `patterns` freeze (`freeze.select`): names
    are `shared/actor/...`, `shared/critic0/...`, and so on for the tasks' own."""

    def both(key: Key) -> learner.Params:
        actor, critic = init_params(nets, key)
        return learner.Params(*({"actor": a, **c} for a, c in zip(actor, critic, strict=True)))

    chosen = freeze.select(patterns, both)
    if chosen is None:
        return None, None
    of_actor = learner.Params(*(half["actor"] for half in chosen))
    return of_actor, learner.Params(*({n: half[n] for n in _critics(nets)} for half in chosen))


def _critics(nets: ActorQ) -> list[str]:
    return [f"critic{c}" for c in range(nets.num_critics)]


def inputs(nets: ActorQ, moments: normalisers.Moments, observation: Array) -> Array:
    """What the networks read, `[B, F]`, of observations `[B, ...]` and moments `[F]`."""
    x = observation.reshape(observation.shape[0], -1)
    if nets.spec.vocabulary is not None:
        return columns.one_hot(x, tuple(int(n) for n in nets.spec.vocabulary.flat))
    x = x.astype(jnp.float32)
    return normalisers.normalise(x, moments, nets.limit) if nets.limit else x


def head(nets: ActorQ, shared: Any, own: Any, x: Array, k: Array) -> Gaussian:
    """Task `k`'s Gaussian before the squash, leaves `[B, A]`.

    Shifted so that outputs of 0 are a standard deviation of 1.
    """
    out = nets.actor.apply({"params": shared, "task": own}, x, k).astype(jnp.float32)
    mean, raw = jnp.split(out, 2, axis=-1)
    shift = distributions.unbounded_log_std(0.0, *LOG_STD_RANGE)
    log_std = distributions.bounded_log_std(raw + shift, *LOG_STD_RANGE)
    mask = nets.spec.coordinate_mask
    return distributions.masked(
        Gaussian(mean, log_std), None if mask is None else jnp.asarray(mask)[k]
    )


def draw(
    nets: ActorQ, shared: Any, own: Any, x: Array, noise: Array, k: Array
) -> tuple[Array, Array]:
    """Actions `[B, A]` in [-1, 1] made of standard normal noise `[B, A]`, and their log-densities
    `[B]`. Both carry gradient to the parameters (reparameterised). Coordinates that the task does
    not have are 0."""
    gaussian = head(nets, shared, own, x, k)
    u = gaussian.mean + jnp.exp(gaussian.log_std) * noise
    if gaussian.real is not None:
        u = jnp.where(gaussian.real, u, 0.0)
    return jnp.tanh(u), distributions.tanh_gaussian_log_prob(gaussian, u)


def q_values(nets: ActorQ, shared: Any, own: Any, x: Array, action: Array, k: Array) -> Array:
    """`[C, B]`, of all critics at inputs `[B, F]` and actions `[B, A]`."""
    x = jnp.concatenate([x, action], -1)

    # One after the other: as one product with a batch axis they took a fifth longer on a CPU.
    def one(n):
        return nets.critic.apply({"params": shared[n], "task": own[n]}, x, k)

    return jnp.stack([one(n)[:, 0] for n in _critics(nets)]).astype(jnp.float32)
