r"""Learns to adapt within a few episodes: MAML and RL^2 beside fine-tuning, Distral and tables.

    python -m experiments.few_shot --tasks=bandits
    python -m experiments.few_shot --tasks=navigation --method=maml,scratch --num_seeds=10
    python -m experiments.few_shot --tasks=mdps --method=maml --first_order
    python -m experiments.few_shot --config_overrides=maml.rate=0.3,rl2.core_size=128
    python -m experiments.few_shot --tasks=ml1:reach --num_seeds=3
    python -m experiments.few_shot --tasks=ml10:length=500

Prints the return of an episode after 0, 1, 5 and 20 episodes on a task, on training tasks and on
tasks never met, with intervals over seeds; on bandits beside Thompson sampling and the Gittins
index, on Meta-World with the share of solved episodes. Every seed is a training run. The same
command goes on where it was stopped.
"""

import dataclasses
import pathlib
from typing import Any

import absl.logging
from absl import flags

from mtrl_jax.ranges import Count, Seed, check_value

from ..common import binary, given
from ..common.override import override
from . import report
from .asked import Asked
from .host_presets import host_learner, is_hosted
from .presets import METHODS, Plan, defaults, learner, named, plan
from .run import check, run

_METHOD = flags.DEFINE_list(
    "method", None, f"Some of {', '.join(METHODS)}. (default: all that can be; on Meta-World rl2)"
)
_TASKS = flags.DEFINE_string(
    "tasks",
    "bandits",
    "The family that tasks are of: bandits, mdps, navigation; or Meta-World's ml1:<environment>, "
    "ml10, ml45, with the goal hidden and episodes of 100 actions, or :length=T behind the name.",
)
_FIRST = flags.DEFINE_bool("first_order", False, "MAML without its second derivatives (FOMAML).")
_CURVE = flags.DEFINE_list(
    "curve", None, "Episodes after which to score. (default: 0,1,5,20; on Meta-World 0,1,2)"
)
_UPDATES = flags.DEFINE_integer("updates", None, "Of meta-training. (default: the preset's)", 1)
_TEST_TASKS = flags.DEFINE_integer(
    "test_tasks", None, "Tasks to score on, of each kind. (default: 200; on Meta-World 40)", 1
)
_SEED = flags.DEFINE_integer("seed", 0, "The first seed; the others follow it.", 0)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "Training runs of a method, as one program.", 1)
_OVERRIDES = flags.DEFINE_list("config_overrides", [], "Numbers of a method: maml.rate=0.3.")
_OUT = flags.DEFINE_string("out", None, "The PNG to write. (default: <workdir>/few_shot.png)")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's. (default: runs/few_shot/<tasks>)")


def _curve(otherwise: tuple[int, ...]) -> tuple[int, ...]:
    if _CURVE.value is None:
        return otherwise
    found = given.numbers(_CURVE)
    if any(x != int(x) for x in found):
        raise ValueError(f"--curve must hold whole numbers; got {','.join(_CURVE.value)}")
    return tuple(map(int, found))


def _plans(methods: list[str], tasks: str) -> dict[str, Plan]:
    """Presets with what the flags change."""
    if _FIRST.value and "maml" not in methods:
        raise ValueError("--first_order is of maml, which --method does not name")
    for pair in _OVERRIDES.value:
        if pair.partition(".")[0] not in methods:
            raise ValueError(f"--config_overrides: {pair!r} is not <method>.name=value")
    found = {}
    for name in methods:
        updates, config = plan(name, tasks)
        own = [x[len(name) + 1 :] for x in _OVERRIDES.value if x.startswith(f"{name}.")]
        config = override(config, own)
        if name == "maml" and _FIRST.value:
            config = dataclasses.replace(config, first_order=True)
        found[name] = Plan((_UPDATES.value or updates) if updates else 0, config)
    return found


def main() -> None:
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write, as asked
    tasks = named(_TASKS.value)
    usual = defaults(tasks)
    methods = (
        given.names(_METHOD, list(METHODS)) if _METHOD.value is not None else list(usual.methods)
    )
    curve, test_tasks = _curve(usual.curve), _TEST_TASKS.value or usual.test_tasks
    folder = pathlib.Path(_WORKDIR.value or f"runs/few_shot/{tasks.replace(':', '_')}")
    out = given.out(pathlib.Path(_OUT.value or folder / "few_shot.png"), (".png",))
    for name, value, kind in (
        ("seed", _SEED.value, Seed),
        ("num_seeds", _NUM_SEEDS.value, Count),
        ("seed + num_seeds", _SEED.value + _NUM_SEEDS.value, Seed),
    ):
        check_value(name, value, kind)
    all_asked = {
        name: Asked(name, tasks, one, curve, test_tasks, _SEED.value, _NUM_SEEDS.value)
        for name, one in _plans(methods, tasks).items()
    }
    for name, asked in all_asked.items():  # whatever cannot be is said before anything is written
        check(asked, folder / name)
    lines = []
    for name, asked in all_asked.items():
        scores = run(asked, folder / name)
        made: Any = host_learner if is_hosted(tasks) else learner
        made = made(tasks, asked.plan.config, curve)
        lines.append(report.lines_of(asked, scores, made.episodes_per_update))
    lines += report.references(next(iter(all_asked.values())))
    report.write(lines, out)
    print(
        f"\nReturn of an episode after so many of adaptation, {_NUM_SEEDS.value} seeds "
        f"[95 % interval over them], {test_tasks} tasks of each kind"
    )
    print("\n".join(report.table(lines)))
    print(f"\nfigure {out}, numbers {out.with_suffix('.jsonl')}")


if __name__ == "__main__":
    binary.main(main)
