"""The report, from tables whose answers are known."""

import json

import matplotlib.text
import numpy as np
import pytest
import scipy.stats

from experiments.benchmark import report
from mtrl_jax import intervals
from mtrl_jax.benchmark import (
    figures,
    numbers,
    page,
    sections,
    stats,
    study,
    transfer,
    verdict,
)
from tests.machinery import known_agents
from tests.machinery.known_agents import (
    FOLDS,
    GAMES,
    HIGH,
    LOW,
    SEEDS,
    agent,
    area,
    controls,
    curve,
)


@pytest.fixture(scope="module")
def known():
    return known_agents.tables()


def test_scores_are_between_random_and_the_specialist(known):
    s, _ = known
    assert s.games == GAMES and list(s.records) == ["random", "same", "fast"]
    np.testing.assert_array_equal(s.folds, FOLDS)
    np.testing.assert_allclose(s.random, LOW)
    np.testing.assert_allclose(s.reference, HIGH)
    np.testing.assert_allclose(s.normalise(s.records["fast"].multitask), 0.9)
    np.testing.assert_allclose(s.normalise(s.records["random"].multitask), 0.0)


def test_equal_agents_have_ratio_one_and_nothing_else(known):
    s, _ = known
    found = numbers.transfer_numbers(s, s.records["same"])
    for interval, value in (
        (found.ratio, 1.0),
        (found.jump_start, 0.0),
        (found.final, 0.0),
        (found.forward, 0.0),
    ):
        np.testing.assert_allclose(np.array(interval, float), value, atol=1e-12)
    assert found.forward_games == 4
    pairs = numbers.pairs_of(s)
    assert len(pairs) == 8 and all(FOLDS[a] != FOLDS[b] for a, b in pairs)
    np.testing.assert_allclose(numbers.forgetting(s, s.records["same"], pairs).value, 0, atol=1e-12)


def test_an_agent_that_learns_twice_as_fast_after_pre_training_has_its_closed_form(known):
    s, _ = known
    found = numbers.transfer_numbers(s, s.records["fast"])
    np.testing.assert_allclose(found.ratio.value, area(6.0) / area(3.0), rtol=1e-3)
    np.testing.assert_allclose(
        found.forward.value, (area(6.0) - area(3.0)) / (1 - area(3.0)), rtol=1e-3
    )
    np.testing.assert_allclose(found.final.value, np.exp(-3.0) - np.exp(-6.0), rtol=1e-6)
    np.testing.assert_allclose(found.per_task["b"].value, area(6.0) / area(3.0), rtol=1e-3)
    lost = numbers.forgetting(s, s.records["fast"], numbers.pairs_of(s))
    np.testing.assert_allclose(np.array(lost, float), 0.3, rtol=1e-9)


def test_a_game_that_nobody_learns_has_no_scale_and_is_named(known):
    rows = [*controls(), *agent("same")]
    for r in rows:
        for game in set(r["final"]) & {"b"}:
            r["final"][game] = -5.0
    s = study.read(rows)
    assert s.scaled.tolist() == [0, 2, 3]
    text = next(x.text for x in sections.every(s, rows) if x.title == "What was run")
    assert "No specialist is measurably better than random on b:" in text
    assert set(numbers.transfer_numbers(s, s.records["same"]).per_task) == {"a", "c", "d"}


def test_every_table_and_figure_says_what_its_intervals_draw(known):
    s, rows = known
    units = {
        "Transfer": "over pre-trained agents",
        "Transfer ratio of each game": "over pre-trained agents",
        "Learning curves of same": "over runs",
        "Multi-task": "over agents",
        "Aggregates": "over the unit of the last column",
        "Probability of improvement": "over the unit of the last column",
    }
    found = {section.title: section for section in sections.every(s, rows)}
    for title, unit in units.items():
        assert unit in found[title].text, title
    last = {line[0]: line[-1] for line in found["Aggregates"].rows}
    assert last["all games at once, same"] == "agent"
    assert last["after pre-training, same"] == "fold"
    assert last["from scratch, same"] == "run"
    assert last["from scratch, random policy"] == "agent"
    for figure in (
        figures.learning_curves(s, "same"),
        figures.pre_training(s, "same"),
        figures.profiles(s),
        figures.multitask_vector(s),
        figures.transfer_ratios(s, {"same": numbers.transfer_numbers(s, s.records["same"])}),
    ):
        texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
        assert any("intervals over" in text for text in texts), texts


def test_runs_of_other_seeds_are_left_out_and_an_agent_that_lacks_one_is_unfinished():
    more = [{**r, "seed": 9, "final": {g: 99.0 for g in r["final"]}} for r in agent("same")]
    s = study.read([*controls(), *agent("same"), *more])
    np.testing.assert_allclose(s.reference, HIGH)
    fewer = [r for r in agent("fast") if r["kind"] != "multitask" or r["seed"]]
    s = study.read([*controls(), *agent("same"), *fewer])
    assert s.records["fast"].multitask is None and s.records["fast"].scratch is not None


