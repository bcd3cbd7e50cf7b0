"""Beginning with what another run has learnt: tasks by name, more, fewer, in another order."""

import dataclasses
import json
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import agents, runs
from experiments.common import beginning as of_binaries
from experiments.distral import run as distral_run
from mtrl_jax import begin, engines, learner, train
from mtrl_jax.algorithms import distral, dqn, ppo, sac
from mtrl_jax.networks import multitask
from mtrl_jax.types import EnvSpec
from tests.machinery import named_suites, tiny

SUITE = "tests.machinery.named_suites:named:names="


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def spec_of(names):
    k, actions = len(names), 3
    mask, limit = np.ones((k, actions), bool), np.full(k, 10)
    return EnvSpec(tuple(names), (4,), np.float32, None, actions, mask, limit, True)


def continuous(spec):
    mask = np.ones((spec.num_tasks, 0), bool)
    return spec._replace(action_size=2, num_actions=0, action_mask=mask)


def numbers(agent, seed):
    """A state of an agent in which every number of every leaf is another one; nothing runs."""
    rng = np.random.default_rng(seed)

    def one(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(seed)
        if jnp.issubdtype(x.dtype, jnp.floating):
            return rng.normal(size=x.shape).astype(x.dtype)
        return rng.integers(1, 99, x.shape).astype(x.dtype)

    return jax.tree.map(one, shapes(agent))


def shapes(agent):
    return jax.eval_shape(agent.init, jax.random.key(0))


def begun(make, before, now, **how):
    """Of agents `make(names)`: what one has learnt of `before`, what is fresh, what one of `now`
    begins with, and the plan."""
    old, new, more = (make(spec_of(names)) for names in (before, now, (*now, "one task more")))
    tasks = begin.Tasks(tuple(before), tuple(now), **how)
    state, fresh = numbers(old, 1), numbers(new, 2)
    moves = begin.plan(shapes(old), shapes(new), shapes(more), tasks)
    return state, fresh, begin.carry(state, fresh, moves, tasks), (moves, tasks)


# More, fewer, and as many in another order.
CHANGES = [("pqr", "rspq"), ("pqr", "rp"), ("pqr", "rpq")]

PPO = ppo.Config(hidden=(4,), network="multihead", unroll_length=10)
DISTRAL = tiny.CONFIG
AGENTS = {
    "ppo": lambda spec: ppo.agent(spec, PPO),
    "dqn": lambda spec: dqn.agent(spec, dqn.Config(hidden=(4,), min_replay=10, replay_size=20)),
    "sac": lambda spec: sac.agent(
        continuous(spec), sac.Config(hidden=(4,), network="multihead", capacity=200)
    ),
    "distral": lambda spec: distral.agent(spec, DISTRAL),
    "each task alone": lambda spec: distral.agent(
        spec, dataclasses.replace(DISTRAL, separate=True)
    ),
}


@pytest.mark.parametrize("network", multitask.NETWORKS)
def test_a_task_is_answered_as_before_whatever_stands_beside_it(network):
    """Each network, told of its task in its own way: the row of a one-hot number moves too."""
    before, now = CHANGES[0]
    x = np.linspace(-1.0, 1.0, 8, dtype=np.float32).reshape(2, 4)

    class Net(NamedTuple):  # what `numbers` and `shapes` ask of an agent
        net: Any

        def init(self, key):
            return learner.Params(*multitask.init(self.net, key, 4))

        def answers(self, params):
            every = jnp.broadcast_to(x, (self.net.num_tasks, *x.shape))
            return np.asarray(jax.jit(lambda p: multitask.by_task(self.net, *p, every))(params))

    def make(spec):
        names = spec.task_names
        return Net(multitask.make(network, len(names), (4, 4), 2, num_inputs=4, task_names=names))

    state, fresh, started, _ = begun(make, before, now)
    was, new = make(spec_of(before)).answers(state), make(spec_of(now))
    answers, unlike = new.answers(started), new.answers(fresh)
    assert len({tuple(np.round(row.flat, 4)) for row in was}) == len(before)  # or nothing is shown
    for k, name in enumerate(now):
        if name in before:
            np.testing.assert_allclose(answers[k], was[before.index(name)], 1e-5, 1e-5)
            assert np.abs(answers[k] - unlike[k]).max() > 1e-3


def by_hand(path, fresh, before, now, old, kind):
    """What a leaf must be, from its name and NumPy alone."""
    networks = ("params/", "target/", "learned/actor/", "learned/critic/", "learned/target/")
    of_tasks = path.startswith(("observations/", "returns/")) or path == "learned/log_temperature"
    new = np.array(fresh)
    if not (of_tasks or path.startswith(networks)):
        return new
    first = 0
    if not (of_tasks or kind == "each task alone" or "/task/" in path):
        if kind == "distral" or not path.endswith("dense0/kernel"):
            return old
        first = old.shape[0] - len(before)  # of the layer that is told the task's number
        new[:first] = old[:first]
    for k, name in enumerate(now):
        if name in before:
            new[first + k] = old[first + before.index(name)]
    return new


def named(tree):
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tiny._plain(x) for path, x in found
    }


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: f"{c[0]} to {c[1]}")
@pytest.mark.parametrize("kind", AGENTS)
def test_every_leaf_is_carried_or_fresh_as_the_table_says(kind, change):
    before, now = change
    separate = kind == "each task alone"
    state, fresh, started, said = begun(AGENTS[kind], before, now, separate=separate)
    old, new, got = (named(tree) for tree in (state, fresh, started))
    assert list(got) == list(new)
    for path, x in got.items():
        want = by_hand(path, new[path], before, now, old.get(path), kind)
        np.testing.assert_array_equal(x, want, path)
    rows = begin.table(*said).splitlines()
    assert rows[0].split() == ["carried", "fresh", "dropped"]
    row = next(line for line in rows if line.startswith("opt_") or "_opt " in line)
    assert row.split()[1:3] == ["-", "all"]


