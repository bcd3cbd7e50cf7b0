"""The K x K part of every method that solves something: `python -m timings.solvers`.

From the Gram matrix of K random gradients to K weights, compiled, by itself: what a step pays
whatever the number of parameters is. Three kinds of gradients: `independent` (2 K parameters),
`dependent` (K / 2 parameters, so that rounding decides in half of all directions), and `scales`
(independent, norms over six decades). Seconds are medians of `--rounds`, of the clock and of the
processor (of all its cores, whatever else the machine does); `converged` is what the solver says of
itself, and `-` stands where a method is a formula.
"""

import argparse
import datetime
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import surgery
from mtrl_jax.surgery.cagrad import solve_cagrad
from mtrl_jax.surgery.dual_proj import solve_dual_proj
from mtrl_jax.surgery.fairgrad import solve_fairgrad
from mtrl_jax.surgery.mgda import solve_mgda
from mtrl_jax.surgery.nash_mtl import solve_nash_mtl
from mtrl_jax.surgery.quadratic import Solution
from mtrl_jax.surgery.upgrad import solve_upgrad

SOLVERS: dict[str, Callable[..., Any]] = {
    "aligned_mtl": surgery.aligned_mtl_weights,
    "cagrad": functools.partial(solve_cagrad, c=0.4),
    "config": surgery.config_weights,
    "dual_proj": solve_dual_proj,
    "fairgrad": functools.partial(solve_fairgrad, alpha=2.0),
    "imtl_g": surgery.imtl_g_weights,
    "mgda": solve_mgda,
    "nash_mtl": solve_nash_mtl,
    "upgrad": solve_upgrad,
}
KINDS = ("independent", "dependent", "scales")


def gram_of(kind: str, k: int) -> jax.Array:
    """The Gram matrix of K gradients, float32 `[K, K]`."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(k, max(1, k // 2) if kind == "dependent" else 2 * k))
    if kind == "scales":
        gradients *= 10.0 ** rng.uniform(-3, 3, (k, 1))
    return jnp.asarray(gradients @ gradients.T, jnp.float32)


def case(method: str, kind: str, k: int, rounds: int) -> dict[str, Any]:
    gram = gram_of(kind, k)
    solve = jax.jit(SOLVERS[method])
    found = jax.block_until_ready(solve(gram))  # compiled
    clocks = (time.perf_counter, time.process_time)
    seconds = []
    for _ in range(rounds):
        start = [clock() for clock in clocks]
        jax.block_until_ready(solve(gram))
        seconds.append([clock() - begin for clock, begin in zip(clocks, start, strict=True)])
    wall, cpu = np.median(seconds, axis=0)
    converged = bool(found.converged) if isinstance(found, Solution) else None
    return {
        "method": method,
        "gradients": kind,
        "tasks": k,
        "seconds": float(f"{wall:.3g}"),
        "cpu_seconds": float(f"{cpu:.3g}"),
        "converged": converged,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 100, 1000], help="numbers K")
    parser.add_argument("--methods", nargs="+", choices=list(SOLVERS), default=list(SOLVERS))
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, after one to warm up")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parent / "results",
        help="folder of solvers.jsonl, to which a line a row is appended",
    )
    args = parser.parse_args()
    about = {"date": datetime.date.today().isoformat(), "jax": jax.__version__}
    about["machine"] = f"{jax.default_backend()}, {os.cpu_count()} cores"
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "solvers.jsonl").open("a") as out:
        for k in args.tasks:
            for method in args.methods:
                for kind in KINDS:
                    row = case(method, kind, k, args.rounds)
                    said = {True: "yes", False: "NO", None: "-"}[row["converged"]]
                    print(
                        f"{method:12s} {kind:12s} K={k:<5d} {row['seconds']:9.4f} s  "
                        f"{row['cpu_seconds']:9.4f} s of a processor  {said}",
                        flush=True,
                    )
                    row["load"] = round(os.getloadavg()[0], 1)
                    out.write(json.dumps(about | row) + "\n")
                    out.flush()


if __name__ == "__main__":
    main()
