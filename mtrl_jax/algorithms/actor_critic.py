"""A policy network and a value network for K tasks: from parameters to distributions and values.

Everything is one task's view, for a vmap over tasks; observations are brought to variance 1 by
statistics that the caller keeps, but for images, which each network sees through a torso of its own
that all tasks share. Policies are `distributions`: Gaussians for continuous actions,
not squashed (the environment cuts off what lies outside [-1, 1]), categorical for discrete ones.
"""

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import distributions, learner, normalisers
from mtrl_jax.distributions import Distribution, Gaussian
from mtrl_jax.networks import columns, multitask, torsos
from mtrl_jax.ranges import Range
from mtrl_jax.types import Array, EnvSpec, Key

__all__ = [
    "STD_RANGE",
    "ActorCritic",
    "InitialStd",
    "change_units",
    "gaussian",
    "init_params",
    "inputs",
    "make",
    "own_std",
    "policy",
    "value",
]

STD_RANGE = (0.03, 2.0)  # of a continuous action, whose range is [-1, 1]
InitialStd = Annotated[float, Range(*STD_RANGE, open_low=True, open_high=True)]
_LOG_STD_RANGE = (math.log(STD_RANGE[0]), math.log(STD_RANGE[1]))


def gaussian(out: Array, std: float) -> Gaussian:
    """Of a network's outputs `[..., 2 A]`; outputs of 0 are N(0, std^2), and means lie in [-1, 1].

    A free mean that has left the box, where the environment does not tell actions apart, has
    nothing to bring it back.
    """
    mean, raw = jnp.split(out, 2, axis=-1)
    return Gaussian(jnp.tanh(mean), _log_std(raw + _raw_std(std)))


def own_std(raw: Array) -> Array:
    """A task's own standard deviation, of what its parameters hold."""
    return jnp.exp(_log_std(raw))


def _raw_std(std: float) -> float:
    return distributions.unbounded_log_std(math.log(std), *_LOG_STD_RANGE)


def _log_std(raw: Array) -> Array:
    return distributions.bounded_log_std(raw, *_LOG_STD_RANGE)


class ActorCritic(NamedTuple):
    """Two networks of one kind that share nothing.

    Their parameters are `learner.Params` whose halves have an "actor" and a "critic" each; what a
    continuous policy's standard deviation starts from is `task["actor"]["std"]`, `[K, A]`. The
    critic's last layer is an affine map of each task's own, `task["critic"]["scale"]` and
    `["shift"]`, `[K]`, learnt like the rest: what `change_units` rescales, whatever the network.
    Both count `gain` times, or Adam, which moves any number by its rate, would take the longer to
    use new units the further they are from the old. Of images `shared["actor"]` and
    `shared["critic"]` have a "torso" and a "net".

    Attributes:
      spec: of the suite.
      actor, critic: modules of `networks.multitask`.
      num_inputs: F.
      gain: sqrt(H) for a last hidden layer of H, by whose size a layer's output moves more.
      state_std: whether the network adds to each task's own standard deviation.
      limit: of normalised observations, in standard deviations; 0 leaves them raw.
      torso: of images, else None.
    """

    spec: EnvSpec
    actor: Any
    critic: Any
    num_inputs: int
    gain: float
    state_std: bool
    limit: float
    torso: torsos.Torso | None = None


def make(
    spec: EnvSpec,
    network: str,
    hidden: tuple[int, ...],
    *,
    state_std: bool,
    limit: float,
    **options: Any,
) -> ActorCritic:
    """Both networks by their name in `networks.multitask`, whose errors it raises; the policy's
    outputs start at 0, whatever it is shown: it is uniform or without preference.

    Raises:
      ValueError: for "separate" and images, whose torsos would be shared.
    """
    torso = torsos.choose(spec) if columns.torso_kind(spec) == "conv" else None
    if torso is not None and network == "separate":
        raise ValueError(
            f"network 'separate' shares nothing, but the torso of images {spec.observation_shape} "
            "is shared"
        )
    size = spec.action_size * (2 if state_std else 1) or spec.num_actions
    vocabulary = spec.vocabulary
    num_inputs = int(np.prod(spec.observation_shape) if vocabulary is None else vocabulary.sum())
    if torso is not None:
        num_inputs = torsos.num_features(torso, spec)

    def net(n, scale):
        return multitask.make(
            network,
            spec.num_tasks,
            hidden,
            n,
            num_inputs=num_inputs,
            task_names=spec.task_names,
            out_scale=scale,
            **options,
        )

    actor, critic, gain = net(size, 0.0), net(1, 1.0), math.sqrt(hidden[-1])
    return ActorCritic(spec, actor, critic, num_inputs, gain, state_std, limit, torso)


