"""What a platform gets in place of the plain dots, and whether it is still needed."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtrl_jax import surgery
from mtrl_jax.surgery import gram, gram_tpu
from tests.machinery import tiny

SHAPES = [(3,), (3, 70), (3, 6, 5), (10, 3, 3, 4, 5), (14, 6, 5), (1, 6, 5)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_accelerators_compute_equals_numpy(shape, dtype):
    """Run on the CPU: the plain dots, and the sums over pairs for a TPU."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.dtype(dtype))
    wide = np.asarray(x.astype(jnp.float32), np.float64)
    flat = wide.reshape(shape[0], -1)
    expected = flat @ flat.T
    forms = [gram._dot] + [gram_tpu.gram] * gram_tpu.takes(x)
    assert (gram_tpu.gram in forms) == (len(shape) > 2 and shape[0] > 1)
    for form in forms:
        got = form(x)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6 * expected.max())
    w = jnp.linspace(-1.0, 2.0, shape[0])
    weighted = np.tensordot(np.asarray(w, np.float64), wide, 1)
    got = gram._sum(w, x)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, weighted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [2, 12, 17])
def test_accelerators_neither_reshape_nor_transpose_task_gradients(k):
    """In the program that is handed to their compilers; each would be a copy into other tiles.

    `[1, ...] -> [...]` is none, and how a row of a leaf is taken.
    """
    shapes = {"w": (40, 24), "conv": (3, 3, 8, 16), "b": (24,)}
    params = {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}
    grads = {name: jax.ShapeDtypeStruct((k, *s), jnp.float32) for name, s in shapes.items()}
    tx = optax.chain(surgery.pcgrad(num_tasks=k), optax.adam(1e-3))
    traced = jax.jit(tx.update).trace(grads, jax.eval_shape(tx.init, params), params)
    sizes = {k * int(np.prod(s)) for s in shapes.values()}
    for platform in ("tpu", "cuda"):
        program = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo" in program
        moved = re.findall(
            r"stablehlo\.(?:reshape|transpose) .*: \(tensor<([\dx]+)xf32>\)", program
        )
        assert moved, "the pattern finds nothing at all"
        found = [m for m in moved if int(np.prod([int(n) for n in m.split("x")])) in sizes]
        assert found == []


PEAK = """
import re, jax, jax.numpy as jnp
from mtrl_jax.surgery import gram
# Not ru_maxrss, which a process has from its parent.
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
x = jnp.ones((10, 8_000_000), "float32")
dot = jax.jit(gram._dot).lower(x).compile()
before = peak()
dot(x).block_until_ready()
print((peak() - before) / x.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM")
def test_the_cpu_still_copies_a_leaf_for_its_dot():
    """When this fails, `gram_cpu.gram` can go: see its file."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, timeout=120
    )
    assert float(done.stdout) > 0.5, done.stdout


@pytest.mark.parametrize(
    "form, dtype", [("sum", "bfloat16"), ("sum", "float16"), ("dot", "float16")]
)
def test_the_cpu_still_widens_narrow_gradients_as_a_whole(form, dtype):
    """When this fails, `gram_cpu` needs no path of its own for them."""
    x = jax.ShapeDtypeStruct((50, 10**6), jnp.dtype(dtype))
    w = jax.ShapeDtypeStruct((50,), jnp.float32)
    with tiny.quick_compiles(False):
        lowered = jax.jit(gram._sum).lower(w, x) if form == "sum" else jax.jit(gram._dot).lower(x)
        program = lowered.compile()
    assert program.memory_analysis().temp_size_in_bytes >= 4 * 50 * 10**6
