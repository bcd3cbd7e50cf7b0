"""Results of agents whose every number is known in closed form, for the tests of the report."""

import numpy as np

from mtrl_jax.benchmark import study

GAMES, FOLDS, SEEDS = ("a", "b", "c", "d"), (0, 1, 0, 1), 4
STEPS = [int(x) for x in np.linspace(0, 1000, 201)]
HIGH = np.array([10.0, 20.0, 5.0, 8.0])  # what is learnt in the end
LOW = np.array([0.0, -5.0, 1.0, 2.0])  # of a random policy


def curve(game, rate):
    """LOW + (HIGH - LOW) (1 - exp(-rate t)) on [0, 1]."""
    share = 1.0 - np.exp(-rate * np.array(STEPS) / 1000)
    return (LOW[game] + (HIGH[game] - LOW[game]) * share).tolist()


def row(agent, kind, seed, final, task=None, fold=None, scores=None):
    return {
        "cell": f"{agent}-{kind}-{task}-{fold}",
        "agent": agent,
        "track": "no_id",
        "kind": kind,
        "task": task,
        "fold": fold,
        "seed": seed,
        "steps": STEPS if scores else [],
        "scores": scores or {},
        "final": final,
        "env_steps": 1000,
    }


def controls():
    final = dict(zip(GAMES, LOW.tolist(), strict=True))
    return [row("random", "control", seed, final) for seed in range(SEEDS)]


def agent(name, scratch=3.0, transfer=3.0, lost=0.0, known=0.8, multitask=0.5):
    """An agent with given learning rates from scratch and after pre-training.

    On known games it scores `known` of the span after pre-training, and `lost` of it less after
    one more game.
    """
    span = HIGH - LOW

    def at(share):
        return dict(zip(GAMES, (LOW + share * span).tolist(), strict=True))

    rows = []
    for seed in range(SEEDS):
        for i, game in enumerate(GAMES):
            y = curve(i, scratch)
            own = {**at(0.0), game: HIGH[i]}
            rows.append(row(name, "scratch", seed, own, game, None, {game: y}))
            y = curve(i, transfer)
            after = {**at(known - lost), game: HIGH[i]}
            rows.append(row(name, "transfer", seed, after, game, FOLDS[i], {game: y}))
        for fold in (0, 1):
            scores = {game: curve(i, 1.0) for i, game in enumerate(GAMES)}
            rows.append(row(name, "pretrain", seed, at(known), None, fold, scores))
        rows.append(row(name, "multitask", seed, at(multitask)))
    return rows


def area(rate):
    """Of 1 - exp(-rate t) over [0, 1]."""
    return 1.0 - (1.0 - np.exp(-rate)) / rate


def tables():
    """Of an agent that pre-training leaves as it is, and one that learns twice as fast after it."""
    rows = [*controls(), *agent("same"), *agent("fast", transfer=6.0, lost=0.3, multitask=0.9)]
    return study.read(rows), rows
