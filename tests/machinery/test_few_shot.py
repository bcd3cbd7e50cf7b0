"""MAML and RL^2: what a step of none leaves, whose order does not matter, what a memory keeps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import distributions, episodic
from mtrl_jax.algorithms import distral_few_shot, maml, mfec_few_shot, rl2
from mtrl_jax.envs import check, functional, task_family
from mtrl_jax.envs.bandits import bandits
from mtrl_jax.envs.point_navigation import point_navigation
from mtrl_jax.envs.random_mdps import random_mdps
from tests.machinery import tiny

CURVE, M = (0, 1, 3), 4
MAML = maml.Config(
    hidden=(4,), train_tasks=6, meta_batch=M, episodes=2, outer_episodes=3, eval_episodes=2
)
RL2 = rl2.Config(hidden=(4,), core_size=5, train_tasks=6, meta_batch=M, epochs=1, eval_trials=2)
FAMILIES = {
    "bandits": lambda: bandits(3),
    "mdps": lambda: random_mdps(3, 2, 4),
    "navigation": lambda: point_navigation(3),
}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


# ------------------------------------------------------------------------------- families


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_a_suite_and_its_episodes_have_one_length(name):
    family = FAMILIES[name]()
    suite = task_family.suite(family, 5, seed=1)
    check.check_suite(suite)
    assert suite.spec.num_tasks == 5 and len(set(suite.spec.task_names)) == 5
    leaf = np.asarray(jax.tree.leaves(suite.tasks)[0])
    assert len({x.tobytes() for x in leaf}) == 5
    task = jax.tree.map(lambda x: x[0], suite.tasks)
    reset, step = map(jax.jit, functional.auto_reset(family.env))
    state, row = reset(jax.random.key(0), task)
    action, lengths, length = jnp.zeros(suite.spec.action_shape, suite.spec.action_dtype), [], 0
    for n in range(3 * (family.episode_length + 1)):
        state, row = step(jax.random.key(n), state, action, task)
        length += 1
        if bool(state.ended):
            assert float(row.discount) == 0.0
            lengths.append(length)
            length = -1  # the reset row
    assert lengths == [family.episode_length] * 3


def test_the_best_return_of_an_mdp_is_that_of_the_best_policy():
    family = random_mdps(2, 2, 2)
    task = family.draw(jax.random.key(3))
    p, r = (np.asarray(x, float) for x in task)
    returns = [
        r[0, a] + p[0, a] @ r[[0, 1], [b, c]] for a in (0, 1) for b in (0, 1) for c in (0, 1)
    ]
    np.testing.assert_allclose(family.best(task), max(returns), rtol=1e-5)
    np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-5)


def test_the_best_return_of_a_goal_is_that_of_walking_there():
    family, goal = point_navigation(10), jnp.array([0.25, -0.43])
    state, _ = family.env.reset(jax.random.key(0), goal)
    total = 0.0
    for _ in range(10):
        action = (goal - state.position) / 0.1  # the environment cuts it off
        state, row, _ = family.env.step(jax.random.key(0), state, action, goal)
        total += float(row.reward)
    np.testing.assert_allclose(family.best(goal), total, rtol=1e-5)


# ----------------------------------------------------------------------------------- MAML


def _drawn(parts):
    state = maml.init(parts, jax.random.key(0))
    tasks = jax.tree.map(lambda x: x[:M], state.tasks)
    keys = jax.random.split(jax.random.key(1), M)
    found = jax.jit(jax.vmap(lambda t, k: maml.experience(parts, state.params, t, k)))(tasks, keys)
    return state.params, *found


def _gradient(parts, params, blocks, outer):
    def loss(params):
        each, _ = jax.vmap(lambda b, o: maml.meta_loss(parts, params, b, o))(blocks, outer)
        return each.mean()

    return jax.jit(jax.grad(loss))(params)


def test_without_an_inner_step_the_gradient_is_the_policy_gradient():
    parts = maml.make(point_navigation(3), dataclasses.replace(MAML, rate=0.0), CURVE)
    params, blocks, outer = _drawn(parts)
    found = _gradient(parts, params, blocks, outer).policy

    def plain(policy):
        """REINFORCE by hand: returns minus the mean of the others, scaled by task."""
        discount = 0.99 ** np.arange(3)
        reward = np.asarray(outer.reward)
        to_go = np.stack([(reward[..., t:] * discount[: 3 - t]).sum(-1) for t in range(3)], -1)
        advantage = to_go - (to_go.sum(1, keepdims=True) - to_go) / 2
        advantage /= advantage.std((1, 2), keepdims=True) + 1e-3
        head = jax.vmap(lambda x: maml.policy_of(parts, policy, x))(outer.observation)
        log_prob = distributions.log_prob(head, outer.action)
        return -(log_prob * jnp.asarray(advantage)).mean()

    wanted = jax.jit(jax.grad(plain))(params.policy)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    parts = parts._replace(config=dataclasses.replace(MAML, rate=3.0))
    moved = _gradient(parts, params, blocks, outer).policy
    assert not np.allclose(jax.tree.leaves(moved)[0], jax.tree.leaves(wanted)[0], atol=1e-4)


def test_the_order_of_tasks_means_nothing_to_maml():
    parts = maml.make(bandits(3), MAML, CURVE)
    params, blocks, outer = _drawn(parts)
    order = jnp.array([2, 0, 3, 1])
    permuted = jax.tree.map(lambda x: x[order], (blocks, outer))
    one, other = _gradient(parts, params, blocks, outer), _gradient(parts, params, *permuted)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_fewer_episodes_than_a_step_has_take_a_shorter_one():
    def moved(episodes):
        parts = maml.make(bandits(3), dataclasses.replace(MAML, episodes=episodes), CURVE)
        params = maml.init(parts, jax.random.key(0)).params
        keys = jax.random.split(jax.random.key(1), 1)
        block = maml.collect(parts, params.policy, jnp.ones(3), keys)
        block = jax.tree.map(lambda x: x[None], block)
        return jax.tree.map(jnp.subtract, maml.adapt_to(parts, params, block), params.policy)

    one, half = (jax.tree.leaves(jax.jit(moved, static_argnums=0)(n)) for n in (1, 2))
    for x, y in zip(one, half, strict=True):
        np.testing.assert_allclose(x, 2 * y, atol=1e-6)
    assert max(np.abs(x).max() for x in one) > 1e-3


def test_evaluation_adapts_by_whole_steps_and_what_is_left():
    """With a rate of 0 all points are one policy. With a large one whoever has met the arm that
    pays pulls it: 4/9 in two pulls, a third of the others in one more."""
    family = bandits(3)
    found = {}
    for rate in (0.0, 50.0):
        config = dataclasses.replace(MAML, rate=rate, baseline="episodes")
        made = maml.learner_of(family, config, CURVE)
        state = made.init(jax.random.key(0))
        tasks = jnp.tile(jnp.array([1.0, 0.0, 0.0]), (64, 1))
        found[rate] = jax.jit(made.evaluate)(state, tasks, jax.random.key(1))
    assert found[0.0].curve.shape == (64, 3)
    assert (np.abs(np.asarray(found[0.0].curve).mean(0) - 1 / 3) < 0.15).all()
    curve = np.asarray(found[50.0].curve).mean(0)
    assert curve[0] < 0.5 < 0.6 < curve[2]


# ------------------------------------------------------------------------------------ RL^2


@pytest.fixture(scope="module")
def played():
    """Trials of four episodes in small MDPs, and the policy that played them."""
    parts = rl2.make(random_mdps(3, 2, 2), RL2, CURVE)
    state = rl2.init(parts, jax.random.key(0))
    # Heads begin near 0; larger ones show what they read.
    params = jax.tree.map(lambda x: 3.0 * x, state.params)
    params["policy"]["kernel"] = jax.random.normal(jax.random.key(1), (5, 2))
    tasks = jax.tree.map(lambda x: x[:M], state.tasks)
    keys = jax.random.split(jax.random.key(2), M)
    play = jax.jit(lambda params, tasks, keys: rl2.play_trials(parts, params, tasks, keys, 4))
    return parts, params, tasks, keys, play, play(params, tasks, keys)


def _outputs(parts, params, inputs, core):
    head, value, core = rl2.unroll(parts, params, inputs, core)
    return np.asarray(head.log_probs), np.asarray(value), core


def test_the_memory_forgets_where_a_trial_begins_and_nowhere_else(played):
    parts, params, *_, trials = played
    rows = trials.inputs
    clean = _outputs(parts, params, rows, rl2.memory(parts, M))
    garbage = _outputs(parts, params, rows, jnp.full((M, 5), jnp.nan))
    for x, y in zip(clean, garbage, strict=True):
        np.testing.assert_array_equal(x, y)
    assert np.isfinite(clean[0]).all() and rows.begins[0].all() and not rows.begins[1:].any()
    # The second half: what was learnt in the first two episodes is there, or it is not.
    first, second = (jax.tree.map(lambda x, s=s: x[s], rows) for s in (np.s_[:4], np.s_[4:]))
    core = _outputs(parts, params, first, rl2.memory(parts, M))[2]
    kept = _outputs(parts, params, second, core)
    np.testing.assert_allclose(kept[0], clean[0][4:], atol=1e-5)
    lost = _outputs(parts, params, second, rl2.memory(parts, M))
    assert np.abs(lost[0][0] - clean[0][4]).max() > 1e-3
    garbage = _outputs(parts, params, second, jnp.full((M, 5), jnp.nan))
    assert np.isnan(garbage[1]).all()


def test_what_it_reads_is_the_last_action_reward_and_end(played):
    parts, *_, trials = played
    rows = trials.inputs
    assert (np.asarray(rows.prev_action[0]) == -1).all() and not np.asarray(
        rows.prev_reward[0]
    ).any()
    np.testing.assert_array_equal(rows.prev_action[1:], trials.action[:-1])
    np.testing.assert_array_equal(rows.prev_reward[1:], trials.reward[:-1])
    ended = np.asarray(rows.observation[..., -1])
    np.testing.assert_array_equal(ended[:, 0], [0, 0, 1, 0, 1, 0, 1, 0])
    assert (np.asarray(rows.observation[::2, :, 0]) == 0).all()  # an episode begins in state 0
    again, value, _ = rl2.unroll(parts, played[1], rows, rl2.memory(parts, M))
    stored = distributions.log_prob(again, trials.action)
    np.testing.assert_allclose(stored, trials.log_prob, atol=1e-5)  # acting is unrolling
    np.testing.assert_allclose(value, trials.value, atol=1e-5)


def test_values_bootstrap_across_episodes_and_not_beyond_the_trial(played):
    parts, *_, trials = played
    found = np.asarray(rl2.advantages(parts, trials))
    reward, value = (np.asarray(x) for x in (trials.reward, trials.value))
    wanted, following = np.zeros_like(reward), np.zeros(M)
    for t in reversed(range(len(reward))):
        ahead = value[t + 1] if t + 1 < len(reward) else 0.0
        following = reward[t] + 0.99 * ahead - value[t] + 0.99 * 0.3 * following
        wanted[t] = following
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_order_of_trials_means_nothing_to_rl2(played):
    parts, params, tasks, keys, play, trials = played
    order = jnp.array([3, 1, 0, 2])
    other = play(params, jax.tree.map(lambda x: x[order], tasks), keys[order])
    for x, y in zip(jax.tree.leaves(trials), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(np.asarray(x)[:, order], y, atol=1e-5)

    def gradient(trials):
        advantage = rl2.advantages(parts, trials)
        target = advantage + trials.value

        def loss(params):
            return rl2.trial_loss(parts, params, trials, advantage, target)[0]

        return jax.jit(jax.grad(loss))(params)

    for x, y in zip(*(jax.tree.leaves(gradient(t)) for t in (trials, other)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: maml.make(bandits(3), MAML, (0, 5, 5)), "curve must hold rising numbers"),
        (lambda: maml.make(bandits(3), maml.Config(rate=-1.0), CURVE), "rate must not be negative"),
        (lambda: rl2.make(bandits(3), rl2.Config(discount=2.0), CURVE), "discount must lie in"),
        (lambda: bandits(0), "num_arms must be at least 1; got 0"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# ------------------------------------------------------------------- episodic control and Distral


def test_episodic_control_is_a_dictionary_of_the_best_returns():
    """On an MDP without chance, by hand: what was never tried is tried, the best known is kept."""
    family = random_mdps(3, 2, 4)
    moves = jnp.array([[[0, 1, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0]], [[1, 0, 0], [0, 1, 0]]])
    task = family.draw(jax.random.key(0))._replace(transition=moves.astype(jnp.float32))
    parts = mfec_few_shot.make(family, mfec_few_shot.Config(neighbours=1, discount=0.5), (6,))
    tables = mfec_few_shot.empty_tables(parts)
    known: list[dict[int, float]] = [{}, {}]
    play = jax.jit(lambda tables, keys: mfec_few_shot.play(parts, tables, task, keys))
    write = jax.jit(lambda tables, episode: mfec_few_shot.write(parts, tables, episode))
    for n in range(6):
        episode = play(tables, jax.random.split(jax.random.key(n), 1))
        tables = write(tables, episode)
        state, action, reward = (
            np.asarray(x)[0] for x in (episode.observation[..., 0], episode.action, episode.reward)
        )
        for s, a in zip(state, action, strict=True):
            values = [t.get(int(s), np.inf if not t else None) for t in known]
            if None not in values:  # else it is the value of the nearest other state
                assert values[a] == max(values)
        to_go = [sum(0.5 ** (m - t) * reward[m] for m in range(t, 4)) for t in range(4)]
        for s, a, value in zip(state, action, to_go, strict=True):
            known[a][int(s)] = max(known[a].get(int(s), -np.inf), value)
    for a, wanted in enumerate(known):
        table = jax.tree.map(lambda x, a=a: x[a], tables)
        query = jnp.eye(3)[jnp.array(sorted(wanted))]
        found = episodic.mean_value(
            table, query, episodic.nearest(table, query, 1), empty=jnp.float32(jnp.inf)
        )
        np.testing.assert_allclose(found, [wanted[s] for s in sorted(wanted)], rtol=1e-5)
        assert int(episodic.size(table)) == len(wanted)


def test_episodic_control_finds_the_arm_that_pays_and_keeps_nothing_between_tasks():
    made = mfec_few_shot.learner_of(bandits(3), mfec_few_shot.Config(train_tasks=2), (0, 1, 3, 5))
    state = made.init(jax.random.key(0))
    tasks = jnp.tile(jnp.array([1.0, 0.0, 0.0]), (64, 1)).at[32:].set(jnp.array([0.0, 0.0, 1.0]))
    score = jax.jit(made.evaluate)(state, tasks, jax.random.key(1))
    for half in (score.curve[:32], score.curve[32:]):
        np.testing.assert_allclose(half.mean(0)[0], 1 / 3, atol=0.06)
        np.testing.assert_array_equal(half[:, 2:], 1.0)  # all three were tried, each once
    np.testing.assert_allclose(score.online, (1 + 2) / 5, atol=1e-6)
    with pytest.raises(ValueError, match="discrete actions for episodic"):
        mfec_few_shot.learner_of(point_navigation(3), mfec_few_shot.Config(), (0,))


DISTRAL = distral_few_shot.Config(
    hidden=(4,), train_tasks=M, outer_episodes=3, episodes=2, eval_episodes=2
)


@pytest.mark.parametrize("name", ["bandits", "navigation"])
def test_every_task_pulls_at_the_distilled_policy_and_at_no_column_but_its_own(name):
    parts = distral_few_shot.make(FAMILIES[name](), DISTRAL, CURVE)
    state = jax.jit(lambda key: distral_few_shot.init(parts, key))(jax.random.key(0))
    # A fresh policy's last layer is almost 0, where h and g cannot be told apart.
    params = jax.tree.map(
        lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), state.params
    )
    of_task = [jax.tree.map(lambda x, k=k: x[k], (params, state.tasks)) for k in range(M)]
    alone = [own._replace(shared=params.shared) for own, _ in of_task]
    keys = jax.random.split(jax.random.key(1), (M, 3))
    collect = jax.jit(lambda p, t, k: distral_few_shot.collect(parts, p, t, k))
    episodes = [collect(p, of_task[k][1], keys[k]) for k, p in enumerate(alone)]
    gradient = jax.jit(jax.grad(lambda p, e: distral_few_shot.loss(parts, p, e)[0]))
    each = [gradient(p, e) for p, e in zip(alone, episodes, strict=True)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *episodes)
    both = jax.jit(jax.grad(lambda p, e: distral_few_shot.mean_loss(parts, p, e)[0]))
    for name, x in zip(params._fields, both(params, stacked), strict=True):
        parts_of = [getattr(g, name) for g in each]
        wanted = jax.tree.map(lambda *x: jnp.stack(x) / M, *parts_of)
        if name == "shared":
            wanted = jax.tree.map(lambda x: x.sum(0), wanted)
        for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        assert max(np.abs(a).max() for a in jax.tree.leaves(x)) > 1e-3


def test_what_training_tasks_share_is_known_before_the_first_episode():
    """All training tasks pay for arm 0: so does the distilled policy's first choice, fresh
    parameters' one time in three."""
    family = bandits(3)._replace(draw=lambda key: jnp.array([1.0, 0.0, 0.0]))
    config = dataclasses.replace(DISTRAL, outer_episodes=8, learning_rate=0.05, eval_episodes=32)
    made = distral_few_shot.learner_of(family, config, (0,))
    state = made.init(jax.random.key(0))
    tasks = jax.tree.map(lambda x: x[:2], made.tasks(state))
    fresh = float(jax.jit(made.evaluate)(state, tasks, jax.random.key(1)).curve.mean())
    keys = jax.random.split(jax.random.key(2), 60)
    state, metrics = jax.jit(lambda s: jax.lax.scan(made.update, s, keys))(state)
    learnt = float(jax.jit(made.evaluate)(state, tasks, jax.random.key(1)).curve.mean())
    assert fresh < 0.6 and learnt > 0.9 and float(metrics["return/mean"][-5:].mean()) > 0.9
