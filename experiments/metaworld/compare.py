r"""Trains several methods of surgery on one benchmark, equal seeds and budgets: table and figure.

    python -m experiments.metaworld.compare                                # MT10, mean and pcgrad
    python -m experiments.metaworld.compare --surgeries=mean,cagrad --num_seeds=5 --algorithm=sac

Takes the flags of experiments.metaworld. Runs come one after the other; the same command continues
where it stopped, and on a finished comparison only draws. Two shells with different --surgeries
may share a --workdir, to keep two cores busy.
"""

import json
import pathlib

from absl import flags

from mtrl_jax import surgery

from ..common import binary, given, run_flags, task_flags
from . import report, run

_SURGERIES = flags.DEFINE_list("surgeries", ["mean", "pcgrad"], "Methods of mtrl_jax.surgery.")
_OUT = flags.DEFINE_string(
    "out",
    None,
    "The PNG to write; the results go beside it as JSON lines, one a run. (default: "
    "<workdir>/comparison.png)",
)


def main() -> None:
    run_flags.start()
    binary.refuse("suite", "permute_actions", "num_processes")
    methods = given.names(_SURGERIES, surgery.METHODS)
    first = run_flags.seed()
    seeds = range(first, first + flags.FLAGS.num_seeds)
    runs = {m: [run.plan(m, seed) for seed in seeds] for m in methods}
    spec = runs[methods[0]][0].suite.spec
    folder = run_flags.workdir("metaworld_compare", flags.FLAGS.benchmark)
    out = given.out(pathlib.Path(_OUT.value or folder / "comparison.png"))
    folders = {m: [folder / plan.name for plan in plans] for m, plans in runs.items()}
    results = {
        m: [run.train_and_score(*pair) for pair in zip(plans, folders[m], strict=True)]
        for m, plans in runs.items()
    }
    report.curves(spec, folders, out)
    with out.with_suffix(".jsonl").open("w") as file:
        for m, group in results.items():
            for seed, result in zip(seeds, group, strict=True):
                file.write(json.dumps({"surgery": m, "seed": seed, **result}) + "\n")
    report.compare(spec, results)
    print(f"\ncurves   {out}\nresults  {out.with_suffix('.jsonl')}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(run)
    flags.adopt_module_key_flags(task_flags)
    flags.FLAGS.set_default("num_seeds", 5)
    binary.main(main)
