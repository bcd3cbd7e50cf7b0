"""Trials on Meta-World: one goal for all episodes, hidden, other ones in tests; RL^2 on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.few_shot import asked, pools
from mtrl_jax import distributions
from mtrl_jax.algorithms import maml, maml_host, rl2, rl2_host
from mtrl_jax.envs import trials
from tests.machinery import tiny

T, M = 3, 2
REACH = f"ml1:reach:length={T}"
VISIBLE = f"{REACH}:goal=visible"
CONFIG = rl2.Config(hidden=(8,), core_size=6, train_tasks=0, meta_batch=M, epochs=1, eval_trials=1)
GOAL = np.s_[36:39]


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def _pool(name: str, slots: int = M, copies: int = 2, seed: int = 0) -> trials.TrialPool:
    return trials.TrialPool(trials.metaworld_trials(name).train, slots, copies, seed)


def _wander(pool: trials.TrialPool, copy: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(T):
        pool.step([copy], rng.uniform(-1, 1, (pool.num_slots, 1, 4)).astype(np.float32))


# ------------------------------------------------------------------------------- trials


def test_all_episodes_of_a_trial_have_one_goal_and_the_next_trial_another() -> None:
    """Whatever is played in between, and whether an episode is cut off."""
    pool, rows = _pool(VISIBLE, copies=3), []
    for trial in range(3):
        for copy in range(3):
            rows.append(pool.reset([copy])[:, 0])
            if (trial + copy) % 2:
                _wander(pool, copy, 10 * trial + copy)
    seen = np.stack(rows).reshape(3, 3, M, 39)
    np.testing.assert_array_equal(seen, np.broadcast_to(seen[:, :1], seen.shape))
    goals = seen[:, 0, :, GOAL]
    assert len(np.unique(goals.reshape(-1, 3), axis=0)) == 3 * M  # and slots have their own
    # And so has what follows: equal actions in two copies are equal rows.
    pool.reset([0, 1])
    for n in range(T):
        action = np.random.default_rng(n).uniform(-1, 1, (M, 1, 4)).astype(np.float32)
        observation, reward, _ = pool.step([0, 1], np.repeat(action, 2, 1))
        np.testing.assert_array_equal(observation[:, 0], observation[:, 1])
        np.testing.assert_array_equal(reward[:, 0], reward[:, 1])
    again = _pool(VISIBLE, copies=1)
    again.skip(2)
    np.testing.assert_array_equal(again.reset([0])[:, 0], seen[2, 0])
    pool.close()


def test_slots_are_of_the_environments_in_turn() -> None:
    family = trials.metaworld_trials("ml10:length=3")
    some = [family.train[1], family.test[0]]  # push, whose object stands free, and a drawer
    pool = trials.TrialPool(some, 4, 2, 0)
    both = pool.reset([0, 1])
    single = [trials.TrialPool([task], 2, 1, 0) for task in some]
    assert both.shape == (4, 2, 39)
    np.testing.assert_array_equal(both[0], both[0, :1].repeat(2, 0))
    # Seeds are of (pool, place of the environment): the first one's are those of a pool alone.
    np.testing.assert_array_equal(both[::2, 0], single[0].reset([0])[:, 0])
    np.testing.assert_array_equal(both[1::2, 0, 4:7].std(0)[1:], 0)  # a drawer moves sideways
    assert (both[::2, 0, 4:7].std(0)[:2] > 0).all()
    action = np.zeros((4, 2, 4), np.float32)
    action[1, 1] = 1.0  # the second copy of the drawer's first slot alone
    for _ in range(5):
        found, reward, success = pool.step([0, 1], action)
    assert reward.shape == success.shape == (4, 2)
    moved = np.abs(found[:, 1, :3] - found[:, 0, :3]).max(1)
    assert moved[1] > 0.01 and (moved[[0, 2, 3]] == 0).all()


def test_a_shelf_stays_where_it_can_be_reached_and_is_one_for_a_trial() -> None:
    """envpool's own moves away from reset to reset."""
    family, drawn = trials.metaworld_trials("ml1:shelf-place:goal=visible"), []
    pool = trials.TrialPool(family.train, M, 2, 0)
    for _ in range(3):
        rows = np.concatenate([pool.reset([0]), pool.reset([1])], 1)
        np.testing.assert_array_equal(rows[:, 0], rows[:, 1])
        action = np.random.default_rng(0).uniform(-1, 1, (M, 1, 4)).astype(np.float32)
        found, reward, success = pool.step([0, 1], action.repeat(2, 1))
        assert found.shape == (M, 2, 39) and reward.shape == success.shape == (M, 2)
        np.testing.assert_array_equal(found[:, 0], found[:, 1])
        drawn.append(rows[:, 0, GOAL])
    goals = np.concatenate(drawn)
    assert len(np.unique(goals, axis=0)) == 3 * M
    assert (0.75 < goals[:, 1]).all() and (goals[:, 1] < 0.95).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: trials.metaworld_trials("ml1"), "followed by an environment, as in ml1:reach"),
        (lambda: trials.metaworld_trials("ml1:raech"), "no task 'raech'; .* reach"),
        (lambda: trials.metaworld_trials("ml11"), "ml1:<environment>, ml10, ml45; got ml11"),
        (lambda: trials.metaworld_trials("ml10:length=501"), r"lie in \[1, 500\]; got '501'"),
        (lambda: trials.metaworld_trials("ml10:goal=seen"), "visible, hidden; got 'seen'"),
        (lambda: trials.metaworld_trials("ml10:seed=1"), "options are length, goal; got 'seed=1'"),
        (lambda: trials.TrialPool(trials.metaworld_trials("ml10").train, 15, 1, 0), "of 10 env"),
        (lambda: _pool(REACH, slots=1).step([0], np.zeros((1, 1, 3), np.float32)), "shape"),
        (lambda: _pool(REACH, slots=1).reset([1, 0]), "copies must be some, rising"),
        (
            lambda: [(p := _pool(REACH, slots=1)).reset([0]), p.reset([0, 1])],
            r"copies \[0, 1\] are at different draws, \[0, -1\]",
        ),
        (lambda: pools.test_slots(42, 5), "multiple of 5 environments; got 42"),
        (
            lambda: rl2_host.learner_of(
                trials.metaworld_trials("ml10"), rl2.Config(meta_batch=5, eval_trials=1), (0,)
            ),
            "meta_batch must be a multiple of 10 environments; got 5",
        ),
        (
            lambda: rl2_host.learner_of(
                trials.metaworld_trials(REACH), rl2.Config(meta_batch=3, eval_trials=1), (0,)
            ),
            "train_tasks must be a multiple of meta_batch = 3",
        ),
        (
            lambda: rl2_host.learner_of(
                trials.metaworld_trials(REACH), rl2.Config(train_tasks=0), (0,)
            ),
            "eval_trials must be 1 on host environments",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# --------------------------------------------------------------------- what is hidden


def _explained(x: np.ndarray, y: np.ndarray, folds: int = 5) -> float:
    """R^2 on held-out draws of a ridge regression on x, its squares and products."""
    x = np.unique(x[:, x.std(0) > 1e-6], axis=1)  # half of a reset row is the other half
    x = (x - x.mean(0)) / x.std(0)
    products = [x[:, i] * x[:, j] for i in range(x.shape[1]) for j in range(i + 1)]
    x = np.column_stack([np.ones(len(x)), x, *products])
    held, order = np.zeros_like(y), np.arange(len(y)) % folds
    for n in range(folds):
        a, b = x[order != n], y[order != n]
        weights = np.linalg.solve(a.T @ a + np.eye(a.shape[1]), a.T @ b)
        held[order == n] = x[order == n] @ weights
    return float(1.0 - np.square(y - held).sum() / np.square(y - y.mean(0)).sum())


def test_no_regression_on_the_reset_row_finds_a_hidden_goal() -> None:
    """And it does find one that is shown."""
    both = [_pool(name, slots=10, copies=1) for name in (VISIBLE, REACH)]
    seen, blind = (np.concatenate([p.reset([0])[:, 0] for _ in range(24)]) for p in both)
    goal = seen[:, GOAL].astype(float)
    assert (blind[:, GOAL] == 0).all()
    np.testing.assert_array_equal(blind[:, :36], seen[:, :36])  # the same tasks
    assert goal.std(0).min() > 0.02
    assert _explained(seen.astype(float), goal) > 0.95
    assert _explained(blind.astype(float), goal) < 0.1


def test_test_tasks_are_none_that_were_trained_on() -> None:
    """Of ML1 other goals, of ML10 and ML45 other environments."""
    for kind, sizes in (("ml10", (10, 5)), ("ml45", (45, 5))):
        family = trials.metaworld_trials(kind)
        train, test = ({task.env_id for task in part} for part in (family.train, family.test))
        assert (len(train), len(test)) == sizes and not train & test
    family = trials.metaworld_trials(VISIBLE)
    assert family.train == family.test
    seeds = [pools.training_seed(seed, n) for seed in range(3) for n in range(2)]
    assert len({*seeds, asked.TEST_SEED}) == 7
    goals = []
    for seed in (*seeds, asked.TEST_SEED):
        pool = trials.TrialPool(family.train, 2, 1, seed)
        goals.append(np.concatenate([pool.reset([0])[:, 0, GOAL] for _ in range(2)]))
        pool.close()
    found = np.concatenate(goals)
    assert len(np.unique(found, axis=0)) == len(found) == 28


# ---------------------------------------------------------------------------------- RL^2


@pytest.fixture(scope="module")
def played():
    """A learner of REACH with heads that show what they read, and trials of three episodes."""
    parts = rl2.make(trials.metaworld_trials(REACH), CONFIG, (0, 2))
    programs = rl2_host.compiled(parts)
    params = rl2.fresh(parts, jax.random.key(0))
    params["policy"]["kernel"] = jax.random.normal(jax.random.key(1), (6, 8))
    found = rl2_host.play_trials(programs, params, _pool(REACH, copies=3), jax.random.key(2), 3)
    return parts, params, found


def _outputs(parts, params, inputs, core):
    head, value, core = rl2.unroll(parts, params, inputs, core)
    return np.asarray(head.mean), np.asarray(value), core


def test_the_memory_is_kept_across_episodes_and_forgets_between_trials(played) -> None:
    parts, params, found = played
    rows, none = found.trials.inputs, rl2.memory(parts, M)
    # Acting, one row at a time from copy to copy, was unrolling the whole trial.
    head, value, _ = rl2.unroll(parts, params, rows, none)
    np.testing.assert_allclose(value, found.trials.value, atol=1e-5)
    log_prob = distributions.log_prob(head, jnp.asarray(found.trials.action))
    np.testing.assert_allclose(log_prob, found.trials.log_prob, atol=1e-4)
    clean, garbage = (
        _outputs(parts, params, rows, core) for core in (none, jnp.full_like(none, jnp.nan))
    )
    for x, y in zip(clean, garbage, strict=True):
        np.testing.assert_array_equal(x, y)
    assert rows.begins[0].all() and not rows.begins[1:].any()
    # The second episode with what the first one left, without it, and with garbage.
    later = jax.tree.map(lambda x: x[T:], rows)
    core = _outputs(parts, params, jax.tree.map(lambda x: x[:T], rows), none)[2]
    np.testing.assert_allclose(_outputs(parts, params, later, core)[0], clean[0][T:], atol=1e-5)
    assert np.abs(_outputs(parts, params, later, none)[0][0] - clean[0][T]).max() > 1e-3
    assert np.isnan(_outputs(parts, params, later, jnp.full_like(none, jnp.nan))[1]).all()


def test_what_it_reads_is_the_episodes_of_one_task(played) -> None:
    parts, _, found = played
    rows, action = found.trials.inputs, found.trials.action
    shown, ended = rows.observation[..., :39], rows.observation[..., 39]
    family = parts.family
    assert np.abs(shown[0, :, :36]).max() <= 6.0 and (shown[..., GOAL] == 0).all()
    assert action.shape == (3 * T, M, 4) and found.success.shape == (3 * T, M)
    np.testing.assert_array_equal(ended[:, 0], [0, 0, 0, 1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(rows.prev_action[1:], np.clip(action[:-1], -1, 1))
    np.testing.assert_array_equal(rows.prev_reward[1:], found.trials.reward[:-1])
    assert not rows.prev_reward[0].any() and (found.trials.reward > 0).all()
    np.testing.assert_array_equal(shown[::T], np.broadcast_to(shown[0], (3, M, 39)))
    assert np.abs(shown[1:T] - shown[: T - 1]).max() > 1e-3
    # The same actions in a pool alone earn the same.
    pool = _pool(REACH, copies=1)
    pool.reset([0])
    for t in range(T):
        observation, reward, _ = pool.step([0], action[t][:, None])
        np.testing.assert_array_equal(reward[:, 0], found.trials.reward[t])
        if t + 1 < T:
            read = (observation[:, 0] - family.centre) / family.scale
            np.testing.assert_array_equal(read, shown[t + 1])


def test_scales_of_rewards_and_values_change_the_units_alone(played) -> None:
    """Rewards a tenth and values in fives make the loss that rewards a fiftieth and values in ones
    make."""
    parts, params, found = played
    loss, ahead = [], []
    for reward_scale, unit in ((0.1, 5.0), (0.02, 1.0)):
        config = dataclasses.replace(CONFIG, reward_scale=reward_scale, value_scale=unit)
        trial = found.trials._replace(value=found.trials.value * unit)
        raw = rl2.advantages(parts._replace(config=config), trial)
        ahead.append(np.asarray(raw) / unit)
        target, advantage = raw + trial.value, jnp.asarray(ahead[0])
        one = parts._replace(config=config)
        loss.append(float(rl2.trial_loss(one, params, trial, advantage, target)[0]))
    np.testing.assert_allclose(ahead[0], ahead[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loss[0], loss[1], rtol=1e-4)


def test_success_is_at_any_action_of_an_episode() -> None:
    success = np.zeros((6, 2), bool)
    success[1, 0] = success[5, 1] = True
    found = rl2_host.success_of(rl2_host.Played(None, success), 3)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, [[1, 0], [0, 1]])


# ---------------------------------------------------------------------------------- MAML

MAML = maml.Config(
    hidden=(8,),
    train_tasks=0,
    meta_batch=M,
    episodes=2,
    outer_episodes=2,
    epochs=1,
    eval_episodes=1,
    rate=5.0,
    reward_scale=0.1,
)


@pytest.fixture(scope="module")
def adapted():
    """Programs, a fresh state, and a block of two episodes of it."""
    parts = maml.make(trials.metaworld_trials(REACH), MAML, (0, 1, 3))
    programs, params = maml_host.compiled(parts), maml.fresh(parts, jax.random.key(0))
    params.policy["policy"]["kernel"] = jax.random.normal(jax.random.key(1), (8, 8))
    state = maml.State(params, parts.optimiser.init(params), ())
    policies = jax.tree.map(lambda x: jnp.stack([x, x]), params.policy)
    pool = _pool(REACH, copies=2)
    block, success = maml_host.play(programs, policies, pool, [0, 1], jax.random.key(2))
    return programs, state, policies, block, success


def test_episodes_of_maml_are_of_one_task_and_of_its_own_policy(adapted) -> None:
    programs, state, _, block, success = adapted
    parts = programs.parts
    assert block.reward.shape == (M, 2, T) and success.shape == (M, 2)
    assert (block.observation[:, 0, 0] == block.observation[:, 1, 0]).all()
    assert np.abs(block.action[:, 0] - block.action[:, 1]).min() > 1e-4
    head = jax.vmap(lambda x: maml.policy_of(parts, state.params.policy, x))(block.observation)
    log_prob = distributions.log_prob(head, jnp.asarray(block.action))
    np.testing.assert_allclose(log_prob, block.log_prob, atol=1e-4)
    # The same actions in another pool earn the same.
    pool = _pool(REACH, copies=2)
    observation = pool.reset([0, 1])
    for t in range(T):
        np.testing.assert_array_equal(parts.family.read(observation), block.observation[:, :, t])
        observation, reward, _ = pool.step([0, 1], block.action[:, :, t])
        np.testing.assert_array_equal(reward, block.reward[:, :, t])


def test_every_slot_adapts_to_its_own_episodes(adapted) -> None:
    programs, state, policies, block, _ = adapted
    found = programs.adapt(state.params, policies, block)
    for m in range(M):
        alone = jax.tree.map(lambda x, m=m: jnp.asarray(x[m])[None], block)
        wanted = maml.adapt_to(programs.parts, state.params, alone)
        for x, y, old in zip(*map(jax.tree.leaves, (found, wanted, policies)), strict=True):
            np.testing.assert_allclose(x[m], y, atol=1e-5)
            assert np.abs(x[m] - old[m]).max() > 1e-5
    lone = jax.tree.map(lambda x: x[:, :1], block)  # one episode is half a step
    half = programs.adapt(state.params, policies, lone)
    assert not np.allclose(jax.tree.leaves(half)[0], jax.tree.leaves(found)[0], atol=1e-5)


def test_an_update_and_an_evaluation_play_each_copy_once(adapted) -> None:
    """In an update two inner episodes and two outer ones; behind three episodes a step on two, one
    on the third, and before that one on a single one."""
    programs, state, *_ = adapted
    made = maml_host.learner_of(programs.parts.family, MAML, (0, 1, 3))
    assert (made.copies, made.eval_copies, made.episodes_per_update) == (4, 2 + 2 + 3, 4 * M)
    pool = _pool(REACH, copies=made.copies)
    for n in range(2):
        following, metrics = maml_host.update(programs, state, pool, jax.random.key(n))
        assert (pool._draw == n).all()
    assert np.isfinite([float(x) for x in metrics.values()]).all()
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), following.params, state.params)
    assert min(jax.tree.leaves(moved)) > 0
    pool = _pool(REACH, copies=made.eval_copies)
    score = maml_host.evaluate(programs, state.params, pool, jax.random.key(0))
    assert (pool._draw == 0).all()
    assert score.curve.shape == score.success.shape == (M, 3) and score.online.shape == (M,)
    # Without inner steps in training it still adapts where it is scored.
    plain = dataclasses.replace(MAML, inner_steps=0, baseline="episodes")
    made = maml_host.learner_of(programs.parts.family, plain, (0, 1, 3))
    assert (made.copies, made.eval_copies) == (2, 7)
    _, metrics = made.update(state, _pool(REACH, copies=2), jax.random.key(0))
    assert float(metrics["success/before"]) == float(metrics["success/after"])
