"""NEC around its tables: targets, what is written, what a gradient step moves, devices, seeds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import engines, learner, replay
from mtrl_jax.algorithms import nec, q_network
from mtrl_jax.episodic import tables
from mtrl_jax.types import Timestep
from tests.machinery import tiny
from tests.machinery.test_dqn import make_rollout
from tests.machinery.test_ppo import go_on

K, E, T, A, P = 2, 8, 6, 2, 3
CONFIG = nec.Config(
    hidden=(4,),
    dim=3,
    capacity=60,
    neighbours=P,
    n_step=3,
    discount=0.9,
    unroll_length=T,
    write_rate=0.5,
    value_rate=0.1,
    key_rate=0.01,
    replay_size=300,
    min_replay=60,
    replay_ratio=1.0,
    batch_size=16,
    epsilon_steps=200,
    learning_rate=0.01,
    surgery="pcgrad",
)
SPEC = tiny.suite().spec._replace(observation_shape=(1,))


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@functools.cache
def made():
    agent = nec.agent(SPEC, CONFIG)
    return agent, jax.jit(agent.init)(jax.random.key(0)), jax.jit(agent.update)


@pytest.mark.parametrize("n", [1, 3, 50])
def test_targets_are_a_loops_and_an_end_is_not_bootstrapped_from(n):
    rows = make_rollout().timestep
    v = np.random.default_rng(5).normal(size=(T + 1, K, E)).astype(np.float32)
    config = dataclasses.replace(CONFIG, n_step=n)
    got = jax.jit(lambda rows, v: nec.targets(config, rows, v))(rows, v)
    rows = jax.tree.map(np.asarray, rows)
    ends = 0
    for k in range(K):
        for e in range(E):
            for t in np.flatnonzero(rows.valid[1:, k, e]):
                g, factor, m = 0.0, 1.0, t
                while m < min(t + n, T) and rows.valid[m + 1, k, e]:
                    g += factor * rows.reward[m + 1, k, e]
                    factor *= 0.9 * rows.discount[m + 1, k, e]
                    m += 1
                ends += factor == 0
                want = g + factor * v[m, k, e]
                np.testing.assert_allclose(got[t, k, e], want, rtol=2e-5, atol=1e-6)
    assert ends > 3


def test_every_row_is_written_with_the_key_that_the_network_made_of_it():
    _, fresh, update = made()
    experience = make_rollout()
    state, _ = update(fresh, experience)  # too early for gradient steps
    assert int(state.updates) == 0
    tiny.assert_trees_equal(state.params, fresh.params)
    parts, rows = nec.make_parts(SPEC, CONFIG), experience.timestep
    h = jax.vmap(lambda x: q_network.values(parts.net, fresh.params, x))(rows.observation)
    target = nec.targets(CONFIG, rows, jnp.zeros((T + 1, K, E)))  # empty tables say 0
    for k in range(K):
        for a in range(A):
            table = jax.tree.map(lambda x, k=k, a=a: np.asarray(x[k, a]), state.tables)
            used = tables.filled(table)
            mine = np.asarray(rows.valid[1:, k] & (experience.action[:, k] == a))
            want = np.asarray(h[:-1, k])[mine]
            got, values = table.keys[used], table.values[used]
            order = [int(np.abs(got - x).sum(1).argmin()) for x in want]
            assert len(got) == len(want) > 5 and sorted(order) == list(range(len(got)))
            np.testing.assert_allclose(got[order], want, rtol=1e-5)
            np.testing.assert_allclose(values[order], np.asarray(target[:, k])[mine], rtol=1e-5)
    stored = replay.take(state.replay, jnp.zeros((K, 1), jnp.int32))
    assert np.isfinite(stored.target).all()


def test_what_stands_on_reset_rows_changes_nothing():
    _, state, update = made()
    clean = make_rollout()
    rows = clean.timestep
    dirty = clean._replace(
        timestep=rows._replace(reward=jnp.where(rows.valid, rows.reward, jnp.nan))
    )
    a, b = (update(update(state, x)[0], x) for x in (clean, dirty))
    assert int(a[0].updates) > 0
    tiny.assert_trees_equal(a, b)


def test_a_gradient_step_moves_the_network_and_the_keys_and_values_that_were_read():
    _, fresh, update = made()
    state, _ = update(fresh, make_rollout())
    parts = nec.make_parts(SPEC, CONFIG)
    batch = replay.take(state.replay, jnp.arange(4)[None] * jnp.ones((K, 1), jnp.int32))
    batch = batch._replace(target=batch.target + 1.0)
    step = jax.jit(lambda *x: nec.gradient_step(parts, *x))
    (params, _, after), metrics = step(state.params, state.opt_state, state.tables, batch)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params.shared, state.params.shared)
    assert min(jax.tree.leaves(moved)) > 0
    h = np.asarray(q_network.values(parts.net, state.params, batch.observation), np.float64)
    for k in range(K):
        for a in range(A):
            before, now = (
                jax.tree.map(lambda x, k=k, a=a: np.asarray(x[k, a], np.float64), t)
                for t in (state.tables, after)
            )
            keys, values = before.keys.copy(), before.values.copy()
            used = np.flatnonzero(np.asarray(tables.filled(state.tables))[k, a])
            for b in np.flatnonzero(np.asarray(batch.action[k]) == a):
                apart = before.keys[used] - h[k, b]
                d2 = np.square(apart).sum(1)
                near = np.argsort(d2)[:P]
                kernel = 1.0 / (d2[near] + CONFIG.delta)
                w, v = kernel / kernel.sum(), before.values[used[near]]
                error = float(batch.target[k, b]) - w @ v
                values[used[near]] += CONFIG.value_rate * error * w
                # d w_i / d h_i = -2 (h_i - h) k_i w_i (1 - w_i), and so on for the others
                slope = -2 * apart[near] * (kernel * w * (v - w @ v))[:, None]
                keys[used[near]] += CONFIG.key_rate * error * slope
            np.testing.assert_allclose(now.values, values, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(now.keys, keys, rtol=1e-3, atol=1e-5)
    assert np.abs(np.asarray(after.keys - state.tables.keys)).max() > 1e-5
    assert (np.asarray(metrics["value/error"]) > 0).all()


def test_values_lie_between_those_that_were_read_and_an_empty_table_says_nothing():
    agent, fresh, update = made()
    state, _ = update(fresh, make_rollout())
    parts = nec.make_parts(SPEC, CONFIG)
    x = jnp.linspace(0.0, 50.0, 2 * 5).reshape(K, 5, 1)
    _, q, slot = nec.look(parts, state.params, state.tables, x)
    assert q.shape == (K, 5, A) and slot.shape == (K, 5, A, P) and (np.asarray(slot) >= 0).all()
    values = np.asarray(state.tables.values)
    read = values[np.arange(K)[:, None, None, None], np.arange(A)[None, None, :, None], slot]
    assert (np.asarray(q) <= read.max(-1) + 1e-5).all()
    assert (np.asarray(q) >= read.min(-1) - 1e-5).all()
    _, q, slot = nec.look(parts, fresh.params, fresh.tables, x)
    assert not np.asarray(q).any() and (np.asarray(slot) == -1).all()
    rows = jnp.zeros((K, 5))
    timestep = Timestep(x, rows, rows, rows > 0, rows > 0, rows > 0)
    keys = jax.random.split(jax.random.key(0), (K, 5))
    action, log_prob, _ = agent.act(agent.policy_params(fresh), (), timestep, keys)
    np.testing.assert_allclose(np.exp(log_prob), 0.5)  # epsilon begins at 1
    assert action.shape == (K, 5)


RUN = engines.RunConfig(total_env_steps=1, num_envs_per_task=8, updates_per_dispatch=3)


def ran(num_devices=1, num_seeds=1):
    run = dataclasses.replace(RUN, num_devices=num_devices, num_seeds=num_seeds)
    agent = nec.agent(tiny.suite().spec, CONFIG, collectives=learner.across(num_devices))
    return go_on(engines.make(run, tiny.suite(), agent), 2)


@pytest.mark.slow  # three whole programs
def test_eight_devices_and_seeds_make_the_updates_of_one():
    (one, rows), (eight, other), (two, _) = ran(), ran(8), ran(num_seeds=2)
    assert int(one["state"].updates) == 5 * 3
    tiny.assert_trees_equal(one["state"].replay.stored, eight["state"].replay.stored)
    tiny.assert_trees_close(one["state"].params, eight["state"].params, 2e-4)
    tiny.assert_trees_close(one["state"].tables.values, eight["state"].tables.values, 2e-3)
    tiny.assert_trees_close(rows, other, 2e-3)
    first = jax.tree.map(lambda x: x[0], two["state"])
    tiny.assert_trees_close(first.params, one["state"].params, 2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neighbours": 61}, "neighbours must not exceed capacity = 60; got 61"),
        ({"surgery": "famo"}, "surgery 'famo' follows the size"),
        ({"network": "deep"}, "network must be one of blind, onehot"),
        ({"delta": 0.0}, "delta must be above 0"),
        ({"dim": 5000}, "dim must be at most 4096; got 5000"),
    ],
)
def test_bad_numbers_name_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        nec.check(SPEC, dataclasses.replace(CONFIG, **changes))
    with pytest.raises(ValueError, match="discrete actions for NEC"):
        nec.check(SPEC._replace(action_size=2), CONFIG)
