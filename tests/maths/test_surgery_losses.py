"""Methods that weigh tasks by their losses, against NumPy written from the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from surgery_reference import FOUR

from mtrl_jax import surgery

GRADS = jnp.asarray(FOUR, jnp.float32)
STREAM = np.array(
    [[4.0, 1.0, 2.0, 8.0], [3.0, 0.9, 2.5, 7.0], [2.8, 0.5, 2.0, 6.5], [2.0, 0.6, 1.0, 6.0]]
)


def weights_over(tx, stream=STREAM, grads=None, **extra):
    """Weights used at each step of a stream of losses."""
    step = jax.jit(lambda g, s, **e: tx.update(g, s, **e))
    state, used = tx.init(jnp.zeros(6)), []
    for n, losses in enumerate(stream):
        more = {name: jnp.asarray(values[n], jnp.float32) for name, values in extra.items()}
        g = GRADS if grads is None else grads[n]
        _, state = step(g, state, task_losses=jnp.asarray(losses, jnp.float32), **more)
        used.append(np.asarray(surgery.diagnostics(state).weights))
    return np.stack(used)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def famo_numpy(before, after, rate=0.025, decay=1e-3):
    """Algorithm 2 with torch's Adam written out; `after[n]` are losses of batch n after its
    step."""
    logits, m, v, used = np.zeros(4), np.zeros(4), np.zeros(4), []
    for n, losses in enumerate(before):
        z = softmax(logits)
        used.append(z / losses / (z / losses).sum())
        delta = np.log(losses) - np.log(after[n])
        jacobian = np.diag(z) - np.outer(z, z)
        g = jacobian @ delta + decay * logits
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        m_hat, v_hat = m / (1 - 0.9 ** (n + 1)), v / (1 - 0.999 ** (n + 1))
        logits = logits - rate * m_hat / (np.sqrt(v_hat) + 1e-8)
    return np.stack(used)


def test_famo_with_the_losses_after_the_step():
    after = STREAM * np.array([0.9, 0.99, 1.05, 0.7])
    # The call at step n hands in what became of the batch of step n - 1.
    shifted = np.vstack([np.ones((1, 4)), after[:-1]])
    tx = surgery.famo(num_tasks=4, diagnostics=True)
    got = weights_over(tx, task_losses_after=shifted)
    want = famo_numpy(STREAM, after)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert np.abs(want[-1] / want[0] - 1).max() > 0.05
    np.testing.assert_allclose(got.sum(1), 1.0, rtol=1e-5)


def test_famo_without_them_takes_the_present_losses():
    tx = surgery.famo(num_tasks=4, diagnostics=True)
    want = famo_numpy(STREAM, np.vstack([STREAM[1:], STREAM[-1:]]))
    np.testing.assert_allclose(weights_over(tx), want, rtol=1e-4)


def test_famo_subtracts_the_lower_bounds():
    bounds = np.array([1.0, 0.2, 0.5, 2.0])
    tx = surgery.famo(num_tasks=4, min_losses=tuple(bounds), diagnostics=True)
    want = famo_numpy(STREAM - bounds, np.vstack([STREAM[1:], STREAM[-1:]]) - bounds)
    np.testing.assert_allclose(weights_over(tx), want, rtol=1e-4)


def test_uncertainty_weights_follow_the_gradient_of_the_papers_loss():
    rate, s, want = 0.1, np.zeros(4), []

    def objective(s, losses):
        return jnp.sum(0.5 * jnp.exp(-s) * losses + 0.5 * s)

    for losses in STREAM:
        want.append(np.asarray(jax.grad(objective, 1)(jnp.asarray(s), jnp.asarray(losses))))
        s = s - rate * np.asarray(jax.grad(objective)(jnp.asarray(s), jnp.asarray(losses)))
    tx = surgery.uncertainty_weighting(num_tasks=4, learning_rate=rate, diagnostics=True)
    np.testing.assert_allclose(weights_over(tx), want, rtol=1e-5)
    # For constant losses s ends at log L, where the weight is 1 / (2 L).
    tx = surgery.uncertainty_weighting(num_tasks=2, learning_rate=1.0)

    def run(state, _):
        return (tx.update(GRADS[:2], state, task_losses=jnp.array([3.0, 0.2]))[1], None)

    state, _ = jax.lax.scan(run, tx.init(jnp.zeros(6)), length=200)
    np.testing.assert_allclose(np.exp(state.method[0]), [3.0, 0.2], rtol=1e-4)


@pytest.mark.parametrize("period", [1, 2])
def test_dwa(period):
    stream = np.vstack([STREAM, STREAM[::-1] * 0.9])
    means = stream.reshape(-1, period, 4).mean(1)
    want = []
    for n in range(len(stream)):
        done = n // period
        if done < 2:
            want.append(np.ones(4))
        else:
            want.append(4 * softmax(means[done - 1] / means[done - 2] / 2.0))
    tx = surgery.dwa(num_tasks=4, period=period, diagnostics=True)
    np.testing.assert_allclose(weights_over(tx, stream), want, rtol=1e-5)


def test_gradnorm_steps_down_the_gradient_of_its_loss():
    scales = np.array([1.0, 3.0, 0.5, 1.0])[:, None]
    grads = [jnp.asarray(FOUR * scales * (1 + 0.1 * n), jnp.float32) for n in range(4)]
    w, want = np.ones(4), []
    for n, losses in enumerate(STREAM):
        want.append(w)
        norms = np.linalg.norm(np.asarray(grads[n], np.float64), axis=1)
        norms = norms / norms.mean()
        ratio = losses / STREAM[0]
        target = (w * norms).mean() * (ratio / ratio.mean()) ** 1.5
        slope = jax.grad(lambda w: jnp.abs(w * norms - target).sum())(jnp.asarray(w))  # noqa: B023
        w = w - 0.025 * np.asarray(slope)
        w = w * 4 / w.sum()
    got = weights_over(surgery.gradnorm(num_tasks=4), grads=grads)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert want[-1][1] < 0.95 < 1.0 < want[-1][2]  # the loud task is turned down, the quiet one up


def test_gradnorm_balances_the_norms_when_all_tasks_learn_alike():
    grads = jnp.asarray(np.eye(4, 6) * np.array([[1.0], [4.0], [0.5], [2.0]]), jnp.float32)
    tx = surgery.gradnorm(num_tasks=4, learning_rate=0.002)

    def run(s, _):
        return (tx.update(grads, s, task_losses=jnp.ones(4))[1], None)

    state, _ = jax.lax.scan(run, tx.init(jnp.zeros(6)), length=2000)
    weighted = np.asarray(state.method.weights[0]) * np.array([1.0, 4.0, 0.5, 2.0])
    assert weighted.max() / weighted.min() < 1.1


def test_losses_that_are_not_finite_leave_the_memory_as_it_was():
    for name in ("famo", "uncertainty_weighting", "dwa", "gradnorm"):
        tx = surgery.METHODS[name](num_tasks=4)
        _, state = tx.update(GRADS, tx.init(jnp.zeros(6)), task_losses=jnp.ones(4))
        update, after = tx.update(GRADS, state, task_losses=jnp.array([1.0, jnp.nan, 1, 1]))
        assert np.isnan(update).all()
        for a, b in zip(*map(jax.tree.leaves, (after.method, state.method)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_methods_without_losses_do_not_mind_them():
    tx = optax.chain(surgery.pcgrad(num_tasks=4), optax.adam(0.1))
    params = jnp.zeros(6)
    a, _ = tx.update(GRADS, tx.init(params), params)
    b, _ = tx.update(GRADS, tx.init(params), params, task_losses=jnp.ones(4), value=1.0)
    np.testing.assert_array_equal(a, b)
