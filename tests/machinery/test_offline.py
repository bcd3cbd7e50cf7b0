"""Offline learning: whose data a task sees and as what, the losses of one step, and weights."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.algorithms import offline, offline_data, offline_nets, offline_step
from mtrl_jax.envs import goals
from mtrl_jax.losses import sharing
from tests.machinery import tiny

K, N, B = 3, 30, 8
ROOMS, PLANE = goals.goal_rooms().spec, goals.goal_plane().spec
SPECS = {
    name: spec._replace(
        task_names=("a", "b", "c"),
        action_mask=spec.action_mask[:K],
        episode_limit=spec.episode_limit[:K],
    )
    for name, spec in (("rooms", ROOMS), ("plane", PLANE))
}
CONFIG = offline.Config(hidden=(4,), batch_size=B, share_after=0, level_samples=5, cql_samples=2)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def _data(kind, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "rooms":
        places, action = rng.integers(0, 9, (2, N, 2), np.int32), rng.integers(0, 4, N, np.int32)
    else:
        places = rng.uniform(-1, 1, (2, N, 2)).astype(np.float32)
        action = rng.uniform(-1, 1, (N, 2)).astype(np.float32)
    reward = rng.normal(size=(K, N)).astype(np.float32)
    ended = rng.uniform(size=(K, N)) < 0.3
    source = np.repeat(np.arange(K, dtype=np.int32), [4, 16, 10])
    return offline_data.Data(places[0], action, places[1], reward, ended, source)


def _split(data):
    return offline_data.split([np.flatnonzero(data.source == k)[1:] for k in range(K)])


@pytest.mark.parametrize("least", [None, -2.0])
def test_batches_are_of_own_data_and_of_all_others_alike(least):
    data = _data("rooms")
    split = _split(data)
    batch = offline_data.draw_batch(data, split, jax.random.key(0), (200, 400), least)
    batch = jax.device_get(batch)
    used = set(split.index.tolist())
    for k in range(K):
        seen = []
        for b in range(600):
            i = next(
                i
                for i in used
                if (batch.observation[k, b] == data.observation[i]).all()
                and (batch.next_observation[k, b] == data.next_observation[i]).all()
            )
            own = b < 200
            seen.append(i)
            assert (
                batch.own[k, b] == own == (data.source[i] == k)
                and batch.action[k, b] == data.action[i]
            )
            assert batch.source[k, b] == data.source[i]
            unknown = not own and least is not None
            assert batch.reward[k, b] == (least if unknown else data.reward[k, i])
            assert batch.ended[k, b] == (data.ended[k, i] and not unknown)
        mine = {i for i in used if data.source[i] == k}
        assert set(seen[:200]) == mine and set(seen[200:]) == used - mine
        counts = np.bincount(seen[200:], minlength=N)[sorted(used - mine)]
        want = 400 / len(used - mine)  # each transition as likely as any other
        assert abs(counts - want).max() < 5 * want**0.5


def test_splits_of_several_seeds_are_stacked_and_nobody_may_have_nothing():
    short, long = ([np.array([0]), np.array([1, 2])], [np.array([3, 4, 5]), np.array([0])])
    found = offline_data.stack([offline_data.split(short), offline_data.split(long)])
    assert found.index.shape == (2, 4) and found.index[0, :3].tolist() == [0, 1, 2]
    assert found.start.tolist() == [[0, 1], [0, 3]] and found.count.tolist() == [[1, 2], [3, 1]]
    with pytest.raises(ValueError, match=r"must have data of its own; got \[1, 0\]"):
        offline_data.split([np.array([0]), np.array([], int)])


def _made(kind, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    nets = offline._nets(SPECS[kind], config)
    params = offline_nets.init_params(nets, jax.random.key(1))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(2), x.shape), params)
    return config, nets, params


def test_a_step_of_discrete_cql_is_the_loop():
    """The target chooses with the newest critics and values with the slowest; an end bootstraps
    from nothing."""
    config, nets, params = _made("rooms", cql_strength=0.7)
    slow = jax.tree.map(lambda x: 0.5 * x, params)
    data, k = _data("rooms"), 1
    action, reward = jnp.asarray(data.action), jnp.asarray(data.reward[k])
    discount = np.where(data.ended[k], 0.0, 0.9).astype(np.float32)
    weight = np.random.default_rng(1).uniform(size=N).astype(np.float32)
    own = data.source == k

    @jax.jit
    def both(params, slow):
        x, x_t = (
            offline_nets.inputs(nets, jnp.asarray(o))
            for o in (data.observation, data.next_observation)
        )
        rows = offline_step.Samples(
            x, x_t, action, reward, discount, weight, own, jax.random.key(0)
        )
        numbers = offline_step.Numbers(nets, 0.7, 1, 0.0, 0.5, 0.0)
        found = offline_step.cql(
            numbers, params.shared, params.task, (slow.shared, slow.task), rows, k
        )
        q = [
            offline_nets.q_values(nets, p.shared, p.task, y, k)
            for p in (params, slow)
            for y in (x, x_t)
        ]
        return found, q

    (loss, metrics), (q, q_t, _, slow_t) = jax.device_get(both(params, slow))
    total, conservative, other = 0.0, 0.0, 0.0
    for b in range(N):
        w = weight[b] / weight.sum()
        best = np.argmin(-q_t[:, b].min(0))
        y = reward[b] + discount[b] * slow_t[:, b, best].min()
        for c in range(config.num_critics):
            gap = np.log(np.exp(q[c, b]).sum()) - q[c, b, action[b]]
            total += w * (0.5 * (q[c, b, action[b]] - y) ** 2 + 0.7 * gap)
            conservative += w * gap / config.num_critics
        other += own[b] * (q[:, b].min(0).argmax() != action[b]) / own.sum()
    np.testing.assert_allclose(loss, total, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss/conservative"], conservative, rtol=1e-4)
    np.testing.assert_allclose(metrics["policy/distance"], other, rtol=1e-4)


@pytest.mark.parametrize("rule", tiny.slow_but(("hipi", "cds", "cds_uds"), sharing.RULES))
def test_own_data_weigh_one_and_others_what_the_rule_says(rule):
    config, nets, params = _made("rooms", rule=rule, soft_weights=rule != "cds_uds")
    parts = offline._Parts(config, offline_step.Numbers(nets, 1, 1, 0, 0.5, 1), None, 0.0)
    data = _data("rooms")
    split = _split(data)
    level, partition = jnp.array([0.1, -0.2, 0.3]), jnp.array([0.5, 0.0, -0.5])
    state = offline.State(params, params, None, level, partition, jnp.ones(K), jnp.int32(7))
    batch = offline_data.draw_batch(data, split, jax.random.key(0), (4, 4), None)

    @jax.jit
    def found(updates):
        now = state._replace(updates=updates)
        return offline.weigh(parts, now, batch), offline._values(
            nets, params, batch.observation, batch.action
        )

    (weights, spread), q = jax.device_get(found(jnp.int32(7)))
    for k in range(K):
        delta = q[k, k] - level[k]
        tau = 0.99 * 1.0 + 0.01 * np.abs(delta[4:]).mean()
        for b in range(B):
            if b < 4 or rule in ("none", "all", "uds"):
                want = 1.0
            elif rule == "hipi":
                want = float(np.argmax(q[:, k, b] - partition) == k)
            elif rule == "cds_uds":
                want = float(delta[b] >= 0)
            else:
                want = 1 / (1 + np.exp(-delta[b] / tau))
            np.testing.assert_allclose(weights[k, b], want, rtol=1e-4)
        if rule.startswith("cds"):
            np.testing.assert_allclose(spread[k], tau, rtol=1e-4)
    early = dataclasses.replace(config, share_after=8)
    before = offline.weigh(parts._replace(config=early), state, batch)[0]
    np.testing.assert_array_equal(before, 1.0)  # nothing is judged by untrained critics


def _learning(kind, count=2, **changes):
    """`(data) -> (state, metrics)` of some steps."""
    config = dataclasses.replace(CONFIG, refresh_every=count, **changes)
    made = offline.learner_of(SPECS[kind], config)

    @jax.jit
    def learn(data, split):
        state = made.init(jax.random.key(0))
        return made.learn(state, data, split, jax.random.key(1), jnp.int32(count))

    return lambda data: jax.device_get(learn(data, _split(data)))


@pytest.mark.parametrize("rule", tiny.slow_but(("none",), ("none", "all")))
def test_without_sharing_a_task_learns_from_its_own_data_alone(rule):
    """With networks of their own, what is recorded for others changes nothing; shared, it does."""
    data = _data("rooms")
    mine = data.source == 0
    reward = np.where(mine, data.reward, 5.0).astype(np.float32)
    action = np.where(mine, data.action, 0).astype(np.int32)
    learn = _learning("rooms", rule=rule, network="separate")
    found = [learn(one) for one in (data, data._replace(reward=reward, action=action))]
    params = [jax.tree.leaves(state.params.task) for state, _ in found]
    same = all((a[0] == b[0]).all() for a, b in zip(*params, strict=True))
    assert same == (rule == "none")
    assert any((a[1] != b[1]).any() for a, b in zip(*params, strict=True))
    share = found[0][1]["share"]
    np.testing.assert_allclose(share.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.diag(share), 1.0 if same else 0.5, rtol=1e-5)


EVERY = [("cql", "rooms", rule) for rule in sharing.RULES]
EVERY += [("iql", "rooms", "cds"), ("iql", "plane", "all"), ("cql", "plane", "cds")]


@pytest.mark.slow
@pytest.mark.parametrize(("base", "kind", "rule"), EVERY)
def test_every_base_and_rule_learns_on_both_kinds_of_actions(base, kind, rule):
    state, metrics = _learning(kind, base=base, rule=rule)(_data(kind))
    assert state.updates == 2
    leaves = jax.tree.leaves((state.params, metrics))
    assert all(np.isfinite(x).all() for x in leaves)
    fresh = offline.learner_of(SPECS[kind], dataclasses.replace(CONFIG, base=base, rule=rule))
    before = fresh.init(jax.random.key(0)).params
    for part, was in before.shared.items():  # critics, and a policy and a value if there are any
        now = state.params.shared[part]
        pairs = zip(jax.tree.leaves(was), jax.tree.leaves(now), strict=True)
        assert all((a != b).any() for a, b in pairs), part


@pytest.mark.slow
def test_a_rate_that_has_fallen_to_nothing_moves_nothing():
    data, split = _data("rooms"), _split(_data("rooms"))
    made = offline.learner_of(SPECS["rooms"], dataclasses.replace(CONFIG, decay_steps=2))
    learn = jax.jit(lambda state: made.learn(state, data, split, jax.random.key(1), 1)[0])
    states = [made.init(jax.random.key(0))]
    for _ in range(3):
        states.append(learn(states[-1]))
    moved = [
        any((x != y).any() for x, y in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in itertools.pairwise(state.params for state in states)
    ]
    assert moved == [True, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "some"}, "rule must be one of none, all"),
        ({"base": "sac"}, "base must be one of cql, iql"),
        ({"rule": "all", "batch_size": 1}, "batch_size must be at least 2 to share data; got 1"),
        ({"percentile": 101.0}, "percentile must lie in"),
        ({"network": "deep"}, "network must be"),
        ({"expectile": 2.0}, "expectile must lie in"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        offline.check(SPECS["rooms"], dataclasses.replace(CONFIG, **changes))
