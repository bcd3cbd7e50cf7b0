"""The Gram matrix and the weighted sum: against float64 NumPy, and their promise of memory."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.surgery.gram import gram_matrix, weighted_sum
from tests.machinery import tiny

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# Sizes on both sides of every branch: one block, several blocks and a rest, many small leaves.
SHAPES = {
    "scalar and vector": [(), (7,)],
    "below one block": [(30, 40), (1023,)],
    "blocks and a rest": [(137, 151), (5, 4099), (271, 151)],
    "whole blocks": [(16, 1024), (32, 1280)],
}


def make(k, shapes, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    leaves = [jnp.asarray(rng.normal(size=(k, *s)), jnp.float32).astype(dtype) for s in shapes]
    return {str(i): leaf for i, leaf in enumerate(leaves)}


def jacobian(grads):
    leaves = [np.asarray(g.astype(jnp.float32), np.float64) for g in jax.tree.leaves(grads)]
    return np.concatenate([x.reshape(x.shape[0], -1) for x in leaves], axis=1)


CASES = [(shapes, k, "float32") for shapes in SHAPES for k in (2, 10)]
CASES += [("blocks and a rest", k, "float32") for k in (1, 3, 33, 51)]
CASES += [("blocks and a rest", k, "bfloat16") for k in (3, 10, 17)]


@pytest.mark.parametrize("name, k, dtype", CASES)
def test_equals_numpy(name, k, dtype):
    shapes = SHAPES[name]
    dtype = jnp.dtype(dtype)
    grads = make(k, shapes, dtype)
    weights = jnp.linspace(-1.0, 2.0, k)
    gram = jax.jit(gram_matrix)(grads)
    update = jax.jit(weighted_sum)(weights, grads)

    j = jacobian(grads)
    expected = j @ j.T
    assert gram.shape == (k, k) and gram.dtype == jnp.float32
    np.testing.assert_allclose(gram, expected, rtol=2e-6, atol=2e-6 * expected.diagonal().max())
    assert [(u.shape, u.dtype) for u in update.values()] == [(s, dtype) for s in shapes]
    flat = np.concatenate([np.asarray(u, np.float64).ravel() for u in update.values()])
    rounding = 2**-8 if dtype == jnp.bfloat16 else 2**-22  # one rounding of the result
    size = np.abs(np.asarray(weights, np.float64)) @ np.abs(j)
    expected_flat = np.asarray(weights, np.float64) @ j
    assert np.all(np.abs(flat - expected_flat) <= rounding * np.abs(expected_flat) + 3e-7 * size)


@pytest.mark.parametrize("k", [2, 5])
def test_float64_stays_float64(k):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(k, 40000)))
        gram, update = gram_matrix([x]), weighted_sum(jnp.ones(k), [x])[0]
        assert gram.dtype == jnp.float64 and update.dtype == jnp.float64
        np.testing.assert_allclose(gram, np.asarray(x) @ np.asarray(x).T, rtol=1e-11, atol=1e-9)
        np.testing.assert_allclose(update, np.asarray(x).sum(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [2, 10])
def test_nan_stays_in_its_row_and_column(k):
    x = make(k, [(40000,)])["0"].at[1, 0].set(jnp.nan)
    bad = np.isnan(gram_matrix([x]))
    assert bad[1].all() and bad[:, 1].all() and bad.sum() == 2 * k - 1


@pytest.mark.parametrize("k, dtype", [(2, "float32"), (10, "float32"), (10, "bfloat16")])
def test_vmap_equals_loop(k, dtype):
    x = jnp.stack([make(k, [(40000,)], jnp.dtype(dtype), seed=s)["0"] for s in range(3)])
    each = jnp.stack([gram_matrix([row]) for row in x])
    np.testing.assert_allclose(jax.vmap(lambda r: gram_matrix([r]))(x), each, rtol=1e-5, atol=0.02)


@pytest.mark.parametrize(
    "k, dtype", [(2, "float32"), (10, "float32"), (51, "float32"), (10, "bfloat16")]
)
def test_sharded_parameters_need_one_psum(k, dtype):
    """Also shows that the loop over blocks passes shard_map's own check of varying values."""
    x = make(k, [(4, 40000)], jnp.dtype(dtype))["0"]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("model",))
    spec = jax.P(None, "model")

    def partial(x):
        return jax.lax.psum(gram_matrix([x]), "model")

    sharded = jax.jit(jax.shard_map(partial, mesh=mesh, in_specs=spec, out_specs=jax.P()))(x)
    np.testing.assert_allclose(sharded, gram_matrix([x]), rtol=1e-5, atol=0.05)


