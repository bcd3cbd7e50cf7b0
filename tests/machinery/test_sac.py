"""SAC around its gradient step: rings, warm-up, devices, resume, resets, memory, bad numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mtrl_jax import checkpoint, engines, evaluate, learner, replay, rollout
from mtrl_jax.algorithms import actor_q, experience, sac
from mtrl_jax.envs import suites
from mtrl_jax.types import Rollout
from tests.machinery import tiny
from tests.machinery.test_ppo import E, K, T, go_on, make_rollout
from tests.probes.test_ppo_probes import aim

CONFIG = sac.Config(
    hidden=(4,),
    num_critics=1,
    unroll_length=T,
    updates_per_step=0.05,
    batch_size=16,
    capacity=20_000,
    warmup=T * E,
    learning_rate=0.01,
    temperature_learning_rate=0.01,
    surgery="pcgrad",
    statistics="task",
    discount=0.9,
    reward_scaling="mean",
    reset_every=6,
)
RUN = engines.RunConfig(total_env_steps=1, num_envs_per_task=E, updates_per_dispatch=3)
STEPS = 3  # gradient steps an update: 0.05 x 8 x 8


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@functools.cache
def made():
    """Agent, a fresh state, and the update, which takes its state's memory, as runs do."""
    agent = sac.agent(aim().spec, CONFIG)
    update = jax.jit(lambda state, rows: agent.update(state, rows), donate_argnums=0)
    return agent, jax.jit(agent.init)(jax.random.key(0)), update


def updated(state, rows):
    return made()[2](jax.tree.map(jnp.copy, state), rows)


@functools.cache
def engine_of(num_devices):
    suite, config = aim(), dataclasses.replace(RUN, num_devices=num_devices)
    agent = sac.agent(suite.spec, CONFIG, collectives=learner.across(num_devices))
    return engines.make(config, suite, agent)


@functools.cache
def run(num_devices, dispatches=2):
    return go_on(engine_of(num_devices), dispatches)


# --------------------------------------------------------------------------------- what is stored


def test_rings_hold_every_transition_but_those_that_lead_to_a_reset_row():
    rows = make_rollout().timestep
    filled = experience.store(made()[1].rings, make_rollout())
    for k in range(K):
        want = [
            (t, e) for t in range(T) for e in range(E) if rows.valid[t + 1, k, e]
        ]  # oldest first
        assert filled.stored[k] == len(want) < T * E
        for i, (t, e) in enumerate(want):
            item = jax.tree.map(lambda x, k=k, i=i: x[k, i], filled.items)
            np.testing.assert_array_equal(item.observation, rows.observation[t, k, e])
            np.testing.assert_array_equal(item.next_observation, rows.observation[t + 1, k, e])
            np.testing.assert_array_equal(item.action, make_rollout().action[t, k, e])
            assert item.reward == rows.reward[t + 1, k, e]
            assert item.ended == (rows.discount[t + 1, k, e] == 0)
            if rows.first[min(t + 2, T), k, e] and t + 2 <= T:  # cut off: not the next episode's
                assert item.next_observation != rows.observation[t + 2, k, e]
    assert filled.items.ended.any() and not filled.items.ended.all()


def test_the_dummy_step_of_a_pool_is_never_stored():
    """Pendulum on envpool: 200 actions, cut off, then a step that only resets."""
    suite = suites.make("envpool:Pendulum-v1")
    pool, agent, t = suite.make_pool(2, 0, 2), evaluate.random_agent(suite.spec), 403
    loop = rollout.init_host_loop(pool, 2, agent.init_actor)
    index = rollout.env_indices(1, 2)
    act = rollout.act_at(agent.act)
    _, rows = rollout.collect(pool, act, (), loop, jax.random.key(0), index, t)
    pool.close()
    first = rows.timestep.first[:, 0]
    np.testing.assert_array_equal(np.flatnonzero(first[:, 0]), [0, 201, 402])
    rings = replay.init(experience.item_spec(suite.spec), 1, 2 * t)
    rings = jax.jit(lambda rings, rows: experience.store(rings, rows))(rings, rows)
    stored = np.asarray(rings.items.next_observation)[0, : int(rings.stored[0])]
    assert len(stored) == 2 * (t - 2) and not rings.items.ended.any()
    observation = rows.timestep.observation[:, 0]

    def missing(x):
        return not (stored == x).all(-1).any()

    for e in range(2):
        for reset in (201, 402):  # the last row before it is there, it is not
            assert missing(observation[reset, e]) and not missing(observation[reset - 1, e])


