"""Curves out of rows, and what ends up in the picture."""

import matplotlib.figure
import numpy as np
import scipy.stats

from mtrl_jax import plots


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
    steps, values = plots.curve([one, other], ["a", "b"])
    np.testing.assert_array_equal(steps, [1, 2, 3])  # at 0 nothing is known of the first run
    np.testing.assert_allclose(values, [[2.0, 4.0, 5.0], [3.0, 1.5, 10.0], [8.0, 4.0, 15.0]])
    steps, values = plots.curve([one], ["a", "b"])
    np.testing.assert_array_equal(steps, [1, 2, 3, 4, 5])
    np.testing.assert_allclose(values[3], [8.0, 4.0])  # b as it was at 3
    steps, values = plots.curve([one, other], ["a", "nothing"])
    assert steps.size == 0 and values.shape[0] == 0


def test_learning_curves_draw_means_intervals_and_levels(tmp_path, monkeypatch):
    """Looks at the lines that are drawn, and at the file."""
    figures = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
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
    panels = {axis.get_title(): axis for axis in figures[0].axes if axis.get_title()}
    assert list(panels) == [*names, "mean over tasks"]
    for k, name in enumerate(names):
        lines = {line.get_label(): line for line in panels[name].lines}
        assert set(lines) == {"both", "random"} | ({"one"} if k == 1 else set())
        np.testing.assert_array_equal(lines["both"].get_xdata(), [0, 10, 20, 30])
        np.testing.assert_allclose(lines["both"].get_ydata(), np.arange(4) + k + 1)
        np.testing.assert_allclose(lines["random"].get_ydata(), 0.25 * k)
        band = panels[name].collections[0].get_paths()[0].vertices[:, 1]
        # Two agents, k and k + 2 at first: of them Student's interval, not their range.
        half = scipy.stats.t.ppf(0.975, 1)
        np.testing.assert_allclose((band.min(), band.max()), (k + 1 - half, k + 4 + half))
    mean = {line.get_label(): line for line in panels["mean over tasks"].lines}
    np.testing.assert_allclose(mean["both"].get_ydata(), np.arange(4) + 3)
    np.testing.assert_allclose(mean["random"].get_ydata(), 0.5)
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["both", "one", "random"]
