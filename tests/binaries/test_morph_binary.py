"""The growing experiment: a tiny run, whose growth shows in no curve."""

import dataclasses

import numpy as np
import pytest

from experiments.morph import run
from experiments.morph.train import Config
from mtrl_jax import metrics

TINY = Config(
    num_seeds=2,
    width=2,
    factor=2,
    noise=0.0,
    teacher_steps=4,
    steps=4,
    record_every=2,
    batch_size=8,
)


@pytest.mark.slow
def test_curves_go_on_where_the_small_network_stopped(tmp_path):
    table = run.run(TINY, tmp_path)
    rows = metrics.read_jsonl(tmp_path / "metrics.jsonl")

    def of(name):
        return [row for row in rows if row["method"] == name]

    before = of("teacher")[-1]
    assert before["step"] == 4 and len(of("scratch")) == 5
    for name in ("net2net", "net2net, adam anew", "stays small"):
        first, *_, last = of(name)
        assert (first["step"], last["step"]) == (4, 8)
        np.testing.assert_allclose(first["loss"], before["loss"], atol=2e-5)
    equal = np.mean(of("net2net")[-1]["accuracy"]) - np.mean(of("scratch")[2]["accuracy"])
    np.testing.assert_allclose(table["net2net"]["over_scratch"], equal, atol=1e-9)
    assert (tmp_path / "plots" / "morph.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="factor=2, this one has 4"):
        run.run(dataclasses.replace(TINY, factor=4), tmp_path)
