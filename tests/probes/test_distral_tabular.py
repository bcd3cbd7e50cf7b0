"""Tabular Distral in two rooms learns what the paper shows, and each of its steps is what it
says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.algorithms import soft_q
from mtrl_jax.envs import two_rooms
from mtrl_jax.losses import distral

K, A, N = 10, 5, two_rooms.num_states()


@functools.partial(jax.jit, static_argnames=("num_blocks", "block_length"))
def _learn(settings, goals, keys, num_blocks, block_length):
    """Leaves [settings, seeds, ...]."""

    def one(settings, goals, key):
        return soft_q.learn(
            two_rooms.TwoRooms(),
            goals,
            two_rooms.state_index,
            settings,
            key,
            shape=(N, A),
            num_blocks=num_blocks,
            block_length=block_length,
        )

    return jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None))(settings, goals, keys)


@pytest.fixture(scope="module")
def runs():
    """Distral and separate soft Q-learning: 4 seeds, 6,000 iterations of 10 rows."""
    settings = soft_q.Settings(distils=jnp.array([1.0, 0.0]))
    settings = jax.tree.map(lambda x: jnp.broadcast_to(x, (2,)), settings)
    keys = jax.random.split(jax.random.key(1), 4)
    goals = jax.vmap(lambda key: two_rooms.random_goals(key, K))(keys)
    return jax.device_get(_learn(settings, goals, keys, 6, 1000))


@pytest.mark.slow
def test_distilled_policy_keeps_its_direction_in_the_corridor_i23(runs):
    policy = np.asarray(distral.pseudocount_policy(runs[0].counts[0]))
    for previous in ("left", "right"):
        action = two_rooms.ACTIONS.index(previous)
        rows = [
            int(two_rooms.state_index(jnp.array([cell, action + 1, 1])))
            for cell in two_rooms.corridor()
        ]
        p = policy[:, rows].mean((0, 1))
        assert p[action] > 0.8
        assert p[two_rooms.ACTIONS.index("up")] + p[two_rooms.ACTIONS.index("down")] < 0.1


def test_distral_learns_faster_than_separate_soft_q_i23(runs):
    # Means of a sixth of the run.
    length = (runs[1].steps / runs[1].episodes).mean(1)
    assert length[0, -1] < 12.0 < 30.0 < length[1, -1]
    assert length[0, 2] < 0.8 * length[1, 2]
    assert np.all(np.diff(length[0]) < 0)


def _iteration(distils, count_decay, counts, seed=0):
    """One iteration of 4 tasks from a random Q, with the observations that it went through."""
    env, rng = two_rooms.TwoRooms(episode_length=4), np.random.default_rng(seed)
    goals = jnp.array([3, 20, 30, 43])
    state = soft_q.State(jnp.asarray(rng.normal(size=(4, N, A)), jnp.float32), jnp.asarray(counts))
    carry = soft_q.start(env, goals, state, jax.random.key(seed))
    settings = soft_q.Settings(count_decay=count_decay, distils=distils)
    new, log = jax.jit(soft_q.iterate, static_argnums=(0, 2, 6))(
        env, goals, two_rooms.state_index, settings, carry, jax.random.key(seed + 1), 12
    )
    return state, new, log


def test_counts_decay_and_take_in_every_valid_step():
    counts = np.random.default_rng(0).uniform(size=(N, A)).astype(np.float32)
    _, new, log = _iteration(1.0, 0.5, counts)
    added = np.asarray(new.state.counts) - 0.5 * counts
    np.testing.assert_allclose(added, np.round(added), atol=1e-5)
    assert added.min() > -1e-5
    np.testing.assert_allclose(added.sum(), log.steps, rtol=1e-4)
    assert log.steps < 4 * 12 and log.episodes >= 4  # reset rows are not counted


def test_an_iteration_changes_q_only_where_it_counted():
    state, new, _ = _iteration(1.0, 1.0, np.zeros((N, A), np.float32))
    changed = np.asarray(new.state.q != state.q).any(0)
    np.testing.assert_array_equal(changed, np.asarray(new.state.counts) > 0)


def test_one_row_is_the_update_of_the_paper():
    # 500 tasks side by side, so that some reach the goal, where the target is the reward alone.
    env, goals, tasks = two_rooms.TwoRooms(), jnp.full(500, 20), np.arange(500)
    rng = np.random.default_rng(1)
    q, counts = rng.normal(size=(500, 44, A)), rng.integers(9, size=(44, A)).astype(float)
    state = soft_q.State(jnp.asarray(q, jnp.float32), jnp.asarray(counts, jnp.float32))
    index = functools.partial(two_rooms.state_index, state="cell")
    carry = soft_q.start(env, goals, state, jax.random.key(2))
    new, log = jax.jit(soft_q.iterate, static_argnums=(0, 2, 6))(
        env, goals, index, soft_q.Settings(alpha=0.7), carry, jax.random.key(3), 1
    )
    s, s_t = (np.asarray(x.timestep.observation)[:, 0] for x in (carry, new))
    a = np.asarray(new.timestep.observation)[:, 1] - 1
    reward, discount = np.asarray(new.timestep.reward), np.asarray(new.timestep.discount)
    assert log.steps == 500 and 2 <= log.episodes == np.sum(discount == 0) <= 50
    pi_0 = (1.0 + counts[s_t]) / (A + counts[s_t].sum(-1, keepdims=True))
    value = np.log(np.sum(pi_0**0.7 * np.exp(5.0 * q[tasks, s_t]), axis=-1)) / 5.0
    want = q.copy()
    want[tasks, s, a] = 0.9 * q[tasks, s, a] + 0.1 * (reward + 0.95 * discount * value)
    np.testing.assert_allclose(new.state.q, want, rtol=1e-5, atol=1e-6)


def test_without_distillation_counts_do_not_matter():
    rng = np.random.default_rng(4)
    counts = [rng.integers(9, size=(N, A)).astype(np.float32) for _ in range(2)]
    (_, one, _), (_, other, _) = (_iteration(0.0, 1.0, c) for c in counts)
    np.testing.assert_array_equal(one.state.q, other.state.q)
    (_, one, _), (_, other, _) = (_iteration(1.0, 1.0, c) for c in counts)
    assert np.any(one.state.q != other.state.q)


def test_actions_follow_the_optimal_policy():
    # One state, 4,000 environments: frequencies against pi_0^alpha exp(beta A).
    env, goals = two_rooms.TwoRooms(), jnp.full(4000, 40)
    row = np.random.default_rng(5).normal(size=A) / 5.0
    counts = jnp.zeros((44, A)).at[:, 2].set(20.0)
    state = soft_q.State(jnp.broadcast_to(jnp.asarray(row, jnp.float32), (4000, 44, A)), counts)
    index = functools.partial(two_rooms.state_index, state="cell")
    carry = soft_q.start(env, goals, state, jax.random.key(6))
    new, _ = jax.jit(soft_q.iterate, static_argnums=(0, 2, 6))(
        env, goals, index, soft_q.Settings(alpha=0.5, count_decay=0.0), carry, jax.random.key(7), 1
    )
    pi_0 = np.array([1.0, 1.0, 21.0, 1.0, 1.0]) / 25.0
    pi = pi_0**0.5 * np.exp(5.0 * row)
    frequency = np.asarray(new.state.counts).sum(0) / 4000
    np.testing.assert_allclose(frequency, pi / pi.sum(), atol=0.03)
