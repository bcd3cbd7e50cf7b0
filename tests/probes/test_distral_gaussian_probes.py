"""Distral on one continuous action, against the optimum found on a grid of actions.

The reward is 1 - (a - t cue)^2 with another t in each task, and nothing is cut off, so the optimum

    pi_i ~ pi_0^alpha exp(R_i / tau)    V_i = tau log sum_a pi_0(a)^alpha exp(R_i(a) / tau) da
    pi_0 = the Gaussian with the mean and variance of the mixture of the n tasks' pi_i

is Gaussian itself and all its numbers depend on the costs. The cue turns it round.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mtrl_jax import engines
from mtrl_jax.algorithms import distral
from mtrl_jax.losses import distral as losses
from mtrl_jax.types import Timestep
from tests.machinery import tiny
from tests.probes import probe_envs

TAU = 0.3
TARGETS = (0.6, 0.2, -0.5)
K, UPDATES = len(TARGETS), 400
GRID = np.linspace(-6.0, 6.0, 4001)
RUN = engines.RunConfig(
    total_env_steps=1, num_envs_per_task=16, updates_per_dispatch=UPDATES // 2, eval_episodes=1
)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def _suite():
    def reward(cue, t, a, target):
        return 1.0 - jnp.square(a[0] - target * cue)

    suite = probe_envs._suite("aim", probe_envs.Probe(1, lambda cue, t: cue[None], reward), TARGETS)
    spec = suite.spec._replace(num_actions=0, action_mask=np.ones((K, 0), bool), action_size=1)
    return suite._replace(spec=spec)


def _config(algorithm, **changes):
    numbers = {
        "algorithm": algorithm,
        "entropy_cost": TAU,
        "unroll_length": 8,
        "learning_rate": 0.02,
        "final_learning_rate": 0.0,
        "max_grad_norm": 100.0,
        "hidden": (16,),
        "value_cost": 1.0,
    }
    return distral.Config(**(numbers | changes))


def _answer(targets, alpha):
    """Means, standard deviations and values of the tasks, mean and standard deviation of pi_0."""
    cell, mean_0, std_0 = GRID[1] - GRID[0], 0.0, 1.0
    reward = 1.0 - (GRID - np.array(targets)[:, None]) ** 2
    for _ in range(500):
        weights = np.exp(alpha * scipy.stats.norm.logpdf(GRID, mean_0, std_0) + reward / TAU)
        total = weights.sum(1) * cell
        pi = weights / total[:, None]
        mixture = pi.mean(0) * cell
        mean_0 = mixture @ GRID
        std_0 = np.sqrt(mixture @ (GRID - mean_0) ** 2)
    mean = pi @ GRID * cell
    std = np.sqrt(np.sum(pi * (GRID - mean[:, None]) ** 2, axis=1) * cell)
    return mean, std, TAU * np.log(total), mean_0, std_0


def _learnt(suite, config):
    """The agent, its state, and h, pi_i and v `[K, cue]` where the cue is 1 and -1."""
    agent = distral.agent(suite.spec, config, UPDATES)
    engine = engines.make(RUN, suite, agent)
    carry = engine.start()
    for n in range(2):
        carry, _ = engine.advance(carry, n * engine.updates)
    state = engine.state(carry)

    parts = distral.make_parts(suite.spec, config, distral.check(suite.spec, config), K, 0)
    cues = jnp.array([[[1.0], [-1.0]]])
    no, yes = jnp.zeros((1, 2)), jnp.ones((1, 2), bool)
    rows = Timestep(cues, no, no, yes, ~yes, ~yes)

    def one(shared, task):
        actor = distral.ActorState(jnp.zeros((2, 1)), (), ())
        h, g, v, _ = distral.columns_of(parts, shared, task, rows, jnp.zeros((1, 2, 1)), actor)
        return h, losses.task_policy(h, g, parts.coefficients), v

    shared, task = state.params
    if config.separate:
        task = jax.tree.map(lambda x: x[:, 0], task)
    found = jax.vmap(one, (0 if config.separate else None, 0))(shared, task)
    return agent, state, jax.tree.map(lambda x: np.asarray(x).reshape(K, 2), found)


@pytest.mark.parametrize(
    ("algorithm", "separate"),
    [
        ("kl_ent_2col", False),
        pytest.param("kl_1col", False, marks=pytest.mark.slow),
        pytest.param("kl_ent_2col", True, marks=pytest.mark.slow),
    ],
)
def test_learns_the_known_answer(algorithm, separate):
    suite, config = _suite(), _config(algorithm, separate=separate)
    agent, state, (h, pi_i, v) = _learnt(suite, config)
    alpha = losses.ALGORITHMS[algorithm].alpha
    groups = [[k] for k in range(K)] if separate else [list(range(K))]
    close = functools.partial(np.testing.assert_allclose, rtol=0.0, atol=0.04)
    for group in groups:
        mean, std, value, mean_0, std_0 = _answer([TARGETS[k] for k in group], alpha)
        for n, cue in enumerate((1.0, -1.0)):
            close(pi_i.mean[group, n], cue * mean, err_msg="mean")
            close(np.exp(pi_i.log_std)[group, n], std, err_msg="standard deviation")
            close(v[group, n], value, err_msg="value")
            close(h.mean[group, n], cue * mean_0, err_msg="mean of pi_0")
            close(np.exp(h.log_std)[group, n], std_0, err_msg="standard deviation of pi_0")

    # What acts is what was learnt, and says the density of what it drew.
    row = Timestep(
        jnp.ones((K, 500, 1)),
        *(jnp.zeros((K, 500)),) * 2,
        jnp.ones((K, 500), bool),
        *(jnp.zeros((K, 500), bool),) * 2,
    )
    keys = jax.random.split(jax.random.key(3), (K, 500))
    for policy, distilled in ((pi_i, False), (h, True)):
        action, log_prob, _ = jax.jit(functools.partial(agent.act, distilled=distilled))(
            agent.policy_params(state), agent.init_actor(500), row, keys
        )
        assert action.shape == (K, 500, 1) and action.dtype == jnp.float32
        mean, std = policy.mean[:, :1], np.exp(policy.log_std[:, :1])
        want = scipy.stats.norm.logpdf(action[..., 0], mean, std)
        np.testing.assert_allclose(log_prob, want, atol=1e-3)
        close(np.mean(action[..., 0], axis=1), mean[:, 0], atol=5 * std.max() / np.sqrt(500))
        np.testing.assert_allclose(np.std(action[..., 0], axis=1), std[:, 0], rtol=0.15)
