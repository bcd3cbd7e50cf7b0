"""Aggregates and transfer measures against scipy, closed forms and known answers."""

import numpy as np
import pytest
import scipy.stats

from mtrl_jax import intervals
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


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Success rates of 3 tasks: the interval of the mean, over 300 experiments of 20 runs."""
    truth = np.array([0.2, 0.5, 0.7])
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        scores = (rng.random((20, 3)) < truth).astype(float)
        found = interval(stats.mean, scores, unit="run", level=0.9)
        hits += found.low <= truth.mean() <= found.high
    assert 0.85 < hits / 300 < 0.95  # three standard errors around .9


def interval(statistic, *samples, **options):
    """The jackknife interval of an aggregate of samples `[R, N]`."""
    return intervals.jackknife(lambda keep: statistic(*samples, keep), samples[0].shape, **options)


@pytest.mark.parametrize("unit", ["run", "agent"])
def test_the_interval_is_stratified(unit):
    """Tasks that differ while their runs agree leave nothing uncertain."""
    scores = np.tile(np.array([0.0, 10.0, 100.0]), (4, 1))
    found = interval(stats.interquartile_mean, scores, unit=unit)
    np.testing.assert_allclose(found, stats.interquartile_mean(scores), rtol=1e-12)
    both = interval(stats.probability_of_improvement, SCORES[:4], OTHER, unit=unit)
    assert both.low < both.value < both.high
    assert both == interval(stats.probability_of_improvement, SCORES[:4], OTHER, unit=unit)


def test_a_run_that_does_not_count_is_as_if_it_were_not_there():
    keep = np.ones(SCORES.shape, bool)
    keep[2] = False
    fewer = np.delete(SCORES, 2, 0)
    for fn in (stats.mean, stats.median, stats.optimality_gap):
        assert fn(SCORES, keep) == pytest.approx(fn(fewer))
    at = np.linspace(0.0, 2.0, 5)
    expected = stats.performance_profile(fewer, at)
    np.testing.assert_allclose(stats.performance_profile(SCORES, at, keep), expected)
    found = stats.probability_of_improvement(SCORES[:4], OTHER, keep[:4])
    rest = np.delete(OTHER, 2, 0)
    assert found == pytest.approx(stats.probability_of_improvement(SCORES[[0, 1, 3]], rest))
    # The mean of the weight between its quartiles, by hand: each task keeps its third.
    keep = np.array([[True, True, True], [True, False, True]])
    scores = np.array([[0.0, 12.0, 3.0], [6.0, 50.0, 9.0]])
    cut = 1 / 6  # of the whole weight, as one of six values
    by_hand = (3 / 6 + 6 / 6 + 9 / 6 + 12 * (1 / 3 - cut)) / (1 - 2 * cut)
    assert stats.interquartile_mean(scores, keep) == pytest.approx(by_hand)


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
    found = intervals.ratio(
        lambda keep: np.stack([stats.mean(x, keep) for x in (areas, areas)], -1),
        areas.shape,
        unit="fold",
        folds=np.arange(6) % 2,
    )
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_an_agent_that_is_reset_at_every_switch_forgets_everything():
    learnt = np.array([0.9, 0.5, 0.8])
    np.testing.assert_array_equal(transfer.forgetting(learnt, np.zeros(3)), learnt)


def test_agents_shared_by_a_fold_are_drawn_together():
    """One lucky agent lifts all tasks of its fold, so two seeds leave the mean wide open."""
    pretrained = np.stack([np.ones(8), np.full(8, 3.0)])
    found = interval(stats.mean, pretrained, unit="fold", folds=np.zeros(8, int))
    # Two agents, 1 and 3: Student's interval of one degree of freedom, wider than their range.
    half = scipy.stats.t.ppf(0.975, 1)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0 - half, 2.0 + half))
    apart = interval(stats.mean, pretrained, unit="run")
    assert apart.low > 1.0 and apart.high < 3.0


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
        (lambda: interval(stats.mean, SCORES, unit="run", level=1.0), "level must be in .* 1.0"),
        (lambda: interval(stats.mean, SCORES, unit="seed"), "unit must be one of .* 'seed'"),
        (lambda: interval(stats.mean, SCORES, unit="fold"), "folds must be given for"),
        (lambda: interval(stats.mean, SCORES, unit="run", folds=[0]), "no other; got 'run'"),
        (lambda: interval(stats.mean, SCORES, unit="fold", folds=[0]), r"\(7,\), got \(1,\)"),
        (lambda: transfer.learning_curve_area([0, 0], [1, 2]), "increasing"),
        (lambda: transfer.learning_curve_area([0, 1], [1, 2, 3]), "M = 2"),
        (lambda: transfer.transfer_ratio(np.ones(2), -np.ones(2)), "scratch must .* got -1.0"),
        (lambda: transfer.forward_transfer(np.ones(2), np.ones(2)), r"in \[0, 1\)"),
        (lambda: transfer.normalise(1.0, 2.0, 2.0), "reference must be above random"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_single_unit_has_a_value_and_no_interval():
    found = interval(stats.mean, SCORES[:1], unit="agent")
    assert found.value == pytest.approx(SCORES[:1].mean())
    assert np.isnan(found.low) and np.isnan(found.high)