def init_params(nets: ActorCritic, key: Key, std: float) -> learner.Params:
    """Fresh parameters; `std` is a continuous policy's standard deviation at the start."""
    x = jnp.zeros((1, nets.num_inputs))

    def variables(key: Key) -> dict[str, Any]:
        both = {"actor": nets.actor, "critic": nets.critic}
        keys = dict(zip(both, jax.random.split(key), strict=True))
        return {name: net.init(keys[name], x, jnp.int32(0)) for name, net in both.items()}

    # One program for all tasks, whose own parameters differ; of the shared ones the first draw.
    every = jax.vmap(variables)(jax.random.split(key, nets.spec.num_tasks))
    shared = {n: jax.tree.map(lambda p: p[0], v.get("params", {})) for n, v in every.items()}
    if nets.torso is not None:
        observation = jnp.zeros((1, *nets.spec.observation_shape), nets.spec.observation_dtype)
        for i, n in enumerate(shared):
            torso: Any = nets.torso.init(jax.random.fold_in(key, i), observation)
            shared[n] = {"torso": torso["params"], "net": shared[n]}
    task: dict[str, Any] = {n: {"net": v.get("task", {})} for n, v in every.items()}
    if nets.spec.action_size:
        shape = (nets.spec.num_tasks, nets.spec.action_size)
        task["actor"]["std"] = jnp.full(shape, _raw_std(std), jnp.float32)
    task["critic"]["scale"] = jnp.full(nets.spec.num_tasks, 1.0 / nets.gain, jnp.float32)
    task["critic"]["shift"] = jnp.zeros(nets.spec.num_tasks)
    return learner.Params(shared if jax.tree.leaves(shared) else {}, task)


def inputs(nets: ActorCritic, moments: normalisers.Moments, observation: Array) -> Array:
    """What the networks read, `[B, F]`, of observations `[B, ...]` and moments `[F]`; images stay
    what they are."""
    if nets.torso is not None:
        return observation
    x = observation.reshape(observation.shape[0], -1)
    if nets.spec.vocabulary is not None:
        return columns.one_hot(x, tuple(int(n) for n in nets.spec.vocabulary.flat))
    x = x.astype(jnp.float32)
    return normalisers.normalise(x, moments, nets.limit) if nets.limit else x


def policy(nets: ActorCritic, shared: Any, task: Any, x: Array, k: Array) -> Distribution:
    """Of task number `k` at inputs `[B, F]`; `task` holds that task's own parameters."""
    out = _output(nets, "actor", shared, task, x, k)
    size = nets.spec.action_size
    if not size:
        return distributions.categorical(out, jnp.asarray(nets.spec.action_mask)[k])
    raw = jnp.broadcast_to(task["actor"]["std"], out[:, :size].shape)
    log_std = _log_std(raw + out[:, size:] if nets.state_std else raw)
    mask = nets.spec.coordinate_mask
    return distributions.masked(
        Gaussian(out[:, :size], log_std), None if mask is None else jnp.asarray(mask)[k]
    )


def value(nets: ActorCritic, shared: Any, task: Any, x: Array, k: Array) -> Array:
    """`[B]`, in whatever units it is trained on."""
    own, out = task["critic"], _output(nets, "critic", shared, task, x, k)
    return nets.gain * (own["scale"] * out[:, 0] + own["shift"])


def _output(nets: ActorCritic, which: str, shared: Any, task: Any, x: Array, k: Array) -> Array:
    """float32 `[B, size]` of the network `which`."""
    params, net, read = shared.get(which, {}), getattr(nets, which), x
    if nets.torso is not None:
        torso: Any = nets.torso.apply({"params": params["torso"]}, x)
        read, params = torso, params["net"]
    out: Any = net.apply({"params": params, "task": task[which]["net"]}, read, k)
    return out.astype(jnp.float32)


def change_units(
    nets: ActorCritic, params: learner.Params, change: normalisers.Affine, where: Array
) -> learner.Params:
    """Parameters whose `value` is a v + c for a and c `[K]` of `change`, where bool `[K]` says so:
    with `normalisers.change_of_units`, the same values in other units."""
    own = params.task["critic"]
    scale = change.scale * own["scale"]
    shift = change.scale * own["shift"] + change.shift / nets.gain
    critic = own | {
        "scale": jnp.where(where, scale, own["scale"]),
        "shift": jnp.where(where, shift, own["shift"]),
    }
    return params._replace(task=params.task | {"critic": critic})
