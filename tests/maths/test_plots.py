"""Curves out of rows, and what ends up in the picture."""

import matplotlib.figure
import numpy as np
import pytest
import scipy.stats

from experiments.benchmark import agents
from mtrl_jax import metrics, plots
from mtrl_jax.losses.distral import ALGORITHMS


def test_where_the_rows_hold_a_quantity():
    assert plots.task_key("t", "episode/return") == "task/t/episode/return"
    assert plots.task_key("t", "eval/task_policy/success") == "eval/task_policy/t/success"


def test_curve_holds_what_is_not_known_anew_and_ends_with_the_shortest_run():
    one = [
        {"step": 1, "a": [1.0, 2.0], "b": [3.0, 6.0]},
        {"step": 2, "a": [5.0, None], "b": [1.0, 1.0]},  # one seed unknown
        {"step": 3, "a": [7.0, 8.0], "b": [9.0, 0.0]},
        {"step": 4, "a": [7.0, 8.0]},
        {"step": 5, "a": [0.0, 1.0], "b": [4.0, 5.0]},
    ]
    other = [{"step": n, "a": 10.0 * n, "b": 0.0} for n in (0, 1, 2, 3)]
    steps, values, early = plots.curve([one, other], ["a", "b"])
    assert not early
    np.testing.assert_array_equal(steps, [1, 2, 3])  # at 0 nothing is known of the first run
    np.testing.assert_allclose(values, [[2.0, 4.0, 5.0], [3.0, 1.5, 10.0], [8.0, 4.0, 15.0]])
    steps, values, _ = plots.curve([one], ["a", "b"])
    np.testing.assert_array_equal(steps, [1, 2, 3, 4, 5])
    np.testing.assert_allclose(values[3], [8.0, 4.0])  # b as it was at 3
    steps, values, _ = plots.curve([one, other], ["a", "nothing"])
    assert steps.size == 0 and values.shape[0] == 0


def test_a_line_has_a_gap_where_nothing_is_new_and_holds_nothing_for_long():
    rows = [{"step": n, "a": None if n in (3, 4) else float(n), "b": None} for n in range(12)]
    rows[1]["b"] = 1.0
    steps, values, _ = plots.curve([rows], ["a"])
    np.testing.assert_array_equal(steps, np.arange(12))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(values[:, 0])), [3, 4])
    steps, values, _ = plots.curve([rows], ["a", "b"])
    # b is what it was for five rows of its own; where a is not new either, nothing is.
    assert plots.HELD == 5
    np.testing.assert_array_equal(steps, range(1, 7))
    np.testing.assert_array_equal(values[:, 0], [1.0, 1.5, np.nan, np.nan, 3.0, 3.5])


def simulate(draw, num_envs, end, window):
    """Log rows of environments with episodes of `draw(rng, n) -> (length, return)`, at most 100."""
    rng, begin = np.random.default_rng(0), np.zeros(num_envs, int)
    count, total = np.zeros(end + 1), np.zeros(end + 1)
    while (begin < end).any():
        length, value = draw(rng, num_envs)
        begin = begin + length + 1  # and the reset row, with which it is counted
        np.add.at(count, begin[begin <= end], 1)
        np.add.at(total, begin[begin <= end], value[begin <= end])
    rows = [{"step": 0, "task/a/episode/longest": 101.0 * num_envs}]
    for a in range(0, end - window + 1, window):
        n, sum_ = (x[a + 1 : a + window + 1].sum() for x in (count, total))
        row = {"episode/count": n, "episode/return": sum_ / n if n else None}
        step = (a + window) * num_envs
        rows.append({"step": step, **{f"task/a/{k}": v for k, v in row.items()}})
    return rows


def short_or_long(rng, n):
    """A room that half of the episodes leave after five actions, the others never."""
    leaves = rng.random(n) < 0.5
    return np.where(leaves, 5, 100), leaves.astype(float)


def at_any_moment(rng, n):
    """A room that is left with probability .01 at each action."""
    length = rng.geometric(0.01, n)
    return np.minimum(length, 100), (length <= 100).astype(float)


