"""DQN around its loss: what is stored, who explores, devices, resume, networks, bad numbers."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import checkpoint, engines, learner, returns, rollout
from mtrl_jax.algorithms import dqn, q_network
from mtrl_jax.envs.games import small_games
from mtrl_jax.networks import torsos
from mtrl_jax.types import EnvSpec, Rollout, Timestep
from tests.machinery import tiny
from tests.machinery.test_ppo import go_on

K, E, T = 2, 8, 6
CONFIG = dqn.Config(
    hidden=(4,),
    unroll_length=T,
    n_step=3,
    discount=0.9,
    replay_size=300,
    min_replay=60,
    batch_size=16,
    replay_ratio=1.0,
    target_period=4,
    epsilon_steps=200,
    learning_rate=0.01,
    surgery="pcgrad",
)
RUN = engines.RunConfig(total_env_steps=1, num_envs_per_task=E, updates_per_dispatch=3)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


# --------------------------------------------------------------------------------- what is stored


def make_rollout(seed=0):
    """Rows with resets, terminations and time limits; observation = number of the row."""
    rng = np.random.default_rng(seed)
    first = rng.random((T + 1, K, E)) < 0.25
    first[1:] &= ~first[:-1]
    ended = np.append(first[1:], np.zeros((1, K, E), bool), axis=0)
    discount = np.where(ended & (rng.random(first.shape) < 0.5), 0.0, 1.0).astype(np.float32)
    number = np.arange(first.size, dtype=np.float32).reshape(first.shape)
    rows = Timestep(
        observation=number[..., None],
        reward=rng.normal(size=first.shape).astype(np.float32),
        discount=discount,
        first=first,
        valid=~first,
        success=np.zeros_like(first),
    )
    action = rng.integers(0, 2, (T, K, E)).astype(np.int32)
    return jax.tree.map(jnp.asarray, Rollout(rows, action, np.zeros((T, K, E)), ()))


def test_transitions_are_those_of_each_environment():
    experience = make_rollout()
    config = dataclasses.replace(CONFIG, reward_clip=0.7)
    items, valid = jax.device_get(jax.jit(lambda x: dqn.transitions(config, x))(experience))
    rows, rows_action = jax.device_get((experience.timestep, experience.action))
    assert items.reward.shape == valid.shape == (K, T * E)
    assert 0 < valid.sum() < valid.size
    several = jax.jit(lambda *x: returns.n_step_transitions(*x, 3))
    for k, e in itertools.product(range(K), range(E)):
        clipped = np.clip(rows.reward[1:, k, e], -0.7, 0.7)
        expected = several(clipped, 0.9 * rows.discount[1:, k, e], rows.valid[1:, k, e])
        expected = jax.tree.map(np.asarray, expected)
        for t in range(T):
            i = t * E + e
            assert valid[k, i] == rows.valid[t + 1, k, e]
            if valid[k, i]:
                later = rows.observation[t + expected.steps[t], k, e, 0]
                assert items.observation[k, i, 0] == rows.observation[t, k, e, 0]
                assert items.action[k, i] == rows_action[t, k, e]
                np.testing.assert_allclose(items.reward[k, i], expected.reward[t], rtol=1e-6)
                np.testing.assert_allclose(items.discount[k, i], expected.discount[t], rtol=1e-6)
                assert items.next_observation[k, i, 0] == later


@functools.cache
def made():
    spec = tiny.suite().spec._replace(observation_shape=(1,))
    agent = dqn.agent(spec, CONFIG)
    update = jax.jit(lambda state, rows: agent.update(state, rows), donate_argnums=0)
    return agent, jax.jit(agent.init)(jax.random.key(0)), update


def after(experience):
    _, state, update = made()
    state = jax.tree.map(jnp.copy, state)
    for _ in range(3):
        state, metrics = update(state, experience)
    return state, metrics


def test_what_stands_on_reset_rows_changes_nothing():
    clean = make_rollout()
    rows = clean.timestep
    reward = jnp.where(rows.valid, rows.reward, jnp.nan)
    dirty = clean._replace(timestep=rows._replace(reward=reward))
    (a, x), (b, y) = after(clean), after(dirty)
    assert a.updates > 0
    real = np.asarray(rows.valid[1:].sum((0, 2)))
    assert (real < T * E).all()
    np.testing.assert_array_equal(a.replay.stored, np.minimum(3 * real, CONFIG.replay_size))
    tiny.assert_trees_equal(a, b)
    tiny.assert_trees_equal(x, y)


def test_learning_waits_for_the_replay_and_the_target_for_its_time():
    _, fresh, update = made()
    state, experience, seen = jax.tree.map(jnp.copy, fresh), make_rollout(), []
    for _ in range(4):
        state, _ = update(state, experience)
        kept = state._replace(key=(), opt_state=(), replay=())
        seen.append(jax.tree.map(np.array, kept))  # the next update takes its memory
    fewest = int(experience.timestep.valid[1:].sum((0, 2)).min())
    assert fewest < CONFIG.min_replay <= 2 * fewest
    # 48 samples for 48 steps are three batches of 16.
    assert [int(s.updates) for s in seen] == [0, 3, 6, 9]
    assert [int(s.steps) for s in seen] == [48, 96, 144, 192]
    tiny.assert_trees_equal(seen[0].params, fresh.params)
    # The target is copied after gradient steps 4 and 8.
    tiny.assert_trees_equal(seen[1].target, fresh.params)
    for before, now in itertools.pairwise(seen[1:]):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.target, now.target)
        assert max(jax.tree.leaves(moved)) > 0


def test_no_gradient_step_is_computed_before_there_is_enough_to_learn_from(monkeypatch):
    steps, inner = [], dqn.gradient_step

    def counted(*args):
        jax.debug.callback(lambda: steps.append(1))
        return inner(*args)

    monkeypatch.setattr(dqn, "gradient_step", counted)
    spec = tiny.suite().spec._replace(observation_shape=(1,))
    update, seen = jax.jit(dqn.agent(spec, CONFIG).update), []
    state = jax.tree.map(jnp.copy, made()[1])
    for _ in range(3):
        state, _ = jax.block_until_ready(update(state, make_rollout()))
        jax.effects_barrier()
        seen.append(len(steps))
    assert seen == [0, 3, 6]


# ---------------------------------------------------------------------------------------- acting


def test_epsilon_greedy_draws_legal_actions_with_the_probabilities_it_says():
    n, epsilon = 6000, 0.3
    mask = np.array([[True, False, True, True], [False, True, True, False]])
    q = jnp.broadcast_to(jnp.array([[0.0, 9.0, 1.0, -1.0]]), (2, n, 4))
    keys = jax.random.split(jax.random.key(0), (2, n))
    action, log_prob = jax.jit(q_network.epsilon_greedy)(q, mask, jnp.float32(epsilon), keys)
    expected = np.array([[0.1, 0.0, 0.8, 0.1], [0.0, 0.85, 0.15, 0.0]])
    for k in range(2):
        share = np.bincount(action[k], minlength=4) / n
        np.testing.assert_allclose(share, expected[k], atol=0.02)
        np.testing.assert_allclose(np.exp(log_prob[k]), expected[k][action[k]], rtol=1e-5)
    greedy, _ = jax.jit(q_network.epsilon_greedy)(q, mask, jnp.float32(0), keys)
    assert (np.asarray(greedy) == np.array([[2], [1]])).all()


def test_epsilon_falls_in_a_straight_line():
    config = dataclasses.replace(CONFIG, epsilon=0.2, epsilon_steps=100)
    got = [float(dqn.epsilon_at(config, jnp.int32(n))) for n in (0, 50, 100, 10**6)]
    np.testing.assert_allclose(got, [1.0, 0.6, 0.2, 0.2], rtol=1e-6)


# ------------------------------------------------------------------------------- devices and resume


@functools.cache
def engine_of(num_devices):
    config = dataclasses.replace(RUN, num_devices=num_devices)
    collectives = learner.across(num_devices)
    agent = dqn.agent(tiny.suite().spec, CONFIG, collectives=collectives)
    return engines.make(config, tiny.suite(), agent)


@functools.cache
def run(num_devices, dispatches=2):
    return go_on(engine_of(num_devices), dispatches)


@pytest.mark.slow
def test_eight_devices_make_the_update_of_one():
    (one, rows), (eight, other) = run(1), run(8)
    assert one["state"].updates == 5 * 3  # of six updates the first only fills the replay
    tiny.assert_trees_equal(one["state"].replay.stored, eight["state"].replay.stored)
    tiny.assert_trees_close(one["state"], eight["state"], 2e-4)
    tiny.assert_trees_close(one["loop"], eight["loop"], 2e-4)
    tiny.assert_trees_close(rows, other, 2e-3)


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path):
    whole, rows = run(1)
    half, _ = run(1, 1)
    with checkpoint.open_manager(tmp_path) as manager:
        checkpoint.save(manager, 1, half, {})
    with checkpoint.open_manager(tmp_path) as manager:
        _, restored, _ = checkpoint.restore_latest(manager, checkpoint.abstract(half))
    assert (restored["state"].replay.stored > 0).all() and restored["state"].updates > 0
    rest, other = go_on(engine_of(1), 2, load=restored, start=1)
    tiny.assert_trees_equal(whole, rest)
    tiny.assert_trees_equal(rows[1], other[0])


def test_seeds_by_vmap_are_runs_of_their_own():
    config = dataclasses.replace(RUN, num_seeds=2)
    both, _ = go_on(engines.make(config, tiny.suite(), dqn.agent(tiny.suite().spec, CONFIG)), 2)
    first = jax.tree.map(lambda x: x[0], both["state"])
    tiny.assert_trees_close(first, run(1)[0]["state"], 1e-4)
    other = jax.tree.map(lambda x: np.abs(x[0] - x[1]).max(), both["state"].params)
    assert min(jax.tree.leaves(other)) > 0


# --------------------------------------------------------------------------------------- networks


@pytest.fixture(scope="module")
def games() -> EnvSpec:
    return small_games(("catch", "rain")).spec


@pytest.mark.parametrize(
    ("network", "torso", "told", "shares"),
    [
        ("blind", "flat", False, True),
        ("onehot", "board", True, True),
        ("multihead", "board", True, True),
        ("separate", "flat", True, False),
    ],
)
def test_what_a_network_is_told_and_what_tasks_share(games, network, torso, told, shares):
    net = q_network.make(games, network, torso, (8,))
    params = jax.jit(lambda key: q_network.init_params(net, key))(jax.random.key(0))
    seen = np.random.default_rng(0).integers(0, 8, (1, 5, 8, 8)).astype(np.uint8)
    seen = jnp.asarray(np.repeat(seen, 2, axis=0))  # the same rows to both tasks

    def first_task(params):
        return (lambda q: (q[0].sum(), q))(q_network.values(net, params, seen))

    grads, q = jax.jit(jax.grad(first_task, has_aux=True))(params)
    assert q.shape == (2, 5, 6) and q.dtype == jnp.float32
    assert (q[0] != q[1]).any() == told
    assert (q[:, 0] != q[:, 1]).any()
    assert bool(jax.tree.leaves(grads.shared)) == shares
    for leaf in jax.tree.leaves(grads.task):
        assert (leaf[0] != 0).any() and not (leaf[1] != 0).any()


def test_an_image_goes_through_the_nature_network():
    spec = small_games(("catch",)).spec._replace(
        observation_shape=(4, 84, 84),
        vocabulary=None,
        num_actions=18,
        action_mask=np.ones((1, 18), bool),
    )
    net = q_network.make(spec, "onehot", "auto", (512,))
    assert net.torso.kind == "nature"
    shapes = jax.eval_shape(lambda key: q_network.init_params(net, key), jax.random.key(0))
    count = sum(np.prod(x.shape) for x in jax.tree.leaves(shapes))
    # 8224 + 32832 + 36928 of the convolutions, 3136 inputs and a task number to 512, to 18.
    assert count == 8224 + 32832 + 36928 + (3136 + 1 + 1) * 512 + 513 * 18
    observation = jax.ShapeDtypeStruct((1, 2, 4, 84, 84), np.uint8)
    q = jax.eval_shape(lambda p, x: q_network.values(net, p, x), shapes, observation)
    assert q.shape == (1, 2, 18)


def test_a_small_image_has_a_torso_of_its_own():
    spec = small_games(("catch",)).spec._replace(observation_shape=(3, 32, 32), vocabulary=None)
    torso = torsos.choose(spec)
    assert torso.kind == "small_image"
    image = jax.ShapeDtypeStruct((5, 3, 32, 32), np.uint8)
    features, _ = jax.eval_shape(torso.init_with_output, jax.random.key(0), image)
    assert features.shape == (5, 2 * 2 * 64)
    for kind in ("nature", "flat", "board"):
        with pytest.raises(ValueError, match=f"torso '{kind}' does not read"):
            torsos.choose(spec, kind)
    with pytest.raises(ValueError, match="image of at least 32 x 32"):
        torsos.choose(spec._replace(observation_shape=(3, 31, 40)))


def test_a_board_is_convolved_as_numpy_says(games):
    torso = torsos.choose(games, "board")
    board = np.random.default_rng(1).integers(0, 8, (2, 8, 8)).astype(np.uint8)
    variables = torso.init(jax.random.key(0), board)
    got = np.asarray(torso.apply(variables, board)).reshape(2, 6, 6, 16)
    kernel = np.asarray(variables["params"]["conv0"]["kernel"])
    one_hot = np.eye(8)[board]
    for r, c in ((0, 0), (2, 5)):
        window = one_hot[:, r : r + 3, c : c + 3]
        expected = np.maximum(np.einsum("bijk,ijkf->bf", window, kernel), 0)
        np.testing.assert_allclose(got[:, r, c], expected, atol=1e-5)


# ------------------------------------------------------------------------------------- bad numbers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surgery": "famo"}, "whose targets move here"),
        ({"network": "deep"}, "network must be one of blind, onehot"),
        ({"torso": "nature"}, "torso 'nature' does not read"),
        ({"torso": "big"}, "torso must be auto or one of"),
        ({"torso": "board"}, "torso 'board' reads an"),
        ({"n_step": 0}, "n_step must be at least 1; got 0"),
        ({"epsilon": 1.5}, r"epsilon must lie in \[0, 1\]"),
        ({"min_replay": 301}, "min_replay must not exceed replay_size = 300; got 301"),
        ({"reward_clip": -1.0}, "reward_clip must not be negative"),
        ({"hidden": ()}, "hidden must hold at least one"),
    ],
)
def test_bad_configs_are_refused_before_anything_runs(change, message):
    with pytest.raises(ValueError, match=message):
        dqn.agent(tiny.suite().spec, dataclasses.replace(CONFIG, **change))


def test_suites_and_batches_that_do_not_fit_are_refused(games):
    with pytest.raises(ValueError, match="discrete actions for DQN"):
        dqn.agent(games._replace(action_size=2), CONFIG)
    with pytest.raises(ValueError, match="'separate' shares nothing, but the torso 'board'"):
        q_network.make(games, "separate", "board", (4,))
    config = dataclasses.replace(CONFIG, batch_size=12)
    agent = dqn.agent(tiny.suite().spec, config, collectives=learner.across(8))
    engine = engines.make(dataclasses.replace(RUN, num_devices=8), tiny.suite(), agent)
    with pytest.raises(ValueError, match="batch_size must be a multiple of 8"):
        engine.advance(engine.start(), 0)


def test_the_policy_is_all_that_acting_reads():
    agent, state, _ = made()
    policy = agent.policy_params(state)
    assert isinstance(policy, dqn.Policy) and isinstance(policy.params, learner.Params)
    row = jax.tree.map(lambda x: x[0], make_rollout().timestep)
    keys = rollout.step_keys(jax.random.key(0), 0, jnp.asarray(rollout.env_indices(K, E)))
    act = jax.jit(lambda greedy: agent.act(policy, (), row, keys, greedy=greedy), static_argnums=0)
    explores = [act(greedy)[1] for greedy in (False, True)]
    np.testing.assert_allclose(explores[0], np.log(0.5), rtol=1e-6)  # epsilon is 1 at first
    np.testing.assert_allclose(explores[1], 0.0, atol=1e-6)
