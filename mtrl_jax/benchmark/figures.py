"""Figures of the report; each function returns one, drawn from a `study.Study`."""

from typing import Any

import numpy as np

from mtrl_jax import plots
from mtrl_jax.benchmark import numbers, stats
from mtrl_jax.benchmark.numbers import TransferNumbers
from mtrl_jax.benchmark.study import Study

__all__ = ["learning_curves", "multitask_vector", "pre_training", "profiles", "transfer_ratios"]

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


def _curve(panel: Any, steps: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    """Mean and interval of `[S, M]`."""
    panel.plot(steps, values.mean(0), color=colour, label=label, linewidth=1.6)
    if len(values) > 1:
        low, high = plots.bootstrap_interval(values.T)
        panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def learning_curves(study: Study, name: str) -> Any:
    """Raw scores of one agent over training on each game alone: scratch and pre-trained."""
    record = study.records[name]
    figure, panels = _panels(len(study.games))
    for n, (panel, game) in enumerate(zip(panels, study.games, strict=True)):
        for curves, colour, label in (
            (record.scratch, FRESH, "from scratch"),
            (record.transfer, PRETRAINED, "pre-trained"),
        ):
            if curves is not None and record.steps is not None:
                _curve(panel, record.steps, curves[:, n], colour, label)
        panel.axhline(study.random[n], color="#777777", linestyle=":", label="random")
        panel.set_title(game, fontsize=9)
        panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        panel.grid(alpha=0.25)
    panels[0].legend(fontsize=7)
    figure.supxlabel("environment steps on the game", fontsize=8)
    figure.suptitle(f"{name}: score, mean of seeds with 95 % intervals", fontsize=10)
    return figure


def transfer_ratios(study: Study, found: dict[str, TransferNumbers]) -> Any:
    """Ratio of areas under the curves, for each game and over all, a panel an agent."""
    figure, panels = _panels(len(found), 3.4, 0.24 * len(study.games) + 1.4)
    for panel, (name, one) in zip(panels, found.items(), strict=True):
        rows = {**one.per_task, "all games": one.ratio}
        for y, (game, ratio) in enumerate(reversed(rows.items())):
            colour = "#000000" if game == "all games" else PRETRAINED
            if ratio is not None:
                high = min(float(ratio.high), 1e3)
                panel.plot([float(ratio.low), high], [y, y], color=colour, linewidth=2)
                panel.plot(float(ratio.value), y, "o", color=colour, markersize=4)
        panel.axvline(1.0, color="#777777", linestyle=":")
        panel.set_yticks(range(len(rows)), list(reversed(rows)), fontsize=7)
        panel.set_xlim(*_limits([r for r in rows.values() if r is not None]))
        panel.set_title(name, fontsize=9)
        panel.grid(alpha=0.25, axis="x")
    figure.supxlabel("transfer ratio: pre-trained over scratch, above 1 is good", fontsize=8)
    return figure


def _limits(ratios: list[Any]) -> tuple[float, float]:
    if not ratios:
        return 0.0, 2.0
    low = min(float(r.low) for r in ratios)
    high = max(float(np.clip(r.high, r.value, 3 * abs(r.value) + 1)) for r in ratios)
    return min(low, 0.9) - 0.1, max(high, 1.1) + 0.1


def multitask_vector(study: Study) -> Any:
    """Scores of one set of weights on every game, against the specialist and a random policy."""
    agents = {n: r for n, r in study.records.items() if r.multitask is not None}
    games = [study.games[i] for i in study.scaled]
    figure, (panel,) = _panels(1, max(0.9 * len(games), 6.0), 3.4)
    for n, (name, record) in enumerate(agents.items()):
        assert record.multitask is not None
        z = study.normalise(record.multitask)
        at = np.arange(len(games)) + 0.8 * ((n + 0.5) / len(agents) - 0.5)
        low, high = plots.bootstrap_interval(z.T)
        colour = plots.COLOURS[n % len(plots.COLOURS)]
        panel.vlines(at, low, high, color=colour, linewidth=2)
        panel.plot(at, z.mean(0), "o", color=colour, markersize=4, label=name)
    for level, text in ((0.0, "random"), (1.0, "specialist")):
        panel.axhline(level, color="#777777", linestyle=":")
        panel.annotate(text, (len(games) - 0.42, level + 0.01), fontsize=7, color="#777777")
    panel.set_xticks(range(len(games)), games, rotation=30, ha="right", fontsize=8)
    panel.set_xlim(-0.6, len(games))
    panel.set_ylabel("normalised score", fontsize=8)
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
    kinds = {
        "all games at once": "multitask",
        "after pre-training": "transfer_final",
        "from scratch": "scratch_final",
    }
    figure, panels = _panels(len(kinds), 3.6, 2.8)
    for panel, (title, field) in zip(panels, kinds.items(), strict=True):
        for n, (name, record) in enumerate(study.records.items()):
            scores = getattr(record, field)
            if scores is None:
                continue

            def fn(z):
                return stats.performance_profile(z, PROFILE)

            z, draws = study.normalise(scores), -(-numbers.RESAMPLES // 4)
            found = stats.stratified_bootstrap([z], fn, resamples=draws)
            colour = plots.COLOURS[n % len(plots.COLOURS)]
            panel.plot(PROFILE, found.value, color=colour, label=name)
            panel.fill_between(PROFILE, found.low, found.high, color=colour, alpha=0.2, linewidth=0)
        panel.set(title=title, ylim=(0, 1))
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
        z = study.normalise(curves)
        held = study.folds[study.scaled] == fold
        for chosen, colour, label in (
            (~held, FRESH, "in training"),
            (held, PRETRAINED, "held out"),
        ):
            if chosen.any():
                _curve(panel, steps, z[:, chosen].mean(1), colour, label)
        panel.set_title(f"without fold {fold}", fontsize=9)
        panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        panel.grid(alpha=0.25)
    panels[0].legend(fontsize=7)
    figure.supxlabel("environment steps of pre-training", fontsize=8)
    figure.supylabel("normalised score", fontsize=8)
    figure.suptitle(f"{name}: what pre-training teaches", fontsize=10)
    return figure
