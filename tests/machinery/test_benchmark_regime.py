"""The stream of random games: what it draws, what it hides, and what it does with actions."""

import itertools

import envpool
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import rollout
from mtrl_jax.benchmark import atari_scores, regime, regime_pool, study
from mtrl_jax.envs import atari_games, functional, suites
from mtrl_jax.types import HostSuite, Timestep
from tests.machinery import stream_envs, tiny

E, T = 40, 60


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


# ------------------------------------------------------------------------------------------- folds


@pytest.mark.parametrize(("n", "k"), [(12, 4), (7, 3), (5, 5), (59, 5)])
def test_folds_partition_the_games(n, k):
    fold = regime.folds(n, k, seed=3)
    sizes = np.bincount(fold, minlength=k)
    assert fold.shape == (n,) and len(sizes) == k
    assert sizes.max() - sizes.min() <= 1 and sizes.min() >= 1
    np.testing.assert_array_equal(fold, regime.folds(n, k, seed=3))
    if n > k:  # drawn, and not dealt in the order of the list
        others = [regime.folds(n, k, seed) for seed in range(8)]
        assert any((fold != other).any() for other in others)
        assert any((other[:-1] > other[1:]).any() for other in others)


@pytest.mark.parametrize("k", [0, 1, 4])
def test_folds_that_leave_nothing_are_refused(k):
    with pytest.raises(ValueError, match=f"^folds must be between 2 and .* games, 3; got {k}$"):
        regime.folds(3, k)


def test_games_are_chosen_by_name():
    spec = stream_envs.spec()
    assert regime.choose(spec, ["four", "one"]) == [2, 0]
    assert regime.choose(spec, []) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"^unknown game 'fuor'; did you mean four\? \(known: one"):
        regime.choose(spec, ["fuor"])
    with pytest.raises(ValueError, match="named once; got one, one"):
        regime.choose(spec, ["one", "one"])


# -------------------------------------------------------------------------------- functional suite


def play(suite, actions, seed=0):
    """Rows `[T + 1, K, E, ...]` of actions `[T, K, E]`."""
    reset, step = functional.auto_reset_batch(suite.env)
    k = suite.spec.num_tasks
    index = jnp.asarray(rollout.env_indices(k, actions.shape[2]))

    def one(carry, x):
        key, action = x
        state, row = step(functional.environment_keys(key, index), carry, action, suite.tasks)
        return state, row

    @jax.jit
    def all_rows(key, actions):
        keys = jax.random.split(key, len(actions) + 1)
        state, first = reset(functional.environment_keys(keys[0], index), suite.tasks)
        _, rows = jax.lax.scan(one, state, (keys[1:], actions))
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rows)

    return jax.device_get(all_rows(jax.random.key(seed), jnp.asarray(actions)))


def episodes(rows):
    """Of each environment: (game, number of valid rows) of every finished episode, in order."""
    found = []
    for e in range(rows.first.shape[2]):
        first, game = rows.first[:, 0, e], rows.observation[:, 0, e, 0]
        starts = np.flatnonzero(first)
        mine = []
        for begin, end in itertools.pairwise(starts):
            assert len(set(game[begin:end])) == 1  # one game from its first row to its last
            assert rows.discount[end - 1, 0, e] == 0.0
            mine.append((int(game[begin]), end - begin - 1))
        found.append(mine)
    return found


def test_a_new_game_is_drawn_after_every_game_over_by_each_environment_for_itself():
    stream = regime.random_games(stream_envs.suite(), [0, 1, 2])
    rows = play(stream, np.zeros((T, 1, E), np.int32))
    found = episodes(rows)
    lengths = np.array(stream_envs.LENGTHS)
    assert all(n == lengths[game] for mine in found for game, n in mine)
    # Of the first ten episodes of every environment (an unfinished long game biases the last ones).
    games = np.array([[game for game, _ in mine[:10]] for mine in found])
    counts = np.bincount(games.ravel(), minlength=3)
    assert counts.sum() == 10 * E
    np.testing.assert_allclose(counts / counts.sum(), 1 / 3, atol=0.08)  # 3.4 standard errors
    after = np.array(
        [[(games[:, :-1] == a)[games[:, 1:] == b].sum() for a in range(3)] for b in range(3)]
    )
    np.testing.assert_allclose(after / after.sum(), 1 / 9, atol=0.06)
    assert len({tuple(row) for row in games}) > E / 2
    again = play(stream, np.zeros((T, 1, E), np.int32))
    tiny.assert_trees_equal(again, rows)
    assert (play(stream, np.zeros((T, 1, E), np.int32), 1).observation != rows.observation).any()


