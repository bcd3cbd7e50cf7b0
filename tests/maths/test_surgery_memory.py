"""Methods that remember gradients, against NumPy written from their equations, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from surgery_reference import FOUR, conflict, gauss
from test_surgery_losses import STREAM, softmax

from mtrl_jax import surgery
from mtrl_jax.networks import morph

REMEMBER_GRADIENTS = ("db_mtl", "moco", "excess_mtl", "m_config")


def stream():
    rng = np.random.default_rng(3)
    return [FOUR, gauss(rng, 4, 6), conflict(rng, 4, 6), 5.0 * FOUR + gauss(rng, 4, 6)]


def tree(jacobian):
    """Two leaves, so that norms are over both."""
    jacobian = jnp.asarray(jacobian, jnp.float32)
    return {"a": jacobian[..., :4].reshape(*jacobian.shape[:-1], 2, 2), "b": jacobian[..., 4:]}


def updates_of(tx, jacobians=None, losses=STREAM):
    """The updates of a stream of gradients and losses, and the last state."""
    step, state, found = jax.jit(tx.update), tx.init(tree(np.zeros(6))), []
    for g, l in zip(stream() if jacobians is None else jacobians, losses, strict=True):
        update, state = step(tree(g), state, task_losses=jnp.asarray(l, jnp.float32))
        found.append(np.concatenate([update["a"].reshape(-1), update["b"]]))
    return np.stack(found), state


def norms(x):
    return np.linalg.norm(x, axis=1, keepdims=True)


def test_db_mtl_follows_its_equations():
    # LibMTL (revision 4336804), DB_MTL.py, without its epsilons.
    for beta, decay in ((0.9, 0.0), (0.7, 0.5), (0.0, 0.0)):
        got, _ = updates_of(surgery.db_mtl(num_tasks=4, beta=beta, beta_decay=decay))
        y = np.zeros((4, 6))
        for n, (g, losses) in enumerate(zip(stream(), STREAM, strict=True)):
            of_log = g / losses[:, None]
            y = of_log + beta / (n + 1) ** decay * (y - of_log)
            want = (norms(y).max() / norms(y) * y).sum(0)
            np.testing.assert_allclose(got[n], want, rtol=1e-4, atol=1e-4)


def test_moco_follows_its_equations():
    # LibMTL (revision 4336804), MoCo.py, without its epsilon.
    for rho in (0.0, 2.0):
        got, _ = updates_of(surgery.moco(num_tasks=4, ridge=rho))
        y, w = np.zeros((4, 6)), np.full(4, 0.25)
        for n, (g, losses) in enumerate(zip(stream(), STREAM, strict=True)):
            y = y - 0.5 / (n + 1) ** 0.5 * (y - g / norms(g) * losses[:, None])
            w = softmax(w - 0.1 / (n + 1) ** 0.5 * (y @ y.T + rho * np.eye(4)) @ w)
            np.testing.assert_allclose(got[n], w @ y, rtol=1e-4, atol=1e-4)


def test_moco_onto_the_simplex_ends_at_mgda():
    gram = jnp.asarray(FOUR @ FOUR.T, jnp.float32)
    w = jnp.full(4, 0.25)
    for _ in range(500):
        w = surgery.moco_step(w, gram, 0.02, onto="simplex")
    np.testing.assert_allclose(w, surgery.mgda_weights(gram), atol=1e-3)


def excess_numpy(eta):
    total, weights, first = np.zeros((4, 6)), np.ones(4) / 4, None
    for g in stream():
        total = total + g**2
        risk = (g**2 / np.sqrt(np.maximum(total, 1e-99))).sum(1)
        if first is None:
            first = risk
        else:
            weights = weights * np.exp(eta * risk / first)
            weights = weights / weights.sum()
        yield weights, risk


@pytest.mark.parametrize("eta", [0.01, 1.0])
def test_excess_mtl_follows_its_equations(eta):
    # The authors' ExcessMTL.py with weights of sum 1 and without its epsilon of 1e-7.
    got, _ = updates_of(surgery.excess_mtl(num_tasks=4, step_size=eta))
    for update, g, (weights, _) in zip(got, stream(), excess_numpy(eta), strict=True):
        np.testing.assert_allclose(update, weights @ g, rtol=1e-4, atol=1e-4)


def config_numpy(g):
    """Equation 2 of the paper, with NumPy's pseudo-inverse."""
    u = np.linalg.pinv(g / norms(g)) @ np.ones(len(g))
    u = u / np.linalg.norm(u)
    return (g @ u).sum() * u


