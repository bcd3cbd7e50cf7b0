r"""Learns to adapt within a few episodes: MAML and RL^2 beside fine-tuning and scratch.

    python -m experiments.few_shot --tasks=bandits
    python -m experiments.few_shot --tasks=navigation --method=maml,scratch --num_seeds=10
    python -m experiments.few_shot --tasks=mdps --method=maml --first_order
    python -m experiments.few_shot --config_overrides=maml.rate=0.3,rl2.core_size=128

Prints the return of an episode after 0, 1, 5 and 20 episodes on a task, on training tasks and on
tasks never met, with intervals over seeds; on bandits beside Thompson sampling and the Gittins
index. Every seed is a training run. The same command goes on where it was stopped.
"""

import dataclasses
import pathlib

import absl.logging
from absl import flags

from mtrl_jax.ranges import Count, Seed, check_value

from ..common import binary, given
from ..common.override import override
from . import report
from .asked import Asked
from .presets import FAMILIES, METHODS, Plan, learner, plan
from .run import check, run

_METHOD = flags.DEFINE_list("method", list(METHODS), f"Some of {', '.join(METHODS)}.")
_TASKS = flags.DEFINE_enum("tasks", "bandits", list(FAMILIES), "The family that tasks are of.")
_FIRST = flags.DEFINE_bool("first_order", False, "MAML without its second derivatives (FOMAML).")
_CURVE = flags.DEFINE_list("curve", ["0", "1", "5", "20"], "Episodes after which to score.")
_UPDATES = flags.DEFINE_integer("updates", None, "Of meta-training. (default: the preset's)", 1)
_TEST_TASKS = flags.DEFINE_integer("test_tasks", 200, "Tasks to score on, of each kind.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "The first seed; the others follow it.", 0)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "Training runs of a method, as one program.", 1)
_OVERRIDES = flags.DEFINE_list("config_overrides", [], "Numbers of a method: maml.rate=0.3.")
_OUT = flags.DEFINE_string("out", None, "The PNG to write. (default: <workdir>/few_shot.png)")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's. (default: runs/few_shot/<tasks>)")


def _curve() -> tuple[int, ...]:
    found = given.numbers(_CURVE)
    if any(x != int(x) for x in found):
        raise ValueError(f"--curve must hold whole numbers; got {','.join(_CURVE.value)}")
    return tuple(map(int, found))


def _plans(methods: list[str]) -> dict[str, Plan]:
    """Presets with what the flags change."""
    if _FIRST.value and "maml" not in methods:
        raise ValueError("--first_order is of maml, which --method does not name")
    for pair in _OVERRIDES.value:
        if pair.partition(".")[0] not in methods:
            raise ValueError(f"--config_overrides: {pair!r} is not <method>.name=value")
    found = {}
    for name in methods:
        updates, config = plan(name, _TASKS.value)
        own = [x[len(name) + 1 :] for x in _OVERRIDES.value if x.startswith(f"{name}.")]
        config = override(config, own)
        if name == "maml" and _FIRST.value:
            config = dataclasses.replace(config, first_order=True)
        found[name] = Plan((_UPDATES.value or updates) if updates else 0, config)
    return found


def main() -> None:
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write, as asked
    methods, curve = given.names(_METHOD, list(METHODS)), _curve()
    folder = pathlib.Path(_WORKDIR.value or f"runs/few_shot/{_TASKS.value}")
    out = given.out(pathlib.Path(_OUT.value or folder / "few_shot.png"), (".png",))
    for name, value, kind in (
        ("seed", _SEED.value, Seed),
        ("num_seeds", _NUM_SEEDS.value, Count),
        ("seed + num_seeds", _SEED.value + _NUM_SEEDS.value, Seed),
    ):
        check_value(name, value, kind)
    all_asked = {
        name: Asked(
            name, _TASKS.value, one, curve, _TEST_TASKS.value, _SEED.value, _NUM_SEEDS.value
        )
        for name, one in _plans(methods).items()
    }
    for name, asked in all_asked.items():  # whatever cannot be is said before anything is written
        check(asked, folder / name)
    lines = []
    for name, asked in all_asked.items():
        scores = run(asked, folder / name)
        made = learner(asked.tasks, asked.plan.config, curve)
        lines.append(report.lines_of(asked, scores, made.episodes_per_update))
    lines += report.references(next(iter(all_asked.values())))
    report.write(lines, out)
    print(
        f"\nReturn of an episode after so many of adaptation, {_NUM_SEEDS.value} seeds "
        f"[95 % interval over them], {_TEST_TASKS.value} tasks of each kind"
    )
    print("\n".join(report.table(lines)))
    print(f"\nfigure {out}, numbers {out.with_suffix('.jsonl')}")


if __name__ == "__main__":
    binary.main(main)
