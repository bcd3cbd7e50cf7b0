"""A network that grows while it learns, beside the bigger one from scratch: handwritten digits.

    python -m experiments.morph
    python -m experiments.morph --width=16 --factor=8 --noise=0.02 --workdir=runs/morph/wide

Trains a small network (two hidden layers), widens both by --factor and inserts a third (Net2Net:
Chen et al. 2015), then goes on, with adam's moments carried over or from zero. `scratch` is the
big network from random parameters, `stays small` the one that never grew. Prints a table of test
accuracy at equal steps of the big network, and writes config.json, metrics.jsonl and
plots/morph.png; the same command writes them anew.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common, morph_report
from experiments.morph_train import Config, Net, start, train
from mtrl_jax import workdir
from mtrl_jax.networks import morph


def grow(config: Config, params: Any, state: Any, seed: int) -> tuple[Any, Any]:
    """Net2Net of one seed: both layers wider, and a third behind them."""
    old, new = config.width, config.width * config.factor
    wider: list[Any] = []  # mypy does not see that a NamedTuple can be called
    for n, reader in enumerate(("dense1", "out")):
        key = jax.random.fold_in(jax.random.key(seed), n)
        edits = (*morph.outputs(f"dense{n}"), *morph.inputs(reader))
        wider.append(morph.Wider(morph.copies(old, new, key), edits, config.noise, key))
    deeper: Any = morph.Deeper("dense2", morph.identity("dense", new, nn.relu), like="dense1")
    growth = morph.Sequence(*wider, deeper)
    return growth(params), morph.carry(state, params, growth)


def run(config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """Everything, a row of `metrics.jsonl` for each evaluation; returns the table."""
    workdir.check(folder, dataclasses.asdict(config))
    workdir.create(folder, dataclasses.asdict(config))
    seeds = range(config.seed, config.seed + config.num_seeds)

    def stack(trees):
        return jax.tree.map(lambda *x: np.stack(x), *trees)

    def keys(salt):
        return jnp.stack([jax.random.fold_in(jax.random.key(s), salt) for s in seeds])

    small = Net((config.width,) * 2)
    big = Net((config.width * config.factor,) * 3)
    params, state, curve = train(
        small, config, config.teacher_steps, *start(small, config, keys(0)), keys(1)
    )
    curves = {"teacher": (0, curve)}
    host = jax.device_get((params, state))

    def of(tree, n):
        return jax.tree.map(lambda x: x[n], tree)

    grown = stack(
        [grow(config, of(host[0], n), of(host[1], n), seed) for n, seed in enumerate(seeds)]
    )
    later = config.teacher_steps
    anew = (grown[0], jax.tree.map(jnp.zeros_like, grown[1]))
    for name, net, begin, first in (
        ("net2net", big, later, grown),
        ("net2net, adam anew", big, later, anew),
        ("stays small", small, later, (params, state)),
        ("scratch", big, 0, start(big, config, keys(3))),
    ):
        steps = config.steps + config.teacher_steps * (name == "scratch")
        curves[name] = (begin, train(net, config, steps, *first, keys(2))[2])
    rows = morph_report.rows(curves, config.record_every)
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    morph_report.draw(rows, config.teacher_steps, folder / "plots" / "morph.png")
    return morph_report.table(rows, config.steps)


def define_flags() -> None:
    """Called by the binary only, so that importing this module defines no flag."""
    d = Config()
    flags.FLAGS.set_default("num_seeds", d.num_seeds)
    flags.DEFINE_integer("width", d.width, "Units of each layer before growing.", 1)
    flags.DEFINE_integer("factor", d.factor, "How many times wider the network grows.", 2)
    flags.DEFINE_float("noise", d.noise, "Noise of copied weights, in units of their spread.", 0.0)
    flags.DEFINE_integer("teacher_steps", d.teacher_steps, "Optimiser steps before growing.", 1)
    flags.DEFINE_integer("steps", d.steps, "Optimiser steps of the big network.", 1)
    flags.DEFINE_integer("record_every", d.record_every, "Optimiser steps between evaluations.", 1)
    flags.DEFINE_integer("batch_size", d.batch_size, "Examples in one step.", 1)
    flags.DEFINE_float("learning_rate", d.learning_rate, "Step size of adam.", 0.0)


def main() -> None:
    common.refuse_others("workdir", "seed", "num_seeds")
    values = {f.name: getattr(flags.FLAGS, f.name) for f in dataclasses.fields(Config)}
    config = Config(**values)
    for name in ("teacher_steps", "steps"):
        if values[name] % config.record_every:
            raise ValueError(f"--{name}={values[name]} must be a multiple of --record_every")
    folder = common.workdir("morph", "digits")
    morph_report.show(run(config, folder))
    print(f"numbers {folder}/metrics.jsonl, figure {folder}/plots/morph.png", file=sys.stderr)


if __name__ == "__main__":
    define_flags()
    common.main(main)