@pytest.mark.parametrize("alternate", [False, True])
def test_m_config_follows_its_equations(alternate):
    # The authors' PseudoMomentumOperator (tum-pbs/ConFIG), in float64.
    b1, b2 = 0.8, 0.95
    jacobians, losses = stream() * 3, np.ones((12, 4))
    tx = surgery.m_config(num_tasks=4, beta_1=b1, beta_2=b2, alternate=alternate)
    got, _ = updates_of(tx, jacobians, losses)
    m, counts, t = np.zeros((4, 6)), np.zeros(4), 0
    square, last = np.zeros(6), np.zeros(6)
    for n, g in enumerate(jacobians):
        for i in [n % 4] if alternate else range(4):
            m[i], counts[i] = b1 * m[i] + (1 - b1) * g[i], counts[i] + 1
        want = np.zeros(6)
        if (counts > 0).all():
            t += 1
            d = config_numpy(m / (1 - b1 ** counts[:, None]))
            pseudo = ((1 - b1**t) * d - b1 * last) / (1 - b1)
            last = (1 - b1**t) * d
            square = b2 * square + (1 - b2) * pseudo**2
            want = d / (np.sqrt(square / (1 - b2**t)) + 1e-8)
        np.testing.assert_allclose(got[n], want, rtol=2e-3, atol=2e-3)
    assert t == (9 if alternate else 12)


@pytest.mark.parametrize("name", REMEMBER_GRADIENTS)
def test_groups_have_memories_of_their_own(name):
    """By leaf, it is the method on each leaf alone."""
    tx = surgery.METHODS[name](num_tasks=4, scope="leaf")
    got, _ = updates_of(tx)
    single = surgery.METHODS[name](num_tasks=4)
    for leaf, columns in (("a", slice(0, 4)), ("b", slice(4, 6))):
        state = single.init(tree(np.zeros(6))[leaf])
        for n, (g, losses) in enumerate(zip(stream(), STREAM, strict=True)):
            update, state = jax.jit(single.update)(
                tree(g)[leaf], state, task_losses=jnp.asarray(losses, jnp.float32)
            )
            np.testing.assert_allclose(got[n, columns], np.ravel(update), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", REMEMBER_GRADIENTS)
def test_only_shared_leaves_are_remembered(name):
    params = {"head": jnp.zeros((2, 2), jnp.bfloat16), "torso": jnp.zeros(3, jnp.bfloat16)}
    tx = surgery.METHODS[name](num_tasks=4, mask={"head": False, "torso": True})
    state = tx.init(params)
    assert state.memory[0] is None
    assert {x.dtype for x in jax.tree.leaves(state.memory)} == {np.dtype("float32")}
    grads = jax.tree.map(lambda p: jnp.ones((4, *p.shape), p.dtype), params)
    update, after = jax.jit(tx.update)(grads, state, params, task_losses=jnp.ones(4))
    np.testing.assert_array_equal(update["head"], np.full((2, 2), 4.0))
    assert {x.dtype for x in update.values()} == {jnp.bfloat16.dtype}
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.parametrize("name", ["db_mtl", "moco"])
def test_a_negative_loss_leaves_the_means_alone(name):
    tx = surgery.METHODS[name](num_tasks=4)
    step, state = jax.jit(tx.update), tx.init(tree(np.zeros(6)))
    good = jnp.asarray(STREAM[0], jnp.float32)
    _, state = step(tree(FOUR), state, task_losses=good)
    update, after = step(tree(2 * FOUR), state, task_losses=good.at[1].set(-1.0))
    assert all(np.isfinite(x).all() for x in update.values()) and int(after.unsound) == 1
    for a, b in zip(*map(jax.tree.leaves, (after.memory, state.memory)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", REMEMBER_GRADIENTS)
def test_sharded_leaves_are_one_vector(name):
    mesh = jax.make_mesh((1,), ("x",))
    tx = surgery.METHODS[name](num_tasks=4, axis_name="x")
    state = tx.init(jnp.zeros(6))
    spec = jax.sharding.PartitionSpec()

    def update(g, s):
        return tx.update(g, s, task_losses=jnp.ones(4))[0]

    over = jax.shard_map(update, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    whole = surgery.METHODS[name](num_tasks=4)
    grads = jnp.asarray(FOUR, jnp.float32)
    want, _ = jax.jit(whole.update)(grads, state, task_losses=jnp.ones(4))
    np.testing.assert_allclose(jax.jit(over)(grads, state), want, rtol=1e-5)


@pytest.mark.parametrize("name", REMEMBER_GRADIENTS)
def test_a_morph_refuses_remembered_gradients(name):
    params = {"params": {"Dense_0": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}}}
    state = surgery.METHODS[name](num_tasks=4).init(params)
    with pytest.raises(ValueError, match=r"SurgeryState, remembers the gradients.*\(memory\)"):
        morph.carry(state, params, lambda tree, degree=0: tree)
    plain = surgery.pcgrad(num_tasks=4).init(params)
    assert morph.carry(plain, params, lambda tree, degree=0: tree).memory is None
