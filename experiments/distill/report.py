"""What students kept of their teachers' scores: a table, its numbers, and curves."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrl_jax import intervals, learner, plots
from mtrl_jax.algorithms import student
from mtrl_jax.engines import RunConfig
from mtrl_jax.types import EnvSpec

from .teachers import Teachers

Scores = Mapping[str, np.ndarray]  # game to mean returns [S]


def num_parameters(params: learner.Params) -> int:
    """Of a student, from its parameters or their shapes."""
    return student.size(params)


def share(random: np.ndarray, teacher: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(student - random) / (teacher - random), seed by seed; nan where a teacher is no better than
    random.

    Args:
      random: [1].
      teacher, own: [S].
    """
    above = teacher - random.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above > 0, (own - random.mean()) / above, np.nan)


def last_scores(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Scores:
    """Of the evaluation at the end of a run, its last row."""

    def key(name):
        return plots.task_key(name, "eval/task_policy/return")

    return {name: np.atleast_1d(np.asarray(rows[-1][key(name)], float)) for name in names}


def table(
    random: Scores, teachers: Scores, students: Mapping[str, Scores], episodes: int
) -> tuple[list[dict[str, Any]], str]:
    """A row for each game and student, and the same as text; Student's intervals over the
    students' runs (seeds), if several."""
    rows: list[dict[str, Any]] = []
    for title, own in students.items():
        for name in own:
            kept = share(random[name], teachers[name], own[name])
            found = intervals.mean(kept, unit="run")
            low, high = (None if len(kept) < 2 else float(x) for x in found[1:])
            rows.append(
                {
                    "student": title,
                    "game": name,
                    "episodes": episodes,
                    "random": float(random[name].mean()),
                    "teacher_seeds": teachers[name].tolist(),
                    "student_seeds": own[name].tolist(),
                    "share": float(kept.mean()),
                    "share_low": low,
                    "share_high": high,
                }
            )
    heads = ("student", "game", "random", "teacher", "student's", "share of the teacher's")
    lines = [heads]
    for row in rows:
        interval = f"{row['share']:.0%}"
        if row["share_low"] is not None:
            interval += f" [{row['share_low']:.0%}, {row['share_high']:.0%}]"
        numbers = (row["random"], np.mean(row["teacher_seeds"]), np.mean(row["student_seeds"]))
        lines.append((row["student"], row["game"], *(f"{x:.2f}" for x in numbers), interval))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return rows, text


def report(
    spec: EnvSpec,
    rows: Mapping[str, Sequence[dict[str, Any]]],
    random: Scores,
    teachers: Scores,
    sizes: Mapping[str, int],
    found: Teachers,
    config: RunConfig,
    folder: pathlib.Path,
) -> None:
    """Prints the table, writes results.jsonl and table.txt, and draws the students' scores.

    Args:
      spec: of the games.
      rows: of each student, those of `runs.rows`.
      random, teachers: what to compare with.
      sizes: parameters of each student.
      found: whose scores `teachers` are.
      config: of the students' runs.
      folder: where to write.
    """
    names = spec.task_names
    own = {title: last_scores(run, names) for title, run in rows.items()}
    steps = {title: run[-1]["step"] for title, run in rows.items()}
    teacher_steps = dict(zip(names, found.steps, strict=True))
    lines, text = table(random, teachers, own, config.eval_episodes)
    for row in lines:
        row |= {"student_size": sizes[row["student"]], "teachers_size": found.size}
        row |= {"env_steps": steps[row["student"]], "teacher_env_steps": teacher_steps[row["game"]]}
    size = "\n".join(
        f"{title}: {n:,} parameters, {n / found.size:.0%} of the {found.size:,} of its teachers; "
        f"{steps[title]:,} environment steps"
        for title, n in sizes.items()
    )
    each = " or ".join(f"{n:,}" for n in sorted(set(found.steps)))
    size += f"\nteachers: runs of {each} environment steps"
    text = (
        f"Means of {config.eval_episodes} episodes; seeds: {config.num_seeds}; best actions. The "
        f"share is above random [95 % interval over seeds]:\n{text}\n\n{size}"
    )
    print("\n" + text)
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (folder / "table.txt").write_text(text + "\n")

    def key(name):
        return plots.task_key(name, "eval/task_policy/return")

    constant = {key(name): teachers[name].tolist() for name in names}
    teacher = [{"step": step, **constant} for step in (0, max(steps.values()))]
    levels = {name: float(random[name].mean()) for name in names}
    picture = folder / "plots" / "students.png"
    plots.learning_curves(
        {**{title: [run] for title, run in rows.items()}, "teacher": [teacher]},
        names,
        picture,
        quantity="eval/task_policy/return",
        levels={"random": levels},
    )
    print(f"\nnumbers {folder / 'results.jsonl'}, figure {picture}")
