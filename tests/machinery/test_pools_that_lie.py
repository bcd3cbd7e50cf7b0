"""Pools that are not what their spec says: each is refused in one sentence when it is bound."""

import numpy as np
import pytest

from mtrl_jax.envs import suites
from mtrl_jax.envs.check import check_shapes, check_suite
from mtrl_jax.types import HostSuite, Timestep
from tests.machinery.lying import SPEC


class Pool:
    """`SPEC` on the host; `changes` replace a row's fields."""

    def __init__(self, spec, num_envs, changes):
        self.spec, self.num_groups, self.closed = spec, 1, False
        self._shape, self._changes = (spec.num_tasks, num_envs), changes

    def _row(self, first):
        def full(value, dtype):
            return np.full(self._shape, value, dtype)

        observation = np.ones((*self._shape, *self.spec.observation_shape), np.float32)
        row = Timestep(
            observation.astype(self.spec.observation_dtype),
            full(0.0, np.float32),
            full(1.0, np.float32),
            full(first, bool),
            full(not first, bool),
            full(False, bool),
        )
        return row._replace(**self._changes)

    def reset(self, group):
        return self._row(True)

    def send(self, group, action):
        legal = np.take_along_axis(self.spec.action_mask, action.astype(int), 1)
        assert action.shape == self._shape and legal.all()

    def recv(self, group):
        return self._row(False)

    def close(self):
        self.closed = True


class Bare(Pool):
    def __init__(self, *args):
        super().__init__(*args)
        self.spec = None


class Late(Pool):
    """It tells the truth at first."""

    def reset(self, group):
        return self._row(True)._replace(
            **{field: getattr(Pool(SPEC, 1, {})._row(True), field) for field in self._changes}
        )


def hosted(pool=Pool, of=None, spec=SPEC, **changes):
    return HostSuite(spec, lambda num_envs, seed, groups: pool(of or spec, num_envs, changes))


WORDS = SPEC._replace(
    observation_dtype=np.uint8,
    vocabulary=np.array([2, 2, 1]),
    action_mask=np.array([[0, 1], [1, 0]], bool),
)
HOSTED = {
    "observation shape": (
        hosted(observation=np.ones((2, 1, 4), np.float32)),
        r"its spec says observation float32\[3\], but reset gives float32\[4\]",
    ),
    "observation dtype": (
        hosted(observation=np.ones((2, 1, 3))),
        r"its spec says observation float32\[3\], but reset gives float64\[3\]",
    ),
    "observation of one task": (
        hosted(observation=np.ones((1, 1, 3), np.float32)),
        r"observation of reset must lead with \[2, 1\], .* got float32\[1, 1, 3\]",
    ),
    "no observation axis of environments": (
        hosted(observation=np.ones((2, 3), np.float32)),
        r"must lead with \[2, 1\], .* got float32\[2, 3\]",
    ),
    "reward dtype": (
        hosted(reward=np.zeros((2, 1))),
        r"reward float32\[\], but reset gives float64\[\]",
    ),
    "reward of a list": (
        hosted(reward=[[0.0], [0.0]]),
        "reward of reset must be one array, .* list",
    ),
    "valid": (hosted(valid=np.zeros((2, 1), int)), r"valid bool\[\], but reset gives int64\[\]"),
    "not a row": (
        hosted(type("Old", (Pool,), {"reset": lambda self, group: (1, 2)})),
        "reset must give a types.Timestep; got tuple",
    ),
    "a first row that is not first": (
        hosted(first=np.zeros((2, 1), bool)),
        "the first row of an episode must be a reset row",
    ),
    "a first row that is valid": (
        hosted(valid=np.ones((2, 1), bool)),
        "the first row of an episode must be a reset row",
    ),
    "a second row that is not valid": (
        hosted(Late, valid=np.zeros((2, 1), bool)),
        "the second row of an episode must be valid",
    ),
    "a second row of another dtype": (
        hosted(Late, discount=np.ones((2, 1))),
        r"discount float32\[\], but recv gives float64\[\]",
    ),
    "a second row of another shape": (
        hosted(Late, observation=np.ones((2, 1, 2), np.float32)),
        r"its spec says observation float32\[3\], but recv gives float32\[2\]",
    ),
    "not a number": (
        hosted(observation=np.full((2, 1, 3), np.nan, np.float32)),
        "observation of reset must be finite; that of 'left' is not",
    ),
    "classes": (
        hosted(spec=WORDS),
        r"element \[2\] of an observation is one of 1 classes; reset gives 1 for 'left'",
    ),
    "other names": (
        hosted(of=SPEC._replace(task_names=("left", "up"))),
        r"its spec says task_names = \('left', 'right'\), that of its pool \('left', 'up'\)",
    ),
    "fewer names": (
        hosted(of=SPEC._replace(task_names=("left",))),
        r"its spec says task_names = \('left', 'right'\), that of its pool \('left',\)",
    ),
    "another mask": (
        hosted(of=SPEC._replace(action_mask=np.array([[True, True], [True, False]]))),
        "its spec says action_mask = ",
    ),
    "no spec": (hosted(Bare), r"a pool must have a spec, a types.EnvSpec; got NoneType"),
    "no recv": (hosted(type("Half", (Pool,), {"recv": None})), "its pool fails: TypeError: 'NoneT"),
    "no arguments": (HostSuite(SPEC, lambda: None), "its pool fails: TypeError: .*takes 0 pos"),
    "names twice": (hosted(spec=SPEC._replace(task_names=("a", "a"))), "must differ"),
}


@pytest.mark.parametrize("kind", HOSTED)
def test_a_host_suite_that_lies_is_refused(kind):
    suite, message = HOSTED[kind]
    with pytest.raises(ValueError, match=message) as caught:
        check_suite(suite, "mine:pool")
    assert str(caught.value).startswith("suite mine:pool: ") and "\n" not in str(caught.value)


def test_honest_pools_are_not_and_are_closed():
    made = []

    def make(num_envs, seed, groups):
        made.append(Pool(SPEC, num_envs, {}))
        return made[-1]

    check_suite(HostSuite(SPEC, make))
    assert [pool.closed for pool in made] == [True]
    spec = WORDS._replace(vocabulary=np.array([2, 2, 2]))
    check_suite(hosted(spec=spec))
    check_shapes(hosted(observation=None))  # it makes none


@pytest.mark.parametrize("name", ["maze8", "small_games", "envpool:CartPole-v1", "minigrid_ladder"])
def test_those_of_the_table_say_the_truth(name):
    check_suite(suites.make(name))
    check_suite(suites.make(name, 3))