def test_what_stands_on_reset_rows_changes_nothing():
    state, _ = updated(made()[1], make_rollout(1))
    rows = make_rollout()
    nowhere = ~rows.timestep.valid
    timestep = rows.timestep._replace(
        reward=np.where(nowhere, np.nan, rows.timestep.reward),
        discount=np.where(nowhere, 0.0, rows.timestep.discount).astype(np.float32),
    )
    action = np.where(nowhere[1:, ..., None], np.nan, rows.action)
    clean, metrics = updated(state, rows)
    other, other_metrics = updated(state, Rollout(timestep, action, rows.log_prob, ()))
    assert clean.updates == STEPS and metrics["loss/critic"].min() > 0
    tiny.assert_trees_equal(clean, other)
    tiny.assert_trees_equal(metrics, other_metrics)


def test_a_task_without_a_valid_step_moves_no_moments():
    _, state, _ = made()
    state, _ = updated(state, make_rollout())
    rows = make_rollout(1)
    nobody = np.arange(K)[:, None] == 1
    timestep = rows.timestep._replace(valid=rows.timestep.valid & ~nobody)
    after, _ = updated(state, rows._replace(timestep=timestep))
    task = [jax.tree.map(lambda x: x[1], s.observations) for s in (state, after)]
    tiny.assert_trees_equal(*task)
    counted = timestep.observation[:-1, 0][timestep.valid[1:, 0]]
    want = (state.observations.mean[0] + counted.mean()) / 2
    np.testing.assert_allclose(after.observations.mean[0], want, rtol=1e-5)


def test_a_donated_state_is_updated_in_place():
    _, state, update = made()
    memory = update.lower(state, make_rollout()).compile().memory_analysis()
    ring = replay.nbytes(experience.item_spec(aim().spec), K, CONFIG.capacity)
    assert memory.alias_size_in_bytes > ring
    assert memory.temp_size_in_bytes < ring / 4


def test_memory_that_is_not_there_is_asked_for_in_a_sentence():
    spec = aim().spec._replace(
        task_names=tuple(map(str, range(50))), observation_shape=(39,), action_size=4
    )
    one = replay.nbytes(experience.item_spec(spec), 1, 1)
    assert one == 333  # as the docstring says
    assert round(50 * 100_000 * one / 2**30, 2) == 1.55
    with pytest.raises(ValueError, match=r"100000 items for each of 50 tasks .* 4\.65 GiB"):
        experience.check_memory(spec, 100_000, 1, free=2**32)
    experience.check_memory(spec, 100_000, 1, free=5 * 2**30)
    with pytest.raises(ValueError, match="GiB are free"):
        sac.agent(spec, dataclasses.replace(CONFIG, capacity=10**12))


# ------------------------------------------------------------------------------- acting, warming up


def test_actions_are_uniform_at_first_then_drawn_and_greedy_ones_are_neither():
    agent, state, _ = made()
    rows = make_rollout().timestep
    row = jax.tree.map(lambda x: x[0], rows)
    n = 500
    row = jax.tree.map(lambda x: np.repeat(x, n, axis=1), row)
    keys = jax.random.split(jax.random.key(3), (K, n * E))
    policy = agent.policy_params(state)
    act = jax.jit(agent.act, static_argnames="greedy")
    uniform, log_prob, _ = act(policy, (), row, keys)
    assert policy.warmup
    assert scipy.stats.kstest(np.ravel(uniform), "uniform", (-1, 2)).pvalue > 0.01
    np.testing.assert_allclose(log_prob, -np.log(2.0), rtol=1e-6)
    later = policy._replace(warmup=jnp.bool_(False))
    action, log_prob, _ = act(later, (), row, keys)
    # The initial policy is N(0, 1) before the squash.
    u = np.arctanh(np.asarray(action, np.float64))
    assert scipy.stats.kstest(u.ravel(), "norm").pvalue > 0.01
    nets = sac.make_parts(aim().spec, CONFIG).numbers.nets
    for k in range(K):
        x = actor_q.inputs(
            nets, jax.tree.map(lambda m, k=k: m[k], state.observations), row.observation[k]
        )
        mean, log_std, _ = actor_q.head(nets, policy.params.shared, {}, x, jnp.int32(k))
        normal = scipy.stats.norm(mean[:, 0], np.exp(log_std[:, 0]))
        density = normal.logpdf(u[k, :, 0]) - np.log1p(-(np.tanh(u[k, :, 0]) ** 2))
        near = np.abs(u[k, :, 0]) < 3  # elsewhere tanh has lost digits
        np.testing.assert_allclose(log_prob[k, near], density[near], atol=1e-3)
    best, _, _ = act(policy, (), row, keys, greedy=True)
    again, _, _ = act(later, (), row, jax.random.split(jax.random.key(4), (K, n * E)), greedy=True)
    np.testing.assert_array_equal(best, again)
    assert np.abs(best).max() < 0.1


