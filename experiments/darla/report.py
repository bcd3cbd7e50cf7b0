"""The zero-shot table and its figure: scores where the policy has learnt, and where it has not."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax import intervals, plots

from ..common.report import mean_text, text_of
from .plan import Plan
from .stages import scores_of

__all__ = ["Row", "draw", "ratio", "row", "show"]


class Row(NamedTuple):
    """Of one run: scores `[S]` of its policies, means over rooms of a split, and a random one's. Of
    a study: those of S encoders."""

    name: str
    source: np.ndarray
    target: np.ndarray
    random: tuple[float, float]


def row(planned: Plan) -> Row:
    """What a finished run has written, as numbers."""
    found = scores_of(planned.asked.folder)
    source, target = (np.mean(list(found[k].values()), axis=0) for k in ("source", "target"))
    name = f"{planned.asked.vision} {planned.asked.policy}"
    return Row(name, source, target, (found["random/source"], found["random/target"]))


def ratio(
    source: np.ndarray, target: np.ndarray, unit: intervals.Unit = "agent"
) -> intervals.Interval | None:
    """Target score over source score `[S]`, with Fieller's interval over the S; None where the
    source score is not above 0 and a ratio says nothing."""
    if not source.mean() > 0:
        return None
    if len(source) < 2:
        return intervals.Interval(target.mean() / source.mean(), *np.full(2, np.nan))

    def means(keep: np.ndarray) -> np.ndarray:
        weight = keep[..., 0].astype(float)
        both = [(weight * x).sum(-1) / weight.sum(-1) for x in (target, source)]
        return np.stack(both, -1)

    return intervals.ratio(means, (len(source), 1), unit=unit)


def show(plans: Sequence[Plan]) -> None:
    """Prints the table and draws the figure, into the first plan's directory."""
    rows = [row(planned) for planned in plans]
    first = scores_of(plans[0].asked.folder)
    several = len(rows[0].source) > 1
    over = f"{len(rows[0].source)} policies [95 % interval over them]" if several else "one policy"
    fold = plans[0].asked.where.fold
    print(
        f"\nZero-shot, fold {fold}: mean returns of {first['episodes']} episodes a room, {over}, "
        f"after {first['step']:,} environment steps:"
    )
    names = (f"source ({' '.join(first['source'])})", f"target ({' '.join(first['target'])})")
    print(f"{'':20}{names[0]:>24}{names[1]:>24}{'target / source':>24}")
    for one in rows:
        cells = [
            mean_text(one.source),
            mean_text(one.target),
            text_of(ratio(one.source, one.target)),
        ]
        print(f"{one.name:20}" + "".join(f"{cell:>24}" for cell in cells))
    print(f"{'random policy':20}" + "".join(f"{x:>24.2f}" for x in rows[0].random))
    path = plans[0].asked.folder / "transfer" / "plots" / "transfer.png"
    draw(rows, path)
    print(f"\nscores {path.parents[1] / 'scores.json'}, figure {path}")


def draw(rows: Sequence[Row], path: pathlib.Path, unit: intervals.Unit = "agent") -> None:
    """Bars of source and target beside each other, with intervals where there are several."""
    from matplotlib.figure import Figure  # not needed to learn

    figure = Figure(figsize=(2.5 + 1.2 * len(rows), 3.6), layout="constrained")
    panel: Any = figure.subplots()
    for n, (name, at) in enumerate((("source", -0.2), ("target", 0.2))):
        found = [intervals.mean((one.source, one.target)[n], unit=unit) for one in rows]
        values = [float(x.value) for x in found]
        ends = np.nan_to_num([[x.value - x.low, x.high - x.value] for x in found]).T
        panel.bar(
            np.arange(len(rows)) + at, values, 0.36, yerr=ends, color=plots.COLOURS[n], label=name
        )
        panel.axhline(
            rows[0].random[n], color=plots.COLOURS[n], linestyle=":", linewidth=1, zorder=0
        )
    panel.set_xticks(range(len(rows)), [one.name.replace(" ", "\n") for one in rows])
    panel.set(ylabel="return of an episode", title="dotted: a random policy")
    panel.title.set_fontsize(9)
    panel.legend(fontsize=8)
    panel.grid(axis="y", alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
