"""Figures of the report; each function returns one, drawn from a `study.Study`."""

from typing import Any

import numpy as np

from mtrl_jax import intervals, plots
from mtrl_jax.benchmark import numbers
from mtrl_jax.benchmark.numbers import TransferNumbers
from mtrl_jax.benchmark.study import Study
from mtrl_jax.intervals import Interval

__all__ = ["learning_curves", "multitask_vector", "pre_training", "profiles", "transfer_ratios"]

UNITS = {  # of `numbers.unit_of`, in words
    "multitask": "agents",
    "transfer_final": "pre-trained agents",
    "scratch_final": "runs of each game",
}
PROFILE = np.linspace(0.0, 1.5, 76)
FRESH, PRETRAINED = plots.COLOURS[0], plots.COLOURS[1]


def _panels(count: int, width: float = 3.1, height: float = 2.4) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # not needed to run the benchmark

    columns = min(count, 4)
    lines = -(-count // columns)
    figure = Figure(figsize=(width * columns + 0.4, height * lines + 0.5), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).flat)
    for panel in panels[count:]:
        panel.axis("off")
    return figure, panels[:count]


def _curve(panel: Any, steps: np.ndarray, found: Interval, colour: str, label: str) -> None:
    """A mean and its interval along `[M]` steps."""
    panel.plot(steps, found.value, color=colour, label=label, linewidth=1.6)
    panel.fill_between(steps, found.low, found.high, color=colour, alpha=0.2, linewidth=0)


def _whisker(panel: Any, at: float, found: Interval, colour: str, *, upright: bool) -> None:
    """An interval as a line at one place of an axis whose limits stand; an arrow for an end that
    lies beyond them."""
    axis = panel.get_ylim() if upright else panel.get_xlim()
    ends = np.clip([float(found.low), float(found.high)], *axis)
    xy = ([at, at], ends) if upright else (ends, [at, at])
    panel.plot(*xy, color=colour, linewidth=2, solid_capstyle="butt")
    for limit, beyond, mark in (
        (axis[0], found.low < axis[0], "v" if upright else "<"),
        (axis[1], found.high > axis[1], "^" if upright else ">"),
    ):
        if beyond:
            where = (at, limit) if upright else (limit, at)
            panel.plot(*where, mark, color=colour, markersize=6, clip_on=False, zorder=3)


def learning_curves(study: Study, name: str) -> Any:
    """Raw scores of one agent over training on each game alone: scratch and pre-trained."""
    record = study.records[name]
    figure, panels = _panels(len(study.games))
    most = 0 if record.steps is None else record.steps[-1]
    for n, (panel, game) in enumerate(zip(panels, study.games, strict=True)):
        for curves, colour, label in (
            (record.scratch, FRESH, "from scratch"),
            (record.transfer, PRETRAINED, "pre-trained"),
        ):
            if curves is not None and record.steps is not None:
                found = intervals.mean(curves[:, n].T, unit="run")
                _curve(panel, record.steps, found, colour, label)
        panel.axhline(
            study.random[n], color="#777777", linestyle=":", label=plots.readable("random")
        )
        panel.set_title(game, fontsize=9)
        text = plots.count_axis(panel, most, "environment steps on the game")
        panel.grid(alpha=0.25)
    panels[0].legend(fontsize=7)
    figure.supxlabel(text, fontsize=8)
    figure.suptitle(
        f"{plots.readable(name)}: score, mean of runs with 95 % intervals over them", fontsize=10
    )
    return figure


def transfer_ratios(study: Study, found: dict[str, TransferNumbers]) -> Any:
    """Ratio of areas under the curves, for each game and over all, a panel an agent."""
    figure, panels = _panels(len(found), 3.4, 0.24 * len(study.games) + 1.4)
    for panel, (name, one) in zip(panels, found.items(), strict=True):
        rows = {**one.per_task, "all games": one.ratio}
        panel.set_xlim(*_limits([r for r in rows.values() if r is not None]))
        for y, (game, ratio) in enumerate(reversed(rows.items())):
            colour = "#000000" if game == "all games" else PRETRAINED
            if ratio is not None:
                _whisker(panel, y, ratio, colour, upright=False)
                panel.plot(float(ratio.value), y, "o", color=colour, markersize=4)
        panel.axvline(1.0, color="#777777", linestyle=":")
        panel.set_yticks(range(len(rows)), list(reversed(rows)), fontsize=7)
        panel.set_title(plots.readable(name), fontsize=9)
        panel.grid(alpha=0.25, axis="x")
    text = "transfer ratio: pre-trained over scratch, above 1 is good"
    figure.supxlabel(f"{text}; 95 % intervals over pre-trained agents", fontsize=8)
    return figure


