"""Reading episodic tables, against SciPy's k-d tree and closed forms; bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from mtrl_jax import episodic
from mtrl_jax.episodic import tables
from tests.machinery import tiny
from tests.machinery.episodic_tables import D, M, N, contents, filled, read, writer


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


# ------------------------------------------------------------------------------------------ lookups


def test_neighbours_are_those_of_a_tree():
    rng = np.random.default_rng(0)
    keys, query = rng.normal(size=(500, 8)), rng.normal(size=(40, 8))
    keys, query = keys.astype(np.float32), query.astype(np.float32)
    query[7] = keys[123]
    table = filled(keys, np.arange(500, dtype=np.float32), 512)
    order = np.asarray(table.values).astype(int)  # slots to rows of `keys`
    far, near = cKDTree(keys.astype(np.float64)).query(query, 9)
    for recall in (1.0, 0.9):  # on a CPU the approximate search is exact
        found, got = read(table, query, 9, recall)
        np.testing.assert_array_equal(order[np.asarray(found.slot)], near)
        np.testing.assert_allclose(found.distance, far**2, rtol=1e-5)
        assert found.valid.all() and found.exact.tolist() == [b == 7 for b in range(40)]
    # MFEC reads their mean, or the value of the key itself.
    want = near.mean(1)
    want[7] = 123
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_far_from_the_origin_rounding_does_not_decide():
    """Scores of 10^6 are .06 apart in float32, and some neighbours' distances less."""
    rng = np.random.default_rng(9)
    keys, query = (500 + rng.normal(size=(n, 8)).astype(np.float32) for n in (500, 40))
    table = filled(keys, np.arange(500, dtype=np.float32), 512)
    near = cKDTree(keys.astype(np.float64)).query(query.astype(np.float64), 9)[1]
    found, _ = read(table, query, 9)
    same = np.asarray(table.values).astype(int)[found.slot] == near
    assert same.all()


def test_fewer_keys_than_neighbours():
    table = filled(np.eye(2, D, dtype=np.float32), np.float32([3.0, 5.0]), N)
    query = [[0.9, 0.2, 0.0]]
    found, value = read(table, query, 4)
    assert found.valid.tolist() == [[True, True, False, False]]
    assert np.isinf(found.distance[0, 2:]).all() and value.tolist() == [4.0]
    empty = episodic.init(N, D)
    for says in (0.0, 7.0, np.inf):
        found, value = read(empty, query, 4, empty=says)
        assert not found.valid.any() and not found.exact.any() and value.tolist() == [says]
    # A query of zeros is not what an unused slot holds.
    assert not read(empty, np.zeros((1, D)), 4)[0].exact.any()


def test_a_stored_key_is_found_whatever_its_norm():
    """|a|^2 + |b|^2 - 2ab loses it: projections of bytes have squared norms of 10^9."""
    rng = np.random.default_rng(1)
    keys = (3e4 + rng.integers(0, 20, (400, 8))).astype(np.float32)
    keys = np.unique(keys, axis=0)
    values = rng.normal(size=len(keys)).astype(np.float32)
    table = filled(keys, values, 512)
    norms = (keys * keys).sum(1)
    naive = norms[:, None] + norms[None] - 2 * keys @ keys.T
    assert (naive.argmin(1) != np.arange(len(keys))).mean() > 0.2  # the trap is there
    found, value = read(table, keys[:40], 9)
    assert found.exact.all()
    np.testing.assert_array_equal(found.distance[:, 0], 0.0)
    np.testing.assert_array_equal(value, values[:40])
    # A neighbour half a unit away is not taken for it.
    assert not read(table, keys[:40] + np.eye(1, 8) / 2, 9)[0].exact.any()
    # Nor one whose distance underflows to 0.
    tiny = filled(np.float32([[1e-30, 0, 0], [0, 0, 0]]), np.float32([1.0, 2.0]), N)
    found, value = read(tiny, [[0, 0, 0], [2e-30, 0, 0]], 4)
    assert found.exact.tolist() == [True, False] and value.tolist() == [2.0, 1.5]


