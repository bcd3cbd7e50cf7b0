"""Every interval that the report prints covers the truth about as often as it says, in simulation.

Agents whose seeds share an effect over all games (multi-task), over a fold (after pre-training) or
over nothing (from scratch), five and ten seeds. The truth is what a thousand seeds give.

    pytest -n 0 -m slow tests/maths/test_benchmark_coverage.py    # 5000 experiments for each
"""

from typing import NamedTuple

import numpy as np
import pytest

from mtrl_jax import intervals
from mtrl_jax.benchmark import numbers, study

N, M = 8, 4
FOLDS = np.arange(N) % 4
PAIRS = np.array([(t, g) for t in range(N) for g in range(N) if FOLDS[t] != FOLDS[g]])
STEPS = np.linspace(0.0, 1.0, M)
THRESHOLDS = np.linspace(0.1, 1.3, 13)


class World(NamedTuple):
    """True scores, on the scale of the specialist.

    Attributes:
      low, span: raw score of a random policy and the specialist's above it, `[N]`.
      scratch, pretrained, multitask: at the end, `[A, N]`.
    """

    low: np.ndarray
    span: np.ndarray
    scratch: np.ndarray
    pretrained: np.ndarray
    multitask: np.ndarray


def world(scratch: np.ndarray) -> World:
    rng = np.random.default_rng(7)
    shape = scratch.shape
    scores = rng.uniform(0.5, 1.3, shape), rng.uniform(0.1, 1.0, shape)
    return World(rng.normal(0, 5, N), rng.uniform(1, 20, N), scratch, *scores)


def clear() -> World:
    """Two agents lead on half of the games each, well before the others."""
    return world(
        np.array([np.where(np.arange(N) % 2 == k, 1.0, 0.75) for k in (0, 1)] + [np.full(N, 0.6)])
    )


def tied() -> World:
    """Nobody is better than anybody."""
    return world(np.ones((3, N)))


def experiment(rng: np.random.Generator, w: World, s: int) -> study.Study:
    def raw(z):
        shape = (-1, *[1] * (z.ndim - 2))
        return w.low.reshape(shape) + w.span.reshape(shape) * z

    control = raw(rng.normal(0, 0.05, (s, N)))
    none = (None,) * 2
    records = {
        "random": study.Record(
            "random", False, None, *none, control, control, control, *none, {}
        )
    }
    for a in range(len(w.scratch)):
        luck = rng.normal(0, 0.12, (s, N, 1)) + rng.normal(0, 0.04, (s, N, M))
        scratch = w.scratch[a][:, None] * STEPS**0.5 + luck * STEPS
        agent = rng.normal(0, 0.1, (s, 4))[:, FOLDS, None]
        luck = agent + rng.normal(0, 0.06, (s, N, 1)) + rng.normal(0, 0.04, (s, N, M))
        later = 0.1 + (w.pretrained[a] - 0.1)[:, None] * STEPS**0.5 + luck
        agent = rng.normal(0, 0.1, (s, 4))[:, FOLDS[PAIRS[:, 0]]]
        noise = rng.normal(0, 0.05, (2, s, len(PAIRS)))
        span = w.span[PAIRS[:, 1]]
        known = 0.6 + agent + noise[0]
        multitask = w.multitask[a] + rng.normal(0, 0.1, (s, 1)) + rng.normal(0, 0.06, (s, N))
        before = 0.4 + rng.normal(0, 0.1, (s, 1, 1)) + rng.normal(0, 0.05, (s, N, 2))
        records[f"a{a}"] = study.Record(
            name=f"a{a}",
            learns=True,
            steps=STEPS,
            scratch=raw(scratch),
            transfer=raw(later),
            scratch_final=raw(scratch[..., -1]),
            transfer_final=raw(later[..., -1]),
            multitask=raw(multitask),
            before=span * known,
            after=span * (known - 0.2 - 0.5 * agent + noise[1]),
            pretrain={0: (np.arange(2), raw(before))},
        )
    return study.new(tuple(f"g{i}" for i in range(N)), FOLDS, records)


def printed(s: study.Study) -> dict[str, intervals.Interval]:
    """The intervals of the report that are of the first agent, or of it and the second."""
    one, two = s.records["a0"], s.records["a1"]
    game = int(s.scaled[-1])
    found = dict(numbers.transfer_numbers(s, one)._asdict())
    del found["forward_games"]
    found["ratio of a game"] = found.pop("per_task")[s.games[game]]
    found["forgetting"] = numbers.forgetting(s, one, [tuple(pair) for pair in PAIRS])
    for title, field in numbers.KINDS.items():
        unit, raw = numbers.unit_of(one, field), getattr(one, field)
        for name, value in numbers.aggregates(s, raw, unit=unit).items():
            found[f"{title}: {name}"] = value
        other = getattr(two, field)
        found[f"{title}: improvement"] = numbers.improvement(s, raw, other, unit=unit)
        found[f"{title}: profile"] = numbers.profile(s, raw, THRESHOLDS, unit=unit)
    for name, value in numbers.game_scores(s, one.multitask, game).items():
        if value is not None:
            found[f"game: {name}"] = value
    found["pre-training"] = numbers.band(s, one.pretrain[0][1], s.scaled)
    found["learning curve"] = intervals.mean(one.scratch[:, game].T, unit="run")
    return found


def truth(w: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    def value_only(statistic, shape, unit, folds):
        value = np.asarray(statistic(np.ones((1, *shape), bool)))[0]
        return intervals._Spread(value, np.full((1, 2, *value.shape), 1e-9))

    with monkeypatch.context() as patch:
        patch.setattr(intervals, "_left_out", value_only)
        found = printed(experiment(np.random.default_rng(99), w, 1000))
    return {name: interval.value for name, interval in found.items()}


def coverage(w: World, s: int, experiments: int, monkeypatch: pytest.MonkeyPatch):
    """Share of experiments in which each interval holds the truth; profiles by threshold."""
    right, rng = truth(w, monkeypatch), np.random.default_rng(s)
    hits: dict[str, np.ndarray] = {}
    for _ in range(experiments):
        for name, one in printed(experiment(rng, w, s)).items():
            inside = (one.low <= right[name]) & (right[name] <= one.high)
            hits[name] = hits.get(name, 0) + np.asarray(inside, float) / experiments
    inner = {n: (v > 0.05) & (v < 0.95) for n, v in right.items() if n.endswith("profile")}
    return {n: v[inner[n]].mean() if n in inner else v[-1] if v.ndim else v for n, v in hits.items()}


def check(w: World, s: int, experiments: int, monkeypatch: pytest.MonkeyPatch, most: float) -> None:
    found = coverage(w, s, experiments, monkeypatch)
    assert len(found) == 32
    assert {n: round(float(c), 3) for n, c in found.items() if not 0.90 <= c <= most} == {}


@pytest.mark.parametrize("s", [5, 10])
def test_every_interval_of_the_report_covers_as_often_as_it_says(s, monkeypatch):
    check(clear(), s, 500, monkeypatch, 0.98)
