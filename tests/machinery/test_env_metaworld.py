"""Meta-World's suites and continuous actions: what a pool hands out and what it refuses."""

import functools
import subprocess
from typing import Any

import jax
import numpy as np
import pytest

from mtrl_jax import evaluate, rollout
from mtrl_jax.envs import draw, metaworld, suites
from mtrl_jax.envs.envpool_spec import describe
from mtrl_jax.envs.permute import permute_actions
from mtrl_jax.envs.pool import EnvpoolPool, check_continuous_actions
from mtrl_jax.types import Timestep

TASKS = ("reach", "pick-place", "drawer-close")
LIMIT = 500


@functools.cache
def played(seed: int = 0) -> tuple[Timestep, np.ndarray]:
    """505 random actions of two environments a task: rows `[T + 1, K, E]` and the actions."""
    pool = suites.make("metaworld:" + ",".join(TASKS)).make_pool(2, seed, 1)
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1.0, 1.0, (LIMIT + 5, len(TASKS), 2, 4)).astype(np.float32)
    rows = [pool.reset(0)]
    for action in actions:
        pool.send(0, action)
        rows.append(pool.recv(0))
    pool.close()
    return Timestep(*(np.stack(field) for field in zip(*rows, strict=True))), actions


def test_an_episode_is_500_actions_is_cut_off_and_starts_anew() -> None:
    rows, _ = played()
    first = np.zeros(LIMIT + 6, bool)
    first[[0, LIMIT + 1]] = True
    np.testing.assert_array_equal(
        rows.first, np.broadcast_to(first[:, None, None], rows.first.shape)
    )
    np.testing.assert_array_equal(rows.valid, ~rows.first)
    assert (rows.discount == 1.0).all()  # truncation is not an end: it bootstraps
    assert (rows.reward[~rows.valid] == 0.0).all()
    assert not rows.success[~rows.valid].any()
    # The last row shows where the arm has got to, not where the next episode starts.
    hand = rows.observation[..., :3]
    moved = np.abs(hand[1:] - hand[:-1]).max(-1)
    assert (moved[LIMIT] > 0.03).all()  # from the final row to the reset row: a jump
    assert np.median(moved[LIMIT - 20 : LIMIT]) < 0.02
    # Half of each observation is the frame before, on a final row too, but not on a reset row.
    before = rows.observation[..., 18:36]
    np.testing.assert_allclose(before[LIMIT], rows.observation[LIMIT - 1, ..., :18], atol=1e-6)
    np.testing.assert_allclose(before[LIMIT + 1], rows.observation[LIMIT + 1, ..., :18], atol=1e-6)


def test_goals_are_visible_and_new_in_every_episode() -> None:
    rows, _ = played()
    goal = rows.observation[..., 36:]
    assert (np.abs(goal).max(-1) > 0.01).all()
    np.testing.assert_array_equal(goal[1], goal[LIMIT])  # one goal an episode
    assert (np.abs(goal[0, :2] - goal[LIMIT + 1, :2]).max(-1) > 1e-3).all()
    assert (np.abs(goal[0, :2, 0] - goal[0, :2, 1]).max(-1) > 1e-3).all()  # and an environment


def test_hidden_goals_are_zeros_and_nothing_else_changes() -> None:
    rows, actions = played()
    suite = suites.make("metaworld:" + ",".join(TASKS) + ":goal=hidden")
    pool = suite.make_pool(2, 0, 1)
    hidden = [pool.reset(0)]
    for action in actions[:30]:
        pool.send(0, action)
        hidden.append(pool.recv(0))
    pool.close()
    seen = Timestep(*(np.stack(field) for field in zip(*hidden, strict=True)))
    assert (seen.observation[..., 36:] == 0).all() and (rows.observation[..., 36:] != 0).any()
    np.testing.assert_array_equal(seen.observation[..., :36], rows.observation[:31, ..., :36])
    for name in ("reward", "discount", "success", "first"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(rows, name)[:31], err_msg=name)
    assert suite.spec.task_names == TASKS
    part = suite.part([1]).make_pool(1, 0, 1)  # what the benchmark plays one by one
    assert (part.reset(0).observation[..., 36:] == 0).all()
    part.close()


def test_rows_are_float32_and_rewards_are_the_v2_ones() -> None:
    rows, _ = played()
    assert rows.observation.dtype == rows.reward.dtype == np.float32
    assert rows.observation.shape == (LIMIT + 6, len(TASKS), 2, 39)
    assert 0.0 <= rows.reward.min() and rows.reward.max() <= 10.0
    assert rows.reward[:, 0].max() > 0.5  # reach rewards being near


def test_equal_seeds_make_equal_rows() -> None:
    rows, actions = played()
    pool = suites.make("metaworld:" + ",".join(TASKS)).make_pool(2, 0, 2)  # one env a group
    for g in range(2):
        pool.reset(g)
    for t in range(3):
        for g in range(2):
            pool.send(g, actions[t, :, g : g + 1])
        for g in range(2):
            np.testing.assert_array_equal(
                pool.recv(g).observation[:, 0], rows.observation[t + 1, :, g]
            )


def test_the_sets_of_tasks() -> None:
    sizes = {name: len(tasks) for name, tasks in metaworld.BENCHMARKS.items()}
    assert sizes == {
        "mt10": 10,
        "mt25": 25,
        "mt50": 50,
        "ml10": 10,
        "ml10_test": 5,
        "ml45": 45,
        "ml45_test": 5,
    }
    for name, tasks in metaworld.BENCHMARKS.items():
        assert len(set(tasks)) == len(tasks) and set(tasks) <= set(metaworld.MT50), name
    assert set(metaworld.MT10) < set(metaworld.MT25)
    for n in ("10", "45"):
        train, test = (set(metaworld.BENCHMARKS[f"ml{n}{part}"]) for part in ("", "_test"))
        assert not train & test
    spec = suites.make("mt50").spec  # all ids exist
    assert spec.task_names == metaworld.MT50
    assert spec.action_shape == (4,) and spec.action_dtype == np.float32
    assert spec.has_success and (spec.episode_limit == LIMIT).all()
    assert set(metaworld.BENCHMARKS) < set(suites.list_suites())


