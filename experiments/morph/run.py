"""Training before and after growing, and the same without: every curve of the comparison."""

import dataclasses
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import ranges, workdir
from mtrl_jax.networks import morph

from . import report
from .train import Config, Net, start, train


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
    """Everything, a row of `metrics.jsonl` for each evaluation; returns the table.

    Raises:
      ValueError: for numbers that cannot be, or a folder of another run; nothing is written.
    """
    ranges.check(config)
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
    rows = report.rows(curves, config.record_every)
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report.draw(rows, config.teacher_steps, folder / "plots" / "morph.png")
    return report.table(rows, config.steps)
