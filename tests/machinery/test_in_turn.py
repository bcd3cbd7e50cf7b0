"""DQN and SAC as learners of tasks in turn: one update, what begins anew, what methods see."""

import dataclasses
import functools
import itertools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import runs
from experiments.continual import columns, plan, run
from mtrl_jax import continual as methods
from mtrl_jax import distributions, engines, replay
from mtrl_jax.algorithms import continual, dqn, in_turn, in_turn_dqn, q_network, sac
from mtrl_jax.losses import importance
from mtrl_jax.types import Rollout, Timestep
from tests.machinery import tiny
from tests.probes import probe_envs
from tests.probes.test_ppo_probes import aim

DQN = dqn.Config(
    network="multihead", hidden=(6, 5), unroll_length=8, replay_size=300, min_replay=16
)
DQN = dataclasses.replace(DQN, batch_size=8, replay_ratio=1.0, target_period=3, epsilon_steps=100)
SAC = sac.Config(
    network="multihead", hidden=(6, 5), unroll_length=8, capacity=300, batch_size=8, warmup=16
)
SAC = dataclasses.replace(SAC, updates_per_step=0.1, statistics="task", learning_rate=0.01)
SUITES = {"dqn": probe_envs.memory((0.0, 1.0)), "sac": aim()}
NUMBERS = {"dqn": DQN, "sac": SAC}
CONFIG = continual.Config(observations=8, capacity=16, batch_size=4)
E = 4


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with tiny.quick_compiles():
        yield


def parts_of(algorithm, method="finetune", **config):
    numbers = NUMBERS[algorithm]
    if method == "progressive":
        numbers = dataclasses.replace(numbers, network=continual.PROGRESSIVE)
    config = dataclasses.replace(CONFIG, method=method, **config)
    return continual.make_parts(SUITES[algorithm].spec, config, numbers, 4)


def rollout_of(algorithm, seed, tasks=1):
    """Eight rows of noise, all of them valid."""
    rng, spec = np.random.default_rng(seed), SUITES[algorithm].spec
    t, shape = 8, (tasks, E)
    rows = (t + 1, *shape)
    f32 = functools.partial(np.asarray, dtype=np.float32)
    step = Timestep(
        rng.normal(size=(*rows, *spec.observation_shape)).astype(spec.observation_dtype),
        f32(rng.normal(size=rows)),
        f32(rng.random(rows) > 0.2),
        np.zeros(rows, bool),
        np.ones(rows, bool),
        np.zeros(rows, bool),
    )
    action = rng.integers(0, max(spec.num_actions, 1), (t, *shape), np.int32)
    if spec.action_size:
        action = f32(rng.uniform(-1, 1, (t, *shape, spec.action_size)))
    return jax.tree.map(jnp.asarray, Rollout(step, action, f32(np.zeros((t, *shape))), ()))


@pytest.mark.slow
def test_a_step_on_one_task_is_that_tasks_part_of_dqns_own():
    """What belongs to task 1 moves as it does where both tasks are learnt at once, and by itself
    the other's does not; the gradient of what is shared is the same."""
    spec = SUITES["dqn"].spec
    both, one = dqn.make_parts(spec, DQN), dqn.make_parts(spec, DQN, at_once=1)
    params = q_network.init_params(both.net, jax.random.key(0))
    target = jax.tree.map(lambda x: 0.9 * x, params)
    items, _ = dqn.transitions(DQN, rollout_of("dqn", 0, tasks=2))

    def row(tree):
        return jax.tree.map(lambda x: x[1:], tree)

    def mine(params):
        return params._replace(task=row(params.task))

    @jax.jit
    def step(params, target, items):
        opts = [dqn.learner.init_optimisers(x.transforms, params) for x in (both, one)]
        whole = dqn.gradient_step(both, params, target, opts[0], items)
        own = opts[1]._replace(task=row(opts[1].task))
        bound = one._replace(tasks=jnp.array([1]))
        return whole, dqn.gradient_step(bound, mine(params), mine(target), own, row(items))

    (whole, _, metrics), (alone, _, own) = step(params, target, items)
    tiny.assert_trees_close(row(whole.task), alone.task, 1e-6)
    for name in ("loss/total", "grad/shared_norm", "value/mean"):
        np.testing.assert_allclose(own[name][0], metrics[name][1], rtol=1e-5)