def test_what_is_not_finite_is_not_stored_and_reads_nan():
    bad = np.float32([[np.nan, 0, 0], [np.inf, 0, 0], [1, 0, 0], [2, 0, 0], [3e38, 0, 0]])
    table = filled(bad, np.float32([1, 1, np.nan, 4, 1]), N)
    assert list(contents(table).values()) == [4.0]
    table = filled(bad, np.float32([1, 1, np.inf, 4, 1]), N)
    assert list(contents(table).values()) == [4.0]
    _, value = read(table, [[np.nan, 0, 0], [0, np.inf, 0], [2, 0, 0]], 4)
    assert np.isnan(value[:2]).all() and value[2] == 4.0
    # Nor do they take anyone's place.
    full = filled(np.arange(N * D, dtype="f").reshape(N, D), np.arange(N, dtype="f"), N)
    keys = np.concatenate([bad[[0, 1, 4]], np.zeros((M - 3, D), "f")])
    after = writer()(full, keys, np.ones(M, "f"), np.arange(M) < 3)
    assert contents(after) == contents(full)
    # Both zeros are one key.
    table = episodic.init(N, D)
    for value, zero in ((5.0, 0.0), (6.0, -0.0), (7.0, 0.0)):
        keys, values = np.full((M, D), [zero, 1, 1], "f"), np.full(M, value, "f")
        table = writer()(table, keys, values, np.ones(M, bool))
        assert list(contents(table).values()) == [value]
    assert read(table, [[-0.0, 1, 1]], 4)[0].exact.all()


# ------------------------------------------------------------------------------------------- kernel


kernel_value = jax.jit(episodic.kernel_value)


def _kernel_case(seed=6, k=5):
    rng = np.random.default_rng(seed)
    shapes = ((D,), (k, D), (k,))
    return *(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes), jnp.ones(
        k, bool
    )


def test_kernel_weights():
    h, keys, values, valid = _kernel_case()
    w = 1.0 / (((np.float64(h) - np.float64(keys)) ** 2).sum(1) + 1e-3)
    want = (w * values).sum() / w.sum()
    np.testing.assert_allclose(kernel_value(h, keys, values, valid), want, rtol=1e-5)
    order = np.array([3, 0, 4, 1, 2])
    again = kernel_value(h, keys[order], values[order], valid)
    np.testing.assert_allclose(again, want, rtol=1e-5)
    ones = kernel_value(h, keys, jnp.ones(5), valid)  # weights add up to 1
    np.testing.assert_allclose(ones, 1.0, rtol=1e-6)
    nearest = ((h[None] - keys) ** 2).sum(1).argmin()
    one = kernel_value(h, keys[nearest][None], values[nearest][None], valid[:1])
    np.testing.assert_allclose(one, values[nearest], rtol=1e-6)
    # At a stored key, the bound of the others' weights.
    at = np.asarray(kernel_value(keys[2], keys, values, valid))
    d2 = np.delete(((np.asarray(keys) - np.asarray(keys[2])) ** 2).sum(1), 2)
    assert abs(at - values[2]) <= 4 * 1e-3 / d2.min() * float(np.ptp(values))
    assert float(values.min()) <= at <= float(values.max())


def test_kernel_gradients_reach_query_keys_and_values_and_nothing_that_is_not_there():
    h, keys, values, valid = _kernel_case()
    valid = valid.at[3].set(False)
    keys = keys.at[3].set(jnp.nan)  # whatever stands there
    grads = jax.jit(jax.grad(episodic.kernel_value, (0, 1, 2)))(h, keys, values, valid)
    assert all(np.isfinite(g).all() for g in grads)
    assert not np.asarray(grads[1][3]).any() and float(grads[2][3]) == 0.0
    rng, eps = np.random.default_rng(7), 1e-2
    steps = [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in (h, keys, values)]

    def at(e):
        moved = (x + e * s for x, s in zip((h, keys, values), steps, strict=True))
        return kernel_value(*moved, valid)

    slope = sum((g * s).sum() for g, s in zip(grads, steps, strict=True))
    np.testing.assert_allclose((at(eps) - at(-eps)) / (2 * eps), slope, rtol=1e-2)
    # None there: a constant.
    nobody = jnp.zeros(5, bool)
    value, grads = jax.value_and_grad(episodic.kernel_value, (0, 1, 2))(
        h, keys, values, nobody, empty=-2.0
    )
    assert float(value) == -2.0 and all((np.asarray(g) == 0).all() for g in grads)


