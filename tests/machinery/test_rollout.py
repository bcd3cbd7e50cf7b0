"""Both paths fill one record; what lies behind an episode's end teaches nothing."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import rollout
from mtrl_jax.algorithms import distral
from mtrl_jax.types import Timestep
from tests.machinery import tiny

K, E, T = tiny.K, tiny.E, tiny.T
LSTM = dataclasses.replace(tiny.CONFIG, core="lstm", core_size=4)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


# ---------------------------------------------------------------------------------- the two paths


@functools.cache
def toy():
    agent = tiny.toy_agent(tiny.suite().spec)
    return agent, rollout.act_at(agent.act)


@functools.cache
def unrolled(seed):
    """A rollout of the functional path, and the loop after it."""
    agent, _ = toy()
    suite, key = tiny.suite(), jax.random.key(seed)
    loop = rollout.init_env_loop(suite, key, jnp.asarray(index()), agent.init_actor)
    policy = agent.policy_params(agent.init(key))
    run = jax.jit(lambda policy, loop, key: rollout.unroll(suite, agent.act, policy, loop, key, T))
    loop, first = run(policy, loop, key)
    return jax.tree.map(np.array, (loop, first))


def index():
    return rollout.env_indices(K, E)


def collected(seed, num_groups):
    agent, _ = toy()

    def act(policy, actor_state, timestep, keys):
        pair = jax.vmap(jax.vmap(jax.random.split))(keys)
        return agent.act(policy, actor_state, timestep, pair[..., 0])

    key = jax.random.key(seed)
    pool = tiny.FunctionalPool(tiny.suite(), E, key, num_groups)
    loop = rollout.init_host_loop(pool, E, agent.init_actor)
    policy = agent.policy_params(agent.init(key))
    return rollout.collect(pool, rollout.act_at(act), policy, loop, key, index(), T)


@pytest.mark.parametrize("num_groups", [1, 2])
def test_both_paths_fill_the_same_rollout(num_groups):
    loop, want = unrolled(3)
    host_loop, got = collected(3, num_groups)
    assert got.timestep.observation.shape == (T + 1, K, E, 2)
    assert got.action.shape == got.log_prob.shape == (T, K, E)
    assert want.timestep.first.any() and want.action.any() and not want.action.all()
    assert [x.dtype for x in jax.tree.leaves(got)] == [x.dtype for x in jax.tree.leaves(want)]
    tiny.assert_trees_close(got._replace(log_prob=()), want._replace(log_prob=()), 0.0)
    np.testing.assert_allclose(got.log_prob, want.log_prob, 0, 1e-6)
    # The last row is where the next rollout begins.
    last = jax.tree.map(lambda *x: np.concatenate(x, 1), *host_loop.timestep)
    tiny.assert_trees_equal(last, loop.timestep)


def test_streams_belong_to_environments_not_to_their_places():
    # Guards keys split by position: a device with the second half of the environments would
    # repeat the first half's draws, or draw others than one device with all of them.
    whole = rollout.step_keys(jax.random.key(0), 2, index())
    half = rollout.step_keys(jax.random.key(0), 2, index()[:, E // 2 :])
    tiny.assert_trees_equal(whole[:, E // 2 :], half)
    data = np.asarray(jax.random.key_data(whole)).reshape(K * E, -1)
    assert len(np.unique(data, axis=0)) == K * E


def test_host_rollout_shares_no_memory_with_the_pool():
    # Guards device arrays that alias NumPy memory which the pool writes into later.
    _, got = collected(3, 1)
    rows = [*jax.tree.leaves(got.timestep), got.action, got.log_prob]
    assert all(isinstance(x, np.ndarray) and x.flags.owndata for x in rows)


# ------------------------------------------------------------------------------ what is masked


@functools.cache
def recurrent():
    """Agent with a memory, a state, a rollout over several episodes, and its compiled update."""
    spec = tiny.suite().spec
    agent = distral.agent(spec, LSTM)
    # Heads start almost at zero: with larger weights every input shows in every output.
    state = jax.jit(agent.init)(jax.random.key(1))
    state = state._replace(
        params=jax.tree.map(lambda x: x + 0.3 * jnp.sin(1 + x * 1e3), state.params)
    )
    rng = np.random.default_rng(0)
    first = np.zeros((T + 1, K, E), bool)
    first[0, :, ::2] = True
    for e in range(E):
        first[1 + e % T, :, e] = True
    first[4] |= first[2] & (np.arange(E) > 3)
    ends = np.concatenate([first[1:], np.zeros_like(first[:1])])
    timestep = Timestep(
        observation=rng.normal(size=(T + 1, K, E, 2)).astype(np.float32),
        reward=rng.normal(size=first.shape).astype(np.float32),
        discount=np.where(ends & (rng.random(first.shape) < 0.5), 0.0, 1.0).astype(np.float32),
        first=first,
        valid=~first,
        success=np.zeros_like(first),
    )
    actor = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), agent.init_actor(E)
    )
    actor = actor._replace(prev_action=jnp.asarray(rng.integers(0, 2, (K, E)), jnp.int32))
    action = rng.integers(0, 2, (T, K, E)).astype(np.int32)
    experience = rollout.Rollout(
        timestep, action, rng.normal(size=action.shape).astype(np.float32), actor
    )
    return agent, state, experience, jax.jit(agent.update)


def test_garbage_around_resets_changes_neither_loss_nor_gradients():
    _, state, experience, update = recurrent()
    rng = np.random.default_rng(1)
    rows, first = experience.timestep, experience.timestep.first
    ends = np.concatenate([first[1:], np.zeros_like(first[:1])])
    died = ends & (rows.discount == 0)
    assert first[1:].sum() > 10 and died.any() and (ends & ~died).any()
    noise = rng.normal(size=rows.observation.shape).astype(np.float32)
    garbage = experience._replace(
        timestep=rows._replace(
            reward=np.where(first, np.nan, rows.reward).astype(np.float32),
            discount=np.where(first, rng.random(first.shape), rows.discount).astype(np.float32),
            success=first,
            # Nobody acts on the last observation of an episode, nor bootstraps from it after death.
            observation=np.where(died[..., None], 1e3 * noise, rows.observation),
        ),
        action=np.where(ends[:-1], 1 - experience.action, experience.action),
        log_prob=np.where(ends[:-1], np.nan, experience.log_prob).astype(np.float32),
    )
    # What was remembered before a reset row is forgotten, and so are the last action and reward.
    starts = first[0]

    def forget(x):
        return np.where(starts.reshape(K, E, *[1] * (x.ndim - 2)), 7, x).astype(x.dtype)

    garbage = garbage._replace(actor_state=jax.tree.map(forget, experience.actor_state))
    want, metrics = update(state, experience)
    got, other_metrics = update(state, garbage)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), want.params, state.params)
    assert min(jax.tree.leaves(moved)) > 0  # gradients reached everything
    tiny.assert_trees_close(got, want, 1e-7)
    tiny.assert_trees_close(other_metrics, metrics, 1e-6)


@pytest.mark.parametrize("what", ["reward", "action", "observation", "memory"])
def test_what_is_not_garbage_does_change_the_gradients(what):
    # The test above would pass on an update that reads nothing.
    _, state, experience, update = recurrent()
    rows, first = experience.timestep, experience.timestep.first
    ends = np.concatenate([first[1:], np.zeros_like(first[:1])])
    keep = {
        "reward": rows._replace(reward=np.where(first, rows.reward, rows.reward + 1)),
        "action": rows,
        "observation": rows._replace(  # truncated, not dead: it is bootstrapped from
            observation=rows.observation + (ends & (rows.discount == 1))[..., None]
        ),
        "memory": rows,
    }[what]
    changed = experience._replace(
        timestep=jax.tree.map(np.float32, keep)._replace(
            first=first, valid=rows.valid, success=rows.success
        )
    )
    if what == "action":
        changed = changed._replace(
            action=np.where(ends[:-1], experience.action, 1 - experience.action)
        )
    if what == "memory":  # of the environments that are within an episode at row 0
        changed = changed._replace(
            actor_state=jax.tree.map(
                lambda x: (
                    x + jnp.asarray(~first[0], x.dtype).reshape(K, E, *[1] * (x.ndim - 2))
                    if jnp.issubdtype(x.dtype, jnp.floating)
                    else x
                ),
                experience.actor_state,
            )
        )
    want, _ = update(state, experience)
    got, _ = update(state, changed)
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), got.params, want.params)
    assert max(jax.tree.leaves(gaps)) > 1e-4


def test_acting_forgets_at_reset_rows_and_only_there():
    agent, state, experience, _ = recurrent()
    act = jax.jit(agent.act)
    row = jax.tree.map(lambda x: x[0], experience.timestep)
    keys = rollout.step_keys(jax.random.key(0), 0, index())
    other = jax.tree.map(lambda x: 1 - x if x.dtype == jnp.int32 else x + 1, experience.actor_state)
    *_, memory = act(state.params, experience.actor_state, row, keys)
    *_, changed = act(state.params, other, row, keys)
    _, a_log_prob, _ = act(state.params, experience.actor_state, row, keys)
    _, b_log_prob, _ = act(state.params, other, row, keys)
    for x, y in zip(
        jax.tree.leaves((memory.shared_core, memory.task_core)),
        jax.tree.leaves((changed.shared_core, changed.task_core)),
        strict=True,
    ):
        np.testing.assert_array_equal(x[row.first], y[row.first])
        assert (np.abs(x - y)[~row.first].max(-1) > 1e-4).all()
    np.testing.assert_array_equal(a_log_prob[row.first], b_log_prob[row.first])
    nan = row._replace(reward=np.where(row.first, np.nan, row.reward).astype(np.float32))
    _, log_prob, _ = act(state.params, experience.actor_state, nan, keys)
    np.testing.assert_array_equal(log_prob, a_log_prob)


# --------------------------------------------------------------------------- episode statistics


def test_episode_statistics_equal_a_loop():
    rng = np.random.default_rng(4)
    num_rollouts = 4
    first = rng.random((num_rollouts * T + 1, K, E)) < 0.3
    first[0] = True
    rows = Timestep(
        observation=np.zeros((*first.shape, 1), np.float32),
        reward=np.where(first, np.nan, rng.normal(size=first.shape)).astype(np.float32),
        discount=np.ones(first.shape, np.float32),
        first=first,
        valid=~first,
        success=rng.random(first.shape) < 0.3,
    )
    stats = rollout.init_stats((K, E))
    step = jax.jit(rollout.episode_statistics)
    got = []
    for n in range(num_rollouts):
        part = jax.tree.map(lambda x, n=n: x[n * T : (n + 1) * T + 1], rows)
        stats, totals = step(stats, part)
        got.append(totals)
    for n in range(num_rollouts):
        want = _totals(rows, n * T, (n + 1) * T)
        for name, value in want.items():
            np.testing.assert_allclose(got[n][name], value, 0, 1e-5, err_msg=f"{name} {n}")
    assert sum(x["episode/count"].sum() for x in got) > 20


def _totals(rows, begin, end):
    """Of episodes whose successor's first row lies in `(begin, end]`, one environment at a time."""
    names = ("count", "return", "length", "success")
    totals = {f"episode/{name}": np.zeros(K) for name in names}
    for k in range(K):
        for e in range(E):
            resets = np.flatnonzero(rows.first[: end + 1, k, e])
            for start, after in itertools.pairwise(resets):
                if begin < after <= end and after - start > 1:
                    inside = slice(start + 1, after)
                    totals["episode/count"][k] += 1
                    totals["episode/return"][k] += rows.reward[inside, k, e].sum()
                    totals["episode/length"][k] += after - start - 1
                    totals["episode/success"][k] += rows.success[inside, k, e].any()
    return totals


