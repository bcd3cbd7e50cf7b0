"""Agents of the benchmark whose pre-training imitates: Actor-Mimic and policy distillation.

Parisotto et al. 2015 (arXiv 1511.06342) and Rusu et al. 2015 (1511.06295). Half of a pre-training
goes into a DQN for each of its games, half into one student of them with a shared output layer,
which then goes on as a DQN: the weights stay, output layer included, and replay, optimiser and
exploration start anew. Both differ in nothing but who acts, the loss and the features:

    actor_mimic   the student acts (epsilon .1), cross-entropy at temperature 1, features (.01)
    distillation  the teacher acts (epsilon .05), KL at temperature .01

Rusu et al. have a controller for each game; here one output layer stands for all of them, since
nobody will say which game it is.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from mtrl_jax import learner
from mtrl_jax.algorithms import distill, dqn, q_network, student, teacher
from mtrl_jax.benchmark.compiled import Entry, Imitation, Twin
from mtrl_jax.types import Agent, ArrayTree, EnvSpec

from ..common.agents import values_of
from ..common.override import override

__all__ = ["STUDENTS", "imitator"]

STUDENTS = {
    "actor_mimic": distill.Config(
        loss="actor_mimic",
        temperature=1.0,
        feature_cost=0.01,
        actor="student",
        epsilon=0.1,
        outputs="shared",
        hidden=(64,),
        replay_ratio=4.0,
    ),
    "distillation": distill.Config(
        loss="kl",
        temperature=0.01,
        actor="teacher",
        outputs="shared",
        hidden=(64,),
        replay_ratio=4.0,
    ),
}


def imitator(
    name: str, track: str, alone: dqn.Config, overrides: Sequence[str], transfer: Any
) -> Entry:
    """The entry of one of `STUDENTS`.

    Args:
      name: key of `STUDENTS`.
      track: of the matrix.
      alone: numbers of the DQN that plays on; of the teachers too, but for the network.
      overrides: `name=value` for the student and the DQNs, whichever has the name.
      transfer: of `alone`.

    Raises:
      ValueError: where the task is given, or for a student that cannot play on as a DQN.
    """
    if track == "task_id":
        raise ValueError(f"agent {name} has one network that is told nothing; its track is no_id")
    own = {field.name for field in dataclasses.fields(dqn.Config)}
    both = [pair for pair in overrides if pair.partition("=")[0] in own]
    alone = override(alone, both)
    others = {field.name for field in dataclasses.fields(distill.Config)}
    config = override(
        STUDENTS[name], [p for p in overrides if p not in both or p.partition("=")[0] in others]
    )
    if config.outputs != "shared":
        raise ValueError(
            f"{name}.outputs must be 'shared' in the benchmark; got {config.outputs!r}"
        )
    alone = dataclasses.replace(alone, hidden=config.hidden, torso=config.torso)
    master = dataclasses.replace(alone, network="separate")

    def make_student(spec: EnvSpec, state: ArrayTree) -> Agent:
        net = q_network.make(spec, master.network, master.torso, master.hidden)
        wanted = config.feature_cost > 0
        numbers = range(spec.num_tasks)
        found = tuple(teacher.make(net, state.params, k, features=wanted) for k in numbers)
        return distill.agent(spec, config, found, collectives=learner.across(1))

    def graduate(learnt: distill.State, fresh: dqn.State) -> dqn.State:
        params = student.to_q_network(learnt.params, fresh.params)
        return fresh._replace(params=params, target=params)

    def named(prefix, numbers):
        return json.loads(json.dumps({f"{prefix}/{k}": v for k, v in values_of(numbers).items()}))

    imitation = Imitation(
        teachers=lambda spec: dqn.agent(spec, master, collectives=learner.across(1)),
        student=make_student,
        assign=lambda state: distill.assign_teachers(state, state.which.size),  # seed n's own
        graduate=graduate,
    )
    return Entry(
        lambda spec: dqn.agent(spec, alone, collectives=learner.across(1)),
        transfer,
        {**named("config", config), **named("dqn", alone)},
        imitation=imitation,
        twin=Twin("dqn", ("scratch",), named("config", alone)),
    )
