"""One main task and auxiliary ones: what protects the main task, and what weighs the others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from surgery_reference import FOUR

from mtrl_jax import surgery

MAIN = 1


def test_off_the_main_task_alone():
    tx = surgery.pcgrad(num_tasks=4, main=MAIN)
    update, _ = jax.jit(tx.update)(jnp.asarray(FOUR, jnp.float32), tx.init(jnp.zeros(6)))
    main, want = FOUR[MAIN], np.zeros(6)
    conflicts = 0
    for i, g in enumerate(FOUR):
        dot = g @ main
        conflicts += dot < 0
        want += g - (min(0.0, dot) / (main @ main) * main if i != MAIN else 0)
    assert conflicts
    np.testing.assert_allclose(update, want, rtol=1e-5, atol=1e-5)
    assert np.asarray(update) @ main >= main @ main * (1 - 1e-6)  # the main task is not set back
    # The mean of them, and without a main gradient nothing is projected.
    gram = jnp.asarray(FOUR @ FOUR.T, jnp.float32)
    half = surgery.pcgrad(num_tasks=4, main=MAIN, reduction="mean")
    update, _ = jax.jit(half.update)(jnp.asarray(FOUR, jnp.float32), half.init(jnp.zeros(6)))
    np.testing.assert_allclose(update, want / 4, rtol=1e-5, atol=1e-5)
    nothing = gram.at[MAIN].set(0.0).at[:, MAIN].set(0.0)
    assert surgery.pcgrad_main_weights(nothing, MAIN).tolist() == [1, 1, 1, 1]


def test_ol_aux_against_a_loop():
    rate, period, steps = 0.01, 3, 8
    rng = np.random.default_rng(0)
    stream = rng.normal(size=(steps, 3, 5)).astype(np.float32)
    tx = surgery.ol_aux(num_tasks=3, main=MAIN, learning_rate=rate, period=period)
    state, step = tx.init(jnp.zeros(5)), jax.jit(tx.update)
    w, total = np.ones(3), np.zeros(3)
    for n, grads in enumerate(stream):
        update, state = step(jnp.asarray(grads), state)
        np.testing.assert_allclose(update, w @ grads, rtol=1e-4, atol=1e-5)
        total += grads @ grads[MAIN]
        if (n + 1) % period == 0:
            w, total = np.maximum(w + rate * total, 0), np.zeros(3)
            w[MAIN] = 1
    assert (np.delete(w, MAIN) != 1).all()


def descent(combine, weight, steps=400):
    """Where SGD ends on x^2 + y^2 / 10 beside an auxiliary that wants x = 2, weighted."""

    def main(p):
        return p[0] ** 2 + 0.1 * p[1] ** 2

    def harmful(p):
        return weight * (p[0] - 2.0) ** 2

    tx = optax.chain(combine, optax.sgd(0.02))

    def step(carry, _):
        p, state = carry
        _, grads = surgery.per_task_value_and_grad(losses=[main, harmful])(p)
        updates, state = tx.update(grads, state, p)
        return (optax.apply_updates(p, updates), state), main(p)

    p = jnp.array([1.0, 1.0])
    return np.asarray(jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), None, steps)[1])(p))


@pytest.mark.parametrize(
    ("name", "arguments", "protects"),
    [
        ("sum", {}, False),
        ("gradient_cosine", {}, True),
        ("gradient_cosine", {"gate": "hard"}, True),
        ("pcgrad", {"main": 0}, True),
        ("ol_aux", {"learning_rate": 0.05, "period": 1}, True),
    ],
)
def test_a_harmful_auxiliary(name, arguments, protects):
    main = descent(surgery.METHODS[name](num_tasks=2, **arguments), 3.0)
    if protects:
        assert main[-1] < 0.05
    else:
        assert main[-1] > 1.0


def test_pcgrad_leaves_the_length_along_the_main_gradient():
    grads = jnp.array([[2.0, 0.0], [-3.0, 1.0]])  # opposed
    tx = surgery.pcgrad(num_tasks=2, main=0)
    update, _ = jax.jit(tx.update)(grads, tx.init(jnp.zeros(2)))
    np.testing.assert_allclose(update, [2.0, 1.0], rtol=1e-6)


def test_nothing_moves_by_pcgrad_while_the_main_task_is_absent():
    grads = jnp.array([[2.0, 0.0], [-3.0, 1.0]])
    tx = surgery.pcgrad(num_tasks=2, main=0)
    present = jnp.array([False, True])
    update, _ = jax.jit(tx.update)(grads, tx.init(jnp.zeros(2)), present=present)
    np.testing.assert_array_equal(update, [0.0, 0.0])


# --------------------------------------------------------------------------------- AuxiLearn


def quadratic():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(4, 4))
    hessian = np.eye(4) + 0.1 * root @ root.T
    goals = rng.normal(size=(2, 4))  # of two auxiliary losses
    target = rng.normal(size=4)  # of the validation loss
    return hessian, goals, target


def implicit(terms, step_size, phi):
    """At the optimum of 1/2 w'Hw + sum_k phi_k 1/2 |w - c_k|^2."""
    hessian, goals, target = quadratic()
    h = jnp.asarray(hessian, jnp.float32)

    def train(w, phi):
        pulls = jnp.square(w["w"][None] - jnp.asarray(goals, jnp.float32)).sum(1)
        return 0.5 * w["w"] @ h @ w["w"] + 0.5 * phi @ pulls

    def validation(w):
        return 0.5 * jnp.square(w["w"] - jnp.asarray(target, jnp.float32)).sum()

    whole = hessian + phi.sum() * np.eye(4)
    w = np.linalg.solve(whole, phi @ goals)
    got = jax.jit(
        lambda w, phi: surgery.auxilearn_gradient(
            train, validation, {"w": w}, phi, step_size=step_size, terms=terms
        )
    )(jnp.asarray(w, jnp.float32), jnp.asarray(phi, jnp.float32))
    mixed = w - goals  # [2, 4], of dL_train/dw in phi
    return np.asarray(got), mixed, whole, w - target


