"""Who learns what of a sequence, and that nothing is wrong before anything is written."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import engines, learner
from mtrl_jax.algorithms import continual
from mtrl_jax.benchmark import compiled, regime, regime_pool
from mtrl_jax.evaluations import Evaluation
from mtrl_jax.types import Agent, FunctionalSuite, HostSuite

from ..common.agents import check_devices, values_of
from .presets import ALGORITHMS
from .sequence import MULTITASK, REFERENCE, Plan, Suite, stretch, updates_of

__all__ = ["Block", "block", "evaluation", "make", "parts", "scored", "together", "training"]


class Block(NamedTuple):
    """Training on one task of a sequence, or on all of them at once."""

    name: str
    folder: pathlib.Path
    suite: Suite
    run: engines.RunConfig
    settings: dict[str, Any]


def make(
    suite: Suite,
    run: engines.RunConfig,
    algorithm: str,
    numbers: continual.Numbers,
    config: continual.Config,
    folder: pathlib.Path,
    methods: Sequence[str],
    named: dict[str, Any],
) -> Plan:
    """Holds all of it against what can run.

    Args:
      suite: of the tasks.
      run: of the whole sequence.
      algorithm: a key of `presets.ALGORITHMS`.
      numbers: of the algorithm.
      config: of the methods.
      folder: of all.
      methods: those asked for, of `METHODS`.
      named: what else config.json is to hold.

    Raises:
      ValueError: naming the field, what came and what is allowed.
    """
    settings = {
        "binary": "continual",
        "algorithm": algorithm,
        **named,
        **dataclasses.asdict(run),
        **{f"config/{k}": v for k, v in values_of(numbers).items()},
        **{f"methods/{k}": v for k, v in dataclasses.asdict(config).items() if k != "method"},
    }
    settings = json.loads(json.dumps(settings))
    plan = Plan(suite, run, algorithm, numbers, config, folder, settings)
    for method in methods:
        if method == MULTITASK:
            on, agent, _ = together(plan)
        else:
            on, agent = training(plan, 0), continual.agent(parts(plan, method))
        engines.check(stretch(plan, method), on, agent)
        check_devices(on.spec, numbers, run)
    return plan


def _told_spec(plan: Plan) -> Any:
    return plan.suite.spec if plan.config.told else regime.stream_spec(plan.suite.spec)


def parts(plan: Plan, method: str) -> Any:
    """`continual.make_parts` of a method."""
    numbers, config = plan.numbers, dataclasses.replace(plan.config, method=method)
    if method == "progressive":
        numbers = dataclasses.replace(numbers, network=continual.PROGRESSIVE)
    collectives = learner.across(plan.run.num_devices)
    count = updates_of(plan, method)
    return continual.make_parts(_told_spec(plan), config, numbers, count, collectives)


def training(plan: Plan, k: int) -> Suite:
    """What task k is learnt on: known by its place, or a stream that says nothing of it."""
    suite = plan.suite
    if isinstance(suite, HostSuite):
        own = regime_pool.part if plan.config.told else regime_pool.random_games
        return own(suite, [k])
    if not plan.config.told:
        return regime.random_games(suite, [k])
    one = regime.subset(suite, [k])  # as data: one program for all tasks
    return one._replace(tasks=jax.tree.map(jnp.asarray, one.tasks))


def evaluation(plan: Plan, agent: Agent) -> Evaluation:
    """All tasks, by an agent of all of them, or of a stream."""
    n = plan.suite.spec.num_tasks
    if plan.config.told:
        return Evaluation(plan.suite, agent)
    return Evaluation(compiled.side_by_side(plan.suite, range(n)), regime.blind(agent, n))


def scored(plan: Plan) -> Evaluation:
    """What evaluations of every method are of."""
    return evaluation(plan, continual.evaluated(parts(plan, REFERENCE)))


def together(plan: Plan) -> tuple[Suite, Agent, Evaluation]:
    """All tasks at once: the upper line. Not told, they are one stream, drawn anew each episode."""
    n, suite = plan.suite.spec.num_tasks, plan.suite
    if not plan.config.told:
        streams = regime if isinstance(suite, FunctionalSuite) else regime_pool
        suite = streams.random_games(suite, range(n))  # type: ignore[arg-type]
    collectives = learner.across(plan.run.num_devices)
    agent = ALGORITHMS[plan.algorithm].agent(suite.spec, plan.numbers, 0, collectives)
    return suite, agent, evaluation(plan, agent)


def block(plan: Plan, method: str, k: int) -> Block:
    """The k-th training of a method; of multitask there is one."""
    n = plan.suite.spec.num_tasks
    name = plan.suite.spec.task_names[k] if method != MULTITASK else "all"
    suite = together(plan)[0] if method == MULTITASK else training(plan, k)
    run = stretch(plan, method, k)
    if method == MULTITASK and not plan.config.told:  # one stream makes as many steps
        assert suite.spec.num_tasks == 1 and run.total_env_steps % n == 0
    settings = {**plan.settings, **dataclasses.asdict(run), "method": method, "task": name}
    folder = plan.folder / method / f"{k}-{name}"
    return Block(name, folder, suite, run, json.loads(json.dumps(settings)))
