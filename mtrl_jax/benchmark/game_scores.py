"""Scores of a uniformly random policy and of DQN on the small games, to normalise others by.

Made by::

    python -m experiments.dqn --network=separate --eval_episodes=100 --seed=0

(each game by itself for 150,000 steps; means of 100 episodes of one run, best actions, jax 0.10.2;
"cross" of the same command with --suite=small_games:cross). References to scale by, not results:
another seed's differ, most in "signal" and "courier", which need something to be found early.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["SMALL_GAMES", "Reference", "normalise"]


class Reference(NamedTuple):
    """Mean return of an episode."""

    random: float
    dqn: float


SMALL_GAMES: dict[str, Reference] = {
    "catch": Reference(0.14, 12.27),
    "dodge": Reference(1.57, 27.79),
    "rain": Reference(0.89, 15.91),
    "shooter": Reference(1.37, 16.13),
    "breakout": Reference(0.29, 13.20),
    "pong": Reference(-1.09, 7.91),
    "cross": Reference(0.05, 9.15),
    "snake": Reference(0.16, 8.05),
    "collect": Reference(0.55, 4.21),
    "courier": Reference(0.41, 2.39),
    "signal": Reference(0.05, 28.26),
    "cliff": Reference(0.01, 7.60),
}


def normalise(game: str, score: np.ndarray | float) -> np.ndarray | float:
    """(score - random) / (dqn - random): 0 plays like chance, 1 like DQN trained on that game.

    Raises:
      ValueError: for a game that is not in the table.
    """
    if game not in SMALL_GAMES:
        raise ValueError(f"game must be one of {', '.join(SMALL_GAMES)}; got {game!r}")
    random, dqn = SMALL_GAMES[game]
    return (score - random) / (dqn - random)
