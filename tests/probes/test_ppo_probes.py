"""PPO on environments whose answers are known: continuous and discrete actions, several tasks."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import engines, evaluate, normalisers
from mtrl_jax.algorithms import actor_critic, ppo
from mtrl_jax.networks import multitask
from tests.machinery import tiny
from tests.probes import probe_envs

CONFIG = ppo.Config(
    hidden=(16,),
    unroll_length=16,
    epochs=4,
    minibatches=4,
    learning_rate=5e-3,
    discount=0.9,
    initial_std=0.5,
    statistics="shared",
    target_kl=0.1,
)
RUN = engines.RunConfig(
    total_env_steps=1, num_envs_per_task=8, updates_per_dispatch=40, eval_episodes=16
)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@functools.cache
def aim(signs=(1.0, -1.0)):
    """One action of one coordinate: reward 1 - (a - 0.5 sign cue)^2, 1 at best."""

    def miss(cue, t, a, sign):
        return jnp.square(jnp.clip(a[0], -1.0, 1.0) - 0.5 * sign * cue)

    probe = probe_envs.Probe(1, lambda cue, t: cue[None], lambda *args: 1.0 - miss(*args))
    suite = probe_envs._suite("aim", probe, signs)
    spec = suite.spec._replace(
        num_actions=0, action_mask=np.ones((len(signs), 0), bool), action_size=1
    )
    return suite._replace(spec=spec)


def train(suite, config, dispatches=2):
    """State, metrics of all updates, and scores of the likeliest actions."""
    agent = ppo.agent(suite.spec, config)
    engine = engines.make(RUN, suite, agent)
    carry, rows = engine.start(), []
    for n in range(dispatches):
        carry, values = engine.advance(carry, n * engine.updates)
        rows.append(values)
    metrics = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    state = engine.state(carry)
    score = evaluate.scorer(suite, agent, 16)(agent.policy_params(state), jax.random.key(9))
    return state, metrics, jax.device_get(score)


def test_opposite_tasks_are_told_apart_by_their_number():
    state, metrics, score = train(aim(), CONFIG)
    assert score.episode_return.min() > 0.95  # within 0.22 of every target
    assert metrics["policy/std"][-1].max() < 0.4 < 0.5  # surer than it began
    assert metrics["value/mean"][-1].min() > 0.5
    assert state.updates == 80


class Blind(nn.Module):
    """A network that does not look at the number of its task."""

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x, task):
        return nn.Dense(self.size)(nn.relu(nn.Dense(16)(x)))


@pytest.mark.slow
def test_one_blind_policy_cannot_solve_opposite_tasks(monkeypatch):
    monkeypatch.setitem(multitask.NETWORKS, "blind", Blind)
    _, _, score = train(aim(), dataclasses.replace(CONFIG, network="blind"))
    assert score.episode_return.mean() < 0.9  # 0.75 is the best there is


@pytest.mark.slow
def test_discrete_cues_of_opposite_meaning_and_a_time_limit_that_is_not_an_end():
    """Reward 1 for the right action, -1 for the other, in episodes of four that are cut off: the
    best policy's value is 1 / (1 - 0.9) at every row; taking the limit for an end, 1 to 3.4."""
    probe = probe_envs.Probe(4, probe_envs._cue, probe_envs._matches, truncates=True)
    suite = probe_envs._suite("cues", probe, (0.0, 1.0))
    config = dataclasses.replace(CONFIG, network="multihead", lambda_=0.8)
    state, metrics, score = train(suite, config)
    assert (score.episode_return == 4.0).all()
    nets = ppo.make_parts(suite.spec, config, 0).nets

    def of(tree, k):
        return jax.tree.map(lambda y: y[k], tree)

    for k in range(2):
        inputs = actor_critic.inputs(nets, of(state.observations, k), jnp.array([[1.0], [-1.0]]))
        shared, own = state.params.shared, of(state.params.task, k)
        v = actor_critic.value(nets, shared, own, inputs, jnp.int32(k))
        np.testing.assert_allclose(normalisers.restore(v, of(state.returns, k)), 10.0, rtol=0.1)
    np.testing.assert_allclose(metrics["value/mean"][-1], 10.0, rtol=0.1)


@pytest.mark.slow
def test_an_image_says_which_action_is_right():
    """Both networks see through convolutions, which learn. Each task has a head: told only its
    number, this small network settles one task before it reads the other's."""
    probe = probe_envs.Probe(
        1,
        lambda cue, t: jnp.full((1, 32, 32), jnp.where(cue > 0, 200, 50), jnp.uint8),
        probe_envs._matches,
    )
    suite = probe_envs._suite("image", probe, (0.0, 1.0))
    spec = suite.spec._replace(observation_shape=(1, 32, 32), observation_dtype=np.dtype(np.uint8))
    suite = suite._replace(spec=spec)
    config = dataclasses.replace(CONFIG, network="multihead", learning_rate=1e-3)
    state, _, score = train(suite, config, dispatches=1)
    assert score.episode_return.min() > 0.9
    assert (np.asarray(state.observations.batches) == 0).all()
    fresh = ppo.agent(spec, config).init(jax.random.key(0))
    for name in ("actor", "critic"):
        torso = state.params.shared[name]["torso"]
        assert set(torso) == {"conv0", "conv1", "conv2"}
        like = fresh.params.shared[name]["torso"]
        assert all(
            (a != b).any() for a, b in zip(*map(jax.tree.leaves, (torso, like)), strict=True)
        )
