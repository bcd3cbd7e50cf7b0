"""What gradient surgery costs: medians of alternating runs in one process.

    python timings/surgery.py                          # surgery alone, then whole training steps
    python timings/surgery.py --tasks 2 10 --params 100_000 --rounds 31 --only surgery

Surgery alone, K task gradients of P float32 numbers:

    limit     the weighted sum alone, which any method pays
    gram      the Gram matrix alone; beside it `pass`, one read of the gradients (their sum, or the
              limit where that is faster), and `flops`, the K (K + 1) P floating-point operations of
              half a Gram matrix at the rate of a 1024 x 1024 matrix product in the same round
    pcgrad    one update of `surgery.pcgrad`, compiled
    torchjd   torchjd's PCGrad on the same matrix, if torch and torchjd are installed
    literal   algorithm 1 of the paper on vectors of length P, compiled by JAX

Whole steps: a network 49-400-400-400-8 (P = 344 008) with K batches, adam. `plain` is the gradient
of the mean loss over all batches; the others are per-task gradients, PCGrad, adam.

Ratios are medians over rounds of the ratio within a round, so that other work on the machine, which
slows both sides, mostly cancels; `best` is the ratio of the two fastest runs, the quietest view.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import itertools
import json
import os
import pathlib
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtrl_jax import surgery

FLOP_SIZE = 1024
WIDTHS = (49, 400, 400, 400, 8)


def alternate(runs, rounds, slow_after=1.0, slow_rounds=3):
    """Seconds of every run in every round; a run that takes long takes part in the first rounds."""
    seconds = {name: [] for name in runs}
    for run in runs.values():
        run()  # compiles, warms the caches
    for r in range(rounds):
        for name, run in runs.items():
            if r >= slow_rounds and seconds[name][0] > slow_after:
                continue
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds, name, base):
    """Median over rounds of name / base, and the ratio of their fastest runs."""
    pairs = zip(seconds[name], seconds[base], strict=False)
    return statistics.median(a / b for a, b in pairs), min(seconds[name]) / min(seconds[base])


def literal_pcgrad(jacobian, orders):
    """Algorithm 1 as printed: K (K - 1) projections of vectors of length P."""
    k = jacobian.shape[0]
    norms = jnp.sum(jacobian * jacobian, axis=1)

    def one_task(total, i):
        def project(p, j):
            dot = jnp.vdot(p, jacobian[j], precision="highest")
            a = jnp.where(dot < 0, dot / norms[j], 0.0)
            return p - a * jacobian[j], None

        p, _ = jax.lax.scan(project, jacobian[i], orders[i])
        return total + p, None

    return jax.lax.scan(one_task, jnp.zeros_like(jacobian[0]), jnp.arange(k))[0]


def torchjd_run(jacobian):
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("torchjd")):
        return None
    import torch
    from torchjd.aggregation import PCGrad

    torch.set_num_threads(os.cpu_count() or 1)
    matrix, aggregator = torch.from_numpy(jacobian), PCGrad()
    return lambda: aggregator(matrix)


def surgery_alone(k, p, args):
    rng = np.random.default_rng(0)
    host = rng.standard_normal((k, p), np.float32)
    grads, weights = jnp.asarray(host), jnp.asarray(rng.uniform(1, 2, k), jnp.float32)
    square = jnp.asarray(rng.standard_normal((FLOP_SIZE, FLOP_SIZE)), jnp.float32)
    orders = surgery.random_orders(jax.random.key(0), k)
    tx = surgery.pcgrad(num_tasks=k, seed=0)
    state = tx.init(jnp.zeros(p))
    update = jax.jit(tx.update)
    done = jax.block_until_ready

    def jitted(function, *operands):
        compiled = jax.jit(function)
        return lambda: done(compiled(*operands))

    runs = {
        "limit": jitted(surgery.weighted_sum, weights, grads),
        "sum": jitted(jnp.sum, grads),
        "matmul": jitted(lambda a: jnp.dot(a, a, precision="highest"), square),
        "gram": jitted(surgery.gram_matrix, grads),
        "pcgrad": lambda: done(update(grads, state)),
        "torchjd": torchjd_run(host),
        "literal": jitted(literal_pcgrad, grads, orders)
        if k * k * p <= args.literal_up_to
        else None,
    }
    seconds = alternate({n: r for n, r in runs.items() if r is not None}, args.rounds)
    work = [m * k * (k + 1) * p / (2 * FLOP_SIZE**3) for m in seconds["matmul"]]
    reads = [min(a, b) for a, b in zip(seconds["sum"], seconds["limit"], strict=True)]
    seconds["flops"], seconds["pass"] = work, reads
    seconds["needed"] = [max(a, b) for a, b in zip(work, reads, strict=True)]
    row = {"what": "surgery", "tasks": k, "params": p}
    row |= {f"{name}_ms": 1e3 * statistics.median(s) for name, s in seconds.items()}
    row["gram_temporary_bytes"] = temporary_bytes(surgery.gram_matrix, grads)
    row["pcgrad_temporary_bytes"] = temporary_bytes(tx.update, grads, state)
    for name, base in (
        ("pcgrad", "limit"),
        ("gram", "needed"),
        ("torchjd", "pcgrad"),
        ("literal", "pcgrad"),
    ):
        if name in seconds:
            row[f"{name}/{base}"], row[f"{name}/{base}_best"] = ratio(seconds, name, base)
    return row


def temporary_bytes(function, *operands):
    compiled = jax.jit(function).lower(*operands).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def network(key):
    keys = jax.random.split(key, len(WIDTHS) - 1)
    sizes = itertools.pairwise(WIDTHS)
    return [
        {"w": jax.random.normal(k, s) / s[0] ** 0.5, "b": jnp.zeros(s[1])}
        for k, s in zip(keys, sizes, strict=True)
    ]


def loss(params, batch):
    x, y = batch
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"][None])
    return jnp.mean((x @ params[-1]["w"] + params[-1]["b"][None] - y) ** 2)


def whole_step(k, args):
    params = network(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1))
    batch = (
        jax.random.normal(keys[0], (k, args.batch, WIDTHS[0])),
        jax.random.normal(keys[1], (k, args.batch, WIDTHS[-1])),
    )

    def plain(params, state, batch):
        flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch)
        updates, state = optax.adam(3e-4).update(jax.grad(loss)(params, flat), state, params)
        return optax.apply_updates(params, updates), state

    def stepper(tx, method):
        per_task = surgery.per_task_value_and_grad(loss, method=method)

        def step(params, state, batch):
            _, grads = per_task(params, batch)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return step

    pcgrad = optax.chain(surgery.pcgrad(num_tasks=k, seed=0), optax.adam(3e-4))
    mean = optax.chain(surgery.mean(num_tasks=k, diagnostics=False), optax.adam(3e-4))
    cases = {
        "plain": (plain, optax.adam(3e-4)),
        "mean_vmap": (stepper(mean, "vmap"), mean),
        "pcgrad_vmap": (stepper(pcgrad, "vmap"), pcgrad),
        "pcgrad_map": (stepper(pcgrad, "map"), pcgrad),
    }
    runs, row = {}, {"what": "step", "tasks": k, "batch": args.batch}
    for name, (step, tx) in cases.items():
        operands = (params, tx.init(params), batch)
        compiled = jax.jit(step).lower(*operands).compile()
        row[f"{name}_temporary_bytes"] = compiled.memory_analysis().temp_size_in_bytes
        runs[name] = lambda compiled=compiled, operands=operands: jax.block_until_ready(
            compiled(*operands)
        )
    seconds = alternate(runs, args.rounds)
    row |= {f"{name}_ms": 1e3 * statistics.median(s) for name, s in seconds.items()}
    for name in list(cases)[1:]:
        row[f"{name}/plain"], row[f"{name}/plain_best"] = ratio(seconds, name, "plain")
    return row


def machine():
    """Kind of machine, for the reader of the numbers; no host name."""
    model = platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x.split(":")[1].strip() for x in cpuinfo.read_text().splitlines() if "name" in x]
        model = names[0] if names else model
    return f"{jax.default_backend()}, {os.cpu_count()} cores, {model}"


def show(row):
    cells = [f"{row['what']} K={row['tasks']}" + (f" P={row['params']}" if "params" in row else "")]
    for name, value in row.items():
        if name.endswith("_ms"):
            cells.append(f"{name[:-3]} {value:.3g} ms")
        elif "/" in name and not name.endswith("_best"):
            cells.append(f"{name} {value:.2f} (best {row[name + '_best']:.2f})")
    print("  ".join(cells), flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--tasks", type=int, nargs="+", default=[2, 10, 50], help="numbers of tasks K"
    )
    parser.add_argument(
        "--params",
        type=int,
        nargs="+",
        default=[10**5, 10**6, 10**7],
        help="numbers of parameters P",
    )
    parser.add_argument("--batch", type=int, default=128, help="examples a task in a whole step")
    parser.add_argument("--rounds", type=int, default=15, help="alternating rounds (slow runs: 3)")
    parser.add_argument(
        "--literal_up_to", type=float, default=3e9, help="largest K*K*P at which `literal` runs"
    )
    parser.add_argument("--only", choices=["surgery", "step"], help="one half of the table")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parent / "results",
        help="folder of surgery_<jax version>.jsonl, to which a line a row is appended",
    )
    args = parser.parse_args()
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "jax": jax.__version__,
        "optax": optax.__version__,
        "rounds": args.rounds,
    }
    if importlib.util.find_spec("torchjd"):
        about |= {name: importlib.metadata.version(name) for name in ("torch", "torchjd")}
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / f"surgery_{jax.__version__}.jsonl").open("a") as out:
        jobs = [] if args.only == "step" else [(k, p) for k in args.tasks for p in args.params]
        jobs += [] if args.only == "surgery" else [(k, None) for k in args.tasks]
        for k, p in jobs:
            load = os.getloadavg()[0]
            row = whole_step(k, args) if p is None else surgery_alone(k, p, args)
            show(row)
            row = {n: float(f"{v:.4g}") if isinstance(v, float) else v for n, v in row.items()}
            out.write(json.dumps(about | {"load_before": round(load, 1)} | row) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
