"""The sections of the report: which numbers stand where, and what is said of them."""

import itertools
from typing import Any

import numpy as np

from mtrl_jax.benchmark import figures, numbers
from mtrl_jax.benchmark.page import Section, cell, png
from mtrl_jax.benchmark.study import Study

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
        _overview(s, rows),
        *_transfer_sections(s),
        _multitask_section(s),
        *_aggregate_sections(s),
    ]


def _overview(s: Study, rows: list[dict[str, Any]]) -> Section:
    lines = [
        [
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
    return Section("What was run", text, ("agent", "learns", "seeds", "environment steps"), lines)


def _transfer_sections(s: Study) -> list[Section]:
    found = {n: numbers.transfer_numbers(s, r) for n, r in s.records.items()}
    known = {n: t for n, t in found.items() if t is not None}
    header = (
        "agent",
        "transfer ratio",
        "geometric mean",
        "jump-start",
        "at the end",
        "forward transfer",
        "forgetting",
    )
    pairs = numbers.pairs_of(s)
    lines = [
        [
            n,
            cell(t and t.ratio),
            cell(t and t.geometric),
            cell(t and t.jump_start),
            cell(t and t.final),
            cell(t and t.forward),
            cell(numbers.forgetting(s, s.records[n], pairs)),
        ]
        for n, t in found.items()
    ]
    text = (
        "Area under the learning curve of the pre-trained agent over that of the same agent from "
        "scratch, summed over all games, each of which was held out of one pre-training; above 1 "
        "is good. The geometric mean gives every game the same weight, areas below 0 count as 0, "
        "and .01 is added to each. Jump-start and end are differences of normalised scores, "
        "forward transfer is (A_pre - A_scratch) / (1 - A_scratch), forgetting is what learning "
        f"one more game costs on those known before. {INTERVALS} {DRAWN['fold']}, with the run "
        "from scratch of the same seed; an end that is dots: from scratch is not measurably above "
        "random. Controls do not learn, so there is nothing to transfer."
    )
    sections = [Section("Transfer", text, header, lines)]
    if not known:
        return sections
    games = [s.games[i] for i in s.scaled]
    sections.append(
        Section(
            "Transfer ratio of each game",
            "A dash: learning from scratch is not above random, so that a ratio means nothing. "
            f"{INTERVALS} pre-trained agents, paired with the run from scratch of the same seed.",
            ("game", "fold", *known),
            [
                [g, str(s.folds[s.games.index(g)]), *(cell(t.per_task[g]) for t in known.values())]
                for g in games
            ],
            {"transfer_ratio": png(figures.transfer_ratios(s, known))},
        )
    )
    for n in known:
        drawn = {f"curves_{_file(n)}": png(figures.learning_curves(s, n))}
        if s.records[n].pretrain:
            drawn[f"pretraining_{_file(n)}"] = png(figures.pre_training(s, n))
        text = (
            "Frozen evaluations, raw scores, 95 % intervals over runs (Student's t). Below: "
            "normalised scores during pre-training, 95 % intervals over agents."
        )
        sections.append(Section(f"Learning curves of {n}", text, figures=drawn))
    return sections


def _multitask_section(s: Study) -> Section:
    agents = {n: r.multitask for n, r in s.records.items() if r.multitask is not None}
    has_human = bool(np.isfinite(s.human).any())
    scales = ("raw", "over random", "of specialist", *(["of human"] if has_human else []))
    lines = []
    for (n, scores), (i, game) in itertools.product(agents.items(), enumerate(s.games)):
        found = numbers.game_scores(s, scores, i)
        lines.append([f"{game}, {n}", *(cell(found[scale]) for scale in scales)])
    text = (
        "Scores of one set of weights on every game, after training on all of them at once. Over "
        f"random: score minus that of a random policy. {INTERVALS} {DRAWN['agent']}; of ratios "
        "Fieller's."
    )
    drawn = {"multitask": png(figures.multitask_vector(s))} if len(s.scaled) else {}
    return Section("Multi-task", text, ("game, agent", *scales), lines, drawn)


def _aggregate_sections(s: Study) -> list[Section]:
    if not len(s.scaled):
        return []
    lines, better = [], []
    for kind, field in numbers.KINDS.items():
        known = {n: getattr(r, field) for n, r in s.records.items()}
        known = {n: raw for n, raw in known.items() if raw is not None}
        for n, raw in known.items():
            unit = numbers.unit_of(s.records[n], field)
            found = numbers.aggregates(s, raw, unit=unit)
            lines.append([f"{kind}, {n}", *map(cell, found.values()), unit])
        for x, y in itertools.combinations(known, 2):
            # Of two units the larger one: a control's one agent plays all games.
            units = [numbers.unit_of(s.records[n], field) for n in (x, y)]
            unit = "agent" if "agent" in units else units[0]
            found_p = numbers.improvement(s, known[y], known[x], unit=unit)
            better.append([f"{kind}: {y} over {x}", cell(found_p), unit])
    units_text = "; ".join(f"{unit}: {text}" for unit, text in DRAWN.items())
    text = (
        "Of normalised scores at the end of training. The optimality gap is what is missing to the "
        f"specialist, capped there; less is better. {INTERVALS} the unit of the last column "
        f"({units_text})."
    )
    return [
        Section(
            "Aggregates",
            text,
            ("runs", *numbers.AGGREGATES, "unit"),
            lines,
            {"profiles": png(figures.profiles(s))},
        ),
        Section(
            "Probability of improvement",
            "Chance that a run of one beats a run of the other on a game drawn at random; a "
            f"difference that is real has an interval without 0.5. {INTERVALS} the unit of the "
            "last column, with Wilson's form. Agents that share their runs have one half.",
            ("", "P", "unit"),
            better,
        ),
    ]


def _file(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
