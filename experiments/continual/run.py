"""A method meets the whole sequence; each task is a run of its own, in a directory of its own.

<method>/<k>-<task>/     of task k, which begins with what the run of task k - 1 has left
multitask/0-all/         of all tasks at once

A kill costs what was trained since the last checkpoint of one task. On functional suites the end
is the uninterrupted one's to the bit.
"""

from typing import Any

import absl.logging
import jax

from mtrl_jax import engines
from mtrl_jax.algorithms import continual

from ..common import runs
from .plan import Block, block, evaluation, parts, together
from .sequence import MULTITASK, Plan

__all__ = ["finished", "learn"]


def learn(plan: Plan, method: str) -> list[Block]:
    """Trains what is left of a method; its blocks, in order."""
    n, blocks = plan.suite.spec.num_tasks, _blocks(plan, method)
    if method == MULTITASK:
        _, agent, scored = together(plan)
        _train(f"{method} 1/1", blocks[0], agent, scored)
        return blocks
    made = parts(plan, method)
    agent = continual.agent(made)
    scored = evaluation(plan, continual.evaluated(made))
    for k, one in enumerate(blocks):

        def begin(fresh: Any, k: int = k) -> Any:
            before = blocks[k - 1]
            absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write
            _, last = runs.restore(before.folder, before.run, before.suite, agent)
            move = engines.over_seeds(
                plan.run, lambda last, fresh: continual.next_task(made, last, fresh)
            )
            return jax.jit(move)(last, fresh)

        title = f"{method} {k + 1}/{n} {one.name}"
        _train(title, one, agent, scored, begin if k else None)
    return blocks


def finished(plan: Plan, method: str) -> list[Block]:
    """The blocks of a method that was trained to its end, in order; [] of another."""
    blocks = _blocks(plan, method)
    return blocks if all(_is_done(one, plan.numbers.unroll_length) for one in blocks) else []


def _blocks(plan: Plan, method: str) -> list[Block]:
    count = 1 if method == MULTITASK else plan.suite.spec.num_tasks
    return [block(plan, method, k) for k in range(count)]


def _is_done(one: Block, unroll_length: int) -> bool:
    return runs.finished(one.folder, one.settings, one.run, one.suite, unroll_length)


def _train(title: str, one: Block, agent: Any, scored: Any, begin: Any = None) -> None:
    if _is_done(one, agent.unroll_length):
        return
    runs.learn(title, one.suite, agent, one.run, one.settings, one.folder, begin, scored)
