"""The update of PPO: advantages against NumPy, devices, resume, gradients, the early stop."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import engines, learner, normalisers
from mtrl_jax.algorithms import ppo, ppo_samples
from mtrl_jax.envs import suites
from mtrl_jax.types import Agent, Rollout, Timestep
from tests.machinery import tiny
from tests.probes.test_ppo_probes import aim

K, T, E = 2, 8, 8
CONFIG = ppo.Config(
    hidden=(4,),
    unroll_length=T,
    epochs=2,
    minibatches=2,
    learning_rate=0.01,
    discount=0.9,
    lambda_=0.8,
    surgery="pcgrad",
    statistics="task",
    target_kl=0.0,
    return_memory=0.5,
)
EARLY = {"network": "separate", "target_kl": 1e-6}
RUN = engines.RunConfig(total_env_steps=1, num_envs_per_task=E, updates_per_dispatch=3)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def make_rollout(seed=0):
    """Random rows with ends (true ones and cut ones) in them, and what follows an end."""
    rng = np.random.default_rng(seed)
    first = rng.random((T + 1, K, E)) < 0.2
    first[0, 0] = True
    valid = ~first
    ended = np.zeros_like(first)
    ended[:-1] = first[1:]
    true_end = ended & (rng.random(first.shape) < 0.5) & valid
    reward = rng.normal(size=(T + 1, K, E)) * np.array([1, 50])[:, None]
    timestep = Timestep(
        observation=rng.normal(size=(T + 1, K, E, 1)).astype(np.float32),
        reward=reward.astype(np.float32),
        discount=1.0 - true_end.astype(np.float32),
        first=first,
        valid=valid,
        success=np.zeros_like(first),
    )
    action = rng.normal(size=(T, K, E, 1)).astype(np.float32)
    return Rollout(timestep, action, rng.normal(-1, 0.3, (T, K, E)).astype(np.float32), ())


@functools.cache
def made(**changes):
    config = dataclasses.replace(CONFIG, **changes)
    spec = aim().spec
    agent = ppo.agent(spec, config)
    state = jax.jit(agent.init)(jax.random.key(0))
    update = jax.jit(lambda state, rows: agent.update(state, rows))
    return ppo.make_parts(spec, config, 0), state, update


def values_of(params, own, returns, moments, observation, k):
    """The critic in NumPy: an MLP on the normalised input and a one-hot number."""
    x = np.clip((observation - moments.mean[k]) / np.sqrt(moments.variance[k]), -10.0, 10.0)
    x = np.concatenate([x, np.broadcast_to(np.eye(K)[k], (*x.shape[:-1], K))], -1)
    x = np.tanh(x @ params["dense0"]["kernel"] + params["dense0"]["bias"])
    out = (x @ params["out"]["kernel"] + params["out"]["bias"])[..., 0]
    out = 2.0 * (own["scale"][k] * out + own["shift"][k])  # the root of four hidden units
    return returns.mean[k] + np.sqrt(returns.variance[k]) * out


def test_advantages_targets_and_weights_are_numpys():
    parts, state, _ = made()
    returns = state.returns._replace(
        mean=jnp.array([2.0, -30.0]),
        variance=jnp.array([4.0, 900.0]),
        batches=jnp.full(K, 3, jnp.int32),
    )
    moments = normalisers.Moments(
        jnp.array([[0.3], [-0.2]]), jnp.array([[4.0], [0.5]]), jnp.full((K, 1), 3, jnp.int32)
    )
    own = state.params.task["critic"] | {"scale": jnp.array([0.5, 2.0]), "shift": jnp.ones(K)}
    before = state.params._replace(task=state.params.task | {"critic": own})
    prepare = jax.jit(lambda *args: ppo_samples.prepare(parts.numbers, *args))
    prepared = prepare(before, moments, returns, make_rollout())
    moments, returns, before, (after, seen_returns, samples, metrics) = jax.tree.map(
        np.asarray, (moments, returns, before, prepared)
    )
    params, rows = before.shared["critic"], make_rollout().timestep
    for k in range(K):
        args = moments, rows.observation[:, k], k
        v = values_of(params, before.task["critic"], returns, *args)
        # In units of reward what the critic says is what it said; in the new moments', not.
        kept = values_of(after.shared["critic"], after.task["critic"], seen_returns, *args)
        np.testing.assert_allclose(kept, v, rtol=1e-5, atol=1e-5)
        jumped = values_of(params, before.task["critic"], seen_returns, *args)
        assert np.abs(jumped - v).min() > 0.1
        advantage = np.zeros((T, E))
        for e in range(E):
            running = 0.0
            for t in reversed(range(T)):
                if not rows.valid[t + 1, k, e]:
                    running = 0.0  # between two episodes
                    continue
                discount = 0.9 * rows.discount[t + 1, k, e]
                delta = rows.reward[t + 1, k, e] + discount * v[t + 1, e] - v[t, e]
                running = delta + discount * 0.8 * running
                advantage[t, e] = running
        valid = rows.valid[1:, k]
        kept = advantage[valid]
        want = np.where(valid, (advantage - kept.mean()) / kept.std(), 0.0)
        np.testing.assert_allclose(samples.data.advantage[k], want, atol=2e-4)
        target = (advantage + v[:-1])[valid]
        np.testing.assert_allclose(metrics["value/mean"][k], target.mean(), rtol=1e-4)
        mixed = 0.5 * returns.mean[k] + 0.5 * target.mean()  # the fourth batch counts half
        np.testing.assert_allclose(seen_returns.mean[k], mixed, rtol=1e-4)
        scaled = (advantage + v[:-1] - mixed) / np.sqrt(seen_returns.variance[k])
        np.testing.assert_allclose(samples.data.v_target[k][valid], scaled[valid], atol=2e-3)
        np.testing.assert_allclose(samples.data.weight[k], valid / valid.mean(), rtol=1e-5)
        explained = 1 - kept.var() / target.var()
        np.testing.assert_allclose(metrics["value/explained"][k], explained, atol=1e-3)


def test_moments_of_observations_move_when_the_update_is_over():
    _, state, update = made()
    rows = make_rollout()
    after, _ = update(state, rows)
    later, _ = update(after, make_rollout(1))
    for k in range(K):
        several = (rows, make_rollout(1))
        seen = [r.timestep.observation[:-1, k][r.timestep.valid[1:, k]] for r in several]
        np.testing.assert_allclose(after.observations.mean[k], seen[0].mean(0), atol=1e-6)
        np.testing.assert_allclose(after.observations.variance[k], seen[0].var(0), rtol=1e-5)
        mean = (seen[0].mean(0) + seen[1].mean(0)) / 2
        np.testing.assert_allclose(later.observations.mean[k], mean, atol=1e-6)


@pytest.mark.parametrize("statistics", ["task", "shared"])
def test_a_task_without_a_valid_step_moves_no_moments(statistics):
    """After two rollouts, the second without task 1: its moments and units are those of before, to
    the bit, and the other's those of a rollout in which task 1 played elsewhere."""
    _, state, update = made(statistics=statistics)
    state, _ = update(state, make_rollout())
    rows = make_rollout(1)
    nobody = np.arange(K)[:, None] == 1
    timestep = rows.timestep._replace(
        valid=rows.timestep.valid & ~nobody,
        observation=np.where(nobody[..., None], 1e6, rows.timestep.observation).astype(np.float32),
        reward=np.where(nobody, np.nan, rows.timestep.reward),
    )
    after, metrics = update(state, rows._replace(timestep=timestep))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after.params, metrics)))
    tiny.assert_trees_equal(*(jax.tree.map(lambda x: x[1], s.returns) for s in (state, after)))
    assert (after.returns.mean[0] != state.returns.mean[0]).all()
    moved = np.asarray(after.observations.mean != state.observations.mean)[:, 0]
    counted = timestep.observation[:-1, 0][timestep.valid[1:, 0]]
    want = state.observations.mean[0] / 2 + counted.mean() / 2
    np.testing.assert_allclose(after.observations.mean[0], want, rtol=1e-5)
    assert moved.tolist() == [True, statistics == "shared"]


