"""Environments that rest stay as they are, nothing learns from their rows, no step is lost."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import curriculum, engines, learner, metrics, rollout
from mtrl_jax.algorithms import distral, dqn, ppo
from tests.machinery import tiny
from tests.probes import probe_envs

K, E, T = tiny.K, tiny.E, tiny.T
OVER = "success:rate=.5:over=environments"


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@functools.cache
def playing():
    """A fresh loop of an agent that remembers and draws, and rollout n from a loop."""
    suite, index = tiny.suite(), jnp.asarray(rollout.env_indices(K, E))

    def act(policy, memory, timestep, keys):
        action = jax.vmap(jax.vmap(lambda key: jax.random.randint(key, (), 0, 2)))(keys)
        action = (action + memory.astype(jnp.int32)) % 2
        return action, jnp.zeros((K, E)), 1.0 + memory + timestep.observation[..., 0]

    loop = rollout.init_env_loop(suite, jax.random.key(2), index, lambda e: jnp.zeros((K, e)))

    @jax.jit
    def run(loop, n, active=None):
        key = jax.random.fold_in(jax.random.key(3), n)
        return rollout.unroll(suite, act, (), loop, key, T, active)

    return jax.device_get(loop), lambda *args: jax.device_get(run(*args))


def at(tree, where, lead=0):
    """Entries `[K, E]` of leaves that lead with `lead` axes more."""
    return jax.tree.map(lambda x: x[(slice(None),) * lead + (where,)], tree)


def test_an_environment_that_rests_stays_to_the_bit_and_the_others_do_what_they_would():
    start, run = playing()
    one, _ = run(start, 0)  # in the middle of episodes
    assert not one.timestep.first.all()
    active = np.random.default_rng(0).random((K, E)) < 0.5
    assert active.any() and not active.all()
    two, rows = run(one, 1, active)
    all_two, all_rows = run(one, 1)
    tiny.assert_trees_equal(run(one, 1, np.ones((K, E), bool)), (all_two, all_rows))
    for name in ("env_state", "timestep", "actor_state"):
        before, after, free = (getattr(x, name) for x in (one, two, all_two))
        tiny.assert_trees_equal(at(after, ~active), at(before, ~active))
        tiny.assert_trees_equal(at(after, active), at(free, active))
    rows, all_rows = (x._replace(actor_state=()) for x in (rows, all_rows))
    tiny.assert_trees_equal(at(rows, active, 1), at(all_rows, active, 1))
    assert not rows.timestep.valid[1:][:, ~active].any()
    tiny.assert_trees_equal(jax.tree.map(lambda x: x[0], rows.timestep), one.timestep)
    # After the rest it goes on as it would have gone on without.
    late, late_rows = run(two, 2)
    free, free_rows = run(one, 2)
    tiny.assert_trees_equal(at(late.env_state, ~active), at(free.env_state, ~active))
    late_rows, free_rows = (x._replace(actor_state=()) for x in (late_rows, free_rows))
    tiny.assert_trees_equal(at(late_rows, ~active, 1), at(free_rows, ~active, 1))


def test_no_step_is_invented_or_lost_around_a_rest():
    """Episodes of three actions and a reset row, rollouts of five rows: most are cut."""
    loop, run = playing()
    rng, n = np.random.default_rng(1), 3
    look = jax.jit(functools.partial(dqn.transitions, dqn.Config(n_step=n, discount=0.9)))
    count = jax.jit(rollout.episode_statistics)
    played = [[[] for _ in range(E)] for _ in range(K)]  # (row, action, next row), by rollout
    found = [[[] for _ in range(E)] for _ in range(K)]
    ended, steps = np.zeros(K), np.zeros((K, E), int)
    for u in range(6):
        active = rng.random((K, E)) < 0.6
        loop, experience = run(loop, u, active)
        stats, episodes = count(loop.stats, experience.timestep)
        loop = loop._replace(stats=stats)
        np.testing.assert_array_equal(episodes["episode/length"], 3 * episodes["episode/count"])
        ended, steps = ended + episodes["episode/count"], steps + T * active
        items, real = jax.tree.map(np.asarray, look(experience))
        rows, action = jax.tree.map(np.asarray, (experience.timestep, experience.action))
        for k, e in np.argwhere(active):
            row = [jax.tree.map(lambda x, k=k, e=e: x[:, k, e], rows), action[:, k, e]]
            played[k][e].append(row)
        for k, e in np.ndindex(K, E):
            mine = real[k].reshape(T, E)[:, e]
            found[k][e] += [
                jax.tree.map(lambda x, k=k, e=e, t=t: x[k].reshape(T, E, *x.shape[2:])[t, e], items)
                for t in np.flatnonzero(mine)
            ]
    np.testing.assert_array_equal(ended, (steps // 4).sum(1))
    for k, e in np.ndindex(K, E):
        expected = []
        for rows, action in played[k][e]:  # as if it had never rested
            for t in range(T):
                if rows.first[t + 1]:
                    continue
                total, factor, m = 0.0, 1.0, 0
                while m < n and t + m < T and not rows.first[t + m + 1]:
                    total += factor * rows.reward[t + m + 1]
                    factor *= 0.9 * rows.discount[t + m + 1]
                    m += 1
                expected.append((rows.observation[t], action[t], total, factor))
                expected[-1] += (rows.observation[t + m],)
        assert len(expected) == len(found[k][e]) > 0
        for one, item in zip(expected, found[k][e], strict=True):
            for x, y in zip(one, item, strict=True):
                np.testing.assert_allclose(y, x, 1e-6)


AGENTS = {
    "distral": (distral, {"hidden": (4,)}),
    "ppo": (ppo, {"hidden": (4,), "epochs": 2, "minibatches": 1}),
}


@pytest.mark.parametrize("kind", AGENTS)
def test_a_tasks_loss_is_a_mean_over_the_environments_that_step(kind):
    """Those that rest in the second half, or that half a copy of the first: one update."""
    module, more = AGENTS[kind]
    spec = tiny.suite().spec
    agent = module.agent(spec, module.Config(unroll_length=T, curriculum=OVER, **more))
    state, update = jax.jit(agent.init)(jax.random.key(0)), jax.jit(agent.update)
    # Failures of 1 and 3/8: weights of .2 + .8 16/11 and .2 + .8 6/11, 15 and 7 of 11.
    rates = jnp.array([0.0, 5 / 8])
    seen = state.curriculum._replace(fast=rates, episodes=jnp.ones(K))
    np.testing.assert_array_equal(agent.environments(state._replace(curriculum=seen), E), [E, 4])
    rng = np.random.default_rng(0)
    first = rng.random((T + 1, K, E)) < 0.2
    rows = rollout.Timestep(
        observation=rng.normal(size=(*first.shape, 2)).astype(np.float32),
        reward=rng.normal(size=first.shape).astype(np.float32),
        discount=np.ones(first.shape, np.float32),
        first=first,
        valid=~first,
        success=np.zeros_like(first),
    )
    action = rng.integers(0, 2, (T, K, E)).astype(np.int32)
    log_prob = np.full((T, K, E), np.log(0.5), np.float32)
    experience = rollout.Rollout(rows, action, log_prob, agent.init_actor(E))

    def copied(x, lead):
        x = np.array(x)
        half = (slice(None),) * lead + (1,)
        x[(*half, slice(4, None))] = x[(*half, slice(0, 4))]
        return x

    twice = jax.tree.map(lambda x: copied(x, 1), experience._replace(actor_state=()))
    twice = twice._replace(actor_state=experience.actor_state)
    valid = np.array(rows.valid)
    valid[1:, 1, 4:] = False
    rest = experience._replace(timestep=rows._replace(valid=valid))
    got, found = update(state._replace(curriculum=seen), rest)
    np.testing.assert_array_equal(agent.environments(state, E), [E, E])  # nothing seen yet
    want, expected = update(state, twice)
    tiny.assert_trees_close(got.params, want.params, 1e-6)
    loss = "loss/value" if kind == "ppo" else "loss/total"
    assert np.abs(expected[loss]).min() > 1e-3
    np.testing.assert_allclose(found[loss], expected[loss], 1e-4)
    moved = [
        np.abs(np.asarray(a) - b).max()
        for a, b in zip(*map(jax.tree.leaves, (got.params, state.params)), strict=True)
    ]
    assert max(moved) > 1e-4


def test_weights_say_how_many_environments_step_and_losses_weigh_the_same():
    spec = tiny.suite((0.0,) * 3).spec
    plan = curriculum.make(spec, (), "success:rate=1:floor=.1:over=environments")
    state = curriculum.init(plan, 3)
    np.testing.assert_array_equal(curriculum.environments(plan, state, E), [E] * 3)
    state = state._replace(fast=jnp.array([0.75, 0.5, 0.0]), episodes=jnp.ones(3))
    w = 0.1 + 0.9 * 3 * np.array([1, 2, 4]) / 7
    for num_envs in (1, 8, 100):
        want = np.maximum(np.round(num_envs * w / w[2]), 1)
        np.testing.assert_array_equal(curriculum.environments(plan, state, num_envs), want)
    assert curriculum.weights(plan, state) is None
    np.testing.assert_allclose(curriculum.logged(plan, state)["curriculum/weight"], w, 1e-6)
    losses = curriculum.make(spec, (), "success:rate=1:floor=.1")
    assert curriculum.environments(losses, state, E) is None
    assert curriculum.stepping(losses) is None


@functools.cache
def engine(num_devices):
    """The first task is solved by any action, the second one never."""
    suite = probe_envs.constant_reward()
    config = dataclasses.replace(tiny.CONFIG, algorithm="a3c_multitask", curriculum=OVER)
    agent = distral.agent(suite.spec, config, collectives=learner.across(num_devices))
    return engines.make(tiny.run_config(num_devices=num_devices), suite, agent)


@functools.cache
def advanced(num_devices):
    run = engine(num_devices)
    carry, first = run.advance(run.start(), 0)
    saved = run.save(carry)
    carry, second = run.advance(carry, 5)
    return saved, first, second, run.state(carry)


def test_a_run_steps_what_fails_says_so_and_goes_on_to_the_bit():
    saved, first, second, whole = advanced(1)
    carry, again = engine(1).advance(engine(1).load(saved), 5)
    tiny.assert_trees_equal((again, engine(1).state(carry)), (second, whole))
    steps = np.concatenate([first["curriculum/environments"], second["curriculum/environments"]])
    assert steps[0].tolist() == [E, E] and (steps[:, 1] == E).all()
    assert (np.diff(steps[:, 0]) <= 0).all() and steps[-1, 0] == 1  # .2 of 1.8 of eight
    values = {name: np.concatenate([x, second[name]]) for name, x in first.items()}
    spec = probe_envs.constant_reward().spec
    row = metrics.log_row(metrics.accumulate({}, values, spec, 0), spec, 1)
    for k, name in enumerate(spec.task_names):
        assert row[f"task/{name}/curriculum/steps"] == T * steps[:, k].sum()
        # An episode is an action and a reset row: half of the rows end one.
        gap = row[f"task/{name}/episode/count"] - T * steps[:, k].sum() / 2
        assert abs(gap) <= E / 2


@pytest.mark.slow  # compiles for eight devices
def test_eight_devices_step_the_environments_that_one_does():
    one, eight = advanced(1), advanced(8)
    tiny.assert_trees_close(eight, one, 1e-5)


def test_what_cannot_rest_is_refused():
    suite = tiny.suite()
    agent = distral.agent(suite.spec, dataclasses.replace(tiny.CONFIG, curriculum=OVER))
    with pytest.raises(ValueError, match="over=environments must be over=losses on a host suite"):
        engines.check(tiny.RUN, tiny.host_suite(), agent)
    with pytest.raises(ValueError, match="num_envs_per_task must be at least 2 for a curriculum"):
        engines.check(tiny.run_config(num_envs_per_task=1), suite, agent)
    with pytest.raises(ValueError, match="over must be one of losses, environments; got 'both'"):
        curriculum.make(suite.spec, (), "success:over=both")
