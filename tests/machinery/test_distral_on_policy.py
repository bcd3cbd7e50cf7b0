"""Distral learns from what the policy that learns did, unless it is asked to overlap."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import distributions, engines
from mtrl_jax.algorithms import distral
from mtrl_jax.losses import distral as losses
from tests.machinery import tiny

UPDATES = 4


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def watched(spec, config):
    """The agent, whose metrics also say how far the ratio of the policy that learns to the one that
    acted is from 1, at most."""
    agent = distral.agent(spec, config)
    parts = distral.make_parts(spec, config, distral.check(spec, config), spec.num_tasks, 0)

    def behind(params, rollout):
        def one(task, mask, rows, action, acted, actor):
            previous = jnp.concatenate([actor.prev_action[None], action])
            h, g, _, _ = distral.columns_of(parts, params.shared, task, rows, previous, actor)
            policy = losses.task_policy(h, g, parts.coefficients)[:-1]
            now = distributions.log_prob(distributions.categorical(policy, mask), action)
            return jnp.abs(jnp.exp(now - acted) - 1.0).max()

        def lead(x):
            return jnp.moveaxis(x, 1, 0)

        rows = jax.tree.map(lead, (rollout.timestep, rollout.action, rollout.log_prob))
        mask = jnp.asarray(spec.action_mask)
        return jax.vmap(one)(params.task, mask, *rows, rollout.actor_state)

    def update(state, rollout):
        after, metrics = agent.update(state, rollout)
        return after, metrics | {"behind": behind(state.params, rollout)}

    return agent._replace(update=update)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "overlap"), [(False, False), (True, False), (True, True)], ids=str
)
def test_the_ratio_to_the_policy_that_acted(host, overlap):
    suite = tiny.host_suite() if host else tiny.suite()
    config = dataclasses.replace(tiny.CONFIG, learning_rate=0.1)
    config = dataclasses.replace(config, overlap=True) if overlap else config
    engine = engines.make(tiny.run_config(), suite, watched(suite.spec, config))
    carry, rows = engine.start(), []
    for u in range(UPDATES):
        carry, values = engine.advance(carry, u)
        rows += [values["behind"]] if values else []
    carry, values = engine.flush(carry)
    engine.close(carry)
    seen = np.concatenate(rows + ([values["behind"]] if values else []))
    assert len(seen) >= UPDATES
    if overlap:
        assert seen[0].max() < 1e-6  # nothing has been learnt yet
        assert seen[1:].min() > 1e-3
    else:
        assert seen.max() < 1e-6