def _params(state):
    return [np.asarray(x) for x in jax.tree.leaves(state.params)]


def test_what_stands_on_reset_rows_changes_nothing():
    _, state, update = made()
    rows = make_rollout()
    dirty = np.where(rows.timestep.valid, rows.timestep.reward, np.nan)
    gamma = np.where(rows.timestep.valid, rows.timestep.discount, 7.0).astype(np.float32)
    nowhere = ~rows.timestep.valid[1:]  # an action chosen on the row before a reset row
    action = np.where(nowhere[..., None], 1e6, rows.action).astype(np.float32)
    log_prob = np.where(nowhere, np.nan, rows.log_prob)
    timestep = rows.timestep._replace(reward=dirty, discount=gamma)
    clean, metrics = update(state, rows)
    other, other_metrics = update(state, Rollout(timestep, action, log_prob, ()))
    moved = [np.abs(a - b).max() for a, b in zip(*map(_params, (state, clean)), strict=True)]
    assert min(moved) > 1e-4
    tiny.assert_trees_equal(clean.params, other.params)
    tiny.assert_trees_equal(metrics, other_metrics)


def test_every_time_step_once_an_epoch_and_other_ones_for_each_task():
    rows = np.asarray(ppo_samples.minibatch_rows((2, 2, 5, T), jax.random.key(0)))
    assert rows.shape == (4, 5, T // 2)
    epochs = rows.reshape(2, 2, 5, -1)
    for epoch in epochs:
        for k in range(5):
            assert sorted(epoch[:, k].ravel()) == list(range(T))
    assert len({tuple(epochs[0, :, k].ravel()) for k in range(5)}) == 5
    assert (epochs[0] != epochs[1]).any()


@functools.cache
def engine_of(num_devices):
    suite = aim()
    config = dataclasses.replace(RUN, num_devices=num_devices)
    agent = ppo.agent(suite.spec, CONFIG, collectives=learner.across(num_devices))
    return engines.make(config, suite, agent)


@functools.cache
def run(num_devices, dispatches=2):
    return go_on(engine_of(num_devices), dispatches)


def go_on(engine, dispatches, load=None, start=0):
    carry, rows = engine.start() if load is None else engine.load(load), []
    for n in range(start, dispatches):
        carry, values = engine.advance(carry, n * engine.updates)
        rows.append(values)

    def is_key(x):
        return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)

    def copy(x):
        return x if is_key(x) else np.array(x)

    return jax.tree.map(copy, engine.save(carry)), rows


