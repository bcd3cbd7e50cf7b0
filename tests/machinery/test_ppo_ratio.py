"""PPO's ratios begin at 1: the policy of the first minibatch is the one that acted.

Inside real engines, over several updates, so that moments and parameters have moved in between.
"""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from mtrl_jax import engines, learner
from mtrl_jax.algorithms import ppo
from mtrl_jax.types import HostSuite
from tests.machinery import tiny
from tests.probes import probe_envs
from tests.probes.test_ppo_probes import aim

K, T, E = 2, 8, 8
CONFIG = ppo.Config(
    hidden=(4,),
    unroll_length=T,
    epochs=1,
    minibatches=1,  # so that metrics are of the first step
    learning_rate=0.02,
    target_kl=0.0,
    initial_std=0.5,
    overlap=False,
)
RUN = engines.RunConfig(total_env_steps=1, num_envs_per_task=E, updates_per_dispatch=1)
UPDATES = 4


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@functools.cache
def suite_of(kind):
    """Observations far from mean 0 and variance 1, so that moments matter."""
    aimed = aim()
    far = aimed.env._replace(observe=lambda cue, t: 3.0 + 7.0 * cue[None])
    inner = aimed._replace(env=far)
    if kind == "functional":
        return inner
    if kind == "discrete":
        return probe_envs.memory()

    def make(num_envs, seed, num_groups):
        return tiny.FunctionalPool(inner, num_envs, jax.random.key(seed), num_groups)

    return HostSuite(inner.spec, make)


@functools.cache
def ratios(kind, devices, **changes):
    """How far the ratios are from 1 at each update, `[UPDATES, K]`: to the policy that acted, and
    (KL, half a square) in the loss of the only minibatch; and the moments of observations."""
    suite, config = suite_of(kind), dataclasses.replace(CONFIG, **changes)
    agent = ppo.agent(suite.spec, config, collectives=learner.across(devices))
    engine = engines.make(dataclasses.replace(RUN, num_devices=devices), suite, agent)
    carry, rows = engine.start(), []
    for u in range(UPDATES):
        carry, values = engine.advance(carry, u)
        rows += [values] if values else []
    carry, values = engine.flush(carry)
    rows += [values] if values else []
    moments = engine.state(carry).observations
    engine.close(carry)
    behind, kl = (
        np.concatenate([row[name] for row in rows]) for name in ("policy/behind", "policy/kl")
    )
    assert behind.shape == kl.shape == (UPDATES, K)
    return behind, kl, moments


# Each kind, once alone and once on eight devices; all together where time is no matter.
QUICK = {("functional", "shared", 8), ("host", "none", 1)}


@pytest.mark.parametrize(
    ("kind", "statistics", "devices"),
    [
        pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
        for case in itertools.product(("functional", "host"), ppo.STATISTICS, (1, 8))
    ],
)
def test_the_policy_that_acted_is_the_one_that_learns_at_first(kind, statistics, devices):
    behind, kl, moments = ratios(kind, devices, statistics=statistics)
    assert behind.max() < 1e-6 and kl.max() < 5e-13
    assert (np.asarray(moments.mean) > 1.0).all() == (statistics != "none")


@pytest.mark.slow
def test_of_discrete_actions_too():
    behind, kl, _ = ratios("discrete", 1)
    assert behind.max() < 1e-6 and kl.max() < 5e-13


@pytest.mark.slow
def test_beside_the_update_the_clip_is_around_the_younger_policy():
    """With overlap the policy that acted is one update old, moments included, and the weights say
    so; the clip's ratio begins at 1 all the same."""
    behind, kl, _ = ratios("host", 1, overlap=True)
    assert kl.max() < 5e-13
    assert behind[0].max() < 1e-6  # nothing has been learnt yet
    assert behind[1:].min() > 1e-3