@pytest.mark.parametrize("small", [0, regime.SMALL])
def test_only_the_games_of_the_stream_are_played(small, monkeypatch):
    monkeypatch.setattr(regime, "SMALL", small)

    def of(*games):
        return regime.random_games(stream_envs.suite(), games)

    rows = play(of(2, 0), np.zeros((T, 1, E), np.int32))
    games = [game for mine in episodes(rows) for game, _ in mine[:10]]
    np.testing.assert_allclose(np.bincount(games) / len(games), [0.5, 0.0, 0.5], atol=0.09)
    rows = play(of(1), np.zeros((T, 1, E), np.int32))
    assert (rows.observation == 1).all()

    # Where games are little data, streams of any of them can share a program.
    def shapes(suite):
        return [x.shape for x in jax.tree.leaves(suite.tasks)]

    assert (shapes(of(2, 0)) == shapes(of(1)) == shapes(of(0, 1, 2))) == bool(small)


def test_illegal_actions_are_no_ops_and_all_others_arrive():
    stream = regime.random_games(stream_envs.suite(), [0, 1, 2])
    actions = np.random.default_rng(0).integers(0, 3, (T, 1, E)).astype(np.int32)
    rows = play(stream, actions)
    game = rows.observation[1:, 0, :, 0].astype(int)
    sent = actions[:, 0]
    legal = stream_envs.MASK[game, sent]
    valid = rows.valid[1:, 0]
    assert (valid & ~legal).sum() > 100 and (valid & legal & (sent > 0)).sum() > 100
    np.testing.assert_array_equal(rows.reward[1:, 0][valid], np.where(legal, sent, 0)[valid])


def test_each_game_has_the_rules_of_the_stream():
    apart = regime.each_game(stream_envs.suite(), [2, 1])
    assert apart.spec.task_names == ("four", "two") and apart.spec.action_mask.all()
    np.testing.assert_array_equal(apart.spec.episode_limit, [4, 4])
    rows = play(apart, np.ones((4, 2, 1), np.int32))
    np.testing.assert_array_equal(rows.observation[:, :, 0, 0], [[2, 1]] * 5)
    np.testing.assert_array_equal(rows.reward[1:], 0.0)  # neither of them has action 1


def test_the_agent_is_told_nothing_of_the_games():
    told = regime.stream_spec(stream_envs.spec())
    other = regime.stream_spec(stream_envs.spec(("four", "one", "two")))
    assert told.task_names == other.task_names == (regime.STREAM,)
    assert told.num_tasks == 1 and told.action_mask.all() and told.episode_limit.tolist() == [4]
    for games in ([0], [1, 2], [0, 1, 2]):
        stream = regime.random_games(stream_envs.suite(), games)
        tiny.assert_trees_equal(stream.spec.action_mask, told.action_mask)
        assert stream.spec._replace(action_mask=0, episode_limit=0) == told._replace(
            action_mask=0, episode_limit=0
        )


def test_a_blind_agent_does_on_each_game_what_it_does_on_a_stream_of_it():
    told = regime.stream_spec(stream_envs.spec())
    agent = tiny.toy_agent(told)
    policy = agent.policy_params(agent.init(jax.random.key(0)))
    many = regime.blind(agent, 3)
    shape = (3, 5)
    observation = jax.random.normal(jax.random.key(1), (*shape, 1))
    zeros = jnp.zeros(shape)
    rows = Timestep(observation, zeros, zeros, zeros > 0, zeros > 0, zeros > 0)
    keys = jax.random.split(jax.random.key(2), shape)
    action, log_prob, _ = many.act(policy, many.init_actor(5), rows, keys)
    for k in range(3):
        one = jax.tree.map(lambda x, k=k: x[k : k + 1], (rows, keys))
        want = agent.act(policy, (), *one)
        np.testing.assert_array_equal(action[k], want[0][0])
        np.testing.assert_array_equal(log_prob[k], want[1][0])


# --------------------------------------------------------------------------------------- host pool


def host_stream(games=(0, 1, 2), num_envs=6, seed=0, groups=2):
    made, log = [], []

    def maker(number):
        def make(num_envs, seed, num_groups):
            assert (num_envs, num_groups) == (1, 1)
            made.append((seed, stream_envs.ShownPool(number, log)))
            return made[-1][1]

        return make

    spec = stream_envs.spec()
    whole = HostSuite(spec, None, part=lambda indices: HostSuite(spec, maker(indices[0])))
    suite = regime_pool.random_games(whole, games)
    return suite, suite.make_pool(num_envs, seed, groups), made, log