def test_nothing_is_learnt_while_warming_up():
    agent, state, _ = made()
    one, metrics = updated(state, make_rollout(0))
    tiny.assert_trees_equal(one.learned, state.learned)
    assert metrics["replay/updates"] == 0 and not metrics["loss/total"].any()
    assert one.steps == T * E and (one.observations.batches == 1).all()
    assert (
        agent.policy_params(one._replace(steps=one.steps - 1)).warmup
        and not agent.policy_params(one).warmup
    )
    two, metrics = updated(one, make_rollout(1))
    assert two.updates == metrics["replay/updates"] == STEPS
    critics = one.learned.critic, two.learned.critic
    changed = jax.tree.map(lambda a, b: np.abs(a - b).max(), *critics)
    assert min(jax.tree.leaves(changed)) > 1e-3


# ------------------------------------------------------------------------ devices, resume, compiles


@pytest.mark.slow
def test_eight_devices_make_the_update_of_one():
    one, rows = run(1)
    eight, other = run(8)
    fresh, _ = run(1, 0)
    learned = [x["state"].learned for x in (fresh, one, eight)]
    for part in ("actor", "critic"):
        moved = jax.tree.map(
            lambda a, b: np.abs(a - b).max(), *(getattr(x, part) for x in learned[:2])
        )
        assert min(jax.tree.leaves(moved)) > 1e-3
    assert one["state"].updates == 5 * STEPS  # of six, the first warms up
    tiny.assert_trees_equal(one["state"].rings.stored, eight["state"].rings.stored)
    tiny.assert_trees_close(one["state"], eight["state"], 2e-4)
    tiny.assert_trees_close(one["loop"], eight["loop"], 2e-4)
    tiny.assert_trees_close(rows, other, 2e-3)


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path):
    whole, rows = run(1)
    half, _ = run(1, 1)
    target = checkpoint.abstract(half)
    with checkpoint.open_manager(tmp_path) as manager:
        checkpoint.save(manager, 1, half, {})
    with checkpoint.open_manager(tmp_path) as manager:
        _, restored, _ = checkpoint.restore_latest(manager, target)
    tiny.assert_trees_equal(half, restored)
    assert (restored["state"].rings.stored > 0).all() and restored["state"].updates > 0
    assert (restored["state"].observations.batches > 0).all()
    rest, other = go_on(engine_of(1), 2, load=restored, start=1)
    tiny.assert_trees_equal(whole, rest)
    tiny.assert_trees_equal(rows[1], other[0])


def test_nothing_compiles_after_the_first_dispatch():
    engine = engine_of(1)
    carry, _ = engine.advance(engine.start(), 0)
    names = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *a, **kw: names.append(name))
    carry, _ = engine.advance(carry, engine.updates)
    engine.advance(carry, 2 * engine.updates)
    assert not [name for name in names if name.endswith("backend_compile_duration")]


# ------------------------------------------------------------------------------- resets and scales


