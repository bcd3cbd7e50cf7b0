r"""DARLA's question, with encoders enough to answer it: who keeps its score in rooms never seen?

    python -m experiments.darla.study
    python -m experiments.darla.study --visions=darla,entangled --policies=ppo --encoders=3

Every vision learns to see --encoders times (`random` and `pixels` begin anew as often; `finetuned`
begins with what `darla` has learnt), and on each of them every policy learns --num_seeds times, as
one program. Intervals are over encoders, whose policies are averaged. The same command goes on
where it was stopped, run by run; two shells with different --visions (`darla` and `finetuned` in
one of them) may share a --workdir, and a last command over all of them only draws.
"""

import dataclasses
import json
import pathlib

import absl.logging
import numpy as np
from absl import flags

from ..beta_vae import run as see
from ..common import binary, given, run_flags
from ..common.report import write_lines
from . import plan, report, rooms_flags, stages
from .table import SCORES, Cell, cells_of, table
from .vision import VISIONS

__all__ = ["asked_of", "cell_of", "eyes", "learn_to_see"]

DEFAULT_VISIONS = ("darla", "entangled", "dae", "finetuned", "random", "pixels")
_VISIONS = flags.DEFINE_list("visions", list(DEFAULT_VISIONS), "What policies read.")
_POLICIES = flags.DEFINE_list("policies", ["dqn", "a3c", "mfec"], "How they learn to act.")
_ENCODERS = flags.DEFINE_integer("encoders", 5, "Encoders of each vision.", 1)


def eyes(root: pathlib.Path, vision: str, encoder: int) -> pathlib.Path:
    """Where an encoder is learnt: `finetuned` begins with `darla`'s."""
    return root / ("darla" if vision == "finetuned" else vision) / f"encoder{encoder}" / "see"


def asked_of(root: pathlib.Path, vision: str, encoder: int, first: plan.Asked) -> plan.Asked:
    """One cell; encoders and policies of different cells have seeds of their own."""
    folder, run = root / vision / f"encoder{encoder}", first.run
    seed = run.seed + encoder * run.num_seeds
    return first._replace(
        vision=vision,
        folder=folder / first.policy,
        run=dataclasses.replace(run, seed=seed),
        borrow=str(eyes(root, vision, encoder)) if VISIONS[vision].objective else None,
        seed=first.seed + encoder,
        seeing={},
    )


def learn_to_see(root: pathlib.Path, vision: str, encoder: int, first: plan.Asked) -> None:
    """The encoder's run, if its kind learns anything and it has not learnt it yet. J is the same
    for all visions of one encoder's seed, and learnt once."""
    kind = VISIONS[vision]
    if kind.objective:
        config = plan.seeing(kind, first.where, first.seed + encoder, first.seeing)
        others = (eyes(root, other, encoder) for other in VISIONS if other != vision)
        see.run(config, eyes(root, vision, encoder), judges=[x for x in others if x.is_dir()])


def cell_of(planned: plan.Plan, encoder: int) -> Cell:
    """What a finished run has written."""
    asked, row = planned.asked, report.row(planned)
    found = stages.scores_of(asked.folder)
    line = {"vision": asked.vision, "policy": asked.policy, "encoder": encoder, **found}
    if planned.see is not None:
        latents = json.loads((planned.see_folder / see.report.LATENTS).read_text())
        line |= {name: latents[name] for name in SCORES if name in latents}
    return Cell(asked.vision, asked.policy, encoder, row.source, row.target, line)


def main() -> None:
    run_flags.start()
    absl.logging.set_verbosity(absl.logging.ERROR)  # as in __main__
    run_flags.allow(*rooms_flags.USED)
    visions = given.names(_VISIONS, list(VISIONS))
    policies = given.names(_POLICIES, list(plan.POLICIES))
    pairs = [(v, p) for v in visions for p in policies if plan.fits(v, p)]
    root = run_flags.workdir("darla_study", "rooms")
    first = {name: rooms_flags.asked(visions[0], name, root / "none") for name in policies}
    for vision, policy in pairs:  # whatever cannot be is said before anything is written
        seeing = first[policy].seeing if VISIONS[vision].objective else {}
        plan.make(first[policy]._replace(vision=vision, seeing=seeing))
    cells = []
    for encoder in range(_ENCODERS.value):
        for vision, policy in pairs:
            learn_to_see(root, vision, encoder, first[policy])
            planned = plan.make(asked_of(root, vision, encoder, first[policy]))
            print(f"\nencoder {encoder}, {vision}, {policy}")
            stages.run(planned)
            cells.append(cell_of(planned, encoder))
    write_lines(root / "study.jsonl", (cell.line for cell in cells))
    one = first[policies[0]]
    print(
        f"\nZero-shot, fold {one.where.fold}: {_ENCODERS.value} encoders [95 % interval over them] "
        f"with {one.run.num_seeds} policies each, {one.run.eval_episodes} episodes a room"
    )
    print("\n".join(table(cells)))
    random = (cells[0].line["random/source"], cells[0].line["random/target"])
    print(f"{'random policy':20}" + "".join(f"{x:>30.2f}" for x in random))
    rows = []
    for pair in pairs:
        own = cells_of(cells, *pair)
        source, target = (
            np.array([getattr(c, k).mean() for c in own]) for k in ("source", "target")
        )
        rows.append(report.Row(" ".join(pair), source, target, random))
    report.draw(rows, root / "study.png", "encoder")
    print(f"\nnumbers {root / 'study.jsonl'}, figure {root / 'study.png'}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(rooms_flags)
    flags.FLAGS.set_default("num_seeds", 5)
    binary.main(main)
