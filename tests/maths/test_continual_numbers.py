"""Continual World's numbers on sequences whose answers are known."""

import numpy as np
import pytest

from experiments.continual import numbers
from experiments.continual.numbers import Curves, curves_of, numbers_of, scale_of

TIME = np.linspace(0.0, 1.0, 5)
RANDOM = np.array([1.0, -2.0])


def curves(own, others, seeds=3):
    """Scores that rise linearly to `own` in a task's own block; in later blocks they are `others`,
    before they are random. In units of the scale, 0 to 1."""
    n = len(RANDOM)
    z = np.zeros((seeds, n, len(TIME), n))
    for i in range(n):
        z[:, i, :, i] = own * TIME
        z[:, i + 1 :, :, i] = others
    steps = 100 * (np.arange(n)[:, None] + TIME)
    return Curves(steps, RANDOM + z * np.array([4.0, 0.5]))  # points of each task


REFERENCE = curves(1.0, 0.0)
SCALE = scale_of(REFERENCE, RANDOM, success=False)


def test_a_fresh_network_for_each_task_forgets_all_that_it_knew():
    np.testing.assert_allclose(SCALE.high, RANDOM + np.array([4.0, 0.5]))
    found = numbers_of(REFERENCE, REFERENCE, SCALE)
    np.testing.assert_allclose(found.performance, 0.5)  # the last of two
    np.testing.assert_allclose(found.forgetting, 0.5)  # all of the first
    np.testing.assert_allclose(found.forward, 0.0, atol=1e-12)


def test_one_that_forgets_half_and_learns_better():
    found = numbers_of(curves(1.4, 0.7), REFERENCE, SCALE)
    np.testing.assert_allclose(found.performance, (0.7 + 1.4) / 2)
    np.testing.assert_allclose(found.forgetting, 0.7 / 2)
    np.testing.assert_allclose(found.forward, (0.7 - 0.5) / 0.5)  # areas of lines


def test_all_tasks_at_once_have_a_final_performance_alone():
    both = Curves(
        np.array([[0.0, 200.0]]), np.broadcast_to(RANDOM + np.array([2.0, 0.5]), (3, 1, 2, 2))
    )
    found = numbers_of(both, REFERENCE, SCALE)
    np.testing.assert_allclose(found.performance, 0.75)
    assert found.forgetting is None and found.forward is None


def test_a_task_that_nobody_learns_is_left_out():
    steps, scores = curves(1.0, 0.0)
    scores = scores.copy()
    scores[..., 0] = RANDOM[0]
    scale = scale_of(Curves(steps, scores), RANDOM, success=False)
    np.testing.assert_array_equal(scale.known, [False, True])
    np.testing.assert_allclose(numbers_of(Curves(steps, scores), REFERENCE, scale).performance, 1.0)
    assert scale_of(Curves(steps, scores), RANDOM, success=True).known.all()


@pytest.mark.parametrize("seeds", [1, 2])
def test_curves_are_of_evaluations_one_block_behind_the_other(seeds):
    def row(step, a, b):
        values = {"a": a, "b": b}
        return {
            "step": step,
            **{
                f"eval/task_policy/{n}/return": v if seeds == 1 else [v, v + 0.5]
                for n, v in values.items()
            },
        }

    rows = [[row(0, 1, 2), {"step": 5}, row(10, 3, 4)], [row(0, 3, 4), row(10, 5, 6)]]
    found = curves_of(rows, ("a", "b"), "return")
    np.testing.assert_array_equal(found.steps, [[0, 10], [10, 20]])
    assert found.scores.shape == (seeds, 2, 2, 2)
    np.testing.assert_array_equal(found.scores[0, 1], [[3, 4], [5, 6]])
    assert numbers.Numbers._fields == ("performance", "forgetting", "forward")
