"""Every task of Meta-World in our pool beside the `metaworld` package: same draws, same actions.

envpool draws a goal and an object's place from a Mersenne Twister as C++'s
`uniform_real_distribution` does; the same numbers are given to the package here. Where rows still
differ, by how much is in `DIFFERENT`: envpool ports version 3.0.0 on a newer MuJoCo, and its own
versions differ.
"""

import pickle
from collections.abc import Callable
from typing import Any

import envpool
import numpy as np
import pytest

from mtrl_jax.envs.metaworld import BENCHMARKS, MT50, metaworld_suite
from mtrl_jax.envs.pool import environment_seeds

metaworld = pytest.importorskip("metaworld", reason="python -m pip install metaworld")

STEPS = 40
SEED = 7
NEWER = tuple(int(n) for n in envpool.__version__.split(".")[:3]) > (1, 2, 5)
GOAL, OBSERVATION, REWARD = 1e-4, 3e-3, 2e-2  # metres, metres, and points of 10
# Task to the largest differences of observations and rewards, where they are larger.
DIFFERENT = {
    "disassemble": (0.02, 0.06),
    "door-close": (0.05, REWARD),
    "door-lock": (OBSERVATION, 2.0),  # of this and the next five only the shaping differs
    "pick-place": (OBSERVATION, 0.05),
    "push-back": (OBSERVATION, 0.03),
    "soccer": (OBSERVATION, 0.2),
    "sweep-into": (OBSERVATION, 0.5),
    "sweep": (OBSERVATION, 0.5),
    "lever-pull": (0.3, REWARD),  # the lever's orientation
    "window-close": (0.25, REWARD),  # the frame before the first: the handle is where it was left
}
if NEWER:
    DIFFERENT |= {
        "bin-picking": (0.3, REWARD),  # the arm touches the object
        "coffee-pull": (0.05, REWARD),
        "coffee-push": (0.05, REWARD),
        "drawer-close": (OBSERVATION, 0.03),
        "stick-pull": (0.25, 0.03),
        "stick-push": (0.25, REWARD),
    }
else:
    DIFFERENT |= {
        "bin-picking": (0.15, REWARD),
        "button-press-topdown-wall": (OBSERVATION, 1.0),  # the formula of before 3.1
    }
GOALS = {"push": 1e-3, "push-wall": 1e-3} if NEWER else {}  # metres


def uniform(bits: np.random.MT19937, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What libstdc++ makes of two words for each coordinate."""
    words = np.array([bits.random_raw() for _ in range(2 * low.size)], np.float64)
    return low + (words[0::2] + words[1::2] * 2.0**32) / 2.0**64 * (high - low)


def reference(task: str, seed: int) -> Any:
    """The package's environment, whose draws are those of envpool's with this seed."""
    env = metaworld.env_dict.ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    size = env._random_reset_space.low.size
    data = {"env_cls": type(env), "rand_vec": np.zeros(size), "partially_observable": False}
    env.set_task(metaworld.Task(f"{task}-v3", pickle.dumps(data)))
    env._freeze_rand_vec = False
    bits = np.random.MT19937()
    place: Callable[[], Any] = env.reset_model

    def begin() -> Any:  # the package's reset places everything twice, the second time counts
        bits._legacy_seeding(seed)
        return place()

    def draw() -> np.ndarray:
        space = env._random_reset_space
        env._last_rand_vec = uniform(bits, space.low, space.high)
        return env._last_rand_vec

    env.reset_model, env._get_state_rand_vec = begin, draw
    return env


@pytest.mark.parametrize("task", MT50)
def test_rows_are_those_of_the_package(task: str) -> None:
    pool = metaworld_suite([task]).make_pool(1, SEED, 1)
    env = reference(task, int(environment_seeds(SEED, 0, 1)[0]))
    rng = np.random.default_rng(0)
    row, (observation, _) = pool.reset(0), env.reset()
    goal, atol = observation[36:], GOALS.get(task, GOAL)
    np.testing.assert_allclose(row.observation[0, 0, 36:], goal, atol=atol)
    far, off = [], []
    for _ in range(STEPS):
        action = rng.uniform(-1.0, 1.0, 4).astype(np.float32)
        pool.send(0, action[None, None])
        row = pool.recv(0)
        observation, reward, _, _, info = env.step(action)
        far.append(np.abs(row.observation[0, 0] - observation))
        off.append(abs(row.reward[0, 0] - reward))
        assert row.success[0, 0] == bool(info["success"])
    pool.close()
    observation_limit, reward_limit = DIFFERENT.get(task, (OBSERVATION, REWARD))
    assert np.max(far) <= observation_limit
    assert np.max(off) <= reward_limit


@pytest.mark.parametrize("name", ["mt10", "mt25", "mt50", "ml10", "ml45"])
def test_the_sets_of_tasks_are_those_of_the_package(name: str) -> None:
    theirs = getattr(metaworld.env_dict, f"{name.upper()}_V3")
    parts = {"": theirs["train"], "_test": theirs["test"]} if "train" in theirs else {"": theirs}
    assert {f"{name}{part}" for part in parts} == {n for n in BENCHMARKS if n.startswith(name)}
    for part, tasks in parts.items():
        found = [task.removesuffix("-v3") for task in tasks]
        if name == "ml45":  # in another order; task numbers of runs are ours
            assert set(found) == set(BENCHMARKS[name + part])
            assert len(found) == len(BENCHMARKS[name + part])
        else:
            assert tuple(found) == BENCHMARKS[name + part]


def test_the_package_hides_the_goals_of_its_ml_sets_as_we_do() -> None:
    assert metaworld._ML_OVERRIDE == {"partially_observable": True}
    pool = metaworld_suite(["reach"], goal="hidden").make_pool(1, SEED, 1)
    env = reference("reach", int(environment_seeds(SEED, 0, 1)[0]))
    env._partially_observable = True
    row, (observation, _) = pool.reset(0), env.reset()
    assert (observation[36:] == 0).all() and (row.observation[0, 0, 36:] == 0).all()
    np.testing.assert_allclose(row.observation[0, 0], observation, atol=OBSERVATION)
    pool.close()