@pytest.mark.slow
def test_a_step_on_one_task_is_that_tasks_part_of_sacs_own():
    spec = SUITES["sac"].spec
    both, one = sac.make_parts(spec, SAC), sac.make_parts(spec, SAC, at_once=1)
    learned = jax.jit(lambda key: sac.init(both, key).learned)(jax.random.key(0))
    rng = np.random.default_rng(0)
    rows = rollout_of("sac", 0, tasks=2)
    x = jnp.moveaxis(rows.timestep.observation, 1, 0).reshape(2, -1, 1)
    batch = sac.experience.Transition(
        x[:, :8], rows.action[0].repeat(2, 1), jnp.ones((2, 8)), jnp.zeros((2, 8), bool), x[:, 8:16]
    )
    noise = jnp.asarray(rng.normal(size=(2, 8, 2, 1)), jnp.float32)
    moments = sac.normalisers.init_moments((2, both.numbers.nets.num_inputs))

    def row(tree):
        return jax.tree.map(lambda x: x[1:], tree)

    of = in_turn_sac_parts(one)

    @jax.jit
    def step(learned):
        whole = sac.sac_step.step(both.numbers, learned, moments, batch, noise)
        state = sac.init(one, jax.random.key(1))._replace(learned=learned)
        mine = in_turn.alone(of, state, jnp.int32(1))
        mine = of.begin(mine, jnp.int32(1), lambda inner, critic=False: inner)
        bound = one.numbers._replace(tasks=jnp.array([1]))
        return whole, sac.sac_step.step(bound, mine.learned, row(moments), row(batch), row(noise))

    (whole, metrics), (alone, own) = step(learned)
    for half in ("actor", "critic"):
        tiny.assert_trees_close(row(getattr(whole, half).task), getattr(alone, half).task, 1e-6)
    tiny.assert_trees_close(row(whole.log_temperature), alone.log_temperature, 1e-6)
    # Not the actor's loss, which sees critics that both tasks have moved.
    for name in ("loss/critic", "q/target", "grad/shared_norm_critic", "policy/log_prob"):
        np.testing.assert_allclose(own[name][0], metrics[name][1], rtol=1e-4)


def in_turn_sac_parts(parts):
    return continual.make_parts(parts.spec, CONFIG, SAC, 4).learner


@functools.cache
def learnt(algorithm, method):
    """States before, after two updates of task 0, where task 1 begins, and after one of it."""
    parts = parts_of(algorithm, method)

    @jax.jit
    def all_of_it(key, first, second, third):
        fresh = continual.init(parts, key)
        state, _ = continual.update(parts, fresh, first)
        state, _ = continual.update(parts, state, second)
        moved = continual.next_task(parts, state, fresh)
        after, _ = continual.update(parts, moved, third)
        return fresh, state, moved, after

    rollouts = (rollout_of(algorithm, seed) for seed in range(3))
    return parts, *all_of_it(jax.random.key(0), *rollouts)


def others(parts, state, k):
    return jax.tree.map(lambda x: x[k], parts.learner.own(state.learner))


@pytest.mark.parametrize(
    ("algorithm", "method"),
    [
        ("dqn", "reservoir"),
        *(pytest.param(x, "ewc", marks=pytest.mark.slow) for x in ("dqn", "sac")),
    ],
)
def test_where_a_task_begins_the_replay_is_empty_and_exploring_starts_again(algorithm, method):
    parts, fresh, state, moved, after = learnt(algorithm, method)
    rings = [x.learner.replay if algorithm == "dqn" else x.learner.rings for x in (state, moved)]
    assert int(replay.size(rings[0])[0]) == 64 and int(replay.size(rings[1])[0]) == 0
    assert int(state.learner.steps) == 64 and int(moved.learner.steps) == 0
    assert int(state.learner.updates) == int(moved.learner.updates) > 0  # keys do not come again
    if algorithm == "dqn":
        tiny.assert_trees_equal(moved.learner.target.shared, state.learner.params.shared)
        policies = [parts.learner.acting(x.learner).rest for x in (state, moved)]
        assert float(policies[0]) < 1.0 == float(policies[1])
    else:
        assert bool(parts.learner.acting(moved.learner).rest)  # uniform again
    tiny.assert_trees_equal(others(parts, fresh, 1), others(parts, state, 1))
    tiny.assert_trees_equal(others(parts, state, 0), others(parts, after, 0))
    shared = [parts.learner.shared(x.learner) for x in (fresh, state, moved, after)]
    last = [np.asarray(jax.tree.leaves(x)[-1]) for x in shared]
    moves = [not np.array_equal(*pair) for pair in itertools.pairwise(last)]
    assert moves == [True, False, True]
    if method == "ewc":
        f = jax.tree.leaves(moved.memory.importance)
        assert all(bool((x >= 0).all()) for x in f) and any(bool(x.any()) for x in f)
    else:
        tasks = np.asarray(after.memory.task)[np.asarray(after.memory.priority) >= 0]
        assert set(tasks) == {0, 1} and not np.asarray(state.memory.task).any()


