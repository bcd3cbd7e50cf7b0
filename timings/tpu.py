"""What a step of gradient surgery costs on a TPU, by the TPU's own compiler, without a TPU.

    python -m timings.tpu                             # the mean and PCGrad, for v5e and v6e
    python -m timings.tpu --methods all --tasks 10 --devices v5e
    python -m timings.tpu --methods pcgrad --passes   # also arrays of more than 1 % of the bytes

libtpu compiles on a machine that has no TPU (`pip install 'mtrl_jax[tpu-compile]'`). Nothing is
run and nothing is timed but the compilation, in seconds of a processor: `bytes` and `flops` are
those of the compiled program, and `microseconds` is the compiler's own estimate, by which all these
steps are bound by memory. A loop's body is counted once. Bytes are those of whole tiles of 8 x 128
numbers: 400 columns take 512.

The network is that of `timings.surgery` (49-400-400-400-8, 128 examples a task, adam). `plain` is
the gradient of the mean loss over all tasks. `limit` is that plus one write and two reads of the
task gradients: what no program saves that stores them, looks at them, and weighs them.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import re
import sys
import time

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import surgery
from timings.surgery import WIDTHS, loss, network

# Without these libtpu looks for a TPU; they are read when jax and libtpu are loaded.
COMPILE_ONLY = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it locks the machine for one process, which suits a TPU
}
TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2"}
BATCH = 128


def device_of(name):
    """A device to compile for, not to run on."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[name]).devices[0]


def plain_step(params, state, batch):
    def mean_loss(params):
        return jnp.mean(jax.vmap(loss, (None, 0))(params, batch))

    updates, state = optax.adam(3e-4).update(jax.grad(mean_loss)(params), state, params)
    return optax.apply_updates(params, updates), state


def surgery_step(tx):
    def step(params, state, batch):
        losses, grads = surgery.per_task_value_and_grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params, task_losses=losses)
        return optax.apply_updates(params, updates), state

    return step


def shapes(tx, k):
    """Of parameters, an optimiser's state and a batch: what a step takes."""
    params = jax.eval_shape(network, jax.random.key(0))
    batch = tuple(jax.ShapeDtypeStruct((k, BATCH, n), jnp.float32) for n in (WIDTHS[0], WIDTHS[-1]))
    return params, jax.eval_shape(tx.init, params), batch


def compiled(step, tx, k, device):
    """The compiled step, and the seconds of a processor that took."""
    sharding = jax.sharding.SingleDeviceSharding(device)

    def place(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    placed = jax.tree.map(place, shapes(tx, k))
    start = time.process_time()
    program = jax.jit(step).lower(*placed).compile()
    return program, time.process_time() - start


def tiles(shape):
    """Bytes of a float32 array in whole tiles of 8 x 128 numbers, either of its last axes along."""
    *lead, rows, columns = (1, 1, *shape)
    sizes = [-(-a // 8) * 8 * (-(-b // 128) * 128) for a, b in ((rows, columns), (columns, rows))]
    return 4 * math.prod(lead) * min(sizes)


def limit_bytes(plain, k):
    """Bytes of the plain step and of three passes over the task gradients."""
    leaves = jax.tree.leaves(jax.eval_shape(network, jax.random.key(0)))
    return plain + 3 * sum(tiles((k, *leaf.shape)) for leaf in leaves)


def cost(program):
    """Bytes, flops, estimated microseconds; each loop of unknown length takes a second off."""
    found = program.cost_analysis()
    seconds = found["optimal_seconds"] % 1.0
    return {
        "bytes": found["bytes accessed"],
        "flops": found["flops"],
        "microseconds": 1e6 * seconds,
    }


def passes(program, least):
    """`(shape, operation, source)` of every instruction whose result has at least so many bytes."""
    text = program.as_text()
    for line in text[text.index("\nENTRY") :].splitlines():
        found = re.match(r"\s+(?:ROOT )?%\S+ = (.*?) ([a-z][\w-]*)\(", line)
        if not found or found[2] in ("parameter", "get-tuple-element", "tuple", "bitcast"):
            continue
        shapes = re.findall(r"f32\[([\d,]+)\]", found[1])
        size = sum(tiles(tuple(map(int, s.split(",")))) for s in shapes)
        source = re.search(r'op_name="([^"]*)"', line)
        if size >= least:
            yield found[1], found[2], source[1] if source else ""


def rows_of(name, k, methods, args):
    """One row a step: the plain one first, then the methods."""
    device, adam = device_of(name), optax.adam(3e-4)
    steps = {"plain": (plain_step, adam)}
    for method in methods:
        tx = optax.chain(surgery.METHODS[method](num_tasks=k, seed=0), adam)
        steps[method] = (surgery_step(tx), tx)
    plain = None
    for what, (step, tx) in steps.items():
        program, seconds = compiled(step, tx, k, device)
        row = {"device": name, "tasks": k, "step": what} | cost(program)
        plain = plain or row
        row |= {"compile_seconds": seconds, "limit_bytes": limit_bytes(plain["bytes"], k)}
        row |= {"bytes/plain": row["bytes"] / plain["bytes"]}
        row |= {"microseconds/plain": row["microseconds"] / plain["microseconds"]}
        yield row
        if args.passes:
            for shape, operation, source in passes(program, 0.01 * row["bytes"]):
                print(f"    {operation:12s} {shape}  {source}")


def show(row):
    print(
        f"{row['device']} K={row['tasks']:<3d} {row['step']:22s} {row['bytes'] / 1e6:7.1f} MB "
        f"(limit {row['limit_bytes'] / 1e6:.1f})  {row['flops'] / 1e6:8.0f} Mflop "
        f"{row['microseconds']:8.1f} us  x{row['microseconds/plain']:.2f} "
        f" compiled in {row['compile_seconds']:.1f} s",
        flush=True,
    )


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 10, 50], help="numbers K")
    parser.add_argument("--devices", nargs="+", choices=list(TOPOLOGIES), default=list(TOPOLOGIES))
    parser.add_argument("--methods", nargs="+", default=["mean", "pcgrad"], help="or: all")
    parser.add_argument("--passes", action="store_true", help="print large instructions")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parent / "results",
        help="folder of tpu.jsonl, to which a line a row is appended",
    )
    return parser.parse_args()


def main():
    args = parse()
    if any(os.environ.get(name) != value for name, value in COMPILE_ONLY.items()):
        os.execve(
            sys.executable,
            [sys.executable, "-m", "timings.tpu", *sys.argv[1:]],
            os.environ | COMPILE_ONLY,
        )
    import libtpu

    methods = list(surgery.METHODS) if args.methods == ["all"] else args.methods
    about = {"date": datetime.date.today().isoformat(), "jax": jax.__version__}
    about |= {"libtpu": libtpu.__version__}
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "tpu.jsonl").open("a") as out:
        for name in args.devices:
            for k in args.tasks:
                for row in rows_of(name, k, methods, args):
                    show(row)
                    row = {
                        n: float(f"{v:.4g}") if isinstance(v, float) else v for n, v in row.items()
                    }
                    out.write(json.dumps(about | row) + "\n")
                    out.flush()


if __name__ == "__main__":
    main()