def _limits(ratios: list[Any]) -> tuple[float, float]:
    """Of an axis with all values, 0 and 1; an interval that goes on beyond it has an arrow."""
    values = [0.0, 1.0, *(float(r.value) for r in ratios)]
    room = 0.25 * (max(values) - min(values))
    return min(values) - room, max(values) + room


def multitask_vector(study: Study) -> Any:
    """Scores of one set of weights on every game, against the specialist and a random policy."""
    agents = {n: r for n, r in study.records.items() if r.multitask is not None}
    games = [study.games[i] for i in study.scaled]
    figure, (panel,) = _panels(1, max(0.9 * len(games), 6.0), 3.4)
    found: dict[str, list[Any]] = {}
    for name, record in agents.items():
        assert record.multitask is not None
        scores = record.multitask
        found[name] = [
            numbers.game_scores(study, scores, int(i))["of specialist"] for i in study.scaled
        ]
    panel.set_ylim(*_limits([one for every in found.values() for one in every]))
    for n, (name, every) in enumerate(found.items()):
        at = np.arange(len(games)) + 0.8 * ((n + 0.5) / len(agents) - 0.5)
        colour = plots.COLOURS[n % len(plots.COLOURS)]
        for x, one in zip(at, every, strict=True):
            _whisker(panel, x, one, colour, upright=True)
        value = [float(one.value) for one in every]
        panel.plot(at, value, "o", color=colour, markersize=4, label=plots.readable(name))
    for level, text in ((0.0, "random"), (1.0, "specialist")):
        panel.axhline(level, color="#777777", linestyle=":")
        panel.annotate(text, (len(games) - 0.42, level + 0.01), fontsize=7, color="#777777")
    panel.set_xticks(range(len(games)), games, rotation=30, ha="right", fontsize=8)
    panel.set_xlim(-0.6, len(games))
    panel.set_ylabel("normalised score,\n95 % intervals over agents", fontsize=8)
    figure.legend(
        *panel.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=6,
        fontsize=7,
        frameon=False,
    )
    return figure


def profiles(study: Study) -> Any:
    """Share of runs above each normalised score, with 95 % intervals, for both kinds of runs."""
    figure, panels = _panels(len(numbers.KINDS), 3.6, 2.8)
    for panel, (title, field) in zip(panels, numbers.KINDS.items(), strict=True):
        for n, (name, record) in enumerate(study.records.items()):
            scores = getattr(record, field)
            if scores is None:
                continue
            unit = numbers.unit_of(record, field)
            found = numbers.profile(study, scores, PROFILE, unit=unit)
            _curve(
                panel, PROFILE, found, plots.COLOURS[n % len(plots.COLOURS)], plots.readable(name)
            )
        panel.set_title(f"{title}\n95 % intervals over {UNITS[field]}", fontsize=9)
        panel.set_ylim(0, 1)
        panel.grid(alpha=0.25)
    panels[0].legend(fontsize=7)
    figure.supxlabel("normalised score", fontsize=8)
    figure.supylabel("share of runs above it", fontsize=8)
    return figure


def pre_training(study: Study, name: str) -> Any:
    """Mean normalised score over a pre-training, of the games in it and of those held out."""
    record = study.records[name]
    figure, panels = _panels(len(record.pretrain))
    for panel, (fold, (steps, curves)) in zip(panels, record.pretrain.items(), strict=True):
        held = study.folds[study.scaled] == fold
        for chosen, colour, label in (
            (~held, FRESH, "in training"),
            (held, PRETRAINED, "held out"),
        ):
            if chosen.any():
                found = numbers.band(study, curves, study.scaled[chosen])
                _curve(panel, steps, found, colour, label)
        panel.set_title(f"without fold {fold}", fontsize=9)
        text = plots.count_axis(panel, steps[-1], "environment steps of pre-training")
        panel.grid(alpha=0.25)
    panels[0].legend(fontsize=7)
    figure.supxlabel(text, fontsize=8)
    figure.supylabel("normalised score", fontsize=8)
    text = f"{plots.readable(name)}: what pre-training teaches, 95 % intervals over agents"
    figure.suptitle(text, fontsize=10)
    return figure
