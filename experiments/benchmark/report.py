r"""Turns the results of the benchmark into one HTML page and PNG figures.

    python -m experiments.benchmark.report --workdir=runs/benchmark/maze8
    python -m experiments.benchmark.report --results=a/results.jsonl,b --out=report.html
    python -m experiments.benchmark.report --workdir=runs/benchmark/small --continual=runs/x

Several tables of the same games become one report; what is not finished is left out. Runs of
experiments.continual get a section each, with Continual World's numbers. The page needs no other
file. docs/benchmark.md says what each number means.
"""

import datetime
import json
import pathlib
import shlex
import sys
from typing import Any

from absl import flags

import mtrl_jax
from mtrl_jax import metrics
from mtrl_jax.benchmark import in_sequence, results, sections, study
from mtrl_jax.benchmark.page import Section, write
from mtrl_jax.benchmark.study import Study

from ..common import binary, given, runs


def define_flags() -> None:
    """Its own; a process that only reads tables has none."""
    flags.DEFINE_string("workdir", None, "Directory of a run of the benchmark.")
    flags.DEFINE_list(
        "results", [], "Tables to read, or folders that hold one. (default: that of --workdir)"
    )
    flags.DEFINE_list(
        "continual", [], "Finished runs of experiments.continual (directories, or their tables)."
    )
    flags.DEFINE_string("out", None, "The page. (default: report.html beside the first table)")


def read(paths: list[pathlib.Path]) -> tuple[Study, list[dict[str, Any]]]:
    """The study of all tables, and their rows; controls are taken from the first.

    Raises:
      ValueError: for a table that is missing, empty, or of other games.
    """
    rows: list[dict[str, Any]] = []
    for path in paths:
        file = path / results.FILE if path.is_dir() else path
        found = metrics.read_jsonl(file)
        if not found:
            raise ValueError(f"--results: {file} holds no results")
        have = {row["cell"] for row in rows}
        rows += [row for row in found if row["cell"] not in have]
    return study.read(rows), rows


def main() -> None:
    paths = [pathlib.Path(p) for p in flags.FLAGS.results] or [runs.existing(flags.FLAGS.workdir)]
    beside = paths[0] if paths[0].is_dir() else paths[0].parent
    out = given.out(pathlib.Path(flags.FLAGS.out or beside / "report.html"), (".html",))
    sequences = [in_sequence.read(pathlib.Path(p)) for p in flags.FLAGS.continual]
    s, rows = read(paths)
    parts = sections.every(s, rows) + [in_sequence.section(lines) for lines in sequences]
    config = beside / "config.json"
    if config.exists():
        text = "Counts are environment steps, reset rows included."
        pairs = [[k, str(v)] for k, v in json.loads(config.read_text()).items()]
        parts.append(Section("Settings", text, (), ("setting", "value"), pairs))
    out.parent.mkdir(parents=True, exist_ok=True)
    learning = sum(record.learns for record in s.records.values())
    title = f"Transfer benchmark: {learning} agents on {len(s.games)} games"
    for path in write(out, title, parts, facts(paths)):
        print(path)


def facts(paths: list[pathlib.Path]) -> list[str]:
    """When the page was made, by whom, and of what."""
    today = datetime.date.today().isoformat()
    command = " ".join([binary.command("benchmark.report"), *map(shlex.quote, sys.argv[1:])])
    files = [path / results.FILE if path.is_dir() else path for path in paths]
    written = max(datetime.date.fromtimestamp(file.stat().st_mtime) for file in files)
    return [
        f"Made on {today} with mtrl_jax {mtrl_jax.__version__} by `{command}`.",
        f"Results of {', '.join(f'`{file}`' for file in files)}, last written on {written}.",
    ]


if __name__ == "__main__":
    define_flags()
    binary.main(main)
