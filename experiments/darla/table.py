"""The study's table: intervals over encoders, and the one that would have been chosen."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax import intervals

from ..common.report import mean_text, text_of
from . import report

__all__ = ["SCORES", "Cell", "cells_of", "choose", "spearman", "table"]

SCORES = ("beta_vae_score", "mig")  # of disentanglement


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
        return intervals.Interval(np.asarray(rho), *np.full(2, np.nan))
    half = 1.959964 * np.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return intervals.Interval(np.asarray(rho), low, high)


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
        here, there = (np.array([x.mean() for x in scores]) for scores in (source, target))
        texts = [
            mean_text(here, "encoder"),
            mean_text(there, "encoder"),
            text_of(report.ratio(here, there, "encoder")),
            f"{there[choose(source)]:.2f}",
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
                    f"over {len(known)} encoders {text_of(found)}"
                )
    return lines
