"""DQN on environments with known values, and on a small game that it must learn in seconds.

The probes are those of Distral's tests, all as tasks of one suite: rewards now, later, for the
right action, and in episodes that are cut off, whose value is that of going on for ever.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import engines, evaluate, rollout
from mtrl_jax.algorithms import dqn, q_network
from mtrl_jax.envs.games import small_games
from tests.machinery import tiny
from tests.probes import test_distral_probes as probes

GAMMA = probes.GAMMA
CONFIG = dqn.Config(
    network="separate",
    hidden=(32,),
    discount=GAMMA,
    n_step=2,
    unroll_length=6,
    replay_size=600,
    min_replay=100,
    batch_size=16,
    replay_ratio=0.7,
    target_period=25,
    epsilon=0.3,
    epsilon_steps=500,
    learning_rate=0.01,
)


@functools.cache
def suite():
    return probes._suite()


@functools.cache
def learned():
    """The state after training, on `separate` networks."""
    agent = dqn.agent(suite().spec, CONFIG)
    env_index = jnp.asarray(rollout.env_indices(suite().spec.num_tasks, 8))

    def run(key):
        def one(carry, u):
            state, loop = carry
            loop, experience = rollout.unroll(
                suite(),
                agent.act,
                agent.policy_params(state),
                loop,
                jax.random.fold_in(key, u),
                CONFIG.unroll_length,
            )
            return (agent.update(state, experience)[0], loop), None

        loop = rollout.init_env_loop(suite(), key, env_index, agent.init_actor)
        return jax.lax.scan(one, (agent.init(key), loop), jnp.arange(500))[0][0]

    quickly = jax.jit(run, compiler_options=probes._QUICKLY)
    return jax.device_get(quickly(jax.random.key(0)))


def answers():
    """Optimal action values `[K, 2 rows, 2 cues, A]` of each probe's variants, in order."""
    right = np.array(probes.RIGHT)

    def both(*rows):
        return np.stack(rows, -1)  # of both actions

    found = []
    for name in probes.TASKS:
        c = np.array(probes.TASKS[name])
        values = np.zeros((len(c), 2, 2, 2))
        for i, cue in enumerate((-1, 1)):
            if name == "constant_reward":
                values[:, :, i] = c[:, None, None]
            if name == "observed_reward":
                values[:, :, i] = cue * c[:, None, None]
            if name == "delayed_reward":
                values[:, 0, i], values[:, 1, i] = GAMMA * c[:, None], c[:, None]
            if name == "action_matters":
                values[:, :, i] = both(*(np.where(right == a, 1, -1) for a in (0, 1)))[:, None]
            if name == "action_and_cue":
                wanted = (cue > 0) ^ (right > 0)
                values[:, :, i] = both(*(np.where(wanted == a, 1, -1) for a in (0, 1)))[:, None]
            if name == "truncation":
                values[:, :, i] = c[:, None, None] / (1 - GAMMA)
        found.append(values)
    return np.concatenate(found)


def test_values_are_the_optimal_ones():
    env, tasks = suite().env, suite().tasks

    def see(cue, time, task):
        return env._observe(cue, time, task)

    rows = [
        jax.vmap(lambda task, c=c, t=t: see(jnp.float32(c), jnp.int32(t), task))(tasks)
        for t in (0, 1)
        for c in (-1, 1)
    ]
    parts = dqn.make_parts(suite().spec, CONFIG)
    q = q_network.values(parts.net, learned().params, jnp.stack(rows, axis=1))
    got = np.asarray(q).reshape(len(q), 2, 2, 2)
    expected, length = answers(), suite().spec.episode_limit
    for k, name in enumerate(suite().spec.task_names):
        played = slice(0, min(int(length[k]), 2))  # rows on which an action was ever chosen
        np.testing.assert_allclose(got[k, played], expected[k, played], atol=0.06, err_msg=name)


def test_the_target_network_lags():
    state = learned()
    assert state.updates > 900 and state.updates % CONFIG.target_period != 0
    lag = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params.task, state.target.task)
    assert 0 < max(jax.tree.leaves(lag)) < 0.2


@pytest.mark.slow
def test_it_learns_to_catch():
    """Random play catches 0.2 of 14 goals."""
    games = small_games(("catch",))
    config = dqn.Config(discount=0.9, n_step=7, epsilon_steps=3_000, target_period=200)
    run = engines.RunConfig(total_env_steps=1, num_envs_per_task=8, updates_per_dispatch=100)
    with tiny.quick_compiles():
        agent = dqn.agent(games.spec, config)
        engine = engines.make(run, games, agent)
        carry = engine.start()
        for n in range(4):
            carry, _ = engine.advance(carry, 100 * n)
        score = evaluate.scorer(games, agent, 16)
        score = score(agent.policy_params(engine.state(carry)), jax.random.key(1))
    assert 3.0 < score.episode_return.mean() <= 14.0