def test_moments_that_all_tasks_share_are_a_new_tasks_too():
    state, fresh, started, _ = begun(AGENTS["ppo"], "pq", "qr", together=True)
    np.testing.assert_array_equal(started.observations.mean[1], state.observations.mean[0])
    assert started.returns.mean[1] == fresh.returns.mean[1]  # each task has its own all the same


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": (5,)}, r"actor/dense0/bias is float32 \[5\] in that run and float32 \[4\]"),
        ({"hidden": (4, 4)}, "that run has a parameter params/shared/actor/dense1/bias, this one"),
        ({"network": "separate"}, "parameter params/shared/actor/dense0/bias, that one has none"),
    ],
)
def test_parameters_of_another_kind_are_refused_by_name(change, words):
    configs = (("pq", dataclasses.replace(PPO, **change)), ("pq", PPO), ("pqr", PPO))
    three = [shapes(ppo.agent(spec_of(names), config)) for names, config in configs]
    with pytest.raises(ValueError, match=words):
        begin.plan(*three, begin.Tasks(("p", "q"), ("p", "q")))


# ------------------------------------------------------------------------------ a user's own


def _own(change):
    """A function whose state has other parameters, made of `w` and the state."""

    def begin_from(state):
        return state._replace(params=learner.Params({}, change(state.params.task["w"], state)))

    return begin_from


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            _own(lambda w, s: {"w": w[:, :1]}),
            r"params/task/w as float32 \[2, 1, 2\]; this run has float32 \[2, 2, 2\]",
        ),
        (_own(lambda w, s: {"w": np.asarray(w, np.float64)}), "params/task/w as float64"),
        (_own(lambda w, s: {"w": w * np.nan}), "params/task/w with numbers that are not finite"),
        (_own(lambda w, s: {"w": w, "b": s.updates}), "with params/task/b, which this run has not"),
        (_own(lambda w, s: {}), "without params/task/w; this run has float32"),
        (_own(lambda w, s: {"w": None}), "without params/task/w"),
        (_own(lambda w, s: {"w": True}), "params/task/w as True"),
        (lambda s: None, "without params/task/w"),
        (tuple, "without params/task/w"),
    ],
)
def test_what_a_function_of_ones_own_returns_is_held_to_the_fresh_state(tmp_path, wrong, words):
    suite = tiny.suite()
    agent = tiny.toy_agent(suite.spec)
    with pytest.raises(ValueError, match=f"begin_from returned .*{words}"):
        train.run(tiny.RUN, suite, agent, tmp_path / "run", {}, begin_from=wrong)
    assert not (tmp_path / "run").exists()  # nothing is written


# -------------------------------------------------------------------------------- of a binary

CONFIG = dataclasses.replace(tiny.CONFIG, algorithm="a3c", final_learning_rate=1.0)
DISPATCH = 5 * tiny.T * tiny.E  # of one task