@pytest.mark.slow
def test_eight_devices_make_the_update_of_one():
    one, rows = run(1)
    eight, other = run(8)
    fresh, _ = run(1, 0)
    moved = zip(_params(fresh["state"]), _params(one["state"]), strict=True)
    assert min(np.abs(a - b).max() for a, b in moved) > 1e-3
    tiny.assert_trees_close(one["state"], eight["state"], 1e-4)
    tiny.assert_trees_close(one["loop"], eight["loop"], 1e-4)
    tiny.assert_trees_close(rows, other, 1e-3)


def test_nothing_compiles_after_the_first_dispatch():
    engine = engine_of(1)
    carry, _ = engine.advance(engine.start(), 0)
    names = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *a, **kw: names.append(name))
    carry, _ = engine.advance(carry, engine.updates)
    engine.advance(carry, 2 * engine.updates)
    assert not [name for name in names if name.endswith("backend_compile_duration")]


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit():
    whole, rows = run(1)
    half, _ = run(1, 1)
    rest, other = go_on(engine_of(1), 2, load=half, start=1)
    tiny.assert_trees_equal(whole, rest)
    tiny.assert_trees_equal(rows[1], other[0])


@pytest.mark.parametrize("overlap", [True, False])
def test_the_pool_is_one_policy_behind_or_not_at_all(overlap):
    """An agent that counts its updates and acts with "log-probabilities" that say the count."""

    def act(policy, actor_state, timestep, keys, **_):
        log_prob = jnp.full(keys.shape, policy["count"], jnp.float32)
        return jnp.zeros(keys.shape, jnp.int32), log_prob, actor_state

    def update(state, rows):
        return {"count": state["count"] + 1}, {"seen": rows.log_prob.mean()}

    agent = Agent(
        init=lambda key: {"count": jnp.zeros((), jnp.float32)},
        init_actor=lambda n: (),
        policy_params=lambda state: state,
        act=act,
        update=update,
        unroll_length=2,
        has_distilled=False,
        overlap=overlap,
    )
    engine = engines.make(RUN, tiny.host_suite(), agent)
    carry, seen = engine.start(), []
    for u in range(4):
        carry, values = engine.advance(carry, u)
        seen += [values["seen"]] if values else []
    carry, values = engine.flush(carry)
    engine.close(carry)
    want = [0, 0, 1, 2] if overlap else [0, 1, 2, 3]
    np.testing.assert_array_equal(np.concatenate([*seen, values["seen"]]), want)


