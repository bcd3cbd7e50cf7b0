"""Doom: rewards and ends against ViZDoom itself, the unseen last step, and the engine processes.

`doom_rewards.json` is what ViZDoom's own package paid for the same games (`record_doom.py`).
"""

import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from mtrl_jax.envs import doom_engine, suites
from mtrl_jax.envs.doom import TAG8, DoomPool, doom_suite
from mtrl_jax.envs.doom_scenarios import DEATH, GOAL, SCENARIOS, TIME, Memory, score
from mtrl_jax.types import Timestep
from tests.machinery import record_doom

RECORD = json.loads(record_doom.FILE.read_text())
AT_EASE = "deadly_corridor at ease"
# Doom's fastest walk, forward and sideways at once, in map units a step.
LONGEST_STEP = 47.0


def play(pool: DoomPool, actions: np.ndarray) -> Timestep:
    """Rows `[T + 1, K, E]` of a pool with one group, for actions `[T, K]`."""
    rows = [pool.reset(0)]
    for action in actions:
        pool.send(0, np.repeat(action[:, None], pool._size, axis=1))
        rows.append(pool.recv(0))
    return Timestep(*(np.stack(field) for field in zip(*rows, strict=True)))


@functools.cache
def games() -> dict[str, Timestep]:
    """Each recorded game as our pool plays it, rows `[T + 1]`."""
    names = [name for name in RECORD if name != AT_EASE]
    result = {}
    easy = {"deadly_corridor": SCENARIOS["deadly_corridor"]._replace(skill=1)}
    # Two pools in one process, both alive.
    pool = doom_suite(names).make_pool(1, record_doom.SEED)
    second = DoomPool(easy, 1, record_doom.SEED)
    for members, these in ((names, pool), ([AT_EASE], second)):
        rows = play(these, np.stack([record_doom.script(name) for name in members], axis=1))
        result |= {name: Timestep(*(x[:, k, 0] for x in rows)) for k, name in enumerate(members)}
        these.close()
    return result


def engines(workspace: str) -> list[int]:
    """Processes that run in a workspace."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd").startswith(workspace):
                found.append(int(process.name))
        except OSError:  # gone, or not ours
            continue
    return found


def test_the_record_holds_every_kind_of_event() -> None:
    ends = {name: set(game["end"]) - {""} for name, game in RECORD.items()}
    assert ends["basic"] == {"exit", "time"} and ends["predict_position"] == {"exit"}
    assert ends["my_way_home"] == ends[AT_EASE] == {"exit"}
    others = set(RECORD) - {"basic", "predict_position", "my_way_home", AT_EASE}
    assert all(ends[name] == {"death"} for name in others)
    predicted = np.array(RECORD["predict_position"]["reward"])
    assert (predicted > 0.9).sum() == 3 and len(TAG8) == 8 and set(TAG8) < set(RECORD)
    for name in ("defend_the_line", "defend_the_center", "D3_battle", "D4_battle2"):
        assert (np.array(RECORD[name]["reward"]) == 1).any(), name


@pytest.mark.parametrize("name", RECORD)
def test_rewards_are_those_of_vizdoom(name: str) -> None:
    """Exact but for the last step of a game, of which we see only that it ended."""
    scenario = SCENARIOS[name.split()[0]]
    rows, expected = games()[name], np.array(RECORD[name]["reward"])
    ended = np.isin(RECORD[name]["end"], ["death", "exit"])
    ours = rows.reward.astype(np.float64) / scenario.scale
    np.testing.assert_allclose(ours[~ended], expected[~ended], rtol=1e-5, atol=1e-4)
    # 1 to 4 tics, taken to be 2.5; and the way walked.
    unseen = 1.5 * abs(scenario.living) + LONGEST_STEP * abs(scenario.progress)
    np.testing.assert_allclose(ours[ended], expected[ended], rtol=1e-5, atol=unseen + 1e-4)
    assert ended.any()


@pytest.mark.parametrize("name", RECORD)
def test_ends_are_those_of_vizdoom(name: str) -> None:
    rows, end = games()[name], np.array(RECORD[name]["end"])
    np.testing.assert_array_equal(rows.first, np.append(True, end[:-1] != ""))
    np.testing.assert_array_equal(rows.discount == 0, np.isin(end, ["death", "exit"]))
    goals = np.array(RECORD[name]["reward"]) > {"basic": 90, "deadly_corridor": 900}.get(
        name.split()[0], 0.9
    )
    if SCENARIOS[name.split()[0]].rule:
        np.testing.assert_array_equal(rows.success, goals)
    else:
        assert not rows.success.any()  # nobody lived to the end


def test_being_alive_when_time_is_up_is_a_success_and_no_end() -> None:
    names = ("take_cover", "deadly_corridor")
    limited = {name: SCENARIOS[name]._replace(limit=6) for name in names}
    pool = DoomPool(limited, 1, 0, image_size=42)
    rows = play(pool, np.zeros((9, 2), int))
    pool.close()
    assert rows.observation.shape == (10, 2, 1, 3, 42, 42)
    assert (np.ptp(rows.observation, axis=(0, 4, 5)) > 50).all()
    np.testing.assert_array_equal(np.flatnonzero(rows.first[:, 0, 0]), [0, 7])
    np.testing.assert_array_equal(np.flatnonzero(rows.success[:, 0, 0]), [6])
    assert (rows.discount[:, 0] == 1).all() and not rows.success[:, 1].any()
    # 24 tics, at 1 each.
    scale = SCENARIOS["take_cover"].scale
    np.testing.assert_allclose(rows.reward[:7, 0, 0].sum() / scale, 24.0, rtol=1e-6)


def test_what_an_action_presses() -> None:
    """In a corridor along x: forward goes on; right, left, turns and shots do not."""
    actions = {"right": 6, "left": 12, "turn right": 1, "attack": 18, "forward": 3}
    scenario = SCENARIOS["deadly_corridor"]._replace(skill=1)
    pool = DoomPool({"deadly_corridor": scenario}, len(actions), 0)
    pool.reset(0)
    way = np.zeros(len(actions))
    for _ in range(8):
        pool.send(0, np.array([list(actions.values())]))
        way += pool.recv(0).reward[0] / scenario.scale
    pool.close()
    assert way[-1] > 100 and (np.abs(way[:-1]) < 10).all(), dict(zip(actions, way, strict=True))


# --- the rules, without an engine


def state(**columns: list[float]) -> dict[str, np.ndarray]:
    """One row of envpool's state for E environments."""
    size = len(next(iter(columns.values())))
    names = ("KILLCOUNT", "USER2", "AMMO2", "AMMO5", "ARMOR")
    raw = {f"info:{name}": np.array(columns.pop(name, [0.0] * size)) for name in names}
    raw["reward"] = np.array(columns.pop("moved", [0.0] * size), np.float32)
    for name, default in (("done", False), ("trunc", False), ("step_type", 1)):
        raw[name] = np.array(columns.pop(name, [default] * size))
    assert not columns
    return raw


