r"""How final performance depends on the entropy cost and the learning rate, for each algorithm.

    python -m experiments.distral.robustness                       # maze8, 3 x 3 settings, 2 seeds
    python -m experiments.distral.robustness --entropy_costs=1e-3,1e-2,1e-1 --num_seeds=4

The plot of Teh et al. 2017 (arXiv 1707.04175): all runs of an algorithm, sorted by final
performance. A flat line is an algorithm that does not need tuning. All runs of an algorithm are one
program (functional suites only). The same command continues after the last finished algorithm.
"""

import json
import pathlib
from typing import Any

import numpy as np
from absl import flags

from mtrl_jax import engines, plots
from mtrl_jax.losses.distral import ALGORITHMS
from mtrl_jax.types import FunctionalSuite

from ..common import binary, given, run_flags, runs
from . import run
from .grid import Grid, check, settings_of, train
from .presets import PRESETS

_ALGORITHMS = flags.DEFINE_list("algorithms", list(ALGORITHMS), "Rows of the paper's Table 1.")
_COSTS = flags.DEFINE_list("entropy_costs", ["1e-3", "1e-2", "1e-1"], "Values of 1/beta.")
_RATES = flags.DEFINE_list("learning_rates", ["3e-4", "1e-3", "3e-3"], "Initial learning rates.")
# Of a run that is written down, which these are not.
UNUSED = (
    "log_every",
    "eval_every",
    "checkpoint_every",
    "keep",
    "keep_best",
    "eval_episodes",
    "early_episodes",
    "writers",
    "stagger",
)

_OUT = flags.DEFINE_string(
    "out",
    None,
    "The PNG to write; the numbers go beside it as JSON lines, one an algorithm. "
    "(default: runs/distral_robustness/<suite>.png)",
)


def draw(lines: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Final returns of all runs, sorted, one line an algorithm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axis = plt.subplots(figsize=(6.8, 4.2))
    for colour, row in zip(plots.COLOURS * 9, lines, strict=False):
        final = sorted((run["final"] for run in row["runs"]), reverse=True)
        axis.plot(
            range(1, len(final) + 1),
            final,
            "o-",
            color=colour,
            label=plots.readable(row["algorithm"]),
            markersize=3.5,
            linewidth=1.4,
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("runs over settings and seeds, best first")
    axis.set_ylabel("final return, mean over tasks")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    run_flags.start()
    binary.refuse("num_devices", "workdir", *UNUSED)
    suite_settings = run_flags.suite_settings()
    suite = runs.make_suite(suite_settings)
    if not isinstance(suite, FunctionalSuite):
        raise ValueError(f"--suite must be a functional one (maze8); got {suite_settings['suite']}")
    preset = PRESETS.get(suite_settings["suite"], PRESETS[""])
    run_config = run_flags.run_config(preset["run"], suite.spec)
    seeds = range(run_config.seed, run_config.seed + run_config.num_seeds)
    grid = Grid(given.numbers(_RATES), given.numbers(_COSTS), list(seeds))

    out = pathlib.Path(_OUT.value or f"runs/distral_robustness/{suite_settings['suite']}.png")
    given.out(out)
    engines.check(run_config, suite)
    configs = {name: run.config_of(name, preset) for name in given.names(_ALGORITHMS, ALGORITHMS)}
    for config in configs.values():
        check(suite, config, grid)
    numbers = out.with_suffix(".jsonl")
    lines: list[dict[str, Any]] = []
    if numbers.exists():
        lines = [json.loads(text) for text in numbers.read_text().splitlines()]
    for name, config in configs.items():
        settings = settings_of(suite_settings, run_config, config, grid)
        old = next((row for row in lines if row["algorithm"] == name), None)
        if old is not None:
            if old["settings"] != settings:
                raise ValueError(f"--out: {numbers} holds runs of other settings")
            continue
        found = train(suite, run_config, config, grid)
        lines.append({"algorithm": name, "settings": settings, "runs": found})
        out.parent.mkdir(parents=True, exist_ok=True)
        with numbers.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    lines.sort(key=lambda row: list(ALGORITHMS).index(row["algorithm"]))
    draw(lines, out)
    print("\nFinal return, mean over tasks:   best   median    worst")
    for row in lines:
        final = np.array([found["final"] for found in row["runs"]])
        print(
            f"{row['algorithm']:28} {final.max():8.3g} {np.median(final):8.3g} {final.min():8.3g}"
        )
    print(f"\nfigure   {out}\nnumbers  {numbers}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(run)
    flags.FLAGS.set_default("num_seeds", 2)
    flags.FLAGS.set_default("suite", "maze8")
    binary.main(main)
