"""The agents of the benchmark: `BUILDERS` is the one place where another agent plugs in.

What a new game begins with ("transfer"), for each:

    random, frozen     nothing: they are controls and do not learn
    actor-critic and   no_id: everything, parameters and optimiser, as the agent cannot know that
    Distral, ppo       the game is a new one; task_id: what the tasks share (the distilled column,
                       the trunk), with a fresh column or head and a fresh optimiser
    dqn                the weights (task_id: the trunk); replay and exploration start anew
    module:function    everything (what `save` gives)

A builder takes the track and the overrides `name=value` of its `Config`, and returns a
`compiled.Entry`.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments import common
from mtrl_jax import evaluate
from mtrl_jax.algorithms import distral, dqn, ppo
from mtrl_jax.benchmark import protocol, regime
from mtrl_jax.benchmark.compiled import Entry, everything, shared_parameters
from mtrl_jax.losses.distral import ALGORITHMS
from mtrl_jax.networks import columns
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Timestep

Overrides = Sequence[str]
CONTROLS = ("random", "frozen")
FROZEN_EPSILON = 0.05  # of the frozen network: it would stand still for ever otherwise


def _random(track: str, overrides: Overrides) -> Entry:
    return Entry(evaluate.random_agent, everything, {}, learns=False)


def _frozen(track: str, overrides: Overrides) -> Entry:
    return Entry(frozen_agent, everything, {}, learns=False)


def frozen_agent(spec: EnvSpec, hidden: tuple[int, ...] = (64, 64)) -> Agent:
    """The likeliest action of a network that never learns, or with probability .05 any other."""
    size = spec.action_size or spec.num_actions
    discrete = spec._replace(num_actions=size, action_size=0)  # one output a coordinate
    net = columns.from_spec(discrete, hidden, "none", 0, has_value=False)
    row = jnp.zeros((1, 1))

    def init(key: Key) -> Any:
        observation = jnp.zeros((1, 1, *spec.observation_shape), spec.observation_dtype)
        return net.init(key, observation, row.astype(jnp.int32), row, row > 0, ())

    def act(policy: Any, actor: ArrayTree, timestep: Timestep, keys: Key, **_: Any) -> Any:
        zeros = jnp.zeros(keys.shape)
        logits, _, _ = net.apply(  # type: ignore[misc]
            policy, timestep.observation, zeros.astype(jnp.int32) - 1, zeros, zeros > 0, ()
        )
        pair: Any = jax.vmap(jax.vmap(jax.random.split))(keys)
        flat = pair.reshape(-1, 2)
        explore = jax.vmap(jax.random.uniform)(flat[:, 0]).reshape(keys.shape) < FROZEN_EPSILON
        if spec.action_size:
            draw = lambda key: jax.random.uniform(key, (size,), minval=-1.0)
            drawn: Array = jax.vmap(draw)(flat[:, 1]).reshape(*keys.shape, size)
            chosen, explore = jnp.tanh(1e4 * logits), explore[..., None]  # the head starts near 0
        else:
            draw = lambda key: jax.random.randint(key, (), 0, size)
            drawn = jax.vmap(draw)(flat[:, 1]).reshape(keys.shape)
            chosen = logits.argmax(-1)
        action = jnp.where(explore, drawn, chosen).astype(spec.action_dtype)
        return action, zeros, actor

    return evaluate.random_agent(spec)._replace(init=init, policy=lambda state: state, act=act)


def _configured(config: Any, overrides: Overrides, make: Callable[..., Agent], track: str) -> Entry:
    config = common.override(config, overrides)
    settings = {f"config/{k}": v for k, v in dataclasses.asdict(config).items()}
    transfer = shared_parameters if track == "task_id" else everything
    return Entry(lambda spec: make(spec, config), transfer, json.loads(json.dumps(settings)))


def _distral(algorithm: str) -> Callable[[str, Overrides], Entry]:
    def build(track: str, overrides: Overrides) -> Entry:
        config = distral.Config(
            algorithm=algorithm, entropy_cost=1e-2, lambda_=0.95, learning_rate=1e-3,
            final_learning_rate=1.0, hidden=(64, 64),
        )  # fmt: skip
        return _configured(config, overrides, distral.agent, track)

    return build


def _ppo(track: str, overrides: Overrides) -> Entry:
    # A head a task, so that the trunk's shape does not depend on how many tasks there are.
    network = "multihead" if track == "task_id" else "onehot"
    config = ppo.Config(
        network=network, hidden=(64, 64), activation="relu", unroll_length=64, minibatches=4,
        epochs=4, lambda_=0.95, learning_rate=1e-3, entropy_cost=1e-2,
    )  # fmt: skip
    return _configured(config, overrides, ppo.agent, track)


def _dqn(track: str, overrides: Overrides) -> Entry:
    """On the stream the network is told nothing; the weights go over, and replay, optimiser and
    exploration start anew."""
    network = "multihead" if track == "task_id" else "blind"
    config = dqn.Config(network=network, hidden=(64,), replay_ratio=4.0)
    entry = _configured(config, overrides, dqn.agent, track)
    return entry._replace(transfer=_dqn_transfer(entry.transfer))


def _dqn_transfer(transfer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def weights(pretrained: Any, fresh: Any) -> Any:
        if transfer is everything:
            return fresh._replace(params=pretrained.params, target=pretrained.params)
        state = transfer(pretrained, fresh)
        return state._replace(target=state.params)

    return weights


BUILDERS: dict[str, Callable[[str, Overrides], Entry]] = {
    "random": _random,
    "frozen": _frozen,
    "ppo": _ppo,
    "dqn": _dqn,
    **{name: _distral(name) for name in ALGORITHMS},
}


def make(name: str, track: str, overrides: Overrides, spec: EnvSpec) -> Entry:
    """The entry of one agent.

    Args:
      name: a key of `BUILDERS`, or `module:function` of a function from `protocol.Spec` to a
        `protocol.HostAgent`.
      track: of `cells.TRACKS`.
      overrides: `name=value` for every agent that learns, or `agent.name=value` for one.
      spec: of the suite.

    Raises:
      ValueError: for an unknown agent or override.
    """
    if ":" in name:
        function = protocol.load(name)
        agent = function(protocol.spec_of(regime.stream_spec(spec)))
        if not isinstance(agent, protocol.HostAgent):
            raise ValueError(f"agent {name!r} must return a HostAgent, got {type(agent).__name__}")
        return Entry(lambda spec: agent, everything, {"agent": name}, hosted=True)
    if name not in BUILDERS:
        raise ValueError(
            f"--agent must be of {', '.join(BUILDERS)} or module:function; got {name!r}"
        )
    own = []
    for pair in overrides:
        owner, dot, rest = pair.partition(".")
        if not dot or "=" in owner:  # a dot in the value alone
            own.append(pair)
        elif owner not in BUILDERS:
            raise ValueError(f"--config_overrides: {pair!r} is of no agent that is known")
        elif owner == name:
            own.append(rest)
    return BUILDERS[name](track, own if name not in CONTROLS else [])
