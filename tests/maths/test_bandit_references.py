"""The Gittins index against closed forms and dynamic programming over all counts."""

import numpy as np
import pytest

from mtrl_jax.benchmark import bandits


def test_short_horizons_have_the_index_of_the_closed_form():
    index = bandits.gittins_indices(3)
    s, f = np.mgrid[:3, :3]
    known = np.where(s + f <= 2, (1 + s) / (2 + s + f), np.nan)
    np.testing.assert_allclose(index[1], known, atol=1e-9)  # one pull is worth its mean
    # Two: stop behind a failure, (1/2 + 1/2 2/3) / (1 + 1/2).
    np.testing.assert_allclose(index[2, 0, 0], 5 / 9, atol=1e-3)
    assert np.isnan(index[2, 1, 1]) and np.isnan(index[0]).all()


def test_the_discounted_index_nears_the_published_one(monkeypatch):
    monkeypatch.setattr(bandits, "GRID", 201)
    # .7029 is Gittins' value for a uniform prior and a discount of .9 (1989, from memory).
    index = bandits.gittins_indices(35, 0.9)[:, 0, 0]
    assert (np.diff(index[1:]) > 0).all() and 0.7 < index[35] < 0.7029


def test_policies_earn_no_more_than_the_best_and_the_index_nearly_that():
    rng = np.random.default_rng(0)
    arms, pulls = 3, 6
    probabilities = rng.random((40_000, arms))
    best = bandits.bayes_return(arms, pulls)
    found = [
        bandits.pull(policy, probabilities, pulls, rng).sum(1)
        for policy in (bandits.gittins_policy(pulls), bandits.thompson_policy())
    ]
    error = found[0].std() / 200
    assert best - 4 * error - 0.01 < found[0].mean() < best + 4 * error
    assert pulls / 2 < found[1].mean() < best - 0.2


def test_two_pulls_of_two_arms_by_hand():
    # A success is pulled again (2/3); behind a failure the other arm has 1/2.
    np.testing.assert_allclose(bandits.bayes_return(2, 2), 0.5 + 0.5 * 2 / 3 + 0.5 * 0.5)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"probabilities must have shape \[R, A\], got \(3,\)"):
        bandits.pull(bandits.thompson_policy(), np.zeros(3), 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="pulls must be at least 1; got 0"):
        bandits.gittins_indices(0)
