"""An agent of the benchmark that grows: PPO pre-trained at half its width, then Net2WiderNet.

Chen et al. 2015 (arXiv 1511.05641). A new game begins with a network of full width that computes
what the small one did, up to a little noise that tells copies apart; with the statistics of
observations and returns; and with a fresh optimiser, whose masked state no morph can carry.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import learner
from mtrl_jax.algorithms import ppo
from mtrl_jax.benchmark.compiled import Entry, Twin, shared_parameters
from mtrl_jax.networks import morph
from mtrl_jax.types import ArrayTree, Key

__all__ = ["grow", "net2net"]

NOISE = 0.01  # of copies, in standard deviations of their layer


def net2net(track: str, config: ppo.Config, settings: dict[str, Any]) -> Entry:
    """The entry of PPO with `config`, pre-trained with half of each hidden layer.

    Raises:
      ValueError: for a hidden layer of odd width.
    """
    if any(width % 2 for width in config.hidden):
        raise ValueError(f"hidden must hold even widths, which can be halved; got {config.hidden}")
    small = dataclasses.replace(config, hidden=tuple(width // 2 for width in config.hidden))
    return Entry(
        make=lambda spec: ppo.agent(spec, config, collectives=learner.across(1)),
        transfer=_transfer(track, small.hidden, config.hidden),
        settings=settings,
        pretrain=lambda spec: ppo.agent(spec, small, collectives=learner.across(1)),
        twin=Twin("ppo", ("scratch", "multitask"), settings),
    )


def grow(net: ArrayTree, old: tuple[int, ...], new: tuple[int, ...], key: Key) -> ArrayTree:
    """Parameters of an MLP (`dense0`, `dense1`, ..., `out` if it is shared) with wider layers.

    Args:
      net: of one network of `networks.multitask` with hidden layers `old`.
      old, new: widths, each new one larger.
      key: of the choice of copies and of their noise.
    """
    for n, (narrow, wide) in enumerate(zip(old, new, strict=True)):
        reader = "out" if n == len(old) - 1 else f"dense{n + 1}"
        edits = morph.outputs(f"dense{n}")
        if reader in net:  # a layer of one task's own starts anew
            edits += morph.inputs(reader)
        key, choice, noise = jax.random.split(key, 3)
        net = morph.Wider(morph.copies(narrow, wide, choice), edits, NOISE, noise)(net)
    return net


def _transfer(track: str, old: tuple[int, ...], new: tuple[int, ...]) -> Callable[[Any, Any], Any]:
    def transfer(pretrained: ppo.State, fresh: ppo.State) -> ppo.State:
        keys = jax.random.split(jax.random.fold_in(fresh.key, 0))
        shared = {
            name: grow(pretrained.params.shared[name], old, new, key)
            for name, key in zip(("actor", "critic"), keys, strict=True)
        }
        shared = jax.tree.map(jnp.asarray, shared)
        grown = pretrained._replace(params=pretrained.params._replace(shared=shared))
        if track == "task_id":
            return shared_parameters(grown, fresh)
        return grown._replace(opt_state=fresh.opt_state, updates=fresh.updates)

    return transfer