def test_actions_are_cut_off_and_stretched_to_the_environments_bounds() -> None:
    """Pendulum's torque lies in [-2, 2]; an action of 1 is all of it, and so is one of 7."""
    task = describe("Pendulum-v1")

    def turn(value: float) -> np.ndarray:
        pool = EnvpoolPool([task], 2, seed=0)
        pool.reset(0)
        rows = []
        for _ in range(3):
            pool.send(0, np.full((1, 2, 1), value))
            rows.append(pool.recv(0))
        return np.stack([row.observation for row in rows]), np.stack([row.reward for row in rows])

    zero, full, beyond = turn(0.0), turn(1.0), turn(7.0)
    np.testing.assert_array_equal(full[0], beyond[0])
    np.testing.assert_array_equal(full[1], beyond[1])
    # Angular velocity grows by 3 / (m l^2) u dt = 3 * 2 * 0.05 in the first step, for equal angles.
    np.testing.assert_allclose(full[0][0] - zero[0][0], [[[0, 0, 0.3]] * 2], atol=0.02)


def bad(action: Any) -> Any:
    return lambda: check_continuous_actions(action, 2, 3, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (bad(np.zeros((2, 3))), r"shape \(2, 3, 4\), got \(2, 3\)"),
        (bad(np.zeros((2, 3, 4), int)), "floating dtype, got int64"),
        (bad(np.full((2, 3, 4), np.nan)), "finite, got .* for task 0"),
        (lambda: suites.make("metaworld:reach,pickplace"), "no task 'pickplace'; .* pick-place"),
        (lambda: suites.make("metaworld:"), "at least one"),
        (lambda: suites.make("metaworld:reach,reach"), "once"),
        (
            lambda: suites.make("envpool:Pendulum-v1,Acrobot-v1"),
            "different observations|different action spaces",
        ),
        (lambda: permute_actions(suites.make("mt10"), 0), "discrete actions"),
    ],
)
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_mixed_action_spaces_are_refused() -> None:
    pendulum = describe("Pendulum-v1")
    other = pendulum._replace(env_id="other", action_low=np.zeros(2), action_high=np.ones(2))
    with pytest.raises(ValueError, match="different action spaces: 1 and 2 coordinates"):
        EnvpoolPool([pendulum, other], 1, 0)
    discrete = pendulum._replace(env_id="other", num_actions=3, action_low=None)
    with pytest.raises(ValueError, match="different action spaces: 3 actions and 1 coordinates"):
        EnvpoolPool([pendulum, discrete], 1, 0)


def test_where_there_is_no_opengl_a_sentence_says_so(monkeypatch: Any) -> None:
    """The physics library itself would end this process."""
    gone = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(draw.subprocess, "run", lambda *args, **kwargs: gone)
    suite = suites.make("metaworld:reach")
    with pytest.raises(ValueError, match=r"Reach-v3 cannot be drawn here: .* OpenGL"):
        suite.make_pool(1, 0, 1, render=True)
    suite.make_pool(1, 0, 1).close()


def test_evaluation_in_rounds_plays_every_episode_once() -> None:
    suite = suites.make("envpool:Pendulum-v1")
    seeds: list[int] = []

    def make_pool(num_envs: int, seed: int, num_groups: int) -> Any:
        assert num_envs <= 2
        seeds.append(seed)
        return suite.make_pool(num_envs, seed, num_groups)

    small = suite._replace(make_pool=make_pool, max_envs=2)
    agent = evaluate.random_agent(suite.spec)
    alive = []
    score = evaluate.host_scorer(small, agent, 5, on_row=lambda row, a: alive.append(a.sum()))
    result = score((), jax.random.key(0))
    assert result.length.shape == (1, 5) and (result.length == 200).all()
    assert len(set(seeds)) == 3 and len(set(result.episode_return[0].tolist())) == 5
    assert alive[0] == 6 and alive[-1] == 2 and sorted(alive, reverse=True) == alive
    # Where one pool is enough, the limit changes nothing.
    two = evaluate.host_scorer(small, agent, 2)((), jax.random.key(1))
    np.testing.assert_array_equal(
        two.episode_return,
        evaluate.host_scorer(suite, agent, 2)((), jax.random.key(1)).episode_return,
    )


def test_random_actions_fill_the_box_and_a_rollout_holds_them() -> None:
    suite = suites.make("metaworld:reach")
    pool = suite.make_pool(2, 0, 2)
    agent = evaluate.random_agent(suite.spec)
    loop = rollout.init_host_loop(pool, 2, agent.init_actor)
    index = rollout.env_indices(1, 2)
    _, rows = rollout.collect(
        pool, rollout.act_at(agent.act), (), loop, jax.random.key(0), index, 20
    )
    pool.close()
    assert rows.action.shape == (20, 1, 2, 4) and rows.action.dtype == np.float32
    assert -1.0 <= rows.action.min() < -0.8 and 0.8 < rows.action.max() <= 1.0
    np.testing.assert_allclose(rows.log_prob, -4 * np.log(2), rtol=1e-6)
    assert (np.abs(rows.timestep.observation).max(-1) > 0).all()
