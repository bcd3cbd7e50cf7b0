"""Whether everything compiles for a TPU and is no larger than it was, by the TPU's own compiler.

    python -m timings.tpu_gate                   # what .ci/tpu runs
    python -m timings.tpu_gate --only dqn v6e    # cells whose names have one of these words
    python -m timings.tpu_gate --write           # the table anew, once a growth is meant

Every functional suite with every algorithm (a whole dispatch on one v5e, of three suites also on
four and on a v6e; an evaluation, which is of one device), the columns of Distral's other
algorithms, episodic control on two games, tabular soft Q-learning, the updates of agents on host
suites, a step of every method of surgery, and the losses in bfloat16. It fails on what does not
compile, on more than 16 GB of memory, and where temporaries or bytes have grown by more than a
tenth of what `results/tpu_gate.jsonl` says. A loop's body is counted once in the bytes. Nothing is
run, and no TPU is looked for; it needs the extra tpu-compile, of the versions that the table names
(another compiler makes other programs).
"""

import argparse
import concurrent.futures
import datetime
import itertools
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from timings.tpu import COMPILE_ONLY

TABLE = pathlib.Path(__file__).parent / "results" / "tpu_gate.jsonl"
ENVIRONMENT = {**COMPILE_ONLY, "JAX_NUM_CPU_DEVICES": "4", "JAX_ENABLE_COMPILATION_CACHE": "0"}
KINDS = {"v5e": ("v5e", 1), "v5e x4": ("v5e", 4), "v6e": ("v6e", 1)}
ELSEWHERE = ("maze8", "small_games", "two_rooms")  # suites that are compiled for every kind
MOST_BYTES = 16 * 2**30  # of a v5e
GROWTH, SLACK = 1.1, {"bytes": 0, "temporaries": 2**16}
SURGERY_TASKS = 10


def cells() -> dict[str, Callable[[], Any]]:
    """Name to what lowers it."""
    from mtrl_jax import surgery
    from timings import tpu_losses, tpu_programs

    found: dict[str, Callable[[], Any]] = {}
    for kind, (chip, count) in KINDS.items():
        suites = tpu_programs.SUITES if kind == "v5e" else ELSEWHERE
        for suite, name in itertools.product(suites, tpu_programs.AGENTS):
            found[f"{kind}: {suite}, {name}, train"] = partial(_train, chip, count, suite, name)
            if kind == "v5e":
                found[f"{kind}: {suite}, {name}, evaluate"] = partial(_evaluate, chip, suite, name)
        for name in tpu_programs.HOST:
            found[f"{kind}: mt10, {name}, learn"] = partial(_learn, chip, count, name)
    for name in tpu_programs.DISTRAL:
        found[f"v5e: maze8, distral {name}, train"] = partial(_train, "v5e", 1, "maze8", name)
    for name in tpu_programs.EPISODIC:
        found[f"v5e: two games, {name}, train"] = partial(_tables, name)
    found["v5e: two_rooms, soft_q, train"] = _tabular
    for method in surgery.METHODS:
        found[f"v5e: surgery, {method}"] = partial(_surgery, method)
    for name in tpu_losses.losses():
        found[f"v5e: loss in bfloat16, {name}"] = partial(_loss, name)
    return found


def _train(chip: str, count: int, suite: str, name: str) -> Any:
    from timings.tpu_programs import AGENTS, DISTRAL, SUITES, training

    return training(SUITES[suite](), (AGENTS | DISTRAL)[name], devices(chip, count))


def _tables(name: str) -> Any:
    from timings.tpu_programs import EPISODIC, TWO_GAMES, training

    return training(TWO_GAMES(), EPISODIC[name], devices("v5e", 1))


def _evaluate(chip: str, suite: str, name: str) -> Any:
    from timings.tpu_programs import AGENTS, SUITES, evaluation

    return evaluation(SUITES[suite](), AGENTS[name], devices(chip, 1)[0])


def _learn(chip: str, count: int, name: str) -> Any:
    from timings.tpu_programs import HOST, MT10, learning

    return learning(MT10, HOST[name], devices(chip, count))


def _tabular() -> Any:
    from timings import tpu_programs

    return tpu_programs.tabular(devices("v5e", 1)[0])


def _loss(name: str) -> Any:
    from timings import tpu_losses, tpu_programs

    return tpu_programs.lowered(*tpu_losses.losses()[name], devices("v5e", 1)[0])


