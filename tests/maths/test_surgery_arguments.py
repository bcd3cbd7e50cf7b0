"""What `per_task_value_and_grad` does with arguments that are not one batch a task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import surgery

K, P = 4, 3
W = jnp.linspace(0.5, 1.5, P)
X = jax.random.normal(jax.random.key(0), (K, 5, P))
TABLE = jax.random.normal(jax.random.key(1), (K, P))  # shared, though its first axis is K long


def loss(w, table, x, scale=1.0):
    return scale * jnp.mean(jnp.square(x @ (w + table.sum(0))))


def reference(k, scale=1.0):
    return jax.value_and_grad(loss)(W, TABLE, X[k], scale)


def same(got, losses_and_grads):
    for k in range(K):
        value, grad = losses_and_grads(k)
        np.testing.assert_allclose(got[0][k], value, rtol=1e-5)
        np.testing.assert_allclose(got[1][k], grad, rtol=1e-4)


@pytest.mark.parametrize("method", ["vmap", "map"])
def test_an_argument_that_all_tasks_share(method):
    fn = surgery.per_task_value_and_grad(loss, in_axes=(None, None, 0), method=method)
    same(jax.jit(fn)(W, TABLE, X), reference)
    split = surgery.per_task_value_and_grad(lambda w, row, x: loss(w, row[None], x))
    assert not np.allclose(split(W, TABLE, X)[0], fn(W, TABLE, X)[0])  # row k to task k


@pytest.mark.parametrize("method", ["vmap", "map"])
def test_the_task_axis_may_stand_elsewhere_and_in_a_part_of_a_tree(method):
    def of_tree(w, batch):
        return loss(w, batch["table"], batch["x"])

    axes = {"table": None, "x": 1}
    fn = surgery.per_task_value_and_grad(of_tree, in_axes=(None, axes), method=method)
    same(fn(W, {"table": TABLE, "x": jnp.moveaxis(X, 0, 1)}), reference)


def test_keywords_reach_every_task_untraced():
    def with_flag(w, x, *, table, train):
        assert train is True  # a Python bool, so that the loss may branch on it
        return loss(w, table, x, 2.0 if train else 1.0)

    fn = surgery.per_task_value_and_grad(with_flag)
    same(fn(W, X, table=TABLE, train=True), lambda k: reference(k, 2.0))
    several = surgery.per_task_value_and_grad(losses=[with_flag] * K)
    same(several(W, list(X), table=TABLE, train=True), lambda k: reference(k, 2.0))


def test_argnums_counted_from_the_end():
    def last(x, w):
        return loss(w, TABLE, x)

    same(surgery.per_task_value_and_grad(last, argnums=-1)(X, W), reference)
    _, grads = surgery.per_task_value_and_grad(last, argnums=(-1,))(X, W)
    assert isinstance(grads, tuple) and grads[0].shape == (K, P)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("many", [True, False])
def test_every_task_has_a_key_of_its_own(named, many):
    def noisy(w, x, key):
        return jnp.sum(w * jax.random.normal(key, (P,)) + 0.0 * x.sum())

    options = {"losses": [noisy] * K} if many else {"loss_fn": noisy}
    fn = surgery.per_task_value_and_grad(**options, keys="key" if named else 2)
    key, data = jax.random.key(3), list(X) if many else X
    _, grads = fn(W, data, key=key) if named else fn(W, data, key)
    expected = [jax.random.normal(jax.random.fold_in(key, k), (P,)) for k in range(K)]
    np.testing.assert_allclose(grads, np.stack(expected), rtol=1e-6)


@pytest.mark.parametrize("method", ["vmap", "map"])
def test_a_task_without_data_has_no_gradient_and_no_loss(method):
    fn = jax.jit(surgery.per_task_value_and_grad(loss, in_axes=(None, None, 0), method=method))
    present = jnp.array([True, False, True, True])
    losses, grads = fn(W, TABLE, X.at[1].set(jnp.nan), present=present)
    full = fn(W, TABLE, X)
    np.testing.assert_array_equal(np.isnan(losses), ~np.asarray(present))
    np.testing.assert_array_equal(grads[1], 0.0)
    rows = np.flatnonzero(present)
    np.testing.assert_allclose(grads[rows], full[1][rows], rtol=1e-6)
    np.testing.assert_allclose(losses[rows], full[0][rows], rtol=1e-6)


def test_what_does_not_fit_is_refused():
    value = surgery.per_task_value_and_grad
    with pytest.raises(ValueError, match=r"in_axes.*one entry for each of the 3 positional"):
        value(loss, in_axes=(None, 0))(W, TABLE, X)
    with pytest.raises(ValueError, match=r"in_axes\[0\] must be None.*argnums.*got 0"):
        value(loss, in_axes=(0, None, 0))(W, TABLE, X)
    with pytest.raises(ValueError, match=r"argnums must lie in \[-3, 3\).*got 3"):
        value(loss, argnums=3)(W, TABLE, X)
    with pytest.raises(ValueError, match=r"argnums must name each argument once, got \(0, -3\)"):
        value(loss, argnums=(0, -3))(W, TABLE, X)
    with pytest.raises(ValueError, match="in_axes must be a prefix"):
        value(loss, in_axes=(None, None, {"x": 0}))(W, TABLE, X)
    with pytest.raises(ValueError, match=r"axis 7 of an argument of shape \(4, 5, 3\)"):
        value(loss, in_axes=(None, None, 7))(W, TABLE, X)
    with pytest.raises(ValueError, match="keys names the keyword argument 'key'"):
        value(loss, keys="key", in_axes=(None, None, 0))(W, TABLE, X)
    with pytest.raises(ValueError, match=r"present must be bool \[4\].*got int32 \[4\]"):
        value(loss, in_axes=(None, None, 0))(W, TABLE, X, present=jnp.ones(4, jnp.int32))
    with pytest.raises(ValueError, match="in_axes of argument 1 must be 0 or None with losses"):
        value(losses=[loss, loss], in_axes=(None, 1, 0))(W, [TABLE] * 2, [X[0]] * 2)
