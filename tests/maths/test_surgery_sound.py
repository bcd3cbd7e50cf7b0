"""What a method remembers changes in sound updates only, and training goes on after others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import surgery
from tests.machinery import tiny

GRADS = jnp.asarray([[1.0, 0.0, 2.0], [-1.0, 1.0, 0.5]])
PARAMS = jnp.zeros(3)
GOOD = jnp.asarray([0.5, 0.4])


def stepper(name, **options):
    tx = surgery.METHODS[name](num_tasks=2, diagnostics=True, **options)

    def step(state, losses=GOOD, grads=GRADS):
        return tx.update(grads, state, PARAMS, task_losses=losses)

    return jax.jit(step), tx.init(PARAMS)


def same(a, b):
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", ["famo", "gradnorm"])
def test_a_negative_loss_is_not_learned_from(name):
    step, state = stepper(name)
    for _ in range(3):
        update, state = step(state)
    before = state
    bad, state = step(state, jnp.asarray([0.5, -0.1]))
    same((state.method, state.weights), (before.method, before.weights))
    np.testing.assert_allclose(bad, before.weights[0] @ GRADS, rtol=1e-6)  # those of the last step
    assert int(state.unsound) == 1 and not surgery.diagnostics(state).converged.any()
    for _ in range(3):
        update, state = step(state)
        assert np.isfinite(update).all() and surgery.diagnostics(state).converged.all()
    assert int(state.unsound) == 1
    _, other = step(before)  # as if the bad step had not been
    _, other = step(other)
    _, other = step(other)
    same(other.method, state.method)


@pytest.mark.parametrize("name", ["famo", "gradnorm"])
def test_negative_from_the_first_step_on(name):
    step, state = stepper(name)
    update, state = step(state, jnp.asarray([-0.5, 0.1]))
    scale = 1.0 if name == "gradnorm" else 0.5
    np.testing.assert_allclose(update, scale * GRADS.sum(0))  # equal weights
    update, state = step(state)
    assert np.isfinite(update).all() and int(state.unsound) == 1


def test_uncertainty_of_a_task_without_a_positive_loss_stays():
    step, state = stepper("uncertainty_weighting")
    for _ in range(3):
        _, state = step(state, jnp.asarray([0.5, -1.0]))
    assert float(state.method[0, 1]) == 0.0 != float(state.method[0, 0])
    assert int(state.unsound) == 0


def test_dwa_of_losses_whose_ratio_leaves_the_range():
    step, state = stepper("dwa")
    for loss in (1e-30, 1e30, 1.0, 1.0, 1.0, 1.0):
        update, state = step(state, jnp.asarray([0.5, loss]))
        assert np.isfinite(update).all()
    np.testing.assert_allclose(state.weights[0], [1.0, 1.0], rtol=1e-5)


def remembered(state):
    return state.method, state.memory


REMEMBER = [n for n in surgery.METHODS if jax.tree.leaves(remembered(stepper(n)[1]))]


@pytest.mark.parametrize("name", tiny.quick_methods(REMEMBER))
@pytest.mark.parametrize("what", ["losses", "gradients"])
def test_what_is_not_finite_is_counted_and_not_remembered(name, what):
    step, state = stepper(name)
    _, state = step(state)
    uses = surgery.METHODS[name](num_tasks=2).init(PARAMS).record is not None
    reads = name in (
        "famo",
        "gradnorm",
        "dwa",
        "uncertainty_weighting",
        "imtl_l",
        "stch",
        "go4align",
        "db_mtl",
        "moco",
    )
    if what == "losses":
        update, after = step(state, jnp.asarray([0.5, jnp.inf]))
        seen = reads
    else:
        update, after = step(state, GOOD, GRADS.at[1, 0].set(jnp.nan))
        seen = uses or name == "excess_mtl"
    if seen:
        assert np.isnan(update).all() and int(after.unsound) == 1
        same((remembered(after), after.weights), (remembered(state), state.weights))
    update, after = step(after)
    assert np.isfinite(update).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(remembered(after)))


def test_a_method_that_overflows_falls_back_in_that_group_alone():
    def weights(inputs, state):
        ratio = 1.0 / (inputs.gram[0, 0] - 1.0)  # infinite where the first norm is 1
        return jnp.full((2,), ratio), state + 1.0

    method = surgery.Method("mine", weights, init=lambda k: jnp.zeros(()))
    tx = surgery.make_transform(method, 2, scope="leaf")
    state = tx.init({"a": jnp.zeros(1), "b": jnp.zeros(1)})
    grads = {"a": jnp.ones((2, 1)), "b": jnp.full((2, 1), 2.0)}
    update, state = jax.jit(tx.update)(grads, state)
    assert state.method.tolist() == [0.0, 1.0]
    assert surgery.diagnostics(state).converged.tolist() == [False, True]
    np.testing.assert_allclose([update["a"][0], update["b"][0]], [1.0, 4.0 / 3.0], rtol=1e-6)


def test_curvature_is_estimated_again_after_losses_that_are_not_finite():
    tx = surgery.sum(num_tasks=2, diagnostics="curvature")
    hessian = jnp.asarray([2.0, 3.0, 5.0])

    def both(p):
        return jnp.stack([0.5 * jnp.sum(hessian * p**2), p.sum()])

    params, state = jnp.ones(3), tx.init(PARAMS)
    values = []
    for n in range(5):
        losses, grads = both(params), jax.jacobian(both)(params)
        if n == 2:
            losses, grads = losses.at[0].set(jnp.nan), grads.at[0].set(jnp.nan)
        _, state = tx.update(grads, state, params, task_losses=losses)
        values.append(float(state.curvature.value))
        params = params + 0.1
    one = float(0.01 * hessian.sum())  # d'Hd for a step d of 0.1 in every coordinate
    np.testing.assert_allclose(values, [0.0, one, one, 4 * one, one], rtol=2e-3)
