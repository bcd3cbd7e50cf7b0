"""Intervals against SciPy, against each other, and against the definitions by brute force."""

import inspect

import numpy as np
import pytest
import scipy.stats

from mtrl_jax import intervals

VALUES = np.random.default_rng(0).gamma(2.0, size=(3, 12))


def test_the_interval_of_a_mean_is_scipys():
    found = intervals.mean(VALUES, unit="agent")
    for n in range(3):
        theirs = scipy.stats.ttest_1samp(VALUES[n], 0.0).confidence_interval(0.95)
        np.testing.assert_allclose((found.low[n], found.high[n]), theirs, rtol=1e-12)
    np.testing.assert_allclose(found.value, VALUES.mean(1), rtol=1e-12)


def test_equal_values_leave_an_empty_interval_and_a_single_one_none():
    np.testing.assert_array_equal(intervals.mean(np.full((2, 5), 1.5), unit="run"), 1.5)
    alone = intervals.mean(np.array([1.5]), unit="run")
    assert alone.value == 1.5 and np.isnan(alone.low) and np.isnan(alone.high)


def test_ends_are_cut_where_values_end():
    found = intervals.mean(np.array([0.0, 0.0, 1.0]), unit="agent", bounds=(0.0, 1.0))
    assert (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("seeds", [3, 5, 40])
def test_the_interval_of_a_mean_covers_as_often_as_it_says(level, seeds):
    values = np.random.default_rng(1).normal(size=(2000, seeds))
    _, low, high = intervals.mean(values, unit="agent", level=level)
    assert np.mean((low < 0) & (0 < high)) == pytest.approx(level, abs=0.03)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (57, 100), (1, 1)])
def test_wilsons_interval_against_scipy(successes, trials):
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    found = intervals.wilson(successes, trials, unit="episode")
    np.testing.assert_allclose(found[1:], theirs, atol=1e-6)
    assert found.value == successes / trials


def means(values):
    """Of `keep`, the mean over tasks of the means over what is kept."""
    return lambda keep: ((values * keep).sum(-2) / keep.sum(-2)).mean(-1)


def test_the_jackknife_of_a_mean_is_students_interval_of_the_agents():
    agents = VALUES.T  # 12 agents, 3 tasks
    found = intervals.jackknife(means(agents), agents.shape, unit="agent")
    np.testing.assert_allclose(found, intervals.mean(agents.mean(1), unit="agent"), rtol=1e-10)
    ends = intervals.jackknife(
        lambda keep: np.exp(means(agents)(keep)), agents.shape, unit="agent", logarithmic=True
    )
    np.testing.assert_allclose(ends, np.exp(found), rtol=1e-10)


def test_the_jackknife_over_runs_is_welchs_interval():
    """Of the difference of two tasks with runs of their own."""
    x, y = VALUES[0], 3 * VALUES[1]
    both = np.stack([x, -y], 1)
    found = intervals.jackknife(means(both), both.shape, unit="run")
    theirs = scipy.stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(found[1:], np.array(theirs) / 2, rtol=1e-10)


def test_folds_lie_between_runs_and_agents():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(6, 1)) + 0.1 * rng.normal(size=(6, 4))
    units = [("run", None), ("fold", np.array([0, 0, 1, 1])), ("agent", None)]
    found = [intervals.jackknife(means(values), (6, 4), unit=u, folds=f) for u, f in units]
    widths = [float(i.high - i.low) for i in found]
    assert widths[0] < 0.8 * widths[1] < 0.7 * widths[2]
    one_fold = intervals.jackknife(means(values), (6, 4), unit="fold", folds=np.zeros(4, int))
    np.testing.assert_allclose(one_fold, found[2], rtol=1e-12)
    each_its_own = intervals.jackknife(means(values), (6, 4), unit="fold", folds=np.arange(4))
    np.testing.assert_allclose(each_its_own, found[0], rtol=1e-12)
    least = intervals.jackknife(means(values), (6, 4), unit="run", least_freedom=True)
    assert least.high - least.low > found[0].high - found[0].low


def ratio(a, b, **options):
    pair = np.stack([a, b], -1)

    def both(keep):
        return (pair * keep).sum(-2) / keep.sum(-2)

    return intervals.ratio(lambda keep: both(keep[..., :1]), (len(a), 1), unit="agent", **options)


def test_fiellers_interval_holds_the_ratios_that_a_t_test_does_not_reject():
    rng = np.random.default_rng(3)
    a, b = rng.normal(1.0, 0.5, 8), rng.normal(2.0, 0.5, 8)
    found = ratio(a, b)
    grid = np.linspace(-1, 3, 4001)
    p = scipy.stats.ttest_1samp(a[:, None] - grid * b[:, None], 0.0).pvalue
    inside = grid[p >= 0.05]
    np.testing.assert_allclose(found[1:], (inside.min(), inside.max()), atol=2e-3)
    assert found.value == pytest.approx(a.mean() / b.mean())


def test_a_denominator_that_may_be_0_leaves_an_end_open():
    b = np.array([5.0, -1.0, -1.0, -1.0, -1.0])
    found = ratio(np.ones(5), b)
    assert found.value == pytest.approx(5.0) and 0 < found.low < 5 and found.high == np.inf
    below = ratio(-np.ones(5), b)
    assert below.low == -np.inf and -5 < below.high < 0
    rng = np.random.default_rng(0)
    a = rng.normal(0.0, 1.0, 5)
    assert ratio(a - a.mean() + 0.1, b)[1:] == (-np.inf, np.inf)
    with pytest.raises(ValueError, match=r"denominator .* above 0, got -1.0"):
        ratio(np.ones(5), -np.ones(5))


def test_fiellers_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(4)
    hits = []
    for _ in range(500):
        b = rng.normal(1.0, 0.6, 5)
        if b.mean() > 0:
            found = ratio(0.5 * b + rng.normal(1.0, 0.3, 5), b)
            hits.append(found.low <= 1.5 <= found.high)
    assert 0.92 < np.mean(hits) < 0.98


def test_a_share_of_independent_runs_is_wilsons_interval_and_is_not_empty_at_1():
    x = (np.random.default_rng(5).random((50, 20)) < 0.3).astype(float)
    found = intervals.share(means(x), x.shape, unit="run")
    theirs = scipy.stats.binomtest(int(x.sum()), x.size).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(found[1:], theirs, atol=2e-3)
    ones = np.ones((5, 8))
    sure = intervals.share(means(ones), ones.shape, unit="agent")
    assert sure.high == 1.0 and 0.7 < sure.low < 0.9
    none = intervals.share(means(0 * ones), ones.shape, unit="agent")
    np.testing.assert_allclose((none.low, none.high), (0.0, 1 - sure.low))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intervals.mean(VALUES, unit="game"), "unit must be one of agent, .*; got 'game'"),
        (lambda: intervals.mean(VALUES, unit="run", level=0.0), r"level must be in \(0, 1\)"),
        (lambda: intervals.wilson(1, 2, unit="seeds"), "unit must be one of"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("fn", ["mean", "wilson", "jackknife", "share", "ratio"])
def test_the_unit_is_asked_for(fn):
    unit = inspect.signature(getattr(intervals, fn)).parameters["unit"]
    assert unit.kind is unit.KEYWORD_ONLY and unit.default is unit.empty