def test_what_a_q_network_says_is_a_softmax_or_its_values():
    rng = np.random.default_rng(0)
    q = [jnp.asarray(rng.normal(size=(2, 3)), jnp.float32) for _ in range(2)]
    mask, tau = jnp.array([True, True, False]), 0.5

    @jax.jit
    def both(a, b):
        kinds = ("softmax", "values")
        pairs = [[in_turn_dqn.said(x, mask, kind, tau) for x in (a, b)] for kind in kinds]
        jac = importance.fisher(
            lambda w, x: in_turn_dqn.said(w["w"] * x, mask, "values", tau), {"w": a[0]}, b
        )
        return [distributions.kl(*pair) for pair in pairs], pairs[0][0], jac["w"]

    (soft, values), first, fisher = both(*q)
    a, b = (np.asarray(x, np.float64)[:, :2] / tau for x in q)
    p, r = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b))
    np.testing.assert_allclose(np.exp(first.log_probs)[:, :2], p, rtol=1e-5)
    np.testing.assert_allclose(soft, (p * np.log(p / r)).sum(1), rtol=1e-4)
    np.testing.assert_allclose(values, np.square(a - b).sum(1) / 2, rtol=1e-4)
    by_hand = np.square(np.asarray(q[1], np.float64) / tau).mean(0) * np.array([1, 1, 0])
    np.testing.assert_allclose(fisher, by_hand, rtol=1e-4)


def test_a_reservoir_of_dqn_learns_from_old_transitions_with_their_own_head_and_target():
    parts, _, _, moved, _ = learnt("dqn", "reservoir")
    kept = moved.memory
    assert (np.asarray(kept.priority) >= 0).sum() == 16  # 8 rows drawn, twice
    params = moved.learner.params
    shared = params.shared
    slow = jax.tree.map(lambda x: 0.8 * x + 0.1, params)
    state = moved._replace(learner=moved.learner._replace(target=slow))
    target = params._replace(shared=slow.shared)  # heads of tasks before are not slow
    net = q_network.make(SUITES["dqn"].spec, "multihead", "auto", (6, 5))

    def situation(state):
        return parts.learner.situation(state.learner, jnp.int32(1), jnp.int32(0), state.seen, True)

    @jax.jit
    def losses(state):
        of = situation(state)
        head = jax.tree.map(lambda x: x[0], of.own)
        return jax.vmap(lambda item: of.lesson.loss(shared, head, item, 0))(kept.item)

    @jax.jit
    def q(params, x):
        head = jax.tree.map(lambda x: x[0], params.task)
        return q_network.values_of_task(net, params.shared, head, x, jnp.int32(0))

    items = jax.tree.map(np.asarray, kept.item)
    now, chosen, slow = (
        np.asarray(q(*pair), np.float64)
        for pair in (
            (params, items.observation),
            (params, items.next_observation),
            (target, items.next_observation),
        )
    )
    for i, found in enumerate(losses(state)):
        y = items.reward[i] + items.discount[i] * slow[i, chosen[i].argmax()]
        delta = abs(y - now[i, items.action[i]])
        np.testing.assert_allclose(
            found, delta**2 / 2 if delta <= 1 else delta - 0.5, rtol=1e-4, atol=1e-6
        )
    assert isinstance(situation(state).lesson, methods.Lesson)
    assert math.isfinite(float(now.sum()))


def test_every_method_has_a_meaning_for_each():
    for algorithm, suite in SUITES.items():
        for name in ("reset", "packnet", "progressive", "a_gem", "distill", "mas"):
            parts = parts_of(algorithm, name)
            state = jax.eval_shape(lambda key, p=parts: continual.init(p, key), jax.random.key(0))
            moved = jax.eval_shape(lambda s, p=parts: continual.next_task(p, s, s), state)
            assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
                lambda x: (x.shape, x.dtype), moved
            )
        assert suite.spec.num_tasks == 2


