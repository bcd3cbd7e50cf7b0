r"""DARLA's question, with encoders enough to answer it: who keeps its score in rooms never seen?

    python -m experiments.darla.study
    python -m experiments.darla.study --visions=darla,entangled --policies=ppo --encoders=3

Every vision learns to see --encoders times (`random` and `pixels` begin anew as often), and on each
of them every policy learns --num_seeds times, as one program. Intervals are over encoders, whose
policies are averaged. The same command goes on where it was stopped, run by run; two shells with
different --visions may share a --workdir, and a last command over all of them only draws.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import absl.logging
import numpy as np
from absl import flags

from mtrl_jax import intervals

from ..beta_vae import run as see
from ..common import binary, given, run_flags
from . import plan, report, rooms_flags, stages
from .vision import VISIONS

__all__ = ["Cell", "cells_of", "choose", "spearman", "table"]

SCORES = ("beta_vae_score", "mig")
DEFAULT_VISIONS = ("darla", "entangled", "dae", "random", "pixels")
_VISIONS = flags.DEFINE_list("visions", list(DEFAULT_VISIONS), "What policies read.")
_POLICIES = flags.DEFINE_list("policies", ["dqn", "a3c", "mfec"], "How they learn to act.")
_ENCODERS = flags.DEFINE_integer("encoders", 5, "Encoders of each vision.", 1)


class Cell(NamedTuple):
    """Policies of one kind on one encoder: scores `[S]`, means over the rooms of a split."""

    vision: str
    policy: str
    encoder: int
    source: np.ndarray
    target: np.ndarray
    line: dict[str, Any]  # what is kept of it


def choose(source: Sequence[np.ndarray]) -> int:
    """The encoder that one would take without having seen the target: the one whose policies do
    best where they have learnt.

    Args:
      source: for each encoder the scores `[S]` of its policies in source rooms; nothing else.
    """
    return int(np.argmax([scores.mean() for scores in source]))


def spearman(x: np.ndarray, y: np.ndarray) -> intervals.Interval:
    """Rank correlation rho of `[N]` and `[N]`, N encoders, with a 95 % interval by Fisher's z and
    the variance (1 + rho^2 / 2) / (N - 3) of Bonett & Wright 2000 (Psychometrika 65). It has no
    ends for fewer than five, or where all ranks agree."""
    from scipy.stats import spearmanr  # a dependency of jax

    rho = float(spearmanr(x, y).statistic)
    if len(x) < 5 or not abs(rho) < 1:
        return intervals.Interval(np.float64(rho), *np.full(2, np.nan))
    half = 1.959964 * np.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return intervals.Interval(np.float64(rho), low, high)


def asked_of(
    root: pathlib.Path, vision: str, policy: str, encoder: int, first: plan.Asked
) -> plan.Asked:
    """One cell; encoders and policies of different cells have seeds of their own."""
    folder, run = root / vision / f"encoder{encoder}", first.run
    seed = run.seed + encoder * run.num_seeds
    return first._replace(
        vision=vision,
        policy=policy,
        folder=folder / policy,
        run=dataclasses.replace(run, seed=seed),
        borrow=str(folder / "see") if VISIONS[vision].objective else None,
        seed=first.seed + encoder,
        seeing={},
    )


def learn_to_see(root: pathlib.Path, vision: str, encoder: int, first: plan.Asked) -> None:
    """The encoder's run, if its kind learns anything and it has not learnt it yet."""
    kind = VISIONS[vision]
    if kind.objective:
        config = plan.seeing(kind, first.where, first.seed + encoder, first.seeing)
        see.run(config, root / vision / f"encoder{encoder}" / "see")


def cell_of(planned: plan.Plan, encoder: int) -> Cell:
    """What a finished run has written."""
    asked, row = planned.asked, report.row(planned)
    found = stages.scores_of(asked.folder)
    line = {"vision": asked.vision, "policy": asked.policy, "encoder": encoder, **found}
    if planned.see is not None:
        latents = json.loads((planned.see_folder / see.report.LATENTS).read_text())
        line |= {name: latents[name] for name in SCORES if name in latents}
    return Cell(asked.vision, asked.policy, encoder, row.source, row.target, line)


