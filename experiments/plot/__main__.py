r"""Compares runs: learning curves of every task and of their mean, runs of one label as seeds.

    python -m experiments.plot --runs=runs/distral/a,runs/distral/a/alone,runs/distral/b
    python -m experiments.plot --runs=a,b,c --labels=before,before,after --metric=episode/success
    python -m experiments.plot --runs=a,b --metric=eval/distilled_policy/return --out=distilled.png
    python -m experiments.plot --runs=a,b --over=cpu_seconds --nopanels

A run's label is its algorithm, unless --labels says otherwise. The band is Student's 95 %
interval of the mean over agents, one a seed, those inside a run and those of runs of one label.
Means of training are over the episodes that ended in the time of the longest one, and a curve
starts when that has had the time to end everywhere: before, only short episodes have ended. A line
has a gap where no episode ended. The dotted line is a random policy, where results.json of one of
the runs has its scores, or --random says them.
"""

import pathlib

import numpy as np
from absl import flags

from mtrl_jax import intervals, metrics, plots

from ..common import binary, given
from . import runs

AXES = {"steps": "environment steps, all tasks", "cpu_seconds": "CPU-seconds"}

_RUNS = flags.DEFINE_list("runs", [], "Directories of runs, separated by commas.")
_LABELS = flags.DEFINE_list(
    "labels",
    [],
    "A name for each run, separated by commas; runs of one name count as its seeds. "
    "(default: the algorithm)",
)
_METRIC = flags.DEFINE_string(
    "metric",
    "episode/return",
    "What to draw: episode/return, episode/success or episode/length "
    "of training, eval/task_policy/return or another score of evaluation, loss/entropy, ... An "
    "unknown name lists them all.",
)
_OVER = flags.DEFINE_enum(
    "over",
    "steps",
    list(AXES),
    "The horizontal axis: environment steps, or the processor time of training.",
)
_PANELS = flags.DEFINE_bool("panels", True, "A panel for each task beside the mean over tasks.")
_RANDOM = flags.DEFINE_list(
    "random",
    [],
    "What a random policy gets, for a dotted line: a number for all tasks, or one for each of them "
    "in the order of the panels. (default: the scores in results.json of one of the runs, if any)",
)
_OUT = flags.DEFINE_string(
    "out", None, "The PNG to write. (default: <first run>/plots/compare-<metric>-over-<what>.png)"
)


def main() -> None:
    groups, tasks = runs.read(_RUNS.value, _LABELS.value)
    quantity = _METRIC.value
    chance = given.numbers(_RANDOM, distinct=False) if _RANDOM.value else []
    random = runs.random_level(_RUNS.value, tasks, quantity, chance)
    last = {}
    for label, group in groups.items():
        for rows in group:
            known = runs.known_metrics(rows, tasks[0])
            if quantity not in known:
                raise ValueError(
                    f"--metric: {quantity!r} is not in the metrics of {label}: {', '.join(known)}"
                )
        if _OVER.value == "cpu_seconds":
            group[:] = map(metrics.over_cpu_seconds, group)
        steps, values, _ = plots.curve(group, [plots.task_key(task, quantity) for task in tasks])
        if not steps.size:
            why = "no episode yet: " if quantity.startswith("episode/") else ""
            raise ValueError(
                f"--runs: {why}at no step is {quantity} of every task known in all runs of {label}"
            )
        last[label] = steps[-1], values[-1]
    name = f"compare-{quantity.replace('/', '-')}-over-{_OVER.value}.png"
    path = given.out(pathlib.Path(_OUT.value or pathlib.Path(_RUNS.value[0]) / "plots" / name))
    try:
        plots.learning_curves(
            groups,
            tasks,
            path,
            quantity=quantity,
            levels={"random": random} if random else None,
            task_panels=_PANELS.value,
            mean_panel=len(tasks) > 1 or not _PANELS.value,
            x_label=AXES[_OVER.value],
        )
    except OSError as error:
        raise ValueError(f"--out: {path} cannot be written: {error}") from error
    names = {label: plots.readable(label) for label in groups}
    width = max(map(len, names.values()))
    print(f"{quantity}, mean over {len(tasks)} tasks, last value [95 % interval over seeds]")
    for label, (step, value) in last.items():
        _, low, high = intervals.mean(value, unit="agent")
        interval = f" [{low:.3g}, {high:.3g}]" if len(value) > 1 else ""
        print(
            f"{names[label].ljust(width)}  {np.mean(value):.3g}{interval} at {int(step):,} "
            f"{AXES[_OVER.value].split(',')[0]}, "
            f"{len(value)} seed{'s' * (len(value) > 1)}"
        )
    print(f"\ncurves  {path}")


if __name__ == "__main__":
    binary.main(main)