def after(name: str, *rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw reward, success and end of the last of some rows; the first is a reset row."""
    memory: Memory | None = None
    for t, raw in enumerate(rows):
        raw["step_type"] = np.full(raw["done"].shape, min(t, 1))
        outcome, memory = score(SCENARIOS[name], raw, memory)
    return outcome.reward / SCENARIOS[name].scale, outcome.success, outcome.end


def test_the_only_rocket() -> None:
    """It ends the game 45 tics after it was fired, or when it kills."""
    start, flying = state(AMMO5=[1.0]), state(AMMO5=[0.0])
    over = state(AMMO5=[0.0], done=[True])
    for rows, hit in ((5, True), (10, True), (11, False)):
        reward, success, end = after("predict_position", start, *[flying] * rows, over)
        np.testing.assert_allclose(reward, hit - 0.0025, atol=1e-6)
        assert success[0] == hit and end[0] == (GOAL if hit else DEATH)
    # Where the kill is seen, it is paid at once and once.
    shown = state(AMMO5=[0.0], KILLCOUNT=[1.0])
    reward, success, end = after("predict_position", start, flying, shown)
    np.testing.assert_allclose(reward, 1 - 0.004, atol=1e-6)
    assert success[0] and end[0] == 0
    last = state(AMMO5=[0.0], KILLCOUNT=[1.0], done=[True])
    reward, success, end = after("predict_position", start, flying, shown, last)
    np.testing.assert_allclose(reward, -0.0025, atol=1e-6)
    assert not success[0] and end[0] == GOAL


def test_the_corridor_ends_at_the_vest_or_in_death() -> None:
    begin = state(moved=[0.0, 0.0, 0.0])
    far = state(moved=[1250.0, 900.0, 1250.0])
    over = state(moved=[0.0] * 3, done=[True] * 3, trunc=[False, False, True])
    reward, success, end = after("deadly_corridor", begin, far, over)
    np.testing.assert_allclose(reward, [1000.0, -100.0, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(success, [True, False, False])
    np.testing.assert_array_equal(end, [GOAL, DEATH, TIME])
    # The vest on, the game ends a step later.
    taken = state(moved=[10.0], ARMOR=[100.0])
    first, way = state(moved=[0.0]), state(moved=[1270.0])
    np.testing.assert_allclose(after("deadly_corridor", first, way, taken)[0], 1010.0, rtol=1e-6)
    last = state(ARMOR=[100.0], done=[True])
    reward, success, end = after("deadly_corridor", first, way, taken, last)
    assert reward[0] == 0 and not success[0] and end[0] == GOAL


def test_counters_start_anew_with_an_episode() -> None:
    """The kills of the game before, and rounds that are picked up, pay nothing."""
    begin = state(KILLCOUNT=[0.0], AMMO2=[50.0])
    two = state(KILLCOUNT=[2.0], AMMO2=[47.0])
    assert after("defend_the_line", begin, two)[0] == 2
    memory: Memory | None = None
    rewards = []
    again = state(KILLCOUNT=[5.0], AMMO2=[50.0])
    more = state(KILLCOUNT=[6.0], AMMO2=[60.0])
    for raw, first in ((begin, True), (two, False), (again, True), (more, False)):
        raw["step_type"] = np.array([0 if first else 1])
        outcome, memory = score(SCENARIOS["defend_the_line"], raw, memory)
        rewards.append(float(outcome.reward[0] / SCENARIOS["defend_the_line"].scale))
    np.testing.assert_allclose(rewards, [0, 2, 0, 1], rtol=1e-6)
    pistol = [state(AMMO2=[value]) for value in (50.0, 48.0)]
    np.testing.assert_allclose(after("basic", *pistol)[0], -4 - 10)
    np.testing.assert_allclose(after("basic", pistol[1], pistol[0])[0], -4)


# --- processes

CHILD = """
import glob, os, numpy as np, scipy.linalg
from mtrl_jax.envs.doom import doom_suite
a = np.ones((600, 600))
a @ a, scipy.linalg.blas.dgemm(1.0, a, a)  # wakes the threads that two forks at once would wait for
pool = doom_suite(["basic", "take_cover"]).make_pool(4, 0)
pool.reset(0)
pool.send(0, np.zeros((2, 4), int))
for path in glob.glob(os.environ["TMPDIR"] + "/*/*/instance"):
    print("<" + open(path).read() + ">", flush=True)
{after}
"""
ENDS = {
    "killed": "os.kill(os.getpid(), 9)",
    "not closed": "pool.recv(0)",
    "closed": "pool.recv(0); pool.close()",
}


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
@pytest.mark.parametrize("how", ENDS)
def test_no_engine_outlives_its_process(
    how: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are files left, in the current directory or elsewhere, once the next pool was made."""
    temporary, here = tmp_path / "tmp", tmp_path / "here"
    temporary.mkdir(), here.mkdir()
    paths = {"TMPDIR": str(temporary), "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    finished = subprocess.run(
        [sys.executable, "-c", CHILD.format(after=ENDS[how])],
        cwd=here,
        env=os.environ | paths,
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    expected = -signal.SIGKILL if how == "killed" else 0
    assert finished.returncode == expected, finished.stderr
    deadline = time.monotonic() + 10
    while engines(str(temporary)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert engines(str(temporary)) == []
    if how == "killed":
        assert len(list(temporary.iterdir())) == 1  # found by the next pool
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        doom_engine.release(doom_engine.make_workspace("engine"))
    else:
        assert not finished.stderr
    assert list(temporary.iterdir()) == [] and list(here.iterdir()) == []
    instances = re.findall(r"<(\w+)>", finished.stdout)  # engines write to the same stream
    assert len(instances) == 8, finished.stdout
    left = [n for n in os.listdir("/dev/shm") if any(n.endswith(name) for name in instances)]
    assert left == []


def test_a_workspace_in_use_is_left_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = (doom_engine.make_workspace("engine") for _ in range(2))
    assert first.path.is_dir() and second.path.is_dir()
    os.close(first.lock)  # as when its process ends
    third = doom_engine.make_workspace("engine")
    assert not first.path.exists() and second.path.is_dir()
    doom_engine.release(second), doom_engine.release(third)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(RuntimeError, match="set TMPDIR"):
        doom_engine.make_workspace("engine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("doom:basic,nightmare", "unknown Doom scenario 'nightmare'"),
        ("doom:basic,basic", "may appear once"),
        ("doom:", "at least one"),
    ],
)
def test_suites_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suites.make(name)


def test_the_small_suite_is_the_same_but_for_the_picture() -> None:
    large, small = (suites.make(name).spec for name in ("doom_tag8", "doom_tag8_small"))
    assert large.task_names == small.task_names == TAG8
    assert large.observation_shape == (3, 84, 84) and small.observation_shape == (3, 42, 42)
    assert large.num_actions == small.num_actions == 36 and large.has_success
    np.testing.assert_array_equal(large.episode_limit, [75, 525, 75, 525, 525, 525, 525, 525])
    with pytest.raises(ValueError, match="at least 36; got 35"):
        doom_suite(TAG8, 35)


def test_pool_arguments_are_checked_and_nothing_is_left(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError, match="num_groups must divide"):
        doom_suite(TAG8).make_pool(3, 0, 2)
    assert list(tmp_path.iterdir()) == []