def cells_of(cells: Sequence[Cell], vision: str, policy: str) -> list[Cell]:
    """Of one vision and policy, an encoder each."""
    return [cell for cell in cells if (cell.vision, cell.policy) == (vision, policy)]


def table(cells: Sequence[Cell]) -> list[str]:
    """A line for each vision and policy, then one for each score of disentanglement and policy."""
    heads = ("source", "target", "target / source", "target of the best at source")
    lines = ["".join([f"{'':20}", *(f"{head:>30}" for head in heads)])]
    pairs = list(dict.fromkeys((cell.vision, cell.policy) for cell in cells))
    for pair in pairs:
        own = cells_of(cells, *pair)
        source, target = ([getattr(cell, k) for cell in own] for k in ("source", "target"))
        means = [np.array([x.mean() for x in scores]) for scores in (source, target)]
        texts = [
            *(report.mean_text(x, "encoder") for x in means),
            report.text_of(report.ratio(*means, unit="encoder")),
            f"{means[1][choose(source)]:.2f}",
        ]
        lines.append(f"{' '.join(pair):20}" + "".join(f"{text:>30}" for text in texts))
    for policy in dict.fromkeys(cell.policy for cell in cells):
        for score in SCORES:
            known = [c for c in cells if c.policy == policy and score in c.line]
            if len(known) > 2:
                numbers = np.array([c.line[score] for c in known])
                found = spearman(numbers, np.array([c.target.mean() for c in known]))
                lines.append(
                    f"{policy}: rank correlation of target score and {score.replace('_', ' ')} "
                    f"over {len(known)} encoders {report.text_of(found)}"
                )
    return lines


def main() -> None:
    run_flags.start()
    absl.logging.set_verbosity(absl.logging.ERROR)
    run_flags.allow(*rooms_flags.USED)
    visions = given.names(_VISIONS, list(VISIONS))
    policies = given.names(_POLICIES, list(plan.POLICIES))
    root = run_flags.workdir("darla_study", "rooms")
    first = rooms_flags.asked(visions[0], policies[0], root / "none")
    for vision in visions:
        for policy in policies:  # whatever cannot be is said before anything is written
            seeing = first.seeing if VISIONS[vision].objective else {}
            plan.make(first._replace(vision=vision, policy=policy, seeing=seeing))
    cells = []
    for encoder in range(_ENCODERS.value):
        for vision in visions:
            learn_to_see(root, vision, encoder, first)
            for policy in policies:
                planned = plan.make(asked_of(root, vision, policy, encoder, first))
                print(f"\nencoder {encoder}, {vision}, {policy}")
                stages.run(planned)
                cells.append(cell_of(planned, encoder))
    with (root / "study.jsonl").open("w") as file:
        file.writelines(json.dumps(cell.line) + "\n" for cell in cells)
    print(
        f"\nZero-shot, fold {first.where.fold}: {_ENCODERS.value} encoders [95 % interval over "
        f"them] with {first.run.num_seeds} policies each, {first.run.eval_episodes} episodes a room"
    )
    print("\n".join(table(cells)))
    random = [cells[0].line[f"random/{split}"] for split in ("source", "target")]
    print(f"{'random policy':20}" + "".join(f"{x:>30.2f}" for x in random))
    rows = []
    for vision in visions:
        for policy in policies:
            own = cells_of(cells, vision, policy)
            scores = (np.array([getattr(c, k).mean() for c in own]) for k in ("source", "target"))
            rows.append(report.Row(f"{vision} {policy}", *scores, (random[0], random[1])))
    report.draw(rows, root / "study.png", "encoder")
    print(f"\nnumbers {root / 'study.jsonl'}, figure {root / 'study.png'}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(rooms_flags)
    flags.FLAGS.set_default("num_seeds", 5)
    binary.main(main)
