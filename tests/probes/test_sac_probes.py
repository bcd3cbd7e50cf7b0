"""SAC where the answers are known: opposite tasks, the entropy, time limits and true ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import engines, evaluate
from mtrl_jax.algorithms import actor_q, sac
from tests.machinery import tiny
from tests.probes import probe_envs
from tests.probes.test_ppo_probes import aim

CONFIG = sac.Config(
    hidden=(16,),
    num_critics=1,
    unroll_length=8,
    updates_per_step=0.125,
    batch_size=32,
    capacity=4096,
    warmup=256,
    discount=0.9,
    learning_rate=5e-3,
    temperature_learning_rate=2e-2,
    temperature=0.1,
    target_rate=0.05,
    max_grad_norm=10.0,
)
RUN = engines.RunConfig(
    total_env_steps=1, num_envs_per_task=8, updates_per_dispatch=50, eval_episodes=16
)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def train(suite, config, dispatches=2):
    """State, metrics of all updates, and scores of the likeliest actions."""
    agent = sac.agent(suite.spec, config)
    engine = engines.make(RUN, suite, agent)
    carry, rows = engine.start(), []
    for n in range(dispatches):
        carry, values = engine.advance(carry, n * engine.updates)
        rows.append(values)
    metrics = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    state = engine.state(carry)
    score = evaluate.scorer(suite, agent, 16)(agent.policy_params(state), jax.random.key(9))
    return state, metrics, jax.device_get(score)


def test_opposite_tasks_are_told_apart_and_the_temperature_brings_the_entropy_to_its_target():
    """The density that is best for a quadratic reward of curvature 2 and temperature alpha has
    variance alpha / 2 nearly; the entropy of -1 nat asks for a standard deviation of 0.09."""
    _, metrics, score = train(aim(), dataclasses.replace(CONFIG, network="multihead"))
    assert score.episode_return.min() > 0.95  # within 0.22 of every target
    late = {name: values[-20:].mean(0) for name, values in metrics.items()}
    np.testing.assert_allclose(late["policy/log_prob"], 1.0, atol=0.25)
    std = np.exp(-1.0 - 0.5 * np.log(2 * np.pi * np.e))
    np.testing.assert_allclose(late["policy/temperature"], 2 * std**2, rtol=0.5)
    # No time limit here: the episode's one action is a true end, and nothing follows it.
    np.testing.assert_allclose(late["q/mean"], late["q/target"], atol=0.1)


class Limits(probe_envs.Probe):
    """Episodes that a limit cuts off where the task is positive, and that end where it is not."""

    def step(self, key, state, action, task):
        state, row, over = super().step(key, state, action, task)
        return state, row._replace(discount=jnp.where(over & (task < 0), 0.0, 1.0)), over


@pytest.mark.slow
def test_a_time_limit_is_not_an_end_and_an_end_is_one():
    """Reward c in episodes of four that are cut off: Q = c / (1 - 0.9) at every row, not what is
    left of four rewards; that it is where they end. A temperature of nearly nothing leaves the
    entropy out."""
    config = dataclasses.replace(
        CONFIG,
        temperature=1e-6,
        temperature_learning_rate=1e-9,
        layer_norm=False,
        target_rate=0.2,
        max_grad_norm=100.0,
    )

    # The last observation is the one before it, or nothing would ever be learnt about it.
    def clock(cue, t):
        return jnp.minimum(t, 3).astype(jnp.float32)[None]

    probe = Limits(4, clock, lambda cue, t, a, c: c)
    suite = probe_envs._suite("limits", probe, (1.0, -0.5))
    spec = suite.spec._replace(num_actions=0, action_mask=np.ones((2, 0), bool), action_size=1)
    suite = suite._replace(spec=spec)
    state, _, _ = train(suite, config, dispatches=4)
    nets = sac.make_parts(spec, config).numbers.nets
    left = np.arange(4.0, 0.0, -1.0)  # actions, from each row on
    for k, want in enumerate((np.full(4, 10.0), -0.5 * (1.0 - 0.9**left) / (1.0 - 0.9))):
        x, action = jnp.arange(4.0)[:, None], jnp.zeros((4, 1))
        own = {"critic0": {}}
        q = actor_q.q_values(nets, state.learned.critic.shared, own, x, action, jnp.int32(k))
        np.testing.assert_allclose(q, want[None], rtol=0.1, atol=0.1)
