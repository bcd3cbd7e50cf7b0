"""The agents of the benchmark: `BUILDERS` is the one place where another agent plugs in.

What a new game begins with ("transfer"), for each:

    random, frozen     nothing: they are controls and do not learn
    actor-critic and   no_id: everything, parameters and optimiser, as the agent cannot know that
    Distral, ppo       the game is a new one; task_id: what the tasks share (the distilled column,
                       the trunk), with a fresh column or head and a fresh optimiser
    dqn                the weights (task_id: the trunk); replay and exploration start anew
    nec                as dqn; and no_id: the tables
    mfec               no_id: the tables; task_id: nothing, for all it has is a task's own
    actor_mimic,       as dqn, but those weights imitated a DQN for each game of the pre-training:
    distillation       imitation.py; no_id only
    net2net            as ppo, but pre-trained at half the width and widened: growth.py
    module:function    everything (what `save` gives)

A builder takes the track and the overrides `name=value` of its `Config`, and returns a
`compiled.Entry`.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from mtrl_jax import by_name, learner
from mtrl_jax.algorithms import distral, dqn, mfec, nec, ppo
from mtrl_jax.benchmark import protocol, regime
from mtrl_jax.benchmark.compiled import Entry, everything, shared_parameters
from mtrl_jax.losses.distral import ALGORITHMS
from mtrl_jax.types import Agent, EnvSpec

from ..common.agents import values_of
from ..common.override import override
from . import controls, growth, imitation

Overrides = Sequence[str]
CONTROLS = ("random", "frozen")


def _configured(config: Any, overrides: Overrides, make: Callable[..., Agent], track: str) -> Entry:
    config = override(config, overrides)
    settings = {f"config/{k}": v for k, v in values_of(config).items()}
    transfer = shared_parameters if track == "task_id" else everything

    def agent(spec: EnvSpec) -> Agent:
        return make(spec, config, collectives=learner.across(1))

    return Entry(agent, transfer, json.loads(json.dumps(settings)))


def _distral(algorithm: str) -> Callable[[str, Overrides], Entry]:
    def build(track: str, overrides: Overrides) -> Entry:
        config = distral.Config(
            algorithm=algorithm,
            entropy_cost=1e-2,
            lambda_=0.95,
            learning_rate=1e-3,
            final_learning_rate=1.0,
            hidden=(64, 64),
        )
        return _configured(config, overrides, distral.agent, track)

    return build


def _ppo_config(track: str) -> ppo.Config:
    # A head a task, so that the trunk's shape does not depend on how many tasks there are.
    network = "multihead" if track == "task_id" else "onehot"
    return ppo.Config(
        network=network,
        hidden=(64, 64),
        activation="relu",
        unroll_length=64,
        minibatches=4,
        epochs=4,
        lambda_=0.95,
        learning_rate=1e-3,
        entropy_cost=1e-2,
    )


def _ppo(track: str, overrides: Overrides) -> Entry:
    return _configured(_ppo_config(track), overrides, ppo.agent, track)


def _net2net(track: str, overrides: Overrides) -> Entry:
    config = override(_ppo_config(track), overrides)
    settings = _configured(config, (), ppo.agent, track).settings
    return growth.net2net(track, config, settings)


def _dqn(track: str, overrides: Overrides) -> Entry:
    """On the stream the network is told nothing; the weights go over, and replay, optimiser and
    exploration start anew."""
    entry = _configured(_dqn_config(track), overrides, dqn.agent, track)
    return entry._replace(transfer=_dqn_transfer(entry.transfer))


def _dqn_config(track: str) -> dqn.Config:
    network = "multihead" if track == "task_id" else "blind"
    return dqn.Config(network=network, hidden=(64,), replay_ratio=4.0)


def _mfec(track: str, overrides: Overrides) -> Entry:
    entry = _configured(mfec.Config(capacity=5_000), overrides, mfec.agent, track)
    return entry._replace(transfer=lambda before, fresh: fresh) if track == "task_id" else entry


def _nec(track: str, overrides: Overrides) -> Entry:
    network = "multihead" if track == "task_id" else "blind"
    config = nec.Config(network=network, hidden=(64,), capacity=5_000, discount=0.97)

    def remembered(pretrained: Any, fresh: Any) -> Any:
        return fresh._replace(params=pretrained.params, tables=pretrained.tables)

    entry = _configured(config, overrides, nec.agent, track)
    return entry if track == "task_id" else entry._replace(transfer=remembered)


def _imitator(name: str) -> Callable[[str, Overrides], Entry]:
    def build(track: str, overrides: Overrides) -> Entry:
        transfer = _dqn_transfer(everything)
        return imitation.imitator(name, track, _dqn_config(track), overrides, transfer)

    return build


def _dqn_transfer(transfer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def weights(pretrained: Any, fresh: Any) -> Any:
        if transfer is everything:
            return fresh._replace(params=pretrained.params, target=pretrained.params)
        state = transfer(pretrained, fresh)
        return state._replace(target=state.params)

    return weights


BUILDERS: dict[str, Callable[[str, Overrides], Entry]] = {
    "random": controls.random,
    "frozen": controls.frozen,
    "ppo": _ppo,
    "net2net": _net2net,
    "dqn": _dqn,
    "mfec": _mfec,
    "nec": _nec,
    **{name: _imitator(name) for name in imitation.STUDENTS},
    **{name: _distral(name) for name in ALGORITHMS},
}


def make(name: str, track: str, overrides: Overrides, spec: EnvSpec) -> Entry:
    """The entry of one agent.

    Args:
      name: a key of `BUILDERS`, or `module:function` of a function from `protocol.Spec` to a
        `protocol.HostAgent`, with options (`mtrl_jax.by_name`).
      track: of `cells.TRACKS`.
      overrides: `name=value` for every agent that learns, or `agent.name=value` for one.
      spec: of the suite.

    Raises:
      ValueError: for an unknown agent or override.
    """
    if ":" in name:
        path, options = by_name.parse(name)
        function = by_name.load(path, "agent")
        told = protocol.spec_of(regime.stream_spec(spec))
        agent = by_name.call(name, "agent", function, told, **options)
        if not isinstance(agent, protocol.HostAgent):
            raise ValueError(f"agent {name!r} must return a HostAgent, got {type(agent).__name__}")
        return Entry(lambda spec: agent, everything, {"agent": name}, hosted=True)
    if name not in BUILDERS:
        raise ValueError(
            f"--agent must be of {', '.join(BUILDERS)} or module:function; got {name!r}"
        )
    every, own = [], []
    for pair in overrides:
        owner, dot, rest = pair.partition(".")
        if not dot or "=" in owner:  # a dot in the value alone
            every.append(pair)
        elif owner not in BUILDERS:
            raise ValueError(f"--config_overrides: {pair!r} is of no agent that is known")
        elif owner == name:
            own.append(rest)
    wins = {pair.partition("=")[0] for pair in own}
    every = [pair for pair in every if pair.partition("=")[0] not in wins]
    return BUILDERS[name](track, [*every, *own] if name not in CONTROLS else [])
