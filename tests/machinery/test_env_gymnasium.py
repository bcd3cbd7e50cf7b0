"""gymnasium's environments as suites, beside a loop by hand over gymnasium itself."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

from mtrl_jax import engines, evaluate, record
from mtrl_jax.envs import suites
from mtrl_jax.envs.draw import CannotDraw
from mtrl_jax.envs.gymnasium import gymnasium_suite
from mtrl_jax.envs.permute import permute_actions
from mtrl_jax.envs.pool import environment_seeds
from mtrl_jax.types import HostSuite, Timestep
from tests.machinery import commands, gym_envs, tiny

SEED = 11


def play(suite: HostSuite, actions: np.ndarray, groups: int = 1) -> Timestep:
    """Rows `[T + 1, K, E, ...]` of actions `[T, K, E, ...]`."""
    size = actions.shape[2] // groups
    parts = [slice(g * size, (g + 1) * size) for g in range(groups)]
    pool = suite.make_pool(actions.shape[2], SEED, groups)
    rows = [[pool.reset(g) for g in range(groups)]]
    for action in actions:
        for g, part in enumerate(parts):
            pool.send(g, action[:, part])
        rows.append([pool.recv(g) for g in range(groups)])
    pool.close()
    joined = [[np.concatenate(x, axis=1) for x in zip(*row, strict=True)] for row in rows]
    return Timestep(*(np.stack(x) for x in zip(*joined, strict=True)))


def by_hand(make: Any, task: int, actions: np.ndarray) -> Timestep:
    """The same of one task, actions `[T, E, ...]` as gymnasium wants them."""
    columns = []
    for e, seed in enumerate(environment_seeds(SEED, task, actions.shape[1])):
        env = make()
        observation, _ = env.reset(seed=int(seed))
        rows, ended = [(observation, 0.0, 1.0, True, False)], False
        for action in actions[:, e]:
            if ended:
                observation, _ = env.reset()
                rows.append((observation, 0.0, 1.0, True, False))
                ended = False
                continue
            observation, reward, terminated, truncated, _ = env.step(action)
            rows.append((observation, reward, 1.0 - terminated, False, True))
            ended = terminated or truncated
        columns.append([np.stack(x) for x in zip(*rows, strict=True)])
    observation, reward, discount, first, valid = (
        np.stack(x, axis=1) for x in zip(*columns, strict=True)
    )
    return Timestep(observation, reward, discount, first, valid, None)


@pytest.mark.parametrize("processes", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "options", "num_envs"),
    [("CartPole-v1", {}, 4), ("Acrobot-v1", {"max_episode_steps": 13}, 4)],
)
def test_rows_are_those_of_a_loop_by_hand(name, options, num_envs, processes):
    """One of these ends for good, the other one is cut off."""
    suite = gymnasium_suite([name], processes=processes, **options)
    shape = (60, 1, num_envs)
    actions = np.random.default_rng(0).integers(0, suite.spec.num_actions, shape)
    rows = play(suite, actions, groups=2)
    wanted = by_hand(lambda: gymnasium.make(name, **options), 0, actions[:, 0])
    for field in ("observation", "reward", "discount", "first", "valid"):
        got, want = getattr(rows, field)[:, 0], getattr(wanted, field)
        np.testing.assert_array_equal(got, want.astype(got.dtype), err_msg=field)
    ends = rows.first[1:, 0]
    assert ends.any()
    assert (rows.discount[:-1, 0][ends] == (1.0 if "Acrobot" in name else 0.0)).all()
    assert suite.spec.episode_limit.tolist() == [options.get("max_episode_steps", 500)]
    assert not suite.spec.has_success


def test_actions_of_a_box_are_stretched_and_cut_off():
    suite = suites.make("gymnasium:Pendulum-v1:max_episode_steps=9:processes=0")
    assert suite.spec.action_shape == (1,) and suite.spec.num_actions == 0
    actions = np.random.default_rng(1).uniform(-1.5, 1.5, (20, 1, 2, 1)).astype(np.float32)
    rows = play(suite, actions)
    own = np.clip(actions[:, 0], -1, 1) * 2.0
    wanted = by_hand(lambda: gymnasium.make("Pendulum-v1", max_episode_steps=9), 0, own)
    np.testing.assert_allclose(rows.observation[:, 0], wanted.observation, atol=1e-6)
    np.testing.assert_allclose(rows.reward[:, 0], wanted.reward, rtol=1e-5)
    np.testing.assert_array_equal(rows.first[:, 0], wanted.first)
    assert (rows.discount == 1).all() and rows.first[10].all()


def test_ends_success_and_numbers_of_actions():
    """Of three tasks: terminated after 3, truncated after 2, and both at once after 4."""
    suite = gymnasium_suite([gym_envs.counting, gym_envs.cut_off, gym_envs.both])
    spec = suite.spec
    assert spec.task_names == ("counting", "cut_off", "both")
    assert spec.has_success and spec.episode_limit.tolist() == [0, 0, 0]
    actions = np.tile(np.array([0, 1, 0, 3, 1])[:, None, None], (2, 3, 1))  # 2 + a arrives
    rows = play(suite, actions)
    one = [x[:, :, 0].T.astype(float).tolist() for x in rows[1:]]
    reward, discount, first, valid, success = one
    assert first[0][:6] == [1, 0, 0, 0, 1, 0] and first[1][:6] == [1, 0, 0, 1, 0, 0]
    assert first[2][:6] == [1, 0, 0, 0, 0, 1]
    assert valid == [[1 - x for x in task] for task in first]
    assert discount[0][:5] == [1, 1, 1, 0, 1] and set(discount[1]) == {1}
    assert discount[2][:6] == [1, 1, 1, 1, 0, 1]
    assert reward[0][:6] == [0, 2, 3, 2, 0, 3] and reward[1][:6] == [0, 2, 3, 0, 5, 3]
    assert success[0][:4] == [0, 0, 0, 0] and success[1][:6] == [0, 0, 1, 0, 0, 1]
    assert success[2][:6] == [0, 0, 0, 0, 1, 0]
    np.testing.assert_array_equal(rows.observation[:6, 0, 0, 0], [0, 1, 2, 3, 0, 1])


def test_what_is_observed():
    picture = gymnasium_suite([gym_envs.picture], processes=0)
    assert picture.spec.observation_shape == (3, 40, 48)
    assert picture.spec.observation_dtype == np.uint8 and picture.spec.vocabulary is None
    rows = play(picture, np.zeros((2, 1, 2), int))
    assert rows.observation.shape == (3, 1, 2, 3, 40, 48) and (rows.observation[2] == 2).all()
    classes = gymnasium_suite([gym_envs.classes], processes=0)
    assert classes.spec.vocabulary.tolist() == [9]
    assert play(classes, np.zeros((2, 1, 1), int)).observation[:, 0, 0, 0].tolist() == [0, 1, 2]
    box = gymnasium_suite([gym_envs.box], processes=0)
    assert box.spec.action_size == 2
    rows = play(box, np.array([[-1, -1], [0, 0], [1, 1]], np.float32)[:, None, None])
    assert rows.reward[:, 0, 0].tolist() == [0, -1, 3.5, 8]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: suites.make("gymnasium:CartPoll-v1"), "CartPoll-v1 cannot be made and stepped"),
        (lambda: suites.make("gymnasium:"), "at least one"),
        (lambda: suites.make("gymnasium:CartPole-v1:gravity=3"), "unexpected keyword .*gravity"),
        (
            lambda: suites.make("gymnasium:CartPole-v1,Acrobot-v1"),
            "Acrobot-v1 and CartPole-v1 have different action spaces: 3 and 2 actions",
        ),
        (
            lambda: suites.make("gymnasium:MountainCar-v0,Acrobot-v1"),
            r"have different observations: float32 \[2\] and float32 \[6\]",
        ),
        (lambda: suites.make("gymnasium:CartPole-v1:processes=-1"), "processes must not be neg"),
        (lambda: gymnasium_suite([gym_envs.words]), "words has observations .*FlattenObservation"),
        (lambda: gymnasium_suite([gym_envs.boundless]), "boundless has actions .*bounded box"),
        (lambda: gymnasium_suite([gym_envs.broken]), "broken cannot .*: OSError: no robot"),
        (lambda: gymnasium_suite([gym_envs.both], ["a", "b"]), "as many as envs, 1; got 2"),
        (lambda: gymnasium_suite([gym_envs.both], gravity=3), "options are for ids"),
        (lambda: gymnasium_suite([gym_envs.both] * 2), "once"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_goes_wrong_in_a_process_is_told():
    pool = gymnasium_suite([gym_envs.failing]).make_pool(2, 0)
    pool.reset(0)
    pool.send(0, np.zeros((1, 2), int))
    with pytest.raises(ValueError, match="recv must come first"):
        pool.send(0, np.zeros((1, 2), int))
    pool.recv(0)
    pool.send(0, np.zeros((1, 2), int))
    with pytest.raises(RuntimeError, match=r"(?s)an environment of failing failed:.*no such room"):
        pool.recv(0)
    with pytest.raises(ValueError, match="send must come before recv"):
        pool.recv(0)
    worker = pool._every()[0]
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="has ended with exit code -9"):
        pool.send(0, np.zeros((1, 2), int))
        pool.recv(0)
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.reset(0)


_KILLED = """
import os, time
from mtrl_jax.envs import suites
pool = suites.make("gymnasium:CartPole-v1").make_pool(2, 0, 2)
pool.reset(0)
print(*(worker._process.pid for worker in pool._every()), flush=True)
time.sleep(60)
"""


def test_processes_outlive_no_one_and_a_terminals_interrupt_does_not_reach_them():
    run = subprocess.Popen(
        [sys.executable, "-c", _KILLED],
        env=commands.environment(1),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 2
    assert all(os.getsid(pid) == pid for pid in pids)  # a session of its own
    run.kill()
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}/exe") for pid in pids):
        assert time.monotonic() < deadline, "a process lives on"
        time.sleep(0.05)


@pytest.mark.parametrize("processes", [0, 1])
def test_pictures_or_why_there_are_none(processes):
    suite = gymnasium_suite([gym_envs.drawn], processes=processes)
    agent, key = evaluate.random_agent(suite.spec), jax.random.key(0)
    assert record.can_render(suite) and record.can_render(permute_actions(suite, 0))
    (episode,) = record.play(suite, agent, (), key)
    assert [frame[0, 0, 0] for frame in episode.frames] == [0, 1, 2, 3]
    for make, reason in (
        (gym_envs.counting, "counting cannot be drawn: its function takes no render_mode"),
        (gym_envs.undrawn, "undrawn cannot be drawn here: .*no screen"),
    ):
        suite = gymnasium_suite([make], processes=processes)
        with pytest.raises(CannotDraw, match=reason):
            record.play(suite, agent, (), key)


def test_pools_that_can_less():
    """A user's pool need take no pictures, and only some can be staggered."""
    assert not record.can_render(tiny.host_suite())
    assert not record.can_render(permute_actions(tiny.host_suite(), 0))
    suite = suites.make("gymnasium:CartPole-v1:processes=0")
    config = engines.RunConfig(total_env_steps=1, num_envs_per_task=2, stagger=True)
    with pytest.raises(ValueError, match="stagger must be False on a suite whose pools do not"):
        engines.check(config, suite)


def test_evaluation_and_parts():
    suite = gymnasium_suite([gym_envs.counting, gym_envs.cut_off, gym_envs.both])
    part = suite.part([2, 0])
    assert part.spec.task_names == ("both", "counting")
    agent = evaluate.random_agent(part.spec)
    score = evaluate.scorer(part, agent, 5)((), jax.random.key(0))
    assert score.length.tolist() == [[4] * 5, [3] * 5]
