"""Aggregates and transfer measures against scipy, closed forms and known answers."""

import numpy as np
import pytest
import scipy.stats

from mtrl_jax.benchmark import atari_scores, stats, transfer

RNG = np.random.default_rng(0)
SCORES = RNG.gamma(2.0, 0.4, size=(5, 7))
OTHER = RNG.gamma(2.0, 0.5, size=(4, 7))


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (3, 1), (10, 26)])
def test_the_interquartile_mean_is_the_trimmed_mean_of_scipy(shape):
    scores = RNG.normal(size=shape)
    expected = scipy.stats.trim_mean(scores, 0.25, axis=None)
    np.testing.assert_allclose(stats.interquartile_mean(scores), expected, rtol=1e-12)


def test_aggregates_by_hand():
    scores = np.array([[0.0, 0.5, 2.0], [1.0, 0.5, 4.0]])
    assert stats.mean(scores) == pytest.approx(8 / 6)
    assert stats.median(scores) == 0.5  # of the task means .5, .5, 3
    assert stats.optimality_gap(scores) == pytest.approx(1 - (0 + 1 + 0.5 + 0.5 + 1 + 1) / 6)
    assert stats.optimality_gap(scores, target=4.0) == pytest.approx(4 - 8 / 6)
    np.testing.assert_allclose(
        stats.performance_profile(scores, np.array([-1.0, 0.0, 0.5, 1.0, 4.0])),
        [1, 5 / 6, 3 / 6, 2 / 6, 0],
    )


def test_the_probability_of_improvement_is_mann_whitneys_u():
    x, y = np.round(SCORES, 1), np.round(OTHER, 1)  # rounding makes ties
    expected = np.mean(
        [scipy.stats.mannwhitneyu(x[:, i], y[:, i]).statistic / (len(x) * len(y)) for i in range(7)]
    )
    assert (x[:, None] == y[None]).any()
    assert stats.probability_of_improvement(x, y) == pytest.approx(expected)
    assert stats.probability_of_improvement(y, x) == pytest.approx(1 - expected)
    assert stats.probability_of_improvement(x, x) == 0.5


def test_agreement_with_rliable():
    metrics = pytest.importorskip("rliable.metrics", reason="pip install --no-deps rliable")
    assert stats.mean(SCORES) == pytest.approx(metrics.aggregate_mean(SCORES))
    assert stats.median(SCORES) == pytest.approx(metrics.aggregate_median(SCORES))
    assert stats.interquartile_mean(SCORES) == pytest.approx(metrics.aggregate_iqm(SCORES))
    assert stats.optimality_gap(SCORES) == pytest.approx(metrics.aggregate_optimality_gap(SCORES))
    assert stats.probability_of_improvement(SCORES, OTHER) == pytest.approx(
        metrics.probability_of_improvement(SCORES, OTHER)
    )


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    """Success rates of 3 tasks: the interval of the mean, over 300 experiments of 20 runs."""
    truth = np.array([0.2, 0.5, 0.7])
    rng = np.random.default_rng(1)
    hits = 0
    for n in range(300):
        scores = (rng.random((20, 3)) < truth).astype(float)
        found = stats.stratified_bootstrap([scores], stats.mean, resamples=300, level=0.9, seed=n)
        hits += found.low <= truth.mean() <= found.high
    # Three standard errors around .9, and the known narrowness of a percentile interval.
    assert 0.82 < hits / 300 < 0.95


def test_the_bootstrap_is_stratified():
    """Tasks that differ while their runs agree leave nothing uncertain."""
    scores = np.tile(np.array([0.0, 10.0, 100.0]), (4, 1))
    found = stats.stratified_bootstrap([scores], stats.interquartile_mean, resamples=50)
    assert found.low == found.high == found.value == stats.interquartile_mean(scores)
    both = stats.stratified_bootstrap(
        [SCORES, OTHER], stats.probability_of_improvement, resamples=200
    )
    assert both.low < both.value < both.high
    again = stats.stratified_bootstrap(
        [SCORES, OTHER], stats.probability_of_improvement, resamples=200
    )
    assert again == both


