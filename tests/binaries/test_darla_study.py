"""DARLA's study: who is drawn, who chooses, and that a choice is shown no target."""

import json

import numpy as np
import pytest
from scipy import stats

from experiments.common.report import mean_text
from experiments.darla import plan, study, table
from mtrl_jax import engines, intervals

RNG = np.random.default_rng(0)


def cells(vision="darla", policy="dqn", encoders=6, policies=3):
    found = []
    for e in range(encoders):
        source, target = RNG.normal(3.0, 1.0, policies), RNG.normal(1.0, 1.0, policies)
        line = {"beta_vae_score": 0.1 * e, "mig": 0.5 - 0.1 * e}
        found.append(table.Cell(vision, policy, e, source, target, line))
    return found


def test_the_encoder_is_chosen_by_source_scores_and_nothing_else(monkeypatch):
    made, shown = cells(), []

    def recorded(source):
        shown.extend(source)
        return choose(source)

    choose = table.choose
    monkeypatch.setattr(table, "choose", recorded)
    lines = table.table(made)
    assert all(a is cell.source for a, cell in zip(shown, made, strict=True))
    best = max(made, key=lambda cell: cell.source.mean())
    assert lines[1].split()[-1] == f"{best.target.mean():.2f}"
    blank = [cell._replace(target=np.full(3, np.nan)) for cell in made]
    assert choose([c.source for c in blank]) == best.encoder


def test_intervals_are_over_encoders_whose_policies_are_averaged():
    made = cells()
    means = np.array([cell.target.mean() for cell in made])
    half = stats.t.ppf(0.975, 5) * means.std(ddof=1) / 6**0.5
    want = f"{means.mean():.2f} [{means.mean() - half:.2f}, {means.mean() + half:.2f}]"
    assert want in table.table(made)[1]
    every = np.concatenate([cell.target for cell in made])  # 18 policies are no 18 encoders
    assert mean_text(every, "encoder") not in table.table(made)[1]


def test_ranks_are_correlated_over_encoders_of_all_visions_with_a_score():
    made = cells() + cells("entangled") + [c._replace(line={}) for c in cells("pixels")]
    known = made[:12]
    x = [cell.line["mig"] for cell in known]
    y = [cell.target.mean() for cell in known]
    value, low, high = table.spearman(np.array(x), np.array(y))
    assert value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert -1 < low < value < high < 1
    line = next(text for text in table.table(made) if "score and mig" in text)
    assert f"over 12 encoders {value:.2f} [{low:.2f}, {high:.2f}]" in line


def test_the_interval_of_a_rank_correlation_holds():
    """Of 20 encoders and a normal pair of correlation .6, whose rank correlation is known."""
    rho, hits = 0.6, 0
    true = 6 / np.pi * np.arcsin(rho / 2)
    rng = np.random.default_rng(1)
    for _ in range(400):
        x, e = rng.normal(size=(2, 20))
        _, low, high = table.spearman(x, rho * x + (1 - rho**2) ** 0.5 * e)
        hits += low < true < high
    assert 0.92 < hits / 400 < 0.985


def test_a_perfect_correlation_and_a_few_encoders_have_no_interval():
    x = np.arange(6.0)
    assert np.isnan(table.spearman(x, x).low) and table.spearman(x, x).value == 1
    assert np.isnan(table.spearman(x[:4], np.array([1.0, 0.0, 2.0, 3.0])).low)
    with pytest.raises(ValueError, match="unit"):
        intervals.mean(x, unit="policy")


def test_cells_have_encoders_and_policies_of_their_own(tmp_path):
    run = engines.RunConfig(total_env_steps=32, num_envs_per_task=4, num_seeds=5, seed=10)
    first = plan.Asked("darla", "ppo", plan.Where(0, 32), tmp_path / "none", run, seed=10)
    asked = [study.asked_of(tmp_path, "darla", e, first) for e in range(3)]
    assert [a.seed for a in asked] == [10, 11, 12]
    assert [a.run.seed for a in asked] == [10, 15, 20]
    assert len({a.folder for a in asked}) == len({a.borrow for a in asked}) == 3
    assert study.asked_of(tmp_path, "pixels", 0, first).borrow is None
    assert study.asked_of(tmp_path, "finetuned", 1, first).borrow == asked[1].borrow


def test_what_a_run_has_written_becomes_a_line(tmp_path):
    run = engines.RunConfig(total_env_steps=32, num_envs_per_task=4)
    where = plan.Where(0, 32)
    config = plan.seeing(plan.VISIONS["darla"], where, 0, {})
    asked = plan.Asked("darla", "dqn", where, tmp_path / "dqn", run, borrow=str(tmp_path / "see"))
    scores = {"source": {"A1": [1.0, 2.0], "B2": [3.0, 4.0]}, "target": {"B1": [0.0, 1.0]}}
    scores |= {"random/source": 0.1, "random/target": 0.2}
    for name, values in (("dqn/transfer/scores.json", scores), ("see/latents.json", {"mig": 0.3})):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(json.dumps(values))
    planned = plan.Plan(asked, config, tmp_path / "see", None, {})
    cell = study.cell_of(planned, 4)
    np.testing.assert_array_equal(cell.source, [2.0, 3.0])
    assert cell.line == {"vision": "darla", "policy": "dqn", "encoder": 4, "mig": 0.3, **scores}
