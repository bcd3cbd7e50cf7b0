"""An agent that meets tasks one after the other, and its binary's loop: what stays, and resume."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import runs
from experiments.continual import plan, run
from mtrl_jax import continual as methods
from mtrl_jax import engines
from mtrl_jax.algorithms import continual, ppo
from mtrl_jax.types import Timestep
from tests.machinery import tiny
from tests.probes import probe_envs

NUMBERS = ppo.Config(
    network="multihead", hidden=(6, 5), unroll_length=8, epochs=2, minibatches=2, learning_rate=0.01
)
STEPS = engines.RunConfig(
    total_env_steps=2 * 4 * 8 * 4,
    num_envs_per_task=4,
    seed=3,
    eval_every=2 * 8 * 4,
    eval_episodes=4,
    writers=(),
)


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with tiny.quick_compiles():
        yield


def planned(folder, names=("finetune",), told=True, **config):
    numbers = NUMBERS if told else dataclasses.replace(NUMBERS, network="onehot")
    config = continual.Config(told=told, observations=8, capacity=16, batch_size=4, **config)
    suite = probe_envs.memory((0.0, 1.0))
    return plan.make(suite, STEPS, "ppo", numbers, config, folder, names, {})


def trained(folder, method, **config):
    """States at the end of each block."""
    found = planned(folder, [method], **config)
    agent = continual.agent(plan.parts(found, method))
    blocks = run.learn(found, method)
    return [runs.restore(b.folder, b.run, b.suite, agent)[1] for b in blocks], blocks, found


def said(parts, state):
    """Likeliest actions and log-probabilities of both tasks at a few observations."""
    x = jax.random.normal(jax.random.key(0), (2, 7, 2))
    row = Timestep(x, *(jnp.zeros((2, 7)),) * 5)
    agent = continual.evaluated(parts)
    keys = jax.random.split(jax.random.key(1), (2, 7))
    return jax.jit(lambda p: agent.act(p, (), row, keys)[1])(agent.policy_params(state))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["packnet", "progressive"])
def test_what_a_task_owns_stays_to_the_bit_while_another_is_learnt(method, tmp_path):
    (first, second), _, found = trained(tmp_path, method)
    parts = plan.parts(found, method)
    before, after = said(parts, first), said(parts, second)
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[1] != after[1]).any()
    assert int(first.task) == 0 and int(second.task) == 1
    own = (first.learner.params.task, second.learner.params.task)
    tiny.assert_trees_equal(*(jax.tree.map(lambda x: x[0], tree) for tree in own))
    assert int(second.learner.updates) == 8 and int(second.done) == 4


@pytest.mark.slow
def test_a_sequence_that_was_killed_ends_as_one_that_was_not(tmp_path):
    (_, end), blocks, _ = trained(tmp_path / "a", "ewc", ewc=5.0)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    folder = tmp_path / "b" / "ewc"
    cut = folder / blocks[1].folder.name
    last = max(int(p.name) for p in (cut / "checkpoints").iterdir() if p.name.isdigit())
    shutil.rmtree(cut / "checkpoints" / str(last))  # killed in the middle of the second task
    (_, again), _, _ = trained(tmp_path / "b", "ewc", ewc=5.0)
    tiny.assert_trees_equal(end, again)
    shutil.rmtree(cut)  # killed between the two
    (_, again), _, _ = trained(tmp_path / "b", "ewc", ewc=5.0)
    tiny.assert_trees_equal(end, again)
    rows = [(tmp_path / x / "ewc" / cut.name / "metrics.jsonl").read_text() for x in "ab"]
    one, two = ([json.loads(line) for line in text.splitlines()] for text in rows)
    plain = [[{k: v for k, v in r.items() if "time/" not in k} for r in x] for x in (one, two)]
    assert plain[0] == plain[1] and "eval/task_policy/memory_0/return" in plain[0][-1]
    memory = end.memory
    assert all((f >= 0).all() for f in jax.tree.leaves(memory.importance))
    assert any((f > 0).any() for f in jax.tree.leaves(memory.importance))


@pytest.mark.slow
def test_not_told_everything_goes_on_and_the_clock_remembers():
    spec = plan.regime.stream_spec(probe_envs.memory().spec)
    config = continual.Config(method="ewc", told=False, observations=8, remember_every=2)
    numbers = dataclasses.replace(NUMBERS, network="onehot")
    parts = continual.make_parts(spec, config, numbers, 4)
    state = jax.jit(lambda key: continual.init(parts, key))(jax.random.key(0))
    assert continual.next_task(parts, state, state) is state
    suite = plan.regime.random_games(probe_envs.memory(), [1])
    agent = continual.agent(parts)
    engine = engines.make(
        dataclasses.replace(STEPS, updates_per_dispatch=1),
        suite,
        agent._replace(num_devices=1),
    )
    carry = engine.start()
    remembered = []
    for u in range(3):
        carry, _ = engine.advance(carry, u)
        f = engine.state(carry).memory.importance
        remembered.append(any(bool(x.any()) for x in jax.tree.leaves(f)))
    assert remembered == [False, True, True]


@pytest.mark.parametrize(
    ("config", "numbers", "message"),
    [
        ({"method": "packnet", "told": False}, {}, "method packnet must be told where tasks"),
        ({"method": "x"}, {}, "method must be one of finetune, l2, ewc"),
        ({"ewc": -1.0}, {}, "ewc must not be negative; got -1.0"),
        ({}, {"surgery": "pcgrad"}, "surgery must be 'mean' where one task is learnt at a"),
        ({}, {"network": "separate"}, "network must share something between tasks"),
        ({}, {"final_learning_rate": 0.5}, "final_learning_rate must be 1.0 where"),
        ({"method": "packnet", "updates": 1}, {}, "a task must have at least 2 updates"),
    ],
)
def test_what_cannot_be_is_refused(config, numbers, message):
    updates = config.pop("updates", 4)
    with pytest.raises(ValueError, match=message):
        continual.check(
            probe_envs.memory().spec,
            continual.Config(**config),
            dataclasses.replace(NUMBERS, **numbers),
            updates,
        )


def test_a_table_of_every_method():
    spec = probe_envs.memory().spec
    for name in continual.METHODS:
        network = continual.PROGRESSIVE if name == "progressive" else "multihead"
        numbers = dataclasses.replace(NUMBERS, network=network)
        parts = continual.make_parts(spec, continual.Config(method=name), numbers, 4)
        assert isinstance(parts.method, methods.Method)
        state = jax.eval_shape(lambda key, p=parts: continual.init(p, key), jax.random.key(0))
        moved = jax.eval_shape(lambda s, p=parts: continual.next_task(p, s, s), state)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
            lambda x: (x.shape, x.dtype), moved
        )