def test_numbers_are_written_so_that_nobody_stumbles():
    def shown(*ends):
        return page.cell(intervals.Interval(*map(np.asarray, ends)))

    assert page.cell(None) == "-" and page.cell(-0.001) == "0.00"
    assert shown(0.5, -0.001, 1.0) == "0.50 [0.00, 1.00]"
    assert shown(0.5, 0.1, np.inf) == "0.50 [0.10, ...]"
    assert shown(0.5, -np.inf, np.inf) == "0.50 (no bounds)"
    assert shown(0.5, np.nan, np.nan) == "0.50"


def test_what_is_without_bounds_is_not_the_best():
    def of(*ends):
        return intervals.Interval(*map(np.asarray, ends))

    column = [of(3.0, -np.inf, np.inf), of(2.0, 1.0, np.inf), of(1.0, 0.5, 1.5), None]
    shown = page.best_in_bold([[x] for x in column], [False])
    assert [isinstance(x, page.Bold) for (x,) in shown] == [False, True, False, False]
    shown = page.best_in_bold([[x] for x in column], [True])
    assert [isinstance(x, page.Bold) for (x,) in shown] == [False, False, True, False]
    assert not isinstance(
        page.best_in_bold([[column[2]]], [False])[0][0], page.Bold
    )  # the only one


def test_human_scores_are_found_by_the_ids_of_games():
    human = study.human_scores(("Pong-v5", "NoSuchGame-v5", "Breakout-v5"))
    np.testing.assert_array_equal(human, [14.6, np.nan, 30.5])


def ratio(pretrained, fresh, folds):
    """Interval of the ratio of areas `[S, N]`, agents being drawn for each fold."""

    def sums(keep):
        return np.stack([stats.mean(x, keep) for x in (pretrained, fresh)], -1)

    return intervals.ratio(sums, fresh.shape, unit="fold", folds=folds)


def test_agents_of_a_pre_training_are_drawn_whole():
    # All games of a fold share what the seed did: intervals over games alone would be too narrow.
    rng = np.random.default_rng(0)
    folds = np.repeat([0, 1], 10)
    shared = rng.normal(0.0, 0.3, (8, 2))[:, folds]
    pretrained = 1.0 + shared + rng.normal(0.0, 0.01, (8, 20))
    fresh = np.ones((8, 20))

    def width(folds):
        return np.ptp(ratio(pretrained, fresh, folds)[1:])

    together, apart = width(folds), width(np.arange(20))
    # Unbiased variances and Student's t with Welch's degrees of freedom: a bootstrap of 8 agents is
    # a factor of sqrt(7 / 8) and a normal quantile too narrow.
    each = shared[:, [0, 10]].var(0, ddof=1) / 8
    freedom = 7 * each.sum() ** 2 / (each**2).sum()
    expected = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(each.sum())
    np.testing.assert_allclose(together, expected, rtol=0.1)
    assert apart < 0.5 * together
    with pytest.raises(ValueError, match=r"folds must have shape \[N\] = \(20,\), got \(3,\)"):
        width(folds[:3])


def test_the_paired_interval_covers_the_truth_as_often_as_it_says():
    rng, hits, trials = np.random.default_rng(1), 0, 300
    folds = np.array([0, 0, 1, 1])
    for _ in range(trials):
        agents = rng.normal(0.0, 0.3, (20, 2))[:, folds]
        pretrained = 1.5 + agents + rng.normal(0.0, 0.1, (20, 4))
        fresh = 1.0 + rng.normal(0.0, 0.1, (20, 4))
        found = ratio(pretrained, fresh, folds)
        hits += found.low <= 1.5 <= found.high
    assert 0.91 < hits / trials < 0.98


def geometric(pre, fresh, folds):
    def measure(keep):
        return transfer.geometric_ratio(*(stats.kept_mean(x, keep) for x in (pre, fresh)))

    return intervals.jackknife(measure, fresh.shape, unit="fold", folds=folds, logarithmic=True)


def test_the_geometric_ratio_gives_every_game_the_same_weight():
    fresh, folds = np.array([[0.5, 0.1], [0.7, 0.3]]), np.array([0, 1])
    same = geometric(fresh, fresh, folds)
    assert same.value == 1.0 and same.low == same.high == 1.0  # paired: both are drawn together
    pre = np.array([[0.3, -4.0], [0.7, -2.0]])
    found = geometric(pre, fresh, folds)
    np.testing.assert_allclose(found.value, np.sqrt(0.51 / 0.61 * 0.01 / 0.21), rtol=1e-12)
    # Of the two seeds of each fold one is left out: the logarithm moves by half the difference.
    alone = np.log([[0.31 / 0.51, 0.71 / 0.71], [0.01 / 0.11, 0.01 / 0.31]]) / 2
    v = np.diff(alone)[:, 0] ** 2 / 4
    half = scipy.stats.t.ppf(0.975, v.sum() ** 2 / (v**2).sum()) * np.sqrt(v.sum())
    expected = [found.value * np.exp(-half), found.value * np.exp(half)]
    np.testing.assert_allclose(found[1:], expected, rtol=1e-9)
    assert transfer.geometric_ratio(pre, fresh).shape == (2,)