def play_host(pool, actions):
    rows = [np.concatenate([x.observation[..., 0] for x in (pool.reset(0), pool.reset(1))], 1)]
    firsts, rewards = [np.ones((1, 6), bool)], [np.zeros((1, 6))]
    for action in actions:
        for g in range(2):
            pool.send(g, action[:, 3 * g : 3 * g + 3])
        got = [pool.recv(g) for g in range(2)]
        for out, name in ((rows, "observation"), (firsts, "first"), (rewards, "reward")):
            parts = np.concatenate([getattr(x, name) for x in got], axis=1)
            out.append(parts[..., 0] if name == "observation" else parts)
    return tuple(np.stack(x)[:, 0] for x in (rows, firsts, rewards))  # [T + 1, E]


def test_streams_on_the_host_draw_a_game_after_every_game_over():
    actions = np.random.default_rng(1).integers(0, 3, (150, 1, 6))
    suite, pool, made, _ = host_stream()
    assert suite.spec.task_names == (regime.STREAM,) and pool.spec is suite.spec
    game, first, reward = play_host(pool, actions)
    counts = np.zeros(3)
    for e in range(6):
        starts = np.flatnonzero(first[:, e])
        for begin, end in itertools.pairwise(starts):
            number = int(game[begin, e])
            assert set(game[begin:end, e]) == {number}
            assert end - begin - 1 == stream_envs.LENGTHS[number]
        assert set(game[starts, e]) == {0, 1, 2}  # in every stream
        counts += np.bincount(game[starts[:25], e].astype(int), minlength=3)
    np.testing.assert_allclose(counts / counts.sum(), 1 / 3, atol=0.12)  # 3 standard errors
    sent, played = actions[:, 0], game[1:].astype(int)
    legal = stream_envs.MASK[played, sent]
    np.testing.assert_array_equal(reward[1:][~first[1:]], np.where(legal, sent, 0)[~first[1:]])
    assert len(made) <= 18 and len({seed for seed, _ in made}) == len(made)
    _, again, *_ = host_stream()
    np.testing.assert_array_equal(play_host(again, actions)[0], game)
    pool.close()
    assert all(one.closed for _, one in made)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros((1, 2), int), r"shape \(1, 3\), got \(1, 2\)"),
        (np.full((1, 3), 3), r"integer in \[0, 3\), got int64 in \[3, 3\]"),
        (np.zeros((1, 3)), "integer in .* got float64"),
    ],
)
def test_wrong_actions_are_not_sent_to_the_host(action, message):
    _, pool, _, log = host_stream()
    pool.reset(0)
    with pytest.raises(ValueError, match=message):
        pool.send(0, action)
    assert log == []
    with pytest.raises(ValueError, match="reset must come before"):
        pool.send(1, np.zeros((1, 3), int))


def test_a_stream_of_real_games_on_the_host():
    names = suites.MINIGRID_LADDER[:2]
    whole = suites.make("envpool:" + ",".join(names))
    assert regime_pool.part(whole, [1]).spec.task_names == names[1:]
    stream = regime_pool.random_games(whole, [0, 1])
    pool = stream.make_pool(2, 0, 1)
    row = pool.reset(0)
    for _ in range(3):
        pool.send(0, np.zeros((1, 2), np.int32))
        row = pool.recv(0)
    assert row.observation.shape == (1, 2, 148) and not row.first.any()
    pool.close()
    with pytest.raises(ValueError, match=r"tasks that can be made one by one .*; four cannot"):
        regime_pool.part(HostSuite(stream_envs.spec(), None), [2])


def test_the_lists_of_atari_games_are_those_of_the_benchmark_and_of_the_scores():
    scores = atari_scores.ATARI_57
    assert atari_games.ATARI_57 == tuple(scores)
    ours = {game for game in scores if scores[game].in_amtlb} | set(atari_scores.AMTLB_ONLY)
    assert set(atari_games.AMTLB) == ours and len(atari_games.AMTLB) == 59
    assert set(atari_games.ATARI_12) <= ours & set(scores) and len(atari_games.ATARI_12) == 12
    known = set(envpool.list_all_envs())
    assert set(atari_games.ids((*atari_games.AMTLB, *atari_games.ATARI_57))) <= known
    small = suites.make("atari42:Pong-v5,Breakout-v5")
    assert small.spec.observation_shape == (4, 42, 42) and small.spec.num_actions == 18
    assert regime_pool.part(small, [1]).spec.observation_shape == (4, 42, 42)
    with pytest.raises(ValueError, match="CartPole-v1 is no Atari game"):
        suites.make("atari42:CartPole-v1")
    atari4 = suites.make("atari4")
    spec = atari4.spec
    assert regime_pool.part(atari4, [1]).spec.observation_shape == (4, 84, 84)
    assert spec.task_names == ("Pong-v5", "Breakout-v5", "Freeway-v5", "Boxing-v5")
    assert spec.num_actions == 18
    human = study.human_scores(spec.task_names)
    np.testing.assert_array_equal(human, [scores[g].human for g in atari_games.ATARI_4])
