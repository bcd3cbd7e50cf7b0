"""Scores: whole episodes, what was cut off, and how long it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import evaluate
from mtrl_jax.types import EnvSpec, FunctionalSuite, Timestep

LENGTHS = np.array([3, 7])


class Counting:
    """An episode of `task` actions, each of which pays 1."""

    def reset(self, key, task):
        return jnp.int32(0), self._row(0, first=True, done=False)

    def step(self, key, state, action, task):
        done = state + 1 >= task
        return state + 1, self._row(state + 1, first=False, done=done), done

    def _row(self, at, *, first, done):
        return Timestep(
            observation=jnp.float32(at)[None],
            reward=jnp.float32(0.0 if first else 1.0),
            discount=jnp.where(jnp.asarray(done), 0.0, 1.0),
            first=jnp.asarray(first),
            valid=jnp.asarray(not first),
            success=jnp.asarray(done),
        )


def suite(limit):
    spec = EnvSpec(
        task_names=("short", "long"),
        observation_shape=(1,),
        observation_dtype=np.float32,
        vocabulary=None,
        num_actions=2,
        action_mask=np.ones((2, 2), bool),
        episode_limit=np.array([limit, limit]),
        has_success=True,
    )
    return FunctionalSuite(spec, Counting(), jnp.asarray(LENGTHS))


def score(limit):
    s = suite(limit)
    scorer = evaluate.functional_scorer(s, evaluate.random_agent(s.spec), 4)
    return s.spec, jax.device_get(scorer((), jax.random.key(0)))


def test_episodes_that_end_are_finished_also_at_the_limit():
    spec, found = score(7)
    np.testing.assert_array_equal(found.length, np.repeat(LENGTHS[:, None], 4, 1))
    np.testing.assert_array_equal(found.episode_return, found.length)
    assert found.finished.all() and found.success.all()
    assert "long/unfinished" not in evaluate.summary(spec, found)


def test_episodes_that_were_cut_off_are_counted_shown_and_warned_of():
    spec, found = score(5)
    np.testing.assert_array_equal(found.finished, [[True] * 4, [False] * 4])
    np.testing.assert_array_equal(found.length[1], 5)
    np.testing.assert_array_equal(found.episode_return[1], 5.0)
    assert not found.success[1].any()
    with pytest.warns(UserWarning, match="cut off after 5 actions count as far.*: 4 of long"):
        metrics = evaluate.summary(spec, found)
    assert metrics["long/unfinished"] == 4 and "short/unfinished" not in metrics


def test_it_ends_when_all_episodes_have():
    """A limit beyond what an int32 loop could ever finish in a test."""
    _, found = score(10**9)
    assert found.finished.all() and found.length.max() == 7