@pytest.mark.parametrize(
    ("algorithm", "numbers", "message"),
    [
        ("sac", NUMBERS["dqn"], "suite must have discrete actions for DQN; got continuous"),
        ("dqn", NUMBERS["sac"], "suite must have continuous actions for SAC; got discrete"),
        ("sac", {"reset_every": 5}, "reset_every must be 0 where one task is learnt at a time"),
        ("sac", {"reward_scaling": "mean"}, "reward_scaling must be 'none' where one task"),
        ("sac", {"statistics": "shared"}, "statistics must not be shared"),
        ("dqn", {"surgery": "pcgrad"}, "surgery must be 'mean' where one task"),
        ("dqn", {"network": "separate"}, "network must share something between tasks"),
    ],
)
def test_what_has_no_meaning_is_refused(algorithm, numbers, message):
    if isinstance(numbers, dict):
        numbers = dataclasses.replace(NUMBERS[algorithm], **numbers)
    with pytest.raises(ValueError, match=message):
        continual.check(SUITES[algorithm].spec, CONFIG, numbers, 4)


STEPS = engines.RunConfig(
    total_env_steps=2 * 4 * 8 * E,
    num_envs_per_task=E,
    seed=3,
    eval_every=2 * 8 * E,
    eval_episodes=4,
    writers=(),
)


def trained(folder, algorithm, method):
    """States at the end of each block, the blocks and the plan."""
    found = plan.make(
        *(SUITES[algorithm], STEPS, algorithm, NUMBERS[algorithm], CONFIG, folder, [method], {})
    )
    agent = continual.agent(plan.parts(found, method))
    blocks = run.learn(found, method)
    return [runs.restore(b.folder, b.run, b.suite, agent)[1] for b in blocks], blocks, found


@pytest.mark.slow
@pytest.mark.parametrize("method", ["packnet", "progressive"])
@pytest.mark.parametrize("algorithm", ["dqn", "sac"])
def test_what_a_task_owns_stays_to_the_bit_while_another_is_learnt(algorithm, method, tmp_path):
    (first, second), blocks, found = trained(tmp_path, algorithm, method)
    agent = continual.evaluated(plan.parts(found, method))
    x = jax.random.normal(jax.random.key(0), (2, 7, *SUITES[algorithm].spec.observation_shape))
    row = Timestep(x, *(jnp.zeros((2, 7)),) * 5)
    keys = jax.random.split(jax.random.key(1), (2, 7))
    act = jax.jit(lambda p: agent.act(p, (), row, keys, greedy=True))
    before, after = (act(agent.policy_params(state)) for state in (first, second))
    np.testing.assert_array_equal(before[0][0], after[0][0])
    np.testing.assert_array_equal(before[1][0], after[1][0])
    assert int(first.task) == 0 and int(second.task) == 1
    assert int(second.learner.updates) > int(first.learner.updates) > 0
    assert [b.folder for b in run.finished(found, method)] == [b.folder for b in blocks]
    assert run.finished(found, "reset") == []
    if method == columns.METHOD:
        columns.show(found, blocks)
        lines = (tmp_path / columns.FILE).read_text().splitlines()
        shares = np.array([json.loads(line)["sensitivity"] for line in lines])
        assert shares.shape == (2, 1, 2, 2)  # tasks, seeds, layers, columns
        np.testing.assert_allclose(shares.sum(-1), 1.0, atol=1e-3)
        assert not shares[0, ..., 1].any() and (shares[1] > 0).all()
        assert (tmp_path / "plots" / "sensitivity.png").stat().st_size > 5_000


@pytest.mark.slow
def test_a_killed_sequence_of_dqn_ends_as_one_that_was_not(tmp_path):
    (_, end), blocks, _ = trained(tmp_path / "a", "dqn", "reservoir")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    cut = tmp_path / "b" / "reservoir" / blocks[1].folder.name
    last = max(int(p.name) for p in (cut / "checkpoints").iterdir() if p.name.isdigit())
    shutil.rmtree(cut / "checkpoints" / str(last))  # killed in the middle of the second task
    (_, again), _, _ = trained(tmp_path / "b", "dqn", "reservoir")
    tiny.assert_trees_equal(end, again)