def test_a_gradient_step_moves_what_was_read():
    keys = np.float32([[0, 0, 0], [4, 0, 0], [0, 4, 0]])
    table = filled(keys, np.float32([1, 2, 3]), N)
    slot = int(read(table, [[4, 0, 0]], 4)[0].slot[0, 0])
    steps = np.float32([[1, 0, 0], [0, 0, 2]])
    free = int(np.flatnonzero(~tables.filled(table))[0])
    index, steps = np.array([slot, slot, free]), np.float32([*steps, [9, 9, 9]])
    moved = jax.jit(episodic.move)(table, index, steps, np.float32([1, 5, 9]))
    found, _ = read(moved, [[5, 0, 2], [4, 0, 0]], 4)
    assert found.exact.tolist() == [True, False] and int(found.slot[0, 0]) == slot
    assert float(moved.values[slot]) == 8.0 and int(episodic.size(moved)) == 3


def test_projections_keep_squared_distances_in_the_mean():
    rng = np.random.default_rng(8)
    x = rng.random((2, 300)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 2000)
    project = jax.jit(jax.vmap(lambda key: x @ episodic.random_projection(key, 300, 64)))
    ratio = np.square(np.diff(project(keys), axis=1)[:, 0]).sum(-1) / np.square(x[0] - x[1]).sum()
    assert abs(ratio.mean() - 1.0) < 4 * np.sqrt(2 / 64 / 2000)
    np.testing.assert_allclose(ratio.std(), np.sqrt(2 / 64), rtol=0.1)


# ------------------------------------------------------------------------------- memory, arguments


def test_bytes_and_the_sentence_about_memory():
    table = episodic.init(7, 5, (2, 3))
    assert episodic.nbytes(7, 5, (2, 3)) == sum(x.nbytes for x in jax.tree.leaves(table))
    assert episodic.nbytes(7, 5) == sum(x.nbytes for x in jax.tree.leaves(episodic.init(7, 5)))
    episodic.check_memory(7, 5, (2, 3), free=episodic.nbytes(7, 5, (2, 3)))
    sentence = r"capacity of 1000000 keys of 64 numbers in 18 tables and 2 copies needs 9\.2\d GiB"
    with pytest.raises(ValueError, match=sentence + r".* at most \d+ items fit"):
        episodic.check_memory(10**6, 64, (1, 18), copies=2, free=2**30)
    with pytest.raises(ValueError, match="of memory"):
        episodic.check_memory(10**12, 64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: episodic.init(0, D), "capacity must be at least 1; got 0"),
        (lambda t: episodic.init(N, None), "dim must be an integer; got None"),
        (lambda t: episodic.init(N, 5000), "dim must be at most 4096; got 5000"),
        (lambda t: episodic.init(N, D, (2, True)), "lead must be an integer"),
        (
            lambda t: episodic.nearest(t, jnp.zeros((1, D)), N + 1),
            "k must be at most .* 16; got 17",
        ),
        (lambda t: episodic.nearest(t, jnp.zeros((1, D)), 0), "k must be at least 1"),
        (lambda t: episodic.nearest(t, jnp.zeros((1, D)), True), "k must be an integer"),
        (lambda t: episodic.nearest(t, jnp.zeros(D), 1), r"query must have shape \[B, D\]"),
        (lambda t: episodic.nearest(t, jnp.zeros((1, D + 1)), 1), "query must have"),
        (lambda t: episodic.nearest(t, jnp.zeros((1, D)), 1, float("nan")), "recall must lie"),
        (lambda t: episodic.write_max(t, jnp.zeros((2, 4)), jnp.zeros(2)), "keys must have"),
        (lambda t: episodic.write_max(t, jnp.zeros((2, D)), jnp.zeros(3)), "values must have"),
        (
            lambda t: episodic.write_max(t, jnp.zeros((2, D)), jnp.zeros(2), jnp.ones(2)),
            "valid must be bool",
        ),
        (
            lambda t: episodic.write_towards(t, jnp.zeros((2, D)), jnp.zeros(2), 1.5),
            r"rate must lie in \[0",
        ),
        (
            lambda t: episodic.kernel_value(
                jnp.zeros(D), t.keys, t.values, jnp.ones(N, bool), delta=0.0
            ),
            "delta must lie",
        ),
        (
            lambda t: episodic.kernel_value(jnp.zeros(D), t.keys, t.values, jnp.ones(N)),
            "valid must be bool",
        ),
        (lambda t: episodic.random_projection(jax.random.key(0), 0, 2), "num_inputs must"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(episodic.init(N, D))