def test_areas_of_exponential_learners():
    """1 - exp(-c t) on [0, T] has area 1 - (1 - exp(-c T)) / (c T), also at twice the speed."""
    steps = np.linspace(0.0, 5.0, 20_001)
    curves = np.stack([1 - np.exp(-c * steps) for c in (0.7, 1.4)])
    expected = [1 - (1 - np.exp(-c * 5)) / (c * 5) for c in (0.7, 1.4)]
    areas = transfer.learning_curve_area(steps, curves)
    np.testing.assert_allclose(areas, expected, rtol=1e-7)
    assert transfer.transfer_ratio(areas[1:], areas[:1]) == pytest.approx(expected[1] / expected[0])
    gain = transfer.forward_transfer(areas[1], areas[0])
    assert gain == pytest.approx((expected[1] - expected[0]) / (1 - expected[0]))


def test_identical_agents_transfer_nothing():
    areas = RNG.random((4, 6))
    assert transfer.transfer_ratio(areas, areas) == 1.0
    np.testing.assert_array_equal(transfer.forward_transfer(areas, areas), 0.0)
    pretrained = np.broadcast_to(areas, (3, 4, 6))
    found = transfer.clustered_bootstrap(pretrained, areas, np.arange(6) % 2, resamples=50)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_an_agent_that_is_reset_at_every_switch_forgets_everything():
    learnt = np.array([0.9, 0.5, 0.8])
    np.testing.assert_array_equal(transfer.forgetting(learnt, np.zeros(3)), learnt)


def test_agents_shared_by_a_fold_are_drawn_together():
    """One lucky agent lifts all tasks of its fold, so two seeds leave the ratio wide open."""
    scratch = np.ones((5, 8))
    pretrained = np.stack([np.ones((5, 8)), np.full((5, 8), 3.0)])
    folds = np.zeros(8, int)
    found = transfer.clustered_bootstrap(pretrained, scratch, folds, resamples=400)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 1.0, 3.0))
    apart = stats.stratified_bootstrap([pretrained.reshape(10, 8)], stats.mean, resamples=400)
    assert apart.low > 1.5 and apart.high < 2.5


def test_normalising_against_negative_scores():
    skiing = atari_scores.ATARI_57["Skiing"]
    assert transfer.normalise(skiing.random, skiing.random, skiing.human) == 0.0
    assert transfer.normalise(skiing.human, skiing.random, skiing.human) == 1.0
    assert transfer.normalise(-10717.5, skiing.random, skiing.human) == pytest.approx(0.5)


def test_the_reference_table():
    table = atari_scores.ATARI_57
    assert len(table) == 57 and sum(row.in_amtlb for row in table.values()) == 54
    assert all(row.human > row.random for row in table.values())
    assert not set(atari_scores.AMTLB_ONLY) & set(table)
    assert 54 + len(atari_scores.AMTLB_ONLY) == 59


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.mean(np.zeros(3)), r"scores must have shape \[R, N\]"),
        (lambda: stats.median(np.zeros((0, 3))), r"got \(0, 3\)"),
        (lambda: stats.interquartile_mean(np.array([[np.nan, 1.0]])), "got 1 values that are not"),
        (lambda: stats.probability_of_improvement(SCORES, OTHER[:, :2]), "got 7 and 2"),
        (lambda: stats.performance_profile(SCORES, np.zeros((2, 2))), r"thresholds must .* \[M\]"),
        (lambda: stats.stratified_bootstrap([SCORES], stats.mean, level=1.0), "got 2000 and 1.0"),
        (lambda: stats.stratified_bootstrap([SCORES[0]], stats.mean), r"samples\[0\] must"),
        (lambda: transfer.learning_curve_area([0, 0], [1, 2]), "increasing"),
        (lambda: transfer.learning_curve_area([0, 1], [1, 2, 3]), "M = 2"),
        (lambda: transfer.transfer_ratio(np.ones(2), -np.ones(2)), "scratch must .* got -1.0"),
        (lambda: transfer.forward_transfer(np.ones(2), np.ones(2)), r"in \[0, 1\)"),
        (lambda: transfer.normalise(1.0, 2.0, 2.0), "reference must be above random"),
        (lambda: transfer.clustered_bootstrap(np.ones((2, 3)), np.ones(3), [0]), r"\[M, E, N\]"),
        (
            lambda: transfer.clustered_bootstrap(np.ones((2, 3, 4)), np.ones((3, 4)), [0]),
            "folds must",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
