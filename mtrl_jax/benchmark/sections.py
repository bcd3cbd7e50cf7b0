"""The sections of the report: which numbers stand where, and what is said of them."""

import itertools
from typing import Any

import numpy as np

from mtrl_jax.benchmark import figures, numbers, verdict
from mtrl_jax.benchmark.page import Bold, Section, best_in_bold, cell
from mtrl_jax.benchmark.study import Study
from mtrl_jax.intervals import Interval
from mtrl_jax.plots import readable

__all__ = ["every"]

INTERVALS = "Brackets hold 95 % intervals (jackknife and Student's t) over"
DRAWN = {  # units of `numbers.unit_of`
    "agent": "agents, each of which plays all games",
    "fold": "pre-trained agents, each with all games of its fold",
    "run": "runs, each game having its own",
}
SCALE = (
    "Normalised scores have a random policy at 0 and at 1 the specialist: the score from scratch, "
    "with the same budget, of the agent of the table that is best on the game, chosen for each "
    "seed by the other seeds. Intervals draw the scale too."
)


def every(s: Study, rows: list[dict[str, Any]]) -> list[Section]:
    """All of them, of a study and the rows that it was read from."""
    return [
        Section("Verdict", "", verdict.sentences(s)),
        _overview(s, rows),
        *_transfer_sections(s),
        _multitask_section(s),
        *_aggregate_sections(s),
    ]


def _overview(s: Study, rows: list[dict[str, Any]]) -> Section:
    lines = [
        [
            readable(name),
            name,
            "yes" if r.learns else "no",
            str(len({x["seed"] for x in rows if x["agent"] == name})),
            f"{sum(x['env_steps'] for x in rows if x['agent'] == name):,}",
        ]
        for name, r in s.records.items()
    ]
    dropped = [g for i, g in enumerate(s.games) if i not in s.scaled]
    text = f"Track {rows[0]['track']}, {len(s.games)} games. {SCALE}"
    if dropped:
        text += (
            f" No specialist is measurably better than random on {', '.join(dropped)}: left out of "
            "everything that is normalised. (A one-sided t test at .04 "
            "over all agents, with at least three seeds.)"
        )
    header = ("agent", "--agent", "learns", "seeds", "environment steps")
    return Section("What was run", text, (), header, lines)


def _value(interval: Interval | None) -> float:
    """To sort by, what is not known last."""
    return -np.inf if interval is None else float(interval.value)


def _transfer_sections(s: Study) -> list[Section]:
    found = {n: numbers.transfer_numbers(s, r) for n, r in s.records.items()}
    names = sorted(found, key=lambda n: -_value(getattr(found[n], "geometric", None)))
    known = {n: t for n in names if (t := found[n]) is not None}
    fields = {
        "transfer ratio": "ratio",
        "geometric mean": "geometric",
        "jump-start": "jump_start",
        "at the end": "final",
        "forward transfer": "forward",
    }
    pairs = numbers.pairs_of(s)
    values = [
        [
            *(None if found[n] is None else getattr(found[n], field) for field in fields.values()),
            numbers.forgetting(s, s.records[n], pairs),
        ]
        for n in names
    ]
    cells = best_in_bold(values, [False] * len(fields) + [True])
    text = (
        "Area under the learning curve of the pre-trained agent over that of the same agent from "
        "scratch, summed over all games, each of which was held out of one pre-training; above 1 "
        "is good. The geometric mean, by which the table is sorted, gives every game the same "
        "weight, areas below 0 count as 0, "
        "and .01 is added to each. Jump-start and end are differences of normalised scores, "
        "forward transfer is (A_pre - A_scratch) / (1 - A_scratch), forgetting is what learning "
        "one more game costs on those known before (less is better). "
        f"{INTERVALS} {DRAWN['fold']}, with the run "
        "from scratch of the same seed; an end that is dots: from scratch is not measurably above "
        "random. Controls do not learn, so there is nothing to transfer. The best is in bold."
    )
    sections = [
        Section(
            "Transfer",
            text,
            (),
            ("agent", *fields, "forgetting"),
            [[readable(n), *line] for n, line in zip(names, cells, strict=True)],
        )
    ]
    if not known:
        return sections
    sections.append(_ratio_section(s, known))
    for n in known:
        drawn = {f"curves_{_file(n)}": figures.learning_curves(s, n)}
        if s.records[n].pretrain:
            drawn[f"pretraining_{_file(n)}"] = figures.pre_training(s, n)
        text = (
            "Frozen evaluations, raw scores, 95 % intervals over runs (Student's t). Below: "
            "normalised scores during pre-training, 95 % intervals over agents."
        )
        sections.append(Section(f"Learning curves of {readable(n)}", text, figures=drawn))
    return sections


