"""Suites that are not what their spec says: each is refused in one sentence when it is bound."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import engines, evaluate, train
from mtrl_jax.envs.check import check_suite
from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.types import FunctionalSuite
from tests.machinery import tiny
from tests.machinery.lying import SPEC, TASKS
from tests.machinery.test_pools_that_lie import HOSTED


class State(NamedTuple):
    cell: Any
    time: Any


class Honest:
    """Three cells in a row; it does what `SPEC` says."""

    def reset(self, key, task):
        return State(jnp.int32(1), jnp.int32(0)), self.first()

    def first(self):
        return restart(jnp.ones(3))

    def row(self):
        return transition(jnp.ones(3), 0.0)

    def next_state(self, state):
        return State(state.cell, state.time + 1)

    def ended(self, state):
        return state.time >= 3

    def step(self, key, state, action, task):
        return self.next_state(state), self.row(), self.ended(state)


def lying(**changes: Any) -> FunctionalSuite:
    """An honest suite whose environment has other methods."""
    return FunctionalSuite(SPEC, type("Lying", (Honest,), changes)(), TASKS)


def first(**fields: Any) -> FunctionalSuite:
    return lying(first=lambda self: Honest.first(self)._replace(**fields))


def row(**fields: Any) -> FunctionalSuite:
    return lying(row=lambda self: Honest.row(self)._replace(**fields))


def told(**fields: Any) -> FunctionalSuite:
    return FunctionalSuite(SPEC._replace(**fields), Honest(), TASKS)


def _two_of_three(self, key, state, action, task):
    return state, Honest.row(self)


def _raises(self, key, task):
    raise RuntimeError("no maze here\nand more")


F64 = np.zeros(3)
ONE, TWO = np.zeros((2, 1), bool), np.ones((3, 2), bool)
FUNCTIONAL = {
    # what reset says
    "reset observation shape": (
        first(observation=jnp.ones(4)),
        r"its spec says observation float32\[3\], but reset gives float32\[4\]",
    ),
    "reset observation dtype": (
        first(observation=jnp.ones(3, jnp.int32)),
        r"its spec says observation float32\[3\], but reset gives int32\[3\]",
    ),
    "reset observation tree": (
        first(observation={"image": jnp.ones(3)}),
        r"observation of reset must be one array, float32\[3\]; got dict",
    ),
    "reset reward": (
        first(reward=jnp.zeros(2)),
        r"every row has reward float32\[\], but reset gives float32\[2\]",
    ),
    "reset first": (first(first=jnp.int32(1)), r"first bool\[\], but reset gives int32\[\]"),
    "reset row": (lying(first=lambda self: jnp.ones(3)), "reset must give a types.Timestep; got"),
    "reset alone": (
        lying(reset=lambda self, key, task: self.first()),
        r"reset must return \(state, timestep\); got 6 things",
    ),
    "reset raises": (lying(reset=_raises), "reset fails: RuntimeError: no maze here$"),
    "no reset": (lying(reset=None), "must be a types.FunctionalEnv; it has no reset"),
    # what step says
    "step observation shape": (
        row(observation=jnp.ones((3, 1))),
        r"its spec says observation float32\[3\], but step gives float32\[3, 1\]",
    ),
    "step observation dtype": (
        row(observation=jnp.ones(3, jnp.uint8)),
        r"its spec says observation float32\[3\], but step gives uint8\[3\]",
    ),
    "step reward shape": (
        row(reward=jnp.zeros(1)),
        r"every row has reward float32\[\], but step gives float32\[1\]",
    ),
    "step reward dtype": (
        row(reward=jnp.int32(0)),
        r"reward float32\[\], but step gives int32\[\]",
    ),
    "step reward number": (
        row(reward=None),
        r"reward of step must be one array, float32\[\]; got N",
    ),
    "step discount": (row(discount=jnp.bool_(True)), r"discount float32\[\], but step gives bool"),
    "step valid": (row(valid=jnp.float32(1)), r"valid bool\[\], but step gives float32\[\]"),
    "step success": (
        row(success=jnp.zeros(2, bool)),
        r"success bool\[\], but step gives bool\[2\]",
    ),
    "step ended dtype": (
        lying(ended=lambda self, state: jnp.float32(0)),
        r"last whether the episode ended, bool\[\]; got float32\[\]",
    ),
    "step ended shape": (
        lying(ended=lambda self, state: jnp.zeros(2, bool)),
        r"last whether the episode ended, bool\[\]; got bool\[2\]",
    ),
    "step forgets ended": (
        lying(step=_two_of_three),
        r"step must return \(state, timestep, ended\); got 2 things",
    ),
    "state dtype": (
        lying(next_state=lambda self, state: State(state.cell, state.time + 1.0)),
        r"state.time of step must be as that of reset, int32\[\]; got float32\[\]",
    ),
    "state shape": (
        lying(next_state=lambda self, state: State(state.cell[None], state.time)),
        r"state.cell of step must be as that of reset, int32\[\]; got int32\[1\]",
    ),
    "state structure": (
        lying(next_state=lambda self, state: state.time),
        "state of step must be built as that of reset",
    ),
    # what the spec says
    "names too few": (told(task_names=("left",)), "action_mask must lead with K = 1, .* got 2"),
    "names fewer than tasks": (
        FunctionalSuite(SPEC, Honest(), {"goal": np.arange(3)}),
        r"its spec has 2 task_names, so leaves of tasks must .*\['goal'\] has shape \[3\]",
    ),
    "a task that leads with nothing": (
        FunctionalSuite(SPEC, Honest(), {"goal": np.arange(2), "gravity": 9.81}),
        r"\['gravity'\] has shape \[\]",
    ),
    "names twice": (told(task_names=("left", "left")), "must differ, .* got 'left' twice"),
    "names no text": (told(task_names=(1, 2)), "task_names must be a tuple of names"),
    "names one text": (told(task_names="lr"), "task_names must be a tuple of names"),
    "no names": (told(task_names=()), "task_names must be a tuple of names"),
    "names blank": (told(task_names=("a", " ")), "task_names must not be empty"),
    "mask of another K": (told(action_mask=TWO), "action_mask must lead with K = 2, .* got 3"),
    "mask of another A": (told(action_mask=ONE), r"action_mask must be bool\[2, 2\]"),
    "mask of numbers": (told(action_mask=np.ones((2, 2))), r"must be bool\[2, 2\].* got float64"),
    "a task without actions": (
        told(action_mask=np.array([[True, True], [False, False]])),
        "action_mask must leave each task an action; 'right' has none",
    ),
    "no actions": (
        told(num_actions=0),
        "one of num_actions .* must be 0, the other not; got 0 and",
    ),
    "both actions": (told(action_size=2), "got 2 and 2"),
    "actions not a number": (told(num_actions=2.0), "num_actions must be an integer; got 2.0"),
    "limits of another K": (
        told(episode_limit=np.ones(3, int)),
        "episode_limit must lead with K = 2, .* got 3",
    ),
    "one limit": (told(episode_limit=4), "episode_limit must lead with K = 2, .* got 4"),
    "limit below 0": (
        told(episode_limit=np.array([4, -1])),
        "episode_limit must be integers, 0 wh",
    ),
    "limit no integer": (
        told(episode_limit=np.array([4.0, 4.0])),
        "episode_limit must be integers",
    ),
    "observation sizes": (told(observation_shape=3), "observation_shape must be a tuple of sizes"),
    "observation size 0": (told(observation_shape=(0,)), "must be a tuple of sizes; got"),
    "observation kind": (
        told(observation_dtype="image"),
        "observation_dtype must be a NumPy dtype",
    ),
    "wide dtype": (
        told(observation_dtype=np.float64),
        r"its spec says observation float64\[3\], but reset gives float32\[3\]",
    ),
    "classes of numbers": (told(vocabulary=np.full(3, 5)), "vocabulary must be None unless"),
    "classes of another shape": (told(vocabulary=np.full(4, 5)), r"vocabulary must be .* \[3\]"),
    "padding of numbers": (
        told(observation_mask=np.ones((2, 3))),
        r"observation_mask must be None or bool\[2, 3\].* got float64\[2, 3\]",
    ),
    "padding of another shape": (
        told(observation_mask=np.ones((2, 4), bool)),
        r"observation_mask must be None or bool\[2, 3\].* got bool\[2, 4\]",
    ),
    "padding of classes": (
        told(observation_dtype=np.int32, observation_mask=np.ones((2, 3), bool)),
        "observation_mask must be None unless observations are floats; they are int32",
    ),
    "coordinates": (
        told(num_actions=0, action_size=3),
        r"action_mask must be bool\[2, 3\], K tasks and action_size .*; got bool\[2, 2\]",
    ),
    "no coordinate": (
        told(num_actions=0, action_size=2, action_mask=np.array([[False] * 2, [True] * 2])),
        "must leave each task an action; 'left' has none",
    ),
    "success": (told(has_success=None), "has_success must be True or False; got None"),
    "no spec": (FunctionalSuite({}, Honest(), TASKS), "spec must be a types.EnvSpec; got dict"),
}


@pytest.mark.parametrize("kind", FUNCTIONAL)
def test_a_functional_suite_that_lies_is_refused(kind):
    suite, message = FUNCTIONAL[kind]
    with pytest.raises(ValueError, match=message) as caught:
        check_suite(suite, "mine:suite")
    assert str(caught.value).startswith("suite mine:suite: ") and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):  # a run need not know a name
        engines.check(tiny.RUN, suite)


def test_an_honest_one_is_not():
    check_suite(told())
    check_suite(told(episode_limit=np.array([0, 4]), has_success=False))
    check_suite(told(action_mask=np.array([[True, False], [False, True]])))
    check_suite(told(observation_mask=np.array([[True] * 3, [True, True, False]])))


def test_a_rule_of_its_own_for_tasks_is_looked_at_too():
    def reset_tasks(self, key, task):
        state, row = jax.vmap(jax.vmap(self.reset, (0, None)))(key, task)
        return state, row._replace(reward=row.reward[..., None])

    with pytest.raises(ValueError, match=r"reward float32\[\], but reset gives float32\[1\]"):
        check_suite(lying(reset_tasks=reset_tasks))


# ------------------------------------------------------------------------------- where it is asked


@pytest.mark.parametrize("suite", [FUNCTIONAL["step reward dtype"][0], HOSTED["reward dtype"][0]])
def test_a_run_refuses_it_before_anything_is_written(tmp_path, suite):
    folder: pathlib.Path = tmp_path / "run"
    with pytest.raises(ValueError, match=r"^suite mine: every row has reward float32\[\], but "):
        train.run(tiny.RUN, suite, tiny.toy_agent(SPEC), folder, {"suite": "mine"})
    assert not folder.exists()


@pytest.mark.parametrize(("limits", "wrong"), [((3, 3), "left"), ((4, 2), "right"), ((9, 4), "")])
def test_limits_below_the_real_ones_are_refused_by_the_first_evaluation(tmp_path, limits, wrong):
    suite = told(episode_limit=np.array(limits))
    run = tiny.run_config(total_env_steps=1, updates_per_dispatch=1)
    agent = evaluate.random_agent(suite.spec)
    if not wrong:
        assert train.run(run, suite, agent, tmp_path, {"suite": "mine"}).finished
        return
    limit = limits[suite.spec.task_names.index(wrong)]
    with pytest.raises(
        ValueError,
        match=rf"^suite mine: its spec says that an episode of '{wrong}' has at most {limit} "
        r"actions \(episode_limit\), but 4 of 4 went on behind them$",
    ):
        train.run(run, suite, agent, tmp_path, {"suite": "mine"})
    assert not any((tmp_path / "checkpoints").iterdir())
