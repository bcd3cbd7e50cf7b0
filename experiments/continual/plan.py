"""What a sequence consists of, and that nothing is wrong before anything is written."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import engines, learner
from mtrl_jax.algorithms import continual, ppo
from mtrl_jax.benchmark import compiled, regime, regime_pool
from mtrl_jax.envs import suites
from mtrl_jax.evaluations import Evaluation
from mtrl_jax.types import Agent, FunctionalSuite, HostSuite

from ..common.agents import values_of

__all__ = [
    "CW10",
    "FREE",
    "METHODS",
    "MULTITASK",
    "REFERENCE",
    "Block",
    "Plan",
    "block",
    "evaluation",
    "make",
    "parts",
    "scored",
    "stretch",
    "suite_of",
    "together",
    "training",
]

MULTITASK = "multitask"
METHODS = (*continual.METHODS, MULTITASK)
REFERENCE = "reset"  # whose scores are the scale and whose areas those of learning from scratch
# Continual World's ten (Wolczyk et al. 2021), in its order.
CW10 = (
    *("hammer", "push-wall", "faucet-close", "push-back", "stick-pull"),
    *("handle-press-side", "push", "shelf-place", "window-close", "peg-unplug-side"),
)
STRIDE = 100_003  # between the seeds of two tasks
FREE = ("writers", "keep", "log_every", "num_devices")  # what the same sequence may change
_DISPATCH = 10  # updates, at most

Suite = FunctionalSuite | HostSuite


class Plan(NamedTuple):
    """A sequence and who meets it.

    Attributes:
      suite: of all N tasks, in the order in which they are met.
      run: of the whole sequence, as the flags have it.
      numbers: of PPO.
      config: of the methods, without their name.
      folder: of all.
      settings: what config.json is to hold.
    """

    suite: Suite
    run: engines.RunConfig
    numbers: ppo.Config
    config: continual.Config
    folder: pathlib.Path
    settings: dict[str, Any]


class Block(NamedTuple):
    """Training on one task of a sequence, or on all of them at once."""

    name: str
    folder: pathlib.Path
    suite: Suite
    run: engines.RunConfig
    settings: dict[str, Any]


def suite_of(sequence: str, pad: bool) -> Suite:
    """The suite that --sequence names.

    Raises:
      ValueError: for an unknown one, or one of a single task.
    """
    name = f"metaworld:{','.join(CW10)}" if sequence == "cw10" else sequence
    suite = suites.make(name, None, pad)
    if suite.spec.num_tasks < 2:
        raise ValueError(f"--sequence must have at least two tasks; {sequence} has one")
    return suite


def make(
    suite: Suite,
    run: engines.RunConfig,
    numbers: ppo.Config,
    config: continual.Config,
    folder: pathlib.Path,
    methods: Sequence[str],
    named: dict[str, Any],
) -> Plan:
    """Holds all of it against what can run.

    Args:
      suite: of the tasks.
      run: of the whole sequence.
      numbers: of PPO.
      config: of the methods.
      folder: of all.
      methods: those asked for, of `METHODS`.
      named: what else config.json is to hold.

    Raises:
      ValueError: naming the field, what came and what is allowed.
    """
    settings = {
        "binary": "continual",
        **named,
        **dataclasses.asdict(run),
        **{f"config/{k}": v for k, v in values_of(numbers).items()},
        **{f"methods/{k}": v for k, v in dataclasses.asdict(config).items() if k != "method"},
    }
    plan = Plan(suite, run, numbers, config, folder, json.loads(json.dumps(settings)))
    for method in methods:
        if method == MULTITASK:
            all_tasks, agent, _ = together(plan)
            engines.check(stretch(plan, MULTITASK), all_tasks, agent)
        else:
            made = parts(plan, method)
            engines.check(stretch(plan, method), training(plan, 0), continual.agent(made))
    return plan


def _told_spec(plan: Plan) -> Any:
    return plan.suite.spec if plan.config.told else regime.stream_spec(plan.suite.spec)


def parts(plan: Plan, method: str) -> Any:
    """`continual.make_parts` of a method."""
    numbers, config = plan.numbers, dataclasses.replace(plan.config, method=method)
    if method == "progressive":
        numbers = dataclasses.replace(numbers, network=continual.PROGRESSIVE)
    count = stretch(plan, method).total_env_steps // _per_update(plan, 1)
    collectives = learner.across(plan.run.num_devices)
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
    agent = ppo.agent(suite.spec, plan.numbers, 0, learner.across(plan.run.num_devices))
    return suite, agent, evaluation(plan, agent)


def _per_update(plan: Plan, num_tasks: int) -> int:
    return plan.numbers.unroll_length * plan.run.num_envs_per_task * num_tasks


def stretch(plan: Plan, method: str, k: int = 0) -> engines.RunConfig:
    """The run of one task, or of all at once: as many steps of each task, and evaluations at equal
    distances, a whole number of dispatches apart."""
    run, n = plan.run, plan.suite.spec.num_tasks
    steps, per_update = run.total_env_steps / n, _per_update(plan, 1)
    evaluations = max(round(steps / run.eval_every), 1)
    updates = max(round(steps / evaluations / per_update), 1)
    at_once = -(-updates // -(-updates // _DISPATCH))
    updates = at_once * -(-updates // at_once)
    all_tasks = n if method == MULTITASK else 1
    interval = updates * per_update * all_tasks
    return dataclasses.replace(
        run,
        total_env_steps=interval * evaluations,
        eval_every=interval,
        log_every=interval,
        checkpoint_every=min(run.checkpoint_every, interval),
        updates_per_dispatch=at_once,
        seed=run.seed + k * STRIDE,
    )


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
