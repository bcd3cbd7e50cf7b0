"""Which columns of a progressive network each task depends on."""

import pathlib
from collections.abc import Sequence
from typing import Any

import absl.logging
import jax
import numpy as np

from mtrl_jax import continual as methods
from mtrl_jax import engines, plots
from mtrl_jax.algorithms import continual

from ..common import runs
from ..common.report import write_lines
from .plan import Block, parts
from .sequence import Plan

__all__ = ["FILE", "METHOD", "draw", "sensitivity_of", "show"]

METHOD = "progressive"
FILE = "sensitivity.jsonl"


def sensitivity_of(made: continual.Parts, state: continual.State) -> jax.Array:
    """Fisher sensitivity `[L, N]` of the task that `state` has learnt; see
    `mtrl_jax.continual.columns`."""
    of = made.learner
    at = of.situation(state.learner, state.task, state.done, state.seen, True)
    actor = methods.part_of(of.shared(state.learner), of.part)
    own = jax.tree.map(lambda x: x[state.task], at.own)
    module, branch, x = of.network(state.learner, state.task, at.seen)
    columns = methods.part_of(actor, branch)
    variables = {"params": columns}
    _, seen = module.apply(variables, x, state.task, mutable=["intermediates"])
    said = [seen["intermediates"][f"h{i}"][0] for i in range(len(module.hidden))]

    def policy(columns: Any, observation: Any) -> Any:
        whole = methods.with_part(actor, branch, columns)
        found = at.policy(whole, own, observation[None], state.task)
        return jax.tree.map(lambda x: x[0], found)

    return methods.sensitivity(policy, columns, said, at.seen)


def show(plan: Plan, blocks: Sequence[Block]) -> None:
    """Prints a row for each task and layer, writes a line a task, and draws them.

    Args:
      plan: of the sequence.
      blocks: of `METHOD`, all of them trained.
    """
    made = parts(plan, METHOD)
    agent = continual.agent(made)
    one = jax.jit(engines.over_seeds(plan.run, lambda state: sensitivity_of(made, state)))
    found = []
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write
    for block in blocks:
        _, state = runs.restore(block.folder, block.run, block.suite, agent)
        found.append(np.atleast_3d(one(state)).reshape(plan.run.num_seeds, -1, len(blocks)))
    names = plan.suite.spec.task_names
    lines = [
        {"task": name, "algorithm": plan.algorithm, "sensitivity": np.round(x, 4).tolist()}
        for name, x in zip(names, found, strict=True)
    ]
    path = plan.folder / FILE
    write_lines(path, lines)
    means = [x.mean(0) for x in found]
    print("\nFisher sensitivity to each column, by layer from the input on (mean over agents):")
    for k, (name, x) in enumerate(zip(names, means, strict=True)):
        for i, row in enumerate(x):
            cells = "".join(f"{share:8.2f}" for share in row[: k + 1])
            print(f"{name if i == 0 else '':14}layer {i + 1}{cells}")
    draw(means, names, plan.folder / "plots" / "sensitivity.png")
    print(f"\nsensitivities {path}")


def draw(means: Sequence[np.ndarray], names: Sequence[str], path: pathlib.Path) -> None:
    """A panel a task: its layers downwards, the columns that it reads to the right."""
    from matplotlib.figure import Figure  # not needed to learn

    n = len(names)
    figure = Figure(figsize=(2.2 + 1.3 * n, 2.4), layout="constrained")
    panels = figure.subplots(1, n, sharey=True, squeeze=False)[0]
    for k, (panel, name) in enumerate(zip(panels, names, strict=True)):
        image = panel.imshow(means[k][:, : k + 1], vmin=0.0, vmax=1.0, cmap="Blues", aspect="auto")
        panel.set_title(plots.short_task(name), fontsize=9)
        panel.set_xticks(range(k + 1), [str(j + 1) for j in range(k + 1)], fontsize=8)
    panels[0].set_yticks(range(len(means[0])), [str(i + 1) for i in range(len(means[0]))])
    panels[0].set_ylabel("layer", fontsize=9)
    figure.supxlabel("column", fontsize=9)
    figure.colorbar(image, ax=list(panels), label="share")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
