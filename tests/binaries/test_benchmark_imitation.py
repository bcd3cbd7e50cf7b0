"""Actor-Mimic and distillation in the benchmark: teachers, a student, and what plays on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import agents
from mtrl_jax import train
from mtrl_jax.benchmark import cells, compiled, hosted, regime
from mtrl_jax.envs import suites
from tests.machinery import tiny

SUITE = suites.make("small_games:catch,rain,dodge")
SETTINGS = cells.Settings(
    "small_games:catch,rain,dodge",
    folds=3,
    seeds=2,
    num_envs=2,
    steps_per_task=512,
    evaluations=2,
    eval_episodes=2,
    final_episodes=2,
)
NUMBERS = ("hidden=4", "min_replay=32", "replay_size=64", "batch_size=4", "unroll_length=8")


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@functools.cache
def entry(name):
    return agents.make(name, "no_id", NUMBERS, SUITE.spec)


def cell_of(kind, name="actor_mimic", task=-1):
    every = cells.cells(SETTINGS, SUITE.spec.task_names, {name: True}, functional=True)
    return next(c for c in every if c.kind == kind and task in (-1, c.task))


def run(cell, folder, on_progress=lambda *_: None):
    return hosted.run_any(cell, SETTINGS, SUITE, entry(cell.agent), folder, on_progress)


def numbers(rows):
    return [{k: v for k, v in row.items() if k != "time/seconds"} for row in rows]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    with tiny.quick_compiles():
        return run(cell_of("pretrain"), folder), folder


def test_half_of_the_steps_are_the_teachers_and_the_table_has_the_students_curve(pretrained):
    rows, folder = pretrained
    cell = cell_of("pretrain")
    games = [SUITE.spec.task_names[i] for i in cells.training_games(SETTINGS, cell, 3)]
    assert [row["seed"] for row in rows] == [0, 1] and len(games) == 2
    for row in rows:
        assert row["env_steps"] == cell.steps == 1024
        assert row["steps"] == [512, 768, 1024] and sorted(row["scores"]) == sorted(games)
        assert sorted(row["final"]) == sorted(SUITE.spec.task_names)
    assert (folder / cell.name / "teachers" / "config.json").exists()


@pytest.mark.slow
def test_a_new_game_begins_with_what_the_student_of_the_same_seed_has_learnt(
    pretrained, monkeypatch
):
    _, folder = pretrained
    every = cells.cells(SETTINGS, SUITE.spec.task_names, {"actor_mimic": True}, functional=True)
    cell = next(c for c in every if c.needs == cell_of("pretrain").name)
    results, real = [], train.run
    monkeypatch.setattr(
        train, "run", lambda *args, **kwargs: results.append(real(*args, **kwargs)) or results[-1]
    )
    run(cell_of("pretrain"), folder)  # finished: its parts are only read
    monkeypatch.undo()
    kernels = np.asarray(results[1].state.params.shared["head"]["out"]["kernel"])
    assert kernels.shape == (2, 4, SUITE.spec.num_actions) and (kernels[0] != kernels[1]).any()
    made = entry("actor_mimic")
    config = compiled.run_config(SETTINGS, cell, made.make(regime.stream_spec(SUITE.spec)), SUITE)
    config = dataclasses.replace(config, num_seeds=2)
    before = compiled._load(SETTINGS, cell, SUITE, made, config, folder / cell.needs / "final")
    np.testing.assert_array_equal(before.params.shared["head"]["out"]["kernel"], kernels)
    fresh = jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x * 0, before
    )
    after = jax.vmap(made.transfer)(before, fresh)
    for params in (after.params, after.target):
        np.testing.assert_array_equal(params.shared["head"]["out"]["kernel"], kernels)
    assert not np.asarray(after.steps).any() and not np.asarray(after.replay.stored).any()
    rows = run(cell, folder)
    assert [row["task"] for row in rows] == [SUITE.spec.task_names[cell.task]] * 2


@pytest.mark.slow
def test_a_cell_that_was_stopped_among_teachers_or_students_ends_as_if_it_was_not(
    pretrained, tmp_path
):
    rows, _ = pretrained
    cell, stops = cell_of("pretrain"), [256, 768]

    def stop(step, total, row):
        assert total == 1024
        if stops and step >= stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(cell, tmp_path, stop)
    assert numbers(run(cell, tmp_path, stop)) == numbers(rows) and not stops


def test_each_student_has_the_teachers_of_its_own_seed():
    made, spec = entry("distillation").imitation, SUITE.spec
    init = jax.vmap(made.teachers(spec).init)(jax.random.split(jax.random.key(0), 2))
    agent = made.student(spec, jax.device_get(init))
    state = jax.jit(jax.vmap(agent.init))(jax.random.split(jax.random.key(1), 2))
    assert made.assign(state).which.tolist() == [0, 1]


def test_overrides_go_to_whom_they_fit_and_what_cannot_play_on_is_refused():
    def make(*pairs, track="no_id"):
        return agents.make("actor_mimic", track, pairs, SUITE.spec)

    with pytest.raises(ValueError, match=r"agent actor_mimic .* its track is no_id"):
        make(track="task_id")
    with pytest.raises(ValueError, match="outputs must be 'shared' in the benchmark; got 'contr"):
        make("outputs=controllers")
    settings = make("n_step=7", "loss=mse", "batch_size=3").settings
    assert settings["dqn/n_step"] == 7 and settings["config/loss"] == "mse"
    assert settings["dqn/batch_size"] == settings["config/batch_size"] == 3
    with pytest.raises(ValueError, match="'los=mse' is not name=value of one of"):
        make("los=mse")