def devices(chip: str, count: int) -> Sequence[Any]:
    from jax.experimental import topologies

    from timings.tpu import TOPOLOGIES

    found = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip]).devices
    return found[:count]


def _surgery(method: str) -> Any:
    import optax

    from mtrl_jax import surgery
    from timings import tpu, tpu_programs

    tx = optax.chain(surgery.METHODS[method](num_tasks=SURGERY_TASKS, seed=0), optax.adam(3e-4))
    arguments = tpu.shapes(tx, SURGERY_TASKS)
    return tpu_programs.lowered(tpu.surgery_step(tx), arguments, devices("v5e", 1)[0])


def measured(name: str) -> dict[str, Any]:
    """What the compiler says of a cell, or why it does not compile."""
    start = time.process_time()
    try:
        program = cells()[name]().compile()
    except Exception as error:
        return {"cell": name, "error": " ".join(str(error).split())[:500]}
    memory, seconds = program.memory_analysis(), time.process_time() - start
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    kept -= memory.alias_size_in_bytes
    return {
        "cell": name,
        "memory": kept + memory.temp_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "bytes": program.cost_analysis()["bytes accessed"],
        "flops": program.cost_analysis()["flops"],
        "seconds": round(seconds, 1),
    }


def problems(rows: Sequence[dict[str, Any]], table: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong with these cells, a sentence each.

    Args:
      rows: of `measured`.
      table: what is committed, by cell.
    """
    found = []
    for row in rows:
        name = row["cell"]
        if "error" in row:
            found.append(f"{name} does not compile: {row['error']}")
            continue
        if row["memory"] > MOST_BYTES:
            found.append(f"{name} takes {row['memory'] / 2**30:.1f} GiB of a v5e's 16")
        if name not in table:
            found.append(f"{name} is not in the table: --write")
            continue
        for what, slack in SLACK.items():
            before = table[name][what]
            if row[what] > GROWTH * before + slack:
                found.append(f"{name}: {what} grew from {before:,.0f} to {row[what]:,.0f}")
    return found


def read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The table, by cell; {} if there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["cell"]: row for row in map(json.loads, lines)}


def run(names: Sequence[str], workers: int) -> Iterator[dict[str, Any]]:
    """All cells, in so many processes, as they end."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        for done in concurrent.futures.as_completed([pool.submit(measured, n) for n in names]):
            row = done.result()
            if "error" in row:
                print(f"{row['cell']:40} does not compile", flush=True)
            else:
                print(
                    f"{row['cell']:40} {row['memory'] / 2**20:8.1f} MiB, temporary "
                    f"{row['temporaries'] / 2**20:8.2f}, {row['bytes'] / 1e6:9.1f} MB moved, "
                    f"compiled in {row['seconds']:5.1f} s",
                    flush=True,
                )
            yield row


def write(rows: Sequence[dict[str, Any]], about: dict[str, str]) -> None:
    """Puts cells into the table, in the order of `cells`; those that are no more go."""
    about = {"date": datetime.date.today().isoformat()} | about
    table = read(TABLE) | {row["cell"]: about | row for row in rows if "error" not in row}
    lines = [json.dumps(table[name]) + "\n" for name in cells() if name in table]
    TABLE.write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[""], help="words of the cells' names")
    parser.add_argument("--write", action="store_true", help="write what is found into the table")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        command = [sys.executable, "-m", "timings.tpu_gate", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | ENVIRONMENT)
    import jax
    import libtpu

    about = {"jax": jax.__version__, "libtpu": libtpu.__version__}
    table, start = read(TABLE), time.monotonic()
    names = [name for name in cells() if any(word in name for word in args.only)]
    names.sort(key=lambda name: -table.get(name, {}).get("seconds", 1e9))  # the longest first
    rows = []
    for row in run(names, args.workers):
        rows.append(row)
        if args.write:
            write(rows, about)
    table = read(TABLE)
    wrong = problems(rows, table)
    other = {row["libtpu"] for row in table.values()} - {about["libtpu"]}
    if wrong and other:
        wrong.append(f"(the table is of libtpu {', '.join(sorted(other))}, this is {about})")
    print("\n".join(wrong))
    print(f"{len(rows)} cells in {time.monotonic() - start:.0f} s, {len(wrong)} problems")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
