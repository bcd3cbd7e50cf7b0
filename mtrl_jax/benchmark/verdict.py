"""What the report says in words: who learns faster for having learnt before, and who is best.

Nothing is said that an interval does not: a transfer ratio whose interval holds 1, or a probability
of improvement whose interval holds one half, is not decided.
"""

import numpy as np

from mtrl_jax import plots
from mtrl_jax.benchmark import numbers
from mtrl_jax.benchmark.page import cell
from mtrl_jax.benchmark.study import Study

__all__ = ["FEW_SEEDS", "sentences"]

FEW_SEEDS = 5  # fewer than these decide next to nothing


def sentences(s: Study) -> list[str]:
    """The verdict on a table, the most important first."""
    said = [_transfer(s), *(_leader(s, title, field) for title, field in numbers.KINDS.items())]
    if any("better than" in sentence for sentence in said):
        said.append(
            "Better: on a game drawn at random a run of the one beats a run of the other more "
            "often than not, and the interval of that probability lies above one half."
        )
    seeds = len(s.control)
    if seeds < FEW_SEEDS:
        said.append(f"{seeds} seeds only: an interval says little more than its ends.")
    if not len(s.scaled):
        said.append("No game has a scale, so nothing can be compared over games.")
    return [sentence for sentence in said if sentence]


def _transfer(s: Study) -> str:
    """Who gains by learning other games first; the highest geometric mean first."""
    found = {n: numbers.transfer_numbers(s, r) for n, r in s.records.items()}
    known = {n: t.geometric for n, t in found.items() if t is not None}
    parts: dict[str, list[str]] = {"helps": [], "harms": [], "is not decided for": []}
    for n in sorted(known, key=lambda n: -float(known[n].value)):
        low, high = float(known[n].low), float(known[n].high)
        what = "helps" if low > 1 else "harms" if high < 1 else "is not decided for"
        parts[what].append(f"{plots.readable(n)} ({cell(known[n])})")
    said = "; ".join(f"{what} {', '.join(names)}" for what, names in parts.items() if names)
    if not said:
        return ""
    return (
        f"Learning other games first {said}. In brackets: the area under the learning curve on a "
        "new game over that from scratch, geometric mean over games."
    )


def _leader(s: Study, title: str, field: str) -> str:
    """The best agent of one kind of runs, and over whom that is decided."""
    known = {n: getattr(r, field) for n, r in s.records.items() if r.learns}
    known = {n: raw for n, raw in known.items() if raw is not None}
    if len(known) < 2 or not len(s.scaled):
        return ""
    scores = {
        n: numbers.aggregates(s, raw, unit=numbers.unit_of(s.records[n], field))["IQM"]
        for n, raw in known.items()
    }
    first, *others = sorted(scores, key=lambda n: -float(scores[n].value))
    unit = numbers.unit_of(s.records[first], field)
    sure: list[str] = []
    unsure: list[str] = []
    same: list[str] = []
    for n in others:
        if np.array_equal(known[n], known[first]):
            same.append(plots.readable(n))
            continue
        low = float(numbers.improvement(s, known[first], known[n], unit=unit).low)
        (sure if low > 0.5 else unsure).append(plots.readable(n))
    text = f"{title[0].upper()}{title[1:]}: {plots.readable(first)} is highest"
    text += f" (IQM {cell(scores[first])})"
    text += f", with the same runs {_list(same)}" if same else ""
    text += f"; it is better than {_list(sure)}" if sure else ""
    text += f"; over {_list(unsure)} it is not decided" if unsure else ""
    return text + "."


def _list(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