def go(folder, names, dispatches=1, source=None, config=CONFIG, **changes):
    """`experiments.distral` without its flags."""
    suite = named_suites.named(names)
    total = dispatches * DISPATCH * suite.spec.num_tasks
    run = tiny.run_config(total_env_steps=total, writers=(), **changes)
    settings = {"suite": SUITE + names, "permute_actions": None}
    distral_run.train_one("t", suite, settings, config, run, folder, begin_from=source)


def state_of(folder):
    settings, config = runs.read(folder)
    suite = runs.make_suite(settings)
    return runs.restore(folder, config, suite, agents.make(suite.spec, settings, 1))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of tasks a, b, c that has learnt something."""
    folder = tmp_path_factory.mktemp("source") / "run"
    with tiny.quick_compiles():
        go(folder, "a+b+c")
    return folder


@pytest.mark.slow
def test_a_run_begins_with_another_says_so_and_goes_on_without_it(source, tmp_path, capsys):
    gone = tmp_path / "gone"
    shutil.copytree(source, gone)
    go(tmp_path / "whole", "c+d", 2, str(gone))
    out = capsys.readouterr().out
    step, _ = state_of(source)
    assert f"Begins with step {step:,} of {gone}:" in out
    row = next(line for line in out.splitlines() if line.startswith("params/task/policy/kernel"))
    assert row.split() == ["params/task/policy/kernel", "c", "d", "a,", "b", "one", "a", "task"]
    saved = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert (saved["begin_from"], saved["begin_from_step"]) == (str(gone), step)

    # Stopped, and continued when the other run is gone, with the flag and without it.
    go(tmp_path / "broken", "c+d", 1, str(gone))
    shutil.rmtree(gone)
    capsys.readouterr()
    go(tmp_path / "broken", "c+d", 2)
    assert "Begins with" not in capsys.readouterr().out
    tiny.assert_trees_equal(state_of(tmp_path / "broken")[1], state_of(tmp_path / "whole")[1])
    with pytest.raises(ValueError, match=r"holds a run with begin_from='.*gone', this one has"):
        go(tmp_path / "broken", "c+d", 2, str(tmp_path / "x"))


def test_seeds_begin_with_one_run_each_or_all_with_one(source):
    suite = named_suites.named("b+c")
    _, old = state_of(source)
    config = tiny.run_config(num_seeds=2)
    settings = runs.settings_of(
        "distral", {"suite": SUITE + "b+c", "permute_actions": None}, config, CONFIG
    )
    found = of_binaries.beginning(str(source), source.parent / "new", suite.spec, settings, config)
    agent = distral.agent(suite.spec, CONFIG)
    fresh = jax.jit(jax.vmap(agent.init))(engines.root_key(config))
    state = found.state(fresh)
    kernel = np.asarray(old.params.task["policy"]["kernel"])[1:]
    for s in range(2):
        np.testing.assert_array_equal(state.params.task["policy"]["kernel"][s], kernel)
    tiny.assert_trees_equal(state.opt_state, fresh.opt_state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "nowhere"}, "--begin_from: nowhere: is not a directory"),
        ({"source": "empty"}, "--begin_from: empty: .*config.json is not a readable run"),
        ({"source": "own"}, "--begin_from: own is this run's own directory"),
        (
            {"config": {"algorithm": "kl_1col"}},
            "config/algorithm='a3c', this one has",
        ),
        ({"config": {"hidden": (8,)}}, r"config/hidden=\[4\], this one has \[8\]: its parameters"),
        ({"binary": "dqn"}, "is a run with binary='distral', this one has 'dqn'"),
        ({"num_actions": 3}, "is a run with num_actions=2, this one has 3"),
    ],
)
def test_what_cannot_begin_is_refused_in_one_sentence(source, tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    suite = named_suites.named("b+c")
    config = dataclasses.replace(CONFIG, **change.get("config", {}))
    spec = suite.spec._replace(num_actions=change.get("num_actions", suite.spec.num_actions))
    settings = runs.settings_of(
        change.get("binary", "distral"),
        {"suite": SUITE + "b+c", "permute_actions": None},
        tiny.RUN,
        config,
    )
    path = change.get("source", str(source))
    folder = tmp_path / ("own" if path == "own" else "new")
    if path == "own":
        shutil.copytree(source, "own")
    with pytest.raises(ValueError, match=words) as raised:
        of_binaries.beginning(path, folder, spec, settings, tiny.RUN)
    assert "\n" not in str(raised.value)
