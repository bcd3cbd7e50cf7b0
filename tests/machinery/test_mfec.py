"""MFEC around its tables: what is written when, what counts as used, ties, copies, devices."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import dispatch, engines, episodic, evaluate, learner, rollout
from mtrl_jax.algorithms import embeddings, mfec
from mtrl_jax.envs import suites
from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.episodic import tables
from mtrl_jax.types import EnvSpec, FunctionalSuite, Timestep
from tests.machinery import tiny
from tests.machinery.test_ppo import go_on

K, E, T, A, R = 2, 3, 5, 2, 8  # the ring holds episodes of two actions, and more in part
SPEC = EnvSpec(
    task_names=("a", "b"),
    observation_shape=(2,),
    observation_dtype=np.dtype(np.float32),
    vocabulary=None,
    num_actions=A,
    action_mask=np.ones((K, A), bool),
    episode_limit=np.zeros(K, int),
    has_success=False,
)
CONFIG = mfec.Config(
    embedding="identity",
    capacity=40,
    neighbours=3,
    discount=0.9,
    unroll_length=T,
    longest=R - T - 1,
)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


# ----------------------------------------------------------------------------- what is written


@functools.cache
def made(config=CONFIG):
    agent = mfec.agent(SPEC, config)
    return agent, jax.jit(agent.act), jax.jit(agent.update)


def play(num_rollouts, seed=0, garbage=0.0):
    """An agent led through rows of random episodes; yields what each update saw and made."""
    rng = np.random.default_rng(seed)
    agent, act, update = made()
    state, actor = agent.init(jax.random.key(0)), agent.init_actor(E)
    row = np.zeros((K, E), int)  # of the episode
    over = np.ones((K, E), bool)
    history = []
    for n in range(num_rollouts):
        before, actions = actor, []
        for t in range(T):
            row = np.where(over, 0, row + 1)
            first = row == 0
            over = ~first & ((rng.random((K, E)) < 0.4) | (row == 5))
            ended = over & (rng.random((K, E)) < 0.5)
            number = len(history)
            observation = np.stack(
                [np.full((K, E), number), np.broadcast_to(np.arange(E), (K, E))], -1
            )
            timestep = Timestep(
                observation=observation.astype(np.float32),
                reward=np.where(first, garbage, rng.normal(size=(K, E))).astype(np.float32),
                discount=np.where(first, garbage, np.where(ended, 0.0, 1.0)).astype(np.float32),
                first=first,
                valid=~first,
                success=np.zeros((K, E), bool),
            )
            keys = jax.random.split(jax.random.key(100 * n + t), (K, E))
            action, _, actor = act(agent.policy_params(state), actor, timestep, keys)
            history.append((timestep, np.asarray(action)))
            actions.append(action)
        seen = rollout.Rollout(timestep, jnp.stack(actions), 0.0, before)
        state, metrics = update(state, seen)
        yield history, state, metrics, seen


def expected(history):
    """{(task, action, row, environment): return}, of a loop backwards over finished episodes."""
    found = {}
    for k in range(K):
        for e in range(E):
            rows = [(row.reward[k, e], row.first[k, e], a[k, e]) for row, a in history]
            starts = [n for n, (_, first, _) in enumerate(rows) if first]
            for start, behind in itertools.pairwise(starts):
                g = 0.0
                for n in range(behind - 2, start - 1, -1):
                    g = float(rows[n + 1][0]) + 0.9 * g  # neither an end nor a limit bootstraps
                    found[k, int(rows[n][2]), n, e] = (g, behind)
    return found


def stored(state):
    found = {}
    for k in range(K):
        for a in range(A):
            table = jax.tree.map(lambda x, k=k, a=a: np.asarray(x[k, a]), state.tables)
            for i in np.flatnonzero(tables.filled(table)):
                n, e = table.keys[i].astype(int)
                found[k, a, n, e] = table.values[i]
    return found


def test_finished_episodes_are_written_one_rollout_later_with_their_returns():
    long = 0
    for n, (history, state, metrics, _) in enumerate(play(6)):
        if not n:
            assert stored(state) == {}
        want = expected(history[: n * T])
        # Of a longer episode the rows that the ring still had when it was over.
        seen = {key: g for key, (g, behind) in want.items() if key[2] >= (behind // T + 1) * T - R}
        long += len(want) - len(seen)
        got = stored(state)
        assert got.keys() == seen.keys()
        np.testing.assert_allclose([got[x] for x in seen], list(seen.values()), rtol=1e-5)
        np.testing.assert_array_equal(
            metrics["memory/keys"], [sum(x[0] == k for x in seen) for k in range(K)]
        )
    assert long > 0 and len(seen) > 20


def test_what_stands_on_reset_rows_changes_nothing():
    *_, (_, clean, *_) = play(3)
    *_, (_, dirty, *_) = play(3, garbage=np.nan)
    assert len(stored(clean)) > 10
    tiny.assert_trees_equal(clean, dirty)


@pytest.mark.slow  # three programs
def test_seeds_that_write_more_or_less_are_written_by_one_loop():
    _, _, update = made()
    pairs = [(state, seen) for _, state, _, seen in play(4)]
    two = [(pairs[2][0], pairs[1][1]), (pairs[1][0], pairs[3][1])]
    alone = [update(*pair)[0] for pair in two]
    both, _ = jax.jit(jax.vmap(update))(*jax.tree.map(lambda *x: jnp.stack(x), *two))
    for n in range(2):
        tiny.assert_trees_equal(jax.tree.map(lambda x, n=n: x[n], both), alone[n])
    counts = jnp.array([3, 5])
    np.testing.assert_array_equal(jax.vmap(mfec.most)(counts), [5, 5])


def test_what_was_read_counts_as_used_and_evaluations_leave_no_trace():
    agent, act, update = made()
    keys = np.arange(8, dtype=np.float32).reshape(4, 2)
    full = jax.jit(
        lambda t: jax.vmap(jax.vmap(lambda t: episodic.write_max(t, keys, jnp.ones(4))))(t)
    )(agent.init(jax.random.key(0)).tables)
    state, actor = mfec.State(full, ()), agent.init_actor(E)
    # One environment reads a stored key, once; the others lie next to the last three.
    beside = jnp.broadcast_to(jnp.float32([5, 6]), (K, E, 2))
    rows = jnp.zeros((K, E))
    timestep = Timestep(beside, rows, rows, rows > 0, rows > 0, rows > 0)
    draw = jax.random.split(jax.random.key(0), (K, E))
    for n in range(T):
        observation = beside.at[:, 0].set(jnp.float32([0, 1])) if n == 0 else beside
        action, _, actor = act(state, actor, timestep._replace(observation=observation), draw)
    after, _ = update(state, rollout.Rollout(timestep, action[None], 0.0, actor))
    used, before = np.asarray(after.tables.used), np.asarray(full.used)
    slot = [int(np.flatnonzero((np.asarray(full.keys[0, 0]) == key).all(1))[0]) for key in keys]
    order = np.argsort(used[0, 0][slot])
    assert (used[..., slot] > before[..., slot]).all()  # the exact key and three neighbours
    assert order[0] == 0  # which was read first
    same = agent.act(state, actor, timestep, draw, greedy=True)[2]
    assert same is actor


# --------------------------------------------------------------------------------------- acting


def test_ties_are_broken_at_random_and_what_was_never_tried_is_tried_first():
    n, epsilon = 4000, 0.2
    q = np.array([[1.0, 3.0, 3.0, 9.0], [np.inf, 2.0, np.inf, 7.0]], np.float32)
    mask = np.array([[True, True, True, False], [True, True, True, True]])
    keys = jax.random.split(jax.random.key(0), (2, n))
    many = jnp.broadcast_to(q[:, None], (2, n, 4))
    action, log_prob = jax.jit(mfec.best_actions)(many, mask, jnp.float32(epsilon), keys)
    want = np.array(
        [[0.2 / 3, 0.4 + 0.2 / 3, 0.4 + 0.2 / 3, 0.0], [0.45, 0.05, 0.45, 0.05]], np.float32
    )
    for k in range(2):
        share = np.bincount(action[k], minlength=4) / n
        np.testing.assert_allclose(share, want[k], atol=0.03)
        np.testing.assert_allclose(np.exp(log_prob[k]), want[k][action[k]], rtol=1e-5)


def test_keys_of_observations():
    games = suites.make("small_games:catch").spec
    board = np.random.default_rng(0).integers(0, 8, (4, 8, 8)).astype(np.uint8)
    one = embeddings.identity(games)
    x = np.asarray(one.apply((), jnp.asarray(board)))
    np.testing.assert_array_equal(x.reshape(4, 64, 8).argmax(-1), board.reshape(4, 64))
    assert one.dim == x.shape[1] == 512 and (x.sum(1) == 64).all()
    drawn = embeddings.projection(games, 16)
    matrix = drawn.init(jax.random.key(3))
    np.testing.assert_allclose(
        drawn.apply(matrix, jnp.asarray(board)), x @ np.asarray(matrix), rtol=1e-5, atol=1e-5
    )
    pixels = suites.make("rooms").spec
    image = np.full((1, *pixels.observation_shape), 255, np.uint8)
    assert (np.asarray(embeddings.inputs(pixels, jnp.asarray(image))) == 1.0).all()
    # A network that has learnt elsewhere lies in the state, and gets no gradient.
    params = {"w": np.ones((2, 3), np.float32)}
    learnt = embeddings.encoder(lambda p, x: x @ p["w"], params, SPEC)
    assert learnt.dim == 3
    agent = mfec.agent(SPEC, CONFIG, embedding=learnt)
    state = agent.init(jax.random.key(0))
    tiny.assert_trees_equal(state.embedding, jax.tree.map(jnp.asarray, params))
    assert state.tables.keys.shape == (K, A, 40, 3)
    slope = jax.grad(lambda p: learnt.apply(p, jnp.ones((1, 2))).sum())(params)
    assert not slope["w"].any()


# ------------------------------------------------------------------------- a chain, copies, devices


class Chain:
    """Five places in a row: action 1 goes right, 0 back to the left end; the right end pays 1."""

    def reset(self, key, task):
        return jnp.int32(0), restart(jax.nn.one_hot(0, 5))

    def step(self, key, state, action, task):
        state = jnp.where(action == task, state + 1, 0)
        ended = state == 4
        reward = jnp.where(ended, 1.0, -0.01)
        row = transition(jax.nn.one_hot(state, 5), reward, jnp.where(ended, 0.0, 1.0), ended)
        return state, row, ended


def chain():
    spec = SPEC._replace(observation_shape=(5,), episode_limit=np.zeros(2, int))
    return FunctionalSuite(spec, Chain(), jnp.arange(2))


@pytest.mark.slow  # a whole program
def test_a_deterministic_chain_is_solved_by_the_first_optimal_episode():
    suite = chain()
    config = dataclasses.replace(CONFIG, longest=200, unroll_length=8)
    agent = mfec.agent(suite.spec, config)
    run = engines.RunConfig(total_env_steps=1, num_envs_per_task=2, updates_per_dispatch=25)
    engine = engines.make(run, suite, agent)
    carry, _ = engine.advance(engine.start(), 0)
    state = engine.state(carry)
    score = evaluate.scorer(suite, agent, 4)(agent.policy_params(state), jax.random.key(1))
    assert (np.asarray(score.length) == 4).all()
    for k in range(2):  # the table of the right action holds the best return of each place
        table = jax.tree.map(lambda x, k=k: np.asarray(x[k, k]), state.tables)
        used = tables.filled(table)
        place, value = table.keys[used].argmax(1), table.values[used]
        best = [0.9 ** (3 - i) - 0.01 * sum(0.9**j for j in range(3 - i)) for i in range(4)]
        np.testing.assert_allclose(value[np.argsort(place)], best, rtol=1e-5)


@pytest.mark.slow  # compiles with XLA's optimisations
def test_no_table_is_copied_by_a_dispatch():
    """Two copies an update, once; and of what a write compares with its rows, all of it."""
    with tiny.quick_compiles(False):
        suite = chain()
        config = dataclasses.replace(CONFIG, capacity=20_000, neighbours=1)
        agent = mfec.agent(suite.spec, config)
        program = dispatch.program_of(suite, agent, learner.ALONE, 2)
        index = jnp.asarray(rollout.env_indices(K, 1))
        shapes = jax.eval_shape(
            lambda key: (
                agent.init(key),
                rollout.init_env_loop(suite, key, index, agent.init_actor),
            ),
            jax.random.key(0),
        )
        data, _ = dispatch.split_tasks(suite)
        lowered = jax.jit(program, donate_argnums=(0, 1)).lower(
            *shapes, jax.random.key(0), data, jnp.int32(0)
        )
        taken = lowered.compile().memory_analysis().temp_size_in_bytes
    assert taken < 20_000 * K * A * 4 * 5  # the keys alone


RUN = engines.RunConfig(total_env_steps=1, num_envs_per_task=8, updates_per_dispatch=4)


def ran(num_devices):
    run = dataclasses.replace(RUN, num_devices=num_devices)
    agent = mfec.agent(tiny.suite().spec, CONFIG, collectives=learner.across(num_devices))
    return go_on(engines.make(run, tiny.suite(), agent), 2)


@pytest.mark.slow  # compiles for eight devices
def test_eight_devices_make_the_update_of_one():
    (one, rows), (eight, other) = ran(1), ran(8)
    assert (np.asarray(episodic.size(one["state"].tables)) > 0).all()
    tiny.assert_trees_equal(one["state"], eight["state"])
    tiny.assert_trees_equal(one["loop"].actor_state.rows, eight["loop"].actor_state.rows)
    tiny.assert_trees_close(rows, other, 1e-6)


# -------------------------------------------------------------------------------------- bad numbers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neighbours": 41}, "neighbours must not exceed capacity = 40; got 41"),
        ({"embedding": "vae"}, "embedding must be one of projection, identity; got 'vae'"),
        ({"recall": 0.0}, r"recall must lie in \(0"),
        ({"embedding": "projection", "dim": 5000}, "dim must be at most 4096; got 5000"),
    ],
)
def test_bad_numbers_name_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        mfec.check(SPEC, dataclasses.replace(CONFIG, **changes))
    with pytest.raises(ValueError, match="discrete actions for MFEC"):
        mfec.check(SPEC._replace(action_size=2), CONFIG)