def test_an_update_stops_when_the_policy_has_moved_too_far():
    rows = make_rollout()
    for steps, changes in ((4, {}), (2, EARLY)):  # the first sees no change, the second does
        _, state, update = made(**changes)
        after, metrics = update(state, rows)
        assert metrics["policy/steps"] == steps
        leaves = jax.tree.leaves_with_path(after.opt_state)
        counts = [x for path, x in leaves if str(path[-1]) in (".count", ".step")]
        assert counts and {int(np.max(x)) for x in counts} == {steps}


def test_a_tasks_own_parameters_see_that_task_only():
    _, state, update = made(**EARLY)
    rows = make_rollout()
    reward = rows.timestep.reward * np.array([1.0, 3.0], np.float32)[:, None]
    shift = np.array([0, 1], np.float32)[:, None, None]
    timestep = rows.timestep._replace(
        reward=reward, observation=rows.timestep.observation + shift * rows.timestep.observation**2
    )
    a, b = (update(state, r)[0] for r in (rows, rows._replace(timestep=timestep)))
    assert not a.params.shared
    differ = jax.tree.map(
        lambda x, y: np.abs(x - y).reshape(K, -1).max(1), a.params.task, b.params.task
    )
    assert all(leaf[0] == 0.0 for leaf in jax.tree.leaves(differ))
    assert max(leaf[1] for leaf in jax.tree.leaves(differ)) > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surgery": "famo"}, r"famo.*positive losses.*pcgrad"),
        ({"surgery": "nope"}, "surgery must be one of"),
        ({"network": "nope"}, "network must be one of onehot"),
        ({"activation": "nope"}, "activation must be one of"),
        ({"hidden": ()}, "hidden must hold"),
        ({"minibatches": 3}, "minibatches must divide unroll_length = 8; got 3"),
        ({"initial_std": 3.0}, "initial_std must lie in"),
        ({"lambda_": 1.5}, "lambda_ must lie in"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"target_kl": -1.0}, "target_kl must not be negative"),
        ({"statistics": "all"}, "statistics must be one of task"),
    ],
)
def test_bad_configs_are_refused_before_anything_runs(change, message):
    with pytest.raises(ValueError, match=message):
        agent = ppo.agent(aim().spec, dataclasses.replace(CONFIG, **change))
        jax.eval_shape(agent.init, jax.random.key(0))


def test_images_go_through_a_torso_of_each_network():
    spec = suites.make("rooms").spec
    agent = ppo.agent(spec, dataclasses.replace(CONFIG, hidden=(8,)))
    state = jax.eval_shape(agent.init, jax.random.key(0))
    for name in ("actor", "critic"):
        parts = state.params.shared[name]
        assert set(parts["torso"]) == {"conv0", "conv1", "conv2"}
        assert parts["net"]["dense0"]["kernel"].shape[0] in (256, 256 + spec.num_tasks)
    rows = jax.ShapeDtypeStruct((2, 3, *spec.observation_shape), spec.observation_dtype)
    policy = agent.policy_params(state)
    timestep = Timestep(rows, None, None, None, None, None)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (2, 3)))
    action, log_prob, _ = jax.eval_shape(agent.act, policy, (), timestep, keys)
    assert action.shape == log_prob.shape == (2, 3) and action.dtype == np.int32


def test_images_behind_separate_networks_are_refused():
    spec = aim().spec._replace(observation_shape=(3, 84, 84), observation_dtype=np.uint8)
    with pytest.raises(ValueError, match="'separate' shares nothing, but the torso of images"):
        ppo.agent(spec, dataclasses.replace(CONFIG, network="separate"))