def test_the_implicit_gradient_of_a_quadratic():
    phi = np.array([0.5, 0.2])
    got, mixed, whole, slope = implicit(200, 0.3, phi)
    want = -mixed @ np.linalg.solve(whole, slope)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    # And that is how the validation loss at the optimum moves.
    hessian, goals, target = quadratic()

    def reached(phi):
        w = np.linalg.solve(hessian + phi.sum() * np.eye(4), phi @ goals)
        return 0.5 * ((w - target) ** 2).sum()

    slopes = [(reached(phi + e) - reached(phi - e)) / 2e-4 for e in 1e-4 * np.eye(2)]
    np.testing.assert_allclose(got, slopes, rtol=1e-3, atol=1e-5)


def test_the_series_is_cut():
    phi = np.array([0.5, 0.2])
    got, mixed, whole, slope = implicit(3, 0.2, phi)
    inverse = 0.2 * sum(np.linalg.matrix_power(np.eye(4) - 0.2 * whole, j) for j in range(3))
    np.testing.assert_allclose(got, -mixed @ inverse @ slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: surgery.ol_aux(2, learning_rate=0.0), "learning_rate must be positive"),
        (lambda: surgery.ol_aux(2, period=0), "period must be positive, got 0"),
        (lambda: surgery.ol_aux(2, main=2), "main must be a task's number, 0 to 2 - 1, got 2"),
        (lambda: surgery.pcgrad(3, main=-1), "main must be a task's number, 0 to 3 - 1, got -1"),
        (lambda: surgery.gradient_cosine(3, main=1.5), "main must be .* got 1.5"),
        (lambda: surgery.gradient_cosine(3, main=True), "main must be .* got True"),
        (lambda: implicit(0, 0.1, np.ones(2)), "terms must be a positive integer"),
        (lambda: implicit(1, -0.1, np.ones(2)), "step_size must be positive"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
