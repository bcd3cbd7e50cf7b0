"""Cells of several games for an agent that imitates: a teacher for each, then one student.

Half of the cell's steps train the teachers, the other half the student, so that the cell costs what
it costs an agent that plays the stream. While they learn, games are played side by side, each by
the teacher that was made for it: that pre-training is told the games. The student is not, and what
it becomes plays on, and is scored, as every other agent.
"""

import pathlib
import time
from typing import Any

import jax

from mtrl_jax import engines, metrics, train
from mtrl_jax.benchmark import compiled
from mtrl_jax.benchmark.cells import Cell, Settings, training_games
from mtrl_jax.benchmark.compiled import Entry, Stopped, Suite
from mtrl_jax.benchmark.results import table_rows
from mtrl_jax.types import Agent, ArrayTree

__all__ = ["run"]


def run(
    cell: Cell,
    settings: Settings,
    suite: Suite,
    entry: Entry,
    folder: pathlib.Path,
    on_progress: train.OnProgress = lambda step, total, row: None,
) -> list[dict[str, Any]]:
    """Trains and scores a cell of kind `pretrain` or `multitask`; a row for each seed.

    Curves are the student's and begin when its teachers have learnt. `folder/<cell>/final` holds
    the state of the agent that `entry.make` gives, as after any other pre-training.

    Raises:
      Stopped: on Ctrl-C or SIGTERM.
      ValueError: for a folder of another run.
      FloatingPointError: as `train.run`.
    """
    assert entry.imitation is not None
    imitation, began, spec = entry.imitation, time.monotonic(), suite.spec
    games = training_games(settings, cell, spec.num_tasks)
    task_suite = compiled.side_by_side(suite, games)
    path, half = folder / cell.name, cell._replace(steps=cell.steps // 2)
    identity = compiled.identity(cell, settings, spec, entry)

    def learn(part: str, agent: Agent, before: int, **options: Any) -> train.Result:
        config = compiled.run_config(settings, half, agent, task_suite)

        def watch(step: int, total: int, row: dict[str, Any]) -> None:
            on_progress(before + step, max(cell.steps, before + total), row)

        part_identity = {**identity, "part": part}
        result = train.run(config, task_suite, agent, path / part, part_identity, watch, **options)
        if not result.finished:
            raise Stopped
        return result

    teachers = learn("teachers", imitation.teachers(task_suite.spec), 0)
    teachers_state = jax.device_get(teachers.state)
    if len(cell.seeds) == 1:
        teachers_state = jax.tree.map(lambda x: x[None], teachers_state)
    agent = imitation.student(task_suite.spec, teachers_state)
    student = learn("student", agent, teachers.step, begin_from=imitation.assign)

    training = compiled.training_suite(settings, suite, games)
    agent = compiled.make_agent(entry, training.spec, pretraining=False)
    config = compiled.run_config(settings, cell, agent, training)
    init = engines.over_seeds(config, lambda key: agent.init(engines.stream(key, "params")))
    fresh = jax.jit(init)(engines.root_key(config))
    graduate = jax.jit(engines.over_seeds(config, imitation.graduate))
    state: ArrayTree = graduate(student.state, fresh)
    step = teachers.step + student.step
    compiled.save(path / "final", step, state)
    rows = metrics.read_jsonl(path / "student" / "metrics.jsonl")
    rows = [{**row, "step": teachers.step + row["step"]} for row in rows]
    final = compiled.final_scores(settings, config, suite, agent, state, range(spec.num_tasks))
    return table_rows(cell, settings, spec, rows, final, step, time.monotonic() - began)