@pytest.mark.slow
@pytest.mark.parametrize("separate", [False, True])
def test_likeliest_actions_are_asked_for_or_refused(separate):
    suite = tiny.suite()
    config = dataclasses.replace(tiny.CONFIG, separate=separate)
    agent = distral.agent(suite.spec, config)
    policy = agent.policy_params(agent.init(jax.random.key(1)))
    index = rollout.env_indices(tiny.K, 64)
    loop = rollout.init_env_loop(suite, jax.random.key(2), jnp.asarray(index), agent.init_actor)

    def act(seed, greedy):
        fn = rollout.acting(agent, greedy=greedy)
        keys = rollout.step_keys(jax.random.key(seed), 0, index)
        return fn(policy, loop.actor_state, loop.timestep, keys)

    drawn = [act(seed, False) for seed in (3, 4)]
    likeliest = [act(seed, True) for seed in (3, 4)]
    assert (drawn[0][0] != drawn[1][0]).any()
    np.testing.assert_array_equal(likeliest[0][0], likeliest[1][0])
    assert (likeliest[0][1] >= np.log(1 / 2) - 1e-6).all()  # of two actions
    np.testing.assert_array_equal(act(3, None)[0], drawn[0][0])  # what this agent says itself
    with pytest.raises(ValueError, match="no likeliest actions"):
        rollout.acting(tiny.toy_agent(suite.spec), greedy=True)
