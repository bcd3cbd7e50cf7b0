"""The table that scores on small games are normalised by."""

import numpy as np
import pytest

from mtrl_jax.benchmark import game_scores
from mtrl_jax.envs.games import GAMES


def test_every_game_has_a_scale():
    assert list(game_scores.SMALL_GAMES) == list(GAMES)
    assert all(low + 1 < high for low, high in game_scores.SMALL_GAMES.values())


def test_chance_is_nought_and_the_reference_one():
    for game, (low, high) in game_scores.SMALL_GAMES.items():
        got = game_scores.normalise(game, np.array([low, high, 2 * high - low]))
        np.testing.assert_allclose(got, [0.0, 1.0, 2.0], atol=1e-12)
    # Pong: halfway from -1.09 to 7.91.
    np.testing.assert_allclose(game_scores.normalise("pong", 3.41), 0.5)
    with pytest.raises(ValueError, match=r"game must be one of catch, .*got 'chess'"):
        game_scores.normalise("chess", 1.0)
