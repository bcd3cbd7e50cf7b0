"""The bytes that surgery moves on a TPU, by the TPU's own compiler; no TPU is needed or looked for.

pip install -e '.[tpu-compile,test]' && pytest tests/machinery/test_surgery_tpu.py
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from timings.tpu import COMPILE_ONLY, tiles

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: the extra tpu-compile"
)


def run(*command):
    """In a process of its own, since jax and libtpu read these variables when they are loaded."""
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | COMPILE_ONLY,
        capture_output=True,
        text=True,
        check=False,
        timeout=390,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_step_with_surgery_is_one_write_and_two_reads_of_the_task_gradients(tmp_path):
    """Of which the limit is the sum; and the mean of per-task gradients stores none."""
    run("-m", "timings.tpu", "--tasks", "2", "10", "--devices", "v5e", f"--out={tmp_path}")
    rows = [json.loads(line) for line in (tmp_path / "tpu.jsonl").read_text().splitlines()]
    cost = {(row["tasks"], row["step"]): row for row in rows}
    assert set(cost) == {(k, name) for k in (2, 10) for name in ("plain", "mean", "pcgrad")}
    for k, most in ((2, 1.5), (10, 2.1)):
        pcgrad = cost[k, "pcgrad"]
        assert pcgrad["bytes"] < 1.15 * pcgrad["limit_bytes"]
        assert pcgrad["bytes/plain"] < most and pcgrad["microseconds/plain"] < most
        assert cost[k, "mean"]["bytes/plain"] < 1.15
        assert 0 < pcgrad["microseconds"] < 1000
        one_pass = 2 * tiles((k, 400, 400))
        assert pcgrad["bytes"] - cost[k, "plain"]["bytes"] > 2.5 * one_pass  # or uncounted


CYCLES = """
import re, jax, jax.numpy as jnp
from mtrl_jax.surgery import gram, gram_tpu
from timings.tpu import device_of
sharding = jax.sharding.SingleDeviceSharding(device_of("v5e"))
x = jax.ShapeDtypeStruct((10, 400, 400), jnp.float32, sharding=sharding)
for form in (gram._dot, gram_tpu.gram):
    program = jax.jit(form).lower(x).compile()
    cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\\d+)"', program.as_text())))
    print(cycles, program.cost_analysis()["bytes accessed"])
"""


def test_the_dot_of_few_tasks_still_takes_longer_than_sums_over_pairs():
    """When this fails, `gram_tpu` can go: see its file."""
    lines = [line.split() for line in run("-c", CYCLES).splitlines()]
    (dot_cycles, dot_bytes), (sum_cycles, sum_bytes) = [(int(c), float(b)) for c, b in lines]
    assert sum_cycles < 0.6 * dot_cycles
    assert sum_bytes < 1.05 * dot_bytes < 1.1 * tiles((10, 400, 400))
