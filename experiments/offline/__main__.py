r"""Learns many tasks from recorded data alone, and shares data between them by seven rules.

    python -m experiments.offline --record                     # random, medium and expert episodes
    python -m experiments.offline --own=random:100 --few=expert:3
    python -m experiments.offline --rule=none,all --own=expert:100 --base=iql
    python -m experiments.offline --suite=goal_plane --record  # continuous actions
    python -m experiments.offline --record --from_run=runs/dqn/... --suite=...

Prints what policies earn under each rule, with intervals over seeds, and how much of what a task
learnt from was its own. Every seed is a training run on episodes of its own draw; all seeds are one
program. The same command goes on where it was stopped.
"""

import pathlib
import re

import absl.logging
from absl import flags

from mtrl_jax import recorded
from mtrl_jax.algorithms import offline
from mtrl_jax.envs import suites
from mtrl_jax.losses import sharing
from mtrl_jax.ranges import Count, Seed, check_value

from ..common import binary, given
from ..common.override import override
from . import record, report, split
from .presets import UPDATES, numbers
from .run import Asked, check, load, run

_SUITE = flags.DEFINE_string("suite", "goal_rooms", "Whose environment can relabel; or your own.")
_RECORD = flags.DEFINE_bool("record", False, "Record data instead of learning from them.")
_FROM = flags.DEFINE_string("from_run", None, "The run to record from. (default: train one)")
_EPISODES = flags.DEFINE_integer("episodes", 200, "To record of each task at each level.", 1)
_STEPS = flags.DEFINE_integer(
    "teacher_steps", None, "Of each task, to train it with --record. (default: the preset's)", 1
)
_DATA = flags.DEFINE_string(
    "data", None, "Folder of the files. (default: runs/offline/<suite>/data)"
)
_BASE = flags.DEFINE_enum("base", "cql", offline.BASES, "How a policy is learnt from data.")
_RULE = flags.DEFINE_list("rule", list(sharing.RULES), f"Some of {', '.join(sharing.RULES)}.")
_OWN = flags.DEFINE_string(
    "own", "random:100", "Each task's own episodes: <level>:<episodes>, + between several levels."
)
_FEW = flags.DEFINE_string("few", "", "What the first half of the tasks has instead, if anything.")
_UPDATES = flags.DEFINE_integer("updates", UPDATES, "Gradient steps.", 1)
_SCORED = flags.DEFINE_integer("eval_episodes", 100, "Of each task, at the end.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "The first seed; the others follow it.", 0)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "Training runs of a rule, as one program.", 1)
_OVERRIDES = flags.DEFINE_list("config_overrides", [], "Numbers of the agent: cql_strength=0.3.")
_OUT = flags.DEFINE_string("out", None, "The PNG to write. (default: <workdir>/offline.png)")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The runs'. (default: runs/offline/<suite>/<base>-<own>-<few>)"
)
LEARNING = ("base", "rule", "own", "few", "updates", "num_seeds", "config_overrides", "out")


def main() -> None:
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write, as asked
    check_value("seed", _SEED.value, Seed)
    check_value("seed + num_seeds", _SEED.value + _NUM_SEEDS.value, Seed)
    check_value("num_seeds", _NUM_SEEDS.value, Count)
    suite = recorded.check_relabels(suites.make(_SUITE.value), _SUITE.value)
    place = pathlib.Path("runs/offline", re.sub(r"[^\w.=+-]", "-", _SUITE.value))
    data = pathlib.Path(_DATA.value or place / "data")
    if _RECORD.value:
        binary.refuse(*LEARNING, "workdir", "eval_episodes")
        given.check_folder("data", data)
        source = None if _FROM.value is None else pathlib.Path(_FROM.value)
        asked = record.Asked(
            _SUITE.value, data, _EPISODES.value, _SEED.value, source, _STEPS.value or 0
        )
        for level, mean in record.record(asked, suite).items():
            print(f"{level:8} {mean:7.3f} a return of an episode   {record.path_of(data, level)}")
        return
    binary.refuse("from_run", "episodes", "teacher_steps")
    own = split.Own(
        split.mix_of("own", _OWN.value), split.mix_of("few", _FEW.value) if _FEW.value else ()
    )
    name = f"{_BASE.value}-{_OWN.value}-{_FEW.value}".strip("-").replace(":", "")
    folder = pathlib.Path(_WORKDIR.value or place / name)
    out = given.out(pathlib.Path(_OUT.value or folder / "offline.png"), (".png",))
    rules = given.names(_RULE, list(sharing.RULES))
    files = split.read(data, suite.spec, _SUITE.value, own)
    split.check(files, suite.spec, own)
    loaded = load(suite, data, files)
    config = override(numbers(_BASE.value, _UPDATES.value), _OVERRIDES.value)
    asked_of = {
        rule: Asked(
            _SUITE.value,
            override(config, [f"rule={rule}"]),
            own,
            _UPDATES.value,
            _SCORED.value,
            _SEED.value,
            _NUM_SEEDS.value,
        )
        for rule in rules
    }
    for rule, one in asked_of.items():  # whatever cannot be is said before anything is written
        check(one, loaded, folder / rule)
    lines = []
    for rule, one in asked_of.items():
        scores = run(one, loaded, folder / rule)
        lines.append(report.line_of(one, loaded, scores, folder / rule))
    report.write(lines, out)
    print(
        f"\nReturn of an episode on {_SUITE.value}, {_BASE.value}, {_NUM_SEEDS.value} seeds [95 % "
        "interval over them], by what tasks have of their own"
    )
    print("\n".join(report.table(lines)))
    print(f"\nfigure {out}, numbers {out.with_suffix('.jsonl')}")


if __name__ == "__main__":
    binary.main(main)