def _ratio_section(s: Study, known: dict[str, numbers.TransferNumbers]) -> Section:
    """Games by their highest ratio, in each line the best agent."""

    def most(game: str) -> float:
        return max(_value(t.per_task[game]) for t in known.values())

    games = sorted((s.games[i] for i in s.scaled), key=lambda game: -most(game))
    lines = []
    for game in games:
        column = best_in_bold([[t.per_task[game]] for t in known.values()], [False])
        fold = str(s.folds[s.games.index(game)])
        lines.append([game, fold, *(text for (text,) in column)])
    return Section(
        "Transfer ratio of each game",
        "A dash: learning from scratch is not above random, so that a ratio means nothing. "
        f"{INTERVALS} pre-trained agents, paired with the run from scratch of the same seed. In "
        "the figure an arrow is an interval that goes on beyond the axis.",
        (),
        ("game", "fold", *map(readable, known)),
        lines,
        {"transfer_ratio": figures.transfer_ratios(s, known)},
    )


def _multitask_section(s: Study) -> Section:
    agents = {n: r.multitask for n, r in s.records.items() if r.multitask is not None}
    has_human = bool(np.isfinite(s.human).any())
    scales = ("raw", "over random", "of specialist", *(["of human"] if has_human else []))
    lines = []
    for i, game in enumerate(s.games):
        found = {n: numbers.game_scores(s, scores, i) for n, scores in agents.items()}
        names = sorted(found, key=lambda n: -_value(found[n]["raw"]))
        cells = best_in_bold([[found[n][x] for x in scales] for n in names], [False] * len(scales))
        lines += [[f"{game}, {readable(n)}", *c] for n, c in zip(names, cells, strict=True)]
    text = (
        "Scores of one set of weights on every game, after training on all of them at once, the "
        "best of each game in bold. Over "
        f"random: score minus that of a random policy. {INTERVALS} {DRAWN['agent']}; of ratios "
        "Fieller's. In the figure an arrow is an interval that goes on beyond the axis."
    )
    drawn = {"multitask": figures.multitask_vector(s)} if len(s.scaled) else {}
    return Section("Multi-task", text, (), ("game, agent", *scales), lines, drawn)


def _aggregate_sections(s: Study) -> list[Section]:
    if not len(s.scaled):
        return []
    units_text = "; ".join(f"{unit}: {text}" for unit, text in DRAWN.items())
    text = (
        "Of normalised scores at the end of training, the best of each kind of runs in bold. The "
        "optimality gap is what is missing to the "
        f"specialist, capped there; less is better. {INTERVALS} the unit of the last column "
        f"({units_text})."
    )
    lines, better = [], []
    for kind, field in numbers.KINDS.items():
        known = {n: getattr(r, field) for n, r in s.records.items()}
        known = {n: raw for n, raw in known.items() if raw is not None}
        lines += _aggregate_lines(s, kind, field, known)
        better += _improvement_lines(s, kind, field, known)
    return [
        Section(
            "Aggregates",
            text,
            (),
            ("runs", *numbers.AGGREGATES, "unit"),
            lines,
            {"profiles": figures.profiles(s)},
        ),
        Section(
            "Probability of improvement",
            "Chance that a run of one beats a run of the other on a game drawn at random; a "
            "difference that is real has an interval without 0.5, and is in bold. "
            f"{INTERVALS} the unit of the "
            "last column, with Wilson's form. Agents that share their runs have one half.",
            (),
            ("", "P", "unit"),
            better,
        ),
    ]


def _aggregate_lines(
    s: Study, kind: str, field: str, known: dict[str, np.ndarray]
) -> list[list[str]]:
    """A line an agent, by its IQM."""
    units = {n: numbers.unit_of(s.records[n], field) for n in known}
    found = {n: numbers.aggregates(s, raw, unit=units[n]) for n, raw in known.items()}
    names = sorted(found, key=lambda n: -_value(found[n]["IQM"]))
    less = [name == "optimality gap" for name in numbers.AGGREGATES]
    cells = best_in_bold([list(found[n].values()) for n in names], less)
    return [
        [f"{kind}, {readable(n)}", *line, units[n]] for n, line in zip(names, cells, strict=True)
    ]


def _improvement_lines(
    s: Study, kind: str, field: str, known: dict[str, np.ndarray]
) -> list[list[str]]:
    """A line a pair, the better agent first and the surest pair on top."""
    found = []
    for x, y in itertools.combinations(known, 2):
        # Of two units the larger one: a control's one agent plays all games.
        units = [numbers.unit_of(s.records[n], field) for n in (x, y)]
        unit = "agent" if "agent" in units else units[0]
        p = numbers.improvement(s, known[y], known[x], unit=unit)
        if p.value < 0.5:
            x, y = y, x
            p = numbers.improvement(s, known[y], known[x], unit=unit)
        text = Bold(cell(p)) if p.low > 0.5 else cell(p)
        found.append((p.value, [f"{kind}: {readable(y)} over {readable(x)}", text, unit]))
    return [line for _, line in sorted(found, key=lambda pair: -pair[0])]


def _file(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