@pytest.mark.parametrize("window", [7, 20, 50, 120])
@pytest.mark.parametrize(("draw", "truth"), [(short_or_long, 0.5), (at_any_moment, 1 - 0.99**100)])
def test_a_curve_of_episodes_is_right_from_its_first_point_on(draw, truth, window):
    """A policy that does not change has a flat curve; the rows themselves begin far above it."""
    rows = simulate(draw, 4000, 1200, window)
    assert rows[1]["task/a/episode/return"] > truth + 0.09
    steps, values, early = plots.curve([rows], ["task/a/episode/return"])
    assert not early and 202 <= steps[0] / 4000 <= 303 + window
    np.testing.assert_allclose(values, truth, atol=0.065)
    late = steps > 600 * 4000
    np.testing.assert_allclose(np.mean(values[late]), truth, atol=0.01)


def test_where_the_longest_episode_has_no_time_to_end_a_curve_is_marked():
    rows = simulate(short_or_long, 50, 200, 20)
    _, values, early = plots.curve([rows], ["task/a/episode/return"])
    assert early and values[0] == 1.0
    rows = simulate(short_or_long, 50, 600, 20)
    rows[0]["task/a/episode/longest"] = None  # no limit known
    assert plots.curve([rows], ["task/a/episode/return"]).early
    del rows[0]  # of a run that does not say it
    _, values, early = plots.curve([rows], ["task/a/episode/return"])
    assert not early and values[0] == 1.0


def test_a_run_that_goes_on_with_new_episodes_has_a_gap():
    """Of the windows behind the second reset none may hold what began right after it."""
    values = {f"task/a/episode/{k}": [1.0, 1.0] for k in ("count", "return", "success")}
    rows = [{"step": 10 * n, **values} for n in range(1, 13)]
    resets = [{"step": step, "task/a/episode/longest": 20.0} for step in (0, 60)]
    steps, found, _ = plots.curve(
        [resets[:1] + rows[:6] + resets[1:] + rows[6:]], ["task/a/episode/return"]
    )
    np.testing.assert_array_equal(steps, np.arange(40, 121, 10))
    np.testing.assert_array_equal(steps[np.isnan(found[:, 0])], [70, 80, 90])


def test_means_over_a_longer_time_weigh_every_episode_the_same():
    rows = [
        {"step": 0, "task/a/episode/longest": 2.0},
        {"step": 1, "task/a/episode/count": [9, 9], "task/a/episode/return": [9.0, 9.0]},
        {"step": 2, "task/a/episode/count": [9, 9], "task/a/episode/return": [9.0, 9.0]},
        {"step": 3, "task/a/episode/count": [3, 0], "task/a/episode/return": [1.0, None]},
        {"step": 4, "task/a/episode/count": [1, 0], "task/a/episode/return": [5.0, None]},
        {"step": 5, "task/a/episode/count": [0, 2], "task/a/episode/return": [None, 7.0]},
        {"step": 5, "eval/x": 1.0},
    ]
    found = {row["step"]: row for row in metrics.settled(rows) if "eval/x" not in row}
    assert found[3]["task/a/episode/return"] is None
    assert found[4]["task/a/episode/return"] == [2.0, None]  # (3 * 1 + 5) / 4
    assert found[5]["task/a/episode/return"] == [5.0, 7.0]
    assert found[5]["task/a/episode/count"] == [0, 2]  # of the row itself
    assert metrics.settled(rows)[-1] == {"step": 5, "eval/x": 1.0}
    assert metrics.settled(metrics.settled(rows)) == metrics.settled(rows)
    assert rows[0] == {"step": 0, "task/a/episode/longest": 2.0}  # what came is as it was


def test_figures_have_names_to_read():
    for name in [*ALGORITHMS, *agents.BUILDERS]:
        assert plots.readable(name) != name or name == "distillation", name
    assert plots.readable("kl_ent_2col") == "Distral"
    assert plots.readable("ppo alone") == "PPO alone"
    assert plots.readable("my own") == "my own"
    assert plots.short_task("MiniGrid-DoorKey-5x5-v0") == "DoorKey-5x5"
    assert plots.quantity_label("episode/success") == "success, share of episodes"
    assert "distilled" in plots.quantity_label("eval/distilled_policy/return")
    assert plots.quantity_label("loss/kl_shared") == "loss kl shared"