def temporaries(function, *shapes):
    with tiny.quick_compiles(False):
        return jax.jit(function).lower(*shapes).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("k", [2, 10, 24, 50])
def test_temporary_memory_does_not_grow_with_the_parameters(k):
    """From P = 1e5 to 1e8 (K * P floats are up to 20 GB there, more than int32 can count) less than
    a megabyte, and the same at two sizes that are whole blocks. Compiled, not run."""
    w = jax.ShapeDtypeStruct((k,), jnp.float32)
    whole = 960 * 1280  # chunks of a whole number of blocks for each k
    lengths = (12 * 8192, 1221 * 8192, 10**8, whole, 8 * whole)
    sizes = [jax.ShapeDtypeStruct((k, p), jnp.float32) for p in lengths]
    gram = [temporaries(gram_matrix, [x]) for x in sizes]
    update = [temporaries(weighted_sum, w, [x]) for x in sizes]
    assert max(gram) < 2**20 and gram[4] <= gram[3] + 1024
    assert k < 50 or gram[2] < 2**19 < gram[1]  # by tiles, which count no farther than a row
    assert max(update) < 4096


def as_users(code):
    """What Python code prints in a process with the code generator that users have (conftest)."""
    command, env = [sys.executable, "-c", code], os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


PROGRAM = """
import jax, jax.numpy as jnp
from mtrl_jax.surgery import gram_matrix
x = jax.ShapeDtypeStruct((10, 10**6), jnp.float32)
print(jax.jit(gram_matrix).lower([x]).compile().as_text())
"""


@pytest.mark.skipif(CORES < 2, reason="one core")
def test_the_loop_over_pairs_is_divided_among_cores():
    """What XLA says of its own program; a later version that loses this loses half the speed."""
    program = as_users(PROGRAM)
    assert 'outer_dimension_partitions":["' in program and "xla_cpu_small_call" not in program


@pytest.mark.parametrize("k", [10, 50])
def test_bfloat16_gradients_are_not_widened_as_a_whole(k):
    p = 10**6
    x = jax.ShapeDtypeStruct((k, p), jnp.bfloat16)
    w = jax.ShapeDtypeStruct((k,), jnp.float32)
    assert temporaries(gram_matrix, [x]) < 2**20
    assert temporaries(weighted_sum, w, [x]) <= 16 * p  # a few float32 updates, not K of them


PEAK = """
import re, jax, jax.numpy as jnp
from mtrl_jax.surgery import gram_matrix
# Not ru_maxrss, which a process has from its parent.
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
# Each input is larger than all before it, so that the peak shows what is allocated beside it.
for k, n, dtype in ((2, 20_000_000, "bfloat16"), (10, 8_000_000, "bfloat16"),
                    (50, 2_000_000, "float16"), (60, 1_000_000, "float32"),
                    (10, 8_000_000, "float32")):
    x = jnp.ones((k, n), dtype)
    gram = jax.jit(gram_matrix).lower([x]).compile()
    before = peak()
    gram([x]).block_until_ready()
    print((peak() - before) / x.nbytes)
    del x, gram
"""


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM")
def test_peak_memory_as_the_kernel_sees_it():
    """What a dot allocates on its own is not in XLA's analysis: one over a whole leaf copies it."""
    growth = [float(line) for line in as_users(PEAK).split()]
    assert len(growth) == 5 and max(growth) < 0.2, growth