def test_a_ratio_of_which_draws_are_infinite_has_an_open_interval_and_is_drawn(known):
    # Of five runs from scratch one learns and four fall below random.
    fresh = np.array([[5.0], [-1.0], [-1.0], [-1.0], [-1.0]])
    found = ratio(np.ones((5, 1)), fresh, np.zeros(1, int))
    assert found.value == pytest.approx(5.0) and 0 < found.low < 5.0 and found.high == np.inf
    s = known[0]
    numbers_of = numbers.transfer_numbers(s, s.records["fast"])
    open_ended = numbers_of._replace(per_task={**numbers_of.per_task, "a": found})
    figure = figures.transfer_ratios(s, {"fast": open_ended})
    (panel,) = (axis for axis in figure.axes if axis.get_title() == "fast")
    low, high = panel.get_xlim()
    assert np.isfinite([low, high]).all()
    marks = [line for line in panel.lines if line.get_marker() in "<>^v"]
    (arrow,) = marks  # one end of one interval lies beyond the axis
    assert arrow.get_marker() == ">" and arrow.get_xdata()[0] == high
    assert arrow.get_ydata()[0] == len(numbers_of.per_task)  # the first game is on top
    assert not arrow.get_clip_on()


def test_the_verdict_says_what_intervals_say(known):
    said = verdict.sentences(known[0])
    ratio = numbers.transfer_numbers(known[0], known[0].records["fast"]).geometric
    assert f"Learning other games first helps fast ({page.cell(ratio)})" in said[0]
    assert "is not decided for same (1.00 [1.00, 1.00])" in said[0]
    assert any(x.startswith("All games at once: fast is highest (IQM 0.90") for x in said)
    assert "better than same" in next(x for x in said if x.startswith("All games at once"))
    assert any(x.startswith("From scratch: ") and "the same runs" in x for x in said)
    assert "4 seeds only" in said[-1]


def test_the_verdict_does_not_decide_what_chance_decided():
    rng = np.random.default_rng(0)
    rows = [*controls(), *agent("one"), *agent("two", transfer=1.0)]
    rows += agent("three", transfer=12.0)
    for r in rows:
        if r["agent"] == "three" and r["kind"] == "transfer" and r["seed"] % 2:
            game = r["task"]
            r["scores"] = {game: curve(GAMES.index(game), 2.0)}
        if r["agent"] != "random":
            r["final"] = {k: v + rng.normal(0, 2.0) for k, v in r["final"].items()}
    s = study.read(rows)
    said = verdict.sentences(s)
    assert "harms two" in said[0] and "helps" not in said[0]
    ratio = numbers.transfer_numbers(s, s.records["three"]).geometric
    assert ratio.low < 1 < ratio.value  # half of its seeds gain more than the others lose
    assert f"is not decided for three ({page.cell(ratio)}), one" in said[0]
    leader = next(x for x in said if x.startswith("All games at once"))
    assert "it is not decided" in leader and "better than" not in leader


def test_several_tables_become_one_and_unfinished_ones_say_what_they_can(tmp_path):
    done, begun = tmp_path / "done", tmp_path / "begun"
    for folder, rows in (
        (done, [*controls(), *agent("same")]),
        (begun, [*controls(), *agent("fast")[:5]]),
    ):
        folder.mkdir()
        (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    s, rows = report.read([done, begun])
    assert list(s.records) == ["random", "same", "fast"]
    assert len([r for r in rows if r["agent"] == "random"]) == SEEDS  # once
    assert s.records["fast"].scratch is None
    found = sections.every(s, rows)
    assert any(section.title == "Aggregates" for section in found)
    with pytest.raises(ValueError, match=r"^--results: .*nothing.* holds no results"):
        report.read([tmp_path / "nothing"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [{**r, "track": "task_id"} if r["seed"] else r for r in rows], "one track"),
        (lambda rows: [r for r in rows if r["agent"] != "random"], "random control"),
        (lambda rows: [*rows, {**rows[-1], "final": {"zelda": 1.0}}], "same games; .*zelda"),
    ],
)
def test_tables_that_do_not_go_together_are_refused(change, message):
    with pytest.raises(ValueError, match=f"^results must .*{message}"):
        study.read(change([*controls(), *agent("same")]))