def test_networks_begin_anew_and_rewards_get_their_scale_when_the_time_comes():
    states = [made()[1]]
    for n in range(5):
        states.append(updated(states[-1], make_rollout(n))[0])
    states = states[1:]  # the first one only warms up

    def counts(s):
        leaves = jax.tree.leaves_with_path(s.learned.critic_opt)
        return {int(np.max(x)) for path, x in leaves if str(path[-1]) in (".count", ".step")}

    assert [counts(s) for s in states[1:]] == [{STEPS}, {2 * STEPS}, {STEPS}, {2 * STEPS}]
    assert [int(s.updates) for s in states] == [0, 3, 6, 9, 12]
    assert (states[4].rings.stored > states[2].rings.stored).all()

    # The slow critics are the critics where a network begins, and drift from them as it learns.
    def apart(s):
        return max(
            jax.tree.leaves(
                jax.tree.map(lambda a, b: np.abs(a - b).max(), s.learned.target, s.learned.critic)
            )
        )

    assert apart(states[3]) < apart(states[2])

    # Scales: decided when learning starts, then by what the rings held at the reset.
    def mean(s):
        return np.array(
            [
                np.abs(np.asarray(s.rings.items.reward[k, : s.rings.stored[k]])).mean()
                for k in range(K)
            ]
        )

    for n, decided in ((1, 1), (2, 1), (3, 3), (4, 3)):
        want = mean(states[decided]).max() / mean(states[decided])
        np.testing.assert_allclose(states[n].reward_scale, want, rtol=1e-5)
    assert (states[0].reward_scale == 1).all()
    assert states[1].reward_scale[0] > 20 and states[1].reward_scale[1] == 1


def test_rewards_are_scaled_when_drawn_and_stored_raw():
    rings = experience.store(made()[1].rings, make_rollout())
    scale, key = jnp.array([2.0, 0.5]), jax.random.key(1)
    draw = jax.jit(lambda s: experience.draw_batch(rings, s, key, 16))
    (plain, noise), (scaled, same) = draw(jnp.ones(K)), draw(scale)
    np.testing.assert_allclose(scaled.reward, plain.reward * np.asarray(scale)[:, None])
    np.testing.assert_array_equal(noise, same)
    assert noise.shape == (K, 16, 2, 1) and len(np.unique(noise)) == noise.size
    limited = rings._replace(
        rows=rings.rows._replace(reward=rings.rows.reward * jnp.array([1e-6, 1.0])[:, None, None])
    )
    np.testing.assert_allclose(experience.reward_scales(limited), [experience.MAX_SCALE, 1.0])
    none = rings._replace(rows=rings.rows._replace(reward=rings.rows.reward * 0.0))
    np.testing.assert_array_equal(experience.reward_scales(none), [1.0, 1.0])


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surgery": "famo"}, r"famo.*positive losses.*pcgrad"),
        ({"surgery": "nope"}, "surgery must be one of"),
        ({"network": "nope"}, "network must be one of onehot"),
        ({"hidden": ()}, "hidden must hold"),
        ({"capacity": 15}, "capacity must be at least batch_size = 16; got 15"),
        ({"updates_per_step": 0.0}, "updates_per_step must be above 0"),
        ({"target_rate": 1.5}, "target_rate must lie in"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"reset_every": -1}, "reset_every must not be negative"),
        ({"reward_scaling": "all"}, "reward_scaling must be one of none, mean"),
        ({"statistics": "all"}, "statistics must be one of task"),
    ],
)
def test_bad_configs_are_refused_before_anything_runs(change, message):
    with pytest.raises(ValueError, match=message):
        sac.agent(aim().spec, dataclasses.replace(CONFIG, **change))


def test_discrete_actions_images_and_batches_that_cannot_be_dealt_out_are_refused():
    spec = aim().spec
    with pytest.raises(ValueError, match="actions must be continuous"):
        sac.agent(tiny.suite().spec, CONFIG)
    with pytest.raises(ValueError, match="must be a vector; got an image"):
        sac.agent(spec._replace(observation_shape=(3, 84, 84), observation_dtype=np.uint8), CONFIG)
    rings = made()[1].rings

    def draw(n):
        return jax.vmap(
            lambda _: experience.draw_batch(
                rings, jnp.ones(K), jax.random.key(0), n, learner.across(8)
            ),
            axis_name=learner.AXIS,
        )(jnp.arange(8))

    with pytest.raises(ValueError, match="batch_size must be a multiple of 8 devices; got 12"):
        draw(12)
