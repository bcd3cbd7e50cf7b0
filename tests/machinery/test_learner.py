"""One device or eight, tasks in any order, together or alone: the same updates, compiled once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import engines, learner
from mtrl_jax.algorithms import distral
from tests.machinery import tiny

DISPATCHES = 4  # of five updates


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


_compilations: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **kwargs: (
        _compilations.append(name) if name.endswith("backend_compile_duration") else None
    )
)


def build(suite=None, config=tiny.CONFIG, **run):
    suite = suite or tiny.suite()
    run_config = tiny.run_config(**run)
    collectives = learner.across(run_config.num_devices)
    agent = distral.agent(suite.spec, config, collectives=collectives)
    return engines.make(run_config, suite, agent)


def advance(engine, carry, dispatches=DISPATCHES):
    """The carry after so many dispatches, and the metrics of all updates."""
    rows = []
    for n in range(dispatches):
        carry, values = engine.advance(carry, n * engine.updates)
        rows += [values] * bool(values)
    carry, values = engine.flush(carry)
    rows += [values] * bool(values)
    return carry, jax.tree.map(lambda *x: np.concatenate(x), *rows)


def _but_the_record(tree):
    # An update does not read surgery's record of the last one, and what is not read is not donated.
    leaves = jax.tree.leaves_with_path(tree)
    return [x for path, x in leaves if ".record." not in jax.tree_util.keystr(path)]


@functools.cache
def functional_run(num_devices):
    """Tree at the start, tree after twenty updates, their metrics, and what was seen on the way."""
    engine = build(num_devices=num_devices)
    carry = engine.start()
    start = jax.tree.map(np.array, engine.save(carry))
    carry, first = advance(engine, carry, 1)
    engine.save(carry)
    compiled = len(_compilations)
    donated = _but_the_record(carry)
    end, rest = advance_from(engine, carry, 1, DISPATCHES)
    seen = {
        "compiled before": compiled,
        "compiled after": len(_compilations) - compiled,
        "deleted": [x.is_deleted() for x in donated],
        "agree": [np.asarray(x) for x in jax.tree.leaves(end[0])],
    }
    metrics = jax.tree.map(lambda a, b: np.concatenate([a, b]), first, rest)
    return start, jax.tree.map(np.array, engine.save(end)), metrics, seen


def advance_from(engine, carry, begin, end):
    rows = []
    for n in range(begin, end):
        carry, values = engine.advance(carry, n * engine.updates)
        rows.append(values)
    return carry, jax.tree.map(lambda *x: np.concatenate(x), *rows)


@functools.cache
def host_run(num_devices, updates=20):
    suite = tiny.host_suite()
    engine = build(suite, num_devices=num_devices)
    carry = engine.start()
    carry, _ = engine.advance(carry, 0)
    carry, _ = engine.advance(carry, 1)
    compiled = len(_compilations)
    donated = _but_the_record(carry.state)
    rows = []
    for u in range(2, updates):
        carry, values = engine.advance(carry, u)
        rows.append(values)
    carry, values = engine.flush(carry)
    state = jax.tree.map(np.array, engine.state(carry))
    seen = {
        "compiled before": compiled,
        "compiled after": len(_compilations) - compiled,
        "deleted": [x.is_deleted() for x in donated],
    }
    engine.close(carry)
    return state, jax.tree.map(lambda *x: np.concatenate(x), *rows, values), seen


RUNS = {"functional": functional_run, "host": host_run}


@pytest.mark.parametrize("num_devices", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_functional_path_does_not_depend_on_the_number_of_devices(num_devices):
    start, end, metrics, _ = functional_run(1)
    _, other, other_metrics, seen = functional_run(num_devices)
    moved = [np.abs(a - b).max() for a, b in zip(*map(_params, (start, end)), strict=True)]
    assert min(moved) > 1e-3  # twenty updates did something everywhere
    tiny.assert_trees_close(end["state"], other["state"], 1e-5)
    tiny.assert_trees_close(end["loop"], other["loop"], 1e-5)  # the same episodes were played
    assert metrics["loss/total"].shape == (20, tiny.K)
    tiny.assert_trees_close(metrics, other_metrics, 1e-4)
    for leaf in seen["agree"]:  # replicas hold the same bits
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))


def _params(tree):
    return jax.tree.leaves(tree["state"].params)


@pytest.mark.parametrize("num_devices", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_host_path_does_not_depend_on_the_number_of_devices(num_devices):
    state, metrics, _ = host_run(1)
    other, other_metrics, _ = host_run(num_devices)
    assert metrics["episode/count"].sum() > 0
    tiny.assert_trees_close(state, other, 1e-5)
    tiny.assert_trees_close(metrics, other_metrics, 1e-4)


@pytest.mark.parametrize("path", RUNS)
def test_nothing_compiles_after_the_first_update(path):
    *_, seen = RUNS[path](2)
    assert seen["compiled before"] > 0
    assert seen["compiled after"] == 0


@pytest.mark.parametrize("path", RUNS)
def test_learner_state_is_donated(path):
    *_, seen = RUNS[path](2)
    assert len(seen["deleted"]) > 10
    assert all(seen["deleted"])


@pytest.mark.slow
@pytest.mark.parametrize("path", RUNS)
def test_many_updates_on_eight_devices_end(path):
    # Guards a loop that does not wait: jax 0.10 ends the process at some fifty updates in flight.
    if path == "functional":
        engine = build(num_devices=8)
    else:
        engine = build(tiny.host_suite(), num_devices=8)
    _, metrics = advance(engine, engine.start(), 120)
    assert metrics["loss/total"].shape == (120 * engine.updates, tiny.K)
    assert np.isfinite(metrics["loss/total"]).all()


def test_permuting_tasks_permutes_everything():
    start, end, metrics, _ = functional_run(1)

    def flip(tree):
        return jax.tree.map(lambda x: np.asarray(x)[::-1], tree)

    state = start["state"]
    permuted = {
        "state": state._replace(
            params=state.params._replace(task=flip(state.params.task)),
            opt_state=state.opt_state._replace(task=flip(state.opt_state.task)),
        ),
        "loop": flip(start["loop"]),  # with the numbers of the environments
    }
    engine = build(tiny.suite((1.0, 0.0)))
    carry, other_metrics = advance(engine, engine.load(permuted))
    other = engine.save(carry)
    want = end["state"]
    tiny.assert_trees_close(other["state"].params.shared, want.params.shared, 1e-5)
    tiny.assert_trees_close(other["state"].params.task, flip(want.params.task), 1e-5)
    tiny.assert_trees_close(other["loop"], flip(end["loop"]), 1e-5)
    names = [name for name, x in metrics.items() if x.ndim == 2]
    assert "loss/total" in names and "episode/return" in names
    tiny.assert_trees_close(
        {name: other_metrics[name] for name in names},
        {name: metrics[name][:, ::-1] for name in names},
        1e-4,
    )


def test_separate_tasks_equal_runs_of_one_task_each():
    # All parameters are shared ones, so nothing but `separate` keeps the tasks apart.
    one_column = dataclasses.replace(tiny.CONFIG, algorithm="a3c_multitask")
    engine = build(config=dataclasses.replace(one_column, separate=True))
    carry = engine.start()
    start = jax.tree.map(np.array, engine.save(carry))
    carry, metrics = advance(engine, carry)
    end = engine.save(carry)
    for k, flip in enumerate((0.0, 1.0)):
        alone = build(tiny.suite((flip,)), one_column)
        one = {
            "state": jax.tree.map(lambda x, k=k: x[k], start["state"]),
            "loop": jax.tree.map(lambda x, k=k: x[k : k + 1], start["loop"]),
        }
        carry, own_metrics = advance(alone, alone.load(one))
        own = alone.save(carry)
        tiny.assert_trees_close(own["state"], jax.tree.map(lambda x, k=k: x[k], end["state"]), 1e-5)
        np.testing.assert_allclose(
            own_metrics["loss/total"][:, 0], metrics["loss/total"][:, k], 0, 1e-5
        )


def test_several_seeds_equal_runs_of_one_seed_each():
    suite = tiny.suite()
    agent = tiny.toy_agent(suite.spec)
    together = engines.make(tiny.run_config(num_seeds=3), suite, agent)
    carry, metrics = advance(together, together.start())
    state = together.state(carry)
    for n in range(3):
        engine = engines.make(tiny.run_config(seed=n), suite, agent)
        carry, own = advance(engine, engine.start())
        tiny.assert_trees_close(engine.state(carry), jax.tree.map(lambda x, n=n: x[n], state), 1e-5)
        tiny.assert_trees_close(own, jax.tree.map(lambda x, n=n: x[:, n], metrics), 1e-4)
    spread = jnp.stack([x.std(0).max() for x in jax.tree.leaves(state.params)])
    assert spread.min() > 1e-3  # not three times the same run


def test_a_missing_device_is_refused():
    with pytest.raises(ValueError, match="got 9"):
        learner.local_devices(9)
    with pytest.raises(ValueError, match="num_envs_per_task must be a multiple of 3"):
        engines.check(tiny.run_config(num_devices=3), tiny.suite())


def test_shard_and_replicate_are_undone():
    devices = learner.local_devices(4)
    x = np.arange(2 * 8 * 3).reshape(2, 8, 3)
    sharded = learner.shard({"x": x}, devices, axis=1)
    assert sharded["x"].shape == (4, 2, 2, 3)
    np.testing.assert_array_equal(sharded["x"][1], x[:, 2:4])
    np.testing.assert_array_equal(learner.unshard(sharded, axis=1)["x"], x)
    key = jax.random.key(5)
    copies = learner.replicate({"x": x, "key": key}, devices)
    assert copies["x"].shape == (4, 2, 8, 3)
    tiny.assert_trees_equal(learner.first(copies), {"x": jnp.asarray(x), "key": key})


def test_collectives_are_numpys_and_nothing_on_one_device():
    x = np.random.default_rng(0).normal(size=(4, 3, 8)).astype(np.float32)  # [D, ...]
    devices, four = learner.local_devices(4), learner.across(4)

    def all_of(collectives, x):
        everything = collectives.gather(x, 1)
        return {
            "mean": collectives.mean({"x": x})["x"],
            "sum": collectives.sum(x),
            "gather": everything,
            "back": collectives.scatter(everything, 1),
            "scatter": collectives.scatter((x,), 1)[0],
        }

    got = jax.device_get(learner.pmap(lambda x: all_of(four, x), devices)(x))
    want = {
        "mean": np.stack([x.mean(0)] * 4),
        "sum": np.stack([x.sum(0)] * 4),
        "gather": np.stack([np.concatenate(list(x), axis=1)] * 4),
        "back": x,
        "scatter": np.stack([x[d, :, 2 * d : 2 * d + 2] for d in range(4)]),
    }
    tiny.assert_trees_close(got, want, 1e-6)
    assert [learner.across(n).size for n in (4, 0, 1)] == [4, 8, 1] and learner.ALONE.size == 1
    tiny.assert_trees_equal(all_of(learner.ALONE, x), dict.fromkeys(want, x))


@pytest.mark.parametrize(("made_for", "run_on"), [(1, 8), (8, 1), (2, 8)])
def test_an_agent_of_another_number_of_devices_is_refused(made_for, run_on):
    agent = distral.agent(tiny.suite().spec, tiny.CONFIG, collectives=learner.across(made_for))
    for suite in (tiny.suite(), tiny.host_suite()):
        with pytest.raises(ValueError, match=f"^agent .* {run_on} devices .* of {made_for}$"):
            engines.make(tiny.run_config(num_devices=run_on), suite, agent)


def test_repeat_makes_as_many_steps_as_it_is_asked_for_and_no_others():
    made = []

    def step(x, i):
        jax.debug.callback(lambda i: made.append(int(i)), i)
        return 2.0 * x + i, {"x": x, "i": i.astype(jnp.float32)}

    repeat = jax.jit(lambda x, count: learner.repeat(step, x, count))
    for count, x, mean in ((0, 1.0, 0.0), (1, 2.0, 1.0), (3, 12.0, (1 + 2 + 5) / 3)):
        made.clear()
        got, metrics = jax.block_until_ready(repeat(jnp.float32(1.0), jnp.int32(count)))
        jax.effects_barrier()
        assert sorted(made) == list(range(count)) and got == x
        np.testing.assert_allclose(metrics["x"], mean, rtol=1e-6)
        np.testing.assert_allclose(metrics["i"], max(count - 1, 0) / 2)


def test_repeat_of_several_seeds_makes_each_ones_own_number_of_steps():
    def step(x, i):
        return x + 1.0, {"x": x}

    counts = jnp.array([0, 2, 5])
    got, metrics = jax.vmap(lambda n: learner.repeat(step, jnp.float32(0.0), n))(counts)
    np.testing.assert_array_equal(got, counts)
    np.testing.assert_allclose(metrics["x"], [0.0, 0.5, 2.0])