@pytest.fixture
def drawn(monkeypatch):
    """All figures that are saved."""
    figures = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return figures


def test_axes_have_units_and_success_lies_between_0_and_1(drawn, tmp_path):
    rows = [
        {"step": n * 100_000, "task/a/episode/success": [1.0, 0.9], "task/b/episode/success": None}
        for n in range(1, 41)
    ]
    plots.learning_curves(
        {"kl_ent_2col": [rows]}, ["a", "b"], tmp_path / "x.png", quantity="episode/success"
    )
    (figure,) = drawn
    figure.canvas.draw()
    known, unknown = figure.axes
    assert known.get_ylim() == unknown.get_ylim() == (0.0, 1.0)
    assert known.get_ylabel() == "success, share of episodes"
    assert known.get_xlabel() == "million environment steps, all tasks"
    ticks = [text.get_text() for text in known.get_xticklabels()]
    assert "2" in ticks and not known.xaxis.get_offset_text().get_text()
    assert not known.yaxis.get_offset_text().get_text()
    band = known.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == 1.0
    assert [text.get_text() for text in unknown.texts] == ["no episode yet"]
    assert known.texts[:] == []
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Distral"]


def test_what_is_early_is_dashed_and_a_point_between_gaps_is_seen(drawn, tmp_path):
    rows = [
        {"step": 0, "task/a/episode/longest": 1e9},
        *({"step": n, "task/a/episode/count": 1, "task/a/episode/return": 1.0} for n in (1, 2)),
        {"step": 3, "task/a/episode/count": 0, "task/a/episode/return": None},
        {"step": 4, "task/a/episode/count": 1, "task/a/episode/return": 2.0},
    ]
    plots.learning_curves({"x": [rows]}, ["a"], tmp_path / "x.png")
    (panel,) = drawn[0].axes
    line, dots = panel.lines
    assert line.get_linestyle() == "--"
    np.testing.assert_array_equal(line.get_ydata(), [1.0, 1.0, np.nan, 2.0])
    np.testing.assert_array_equal(dots.get_xdata(), [4])
    assert any("dashed" in text.get_text() for text in drawn[0].texts)


def test_learning_curves_draw_means_intervals_and_levels(drawn, tmp_path):
    """Looks at the lines that are drawn, and at the file."""
    names = [f"task{n}" for n in range(5)]
    rows = [
        {"step": 10 * n, **{f"task/{t}/episode/return": [n + k, n + k + 2.0]}}
        for n in range(4)
        for k, t in enumerate(names)
    ]
    merged = [
        {k: v for row in rows if row["step"] == step for k, v in row.items()}
        for step in (0, 10, 20, 30)
    ]
    alone = [{"step": 10 * n, "task/task1/episode/return": 0.5} for n in range(4)]
    path = tmp_path / "new" / "curves.png"
    plots.learning_curves(
        {"both": [merged], "one": [alone]},
        names,
        path,
        mean_panel=True,
        levels={"random": {t: 0.25 * k for k, t in enumerate(names)}},
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    panels = {axis.get_title(): axis for axis in drawn[0].axes if axis.get_title()}
    assert list(panels) == [*names, "mean over tasks"]
    for k, name in enumerate(names):
        lines = {line.get_label(): line for line in panels[name].lines}
        assert set(lines) == {"both", "random policy"} | ({"one"} if k == 1 else set())
        np.testing.assert_array_equal(lines["both"].get_xdata(), [0, 10, 20, 30])
        np.testing.assert_allclose(lines["both"].get_ydata(), np.arange(4) + k + 1)
        np.testing.assert_allclose(lines["random policy"].get_ydata(), 0.25 * k)
        band = panels[name].collections[0].get_paths()[0].vertices[:, 1]
        # Two agents, k and k + 2 at first: of them Student's interval, not their range.
        half = scipy.stats.t.ppf(0.975, 1)
        np.testing.assert_allclose((band.min(), band.max()), (k + 1 - half, k + 4 + half))
    mean = {line.get_label(): line for line in panels["mean over tasks"].lines}
    np.testing.assert_allclose(mean["both"].get_ydata(), np.arange(4) + 3)
    np.testing.assert_allclose(mean["random policy"].get_ydata(), 0.5)
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend == ["both", "one", "random policy"]
