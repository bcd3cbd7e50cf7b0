"""The update of PPO: advantages against NumPy, devices, resume, gradients, the early stop."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import engines, learner, rollout
from mtrl_jax.algorithms import ppo
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


def values_of(params, returns, moments, observation, k):
    """The critic in NumPy: an MLP on the normalised input and a one-hot number."""
    x = np.clip((observation - moments.mean[k]) / np.sqrt(moments.variance[k]), -10.0, 10.0)
    x = np.concatenate([x, np.broadcast_to(np.eye(K)[k], (*x.shape[:-1], K))], -1)
    x = np.tanh(x @ params["dense0"]["kernel"] + params["dense0"]["bias"])
    out = (x @ params["out"]["kernel"] + params["out"]["bias"])[..., 0]
    return returns.mean[k] + np.sqrt(returns.variance[k]) * out


def test_advantages_targets_and_weights_are_numpys():
    parts, state, _ = made()
    returns = state.returns._replace(
        mean=jnp.array([2.0, -30.0]),
        variance=jnp.array([4.0, 900.0]),
        batches=jnp.full(K, 3, jnp.int32),
    )
    prepare = jax.jit(lambda state, rows: ppo.prepare(parts, state, rows))
    after, samples, metrics = prepare(state._replace(returns=returns), make_rollout())

    def plain(tree):
        return jax.tree.map(np.asarray, tree)

    params, returns, seen_now, seen_returns, samples, metrics = plain(
        (
            state.params.shared["critic"],
            returns,
            after.observations,
            after.returns,
            samples,
            metrics,
        )
    )
    rows = make_rollout().timestep
    seen = rows.observation[:-1].astype(np.float64)
    np.testing.assert_allclose(seen_now.mean, seen.mean((0, 2)), atol=1e-6)
    np.testing.assert_allclose(seen_now.variance, seen.var((0, 2)), rtol=1e-5)
    for k in range(K):
        v = values_of(params, returns, seen_now, rows.observation[:, k], k)
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
    rows = np.asarray(ppo.minibatch_rows(CONFIG, 5, jax.random.key(0)))
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


def test_the_policy_that_acted_is_the_one_that_learns_at_first():
    suite, (parts, state, _) = aim(), made(statistics="none")

    def act(*args):
        return (*ppo.act(parts, args[0], args[2].observation, args[3]), ())

    index = jnp.asarray(rollout.env_indices(K, E))
    loop = rollout.init_env_loop(suite, jax.random.key(1), index, lambda n: ())

    @jax.jit
    def play_and_prepare(state, loop):
        policy = ppo.Policy(state.params, state.observations)
        _, rows = rollout.unroll(suite, act, policy, loop, jax.random.key(2), T)
        return rows, ppo.prepare(parts, state, rows)[1]

    rows, samples = play_and_prepare(state, loop)
    np.testing.assert_allclose(samples.data.importance, 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        samples.data.proximal_log_prob, np.moveaxis(rows.log_prob, 1, 0), atol=1e-5
    )


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


def test_images_are_refused():
    spec = aim().spec._replace(observation_shape=(3, 84, 84), observation_dtype=np.uint8)
    with pytest.raises(ValueError, match="must be a vector; got an image"):
        ppo.agent(spec, CONFIG)
