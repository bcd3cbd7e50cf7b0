"""The report's section on tasks in sequence, from numbers that are known."""

import json

import numpy as np
import pytest
import scipy.stats

from mtrl_jax.benchmark import in_sequence, page

LINES = [
    {
        "method": "finetune",
        "algorithm": "dqn",
        "told": True,
        "tasks": ["catch", "rain"],
        "performance": [0.4, 0.5, 0.9],
        "forgetting": [0.6, 0.5, 0.4],
        "forward": [0.1, 0.0, -0.1],
    },
    {
        "method": "ewc",
        "tasks": ["catch", "rain"],
        "performance": [0.7, 0.8, 0.9],
        "forgetting": [0.0, 0.1, 0.2],
        "forward": [-0.3, -0.2, -0.1],
    },
    {
        "method": "multitask",
        "tasks": ["catch", "rain"],
        "performance": [0.5, 0.5, 0.5],
        "forgetting": None,
        "forward": None,
    },
]


def test_a_row_has_means_with_students_intervals_and_the_best_stand_out(tmp_path):
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(x) + "\n" for x in LINES))
    for path in (tmp_path, tmp_path / "results.jsonl"):
        assert in_sequence.read(path) == LINES
    found = in_sequence.section(LINES)
    assert "catch, rain, learnt in this order by dqn, which is told" in found.text
    assert "3 agents" in found.text
    for line, row in zip(LINES, found.rows, strict=True):
        assert row[0] == line["method"]
        for name, text in zip(in_sequence.COLUMNS, row[1:], strict=True):
            if line[name] is None:
                assert text == "-"
                continue
            x = np.array(line[name])
            half = scipy.stats.t.ppf(0.975, 2) * x.std(ddof=1) / np.sqrt(3)
            ends = [
                f"{round(y, 2) + 0.0:.2f}" for y in (x.mean(), x.mean() - half, x.mean() + half)
            ]
            assert text == f"{ends[0]} [{ends[1]}, {ends[2]}]"
    bold = [[isinstance(text, page.Bold) for text in row[1:]] for row in found.rows]
    assert bold == [[False, False, True], [True, True, False], [False, False, False]]
    assert "<td>multitask</td>" in page.render("x", [found])


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"method": "ewc"}\n',
        '{"cell": 1}\n',
        json.dumps({**LINES[0], "forgetting": 3}) + "\n",
        json.dumps({**LINES[0], "performance": None}) + "\n",
    ],
)
def test_other_tables_are_refused(tmp_path, text):
    path = tmp_path / "results.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"--continual: .* holds no numbers of a finished"):
        in_sequence.read(path)
    with pytest.raises(ValueError, match=r"--continual: .* holds no numbers of a finished"):
        in_sequence.read(tmp_path / "none")
