"""Trains one network on K tasks with a surgery method, or K networks alone; all seeds at once."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtrl_jax import surgery

from .data import Problem

Array = jax.Array
ALONE = "alone"


class Settings(NamedTuple):
    """What all methods of a run share.

    Attributes:
      steps: optimiser steps.
      eval_every: steps between two evaluations, a divisor of steps.
      batch_size: examples of one task in one step.
      width: units of each of the two shared layers.
      learning_rate: of adam.
      test_size: examples of one task in an evaluation.
    """

    steps: int
    eval_every: int
    batch_size: int
    width: int
    learning_rate: float
    test_size: int


class History(NamedTuple):
    """Over training, N evaluations; NaN where there is no gradient to compare.

    Attributes:
      accuracy: float32 `[N, K]`, on the test scans.
      conflicts: float32 `[N]`, share of the pairs of tasks in conflict, mean since the last row.
      cosine: float32 `[N]`, mean cosine of two task gradients (shared layers), likewise.
      loss: float32 `[N]`, mean training loss, likewise.
    """

    accuracy: Array
    conflicts: Array
    cosine: Array
    loss: Array


def init_network(key: Array, problem: Problem, width: int, heads: int) -> dict[str, Any]:
    """Two shared layers and a linear head for each task: `torso` and `heads` with leading K."""
    shapes = [(problem.num_pixels, width), (width, width), (heads, width, problem.num_classes)]
    sizes = [math.prod(shape) for shape in shapes]
    # One draw cut in three: three draws cost seconds of compilation.
    pieces = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    layers = [
        {"w": x.reshape(s) * (2 / s[-2]) ** 0.5, "b": jnp.zeros((*s[:-2], s[-1]))}
        for x, s in zip(pieces, shapes, strict=True)
    ]
    return {"torso": layers[:2], "heads": layers[2]}


def logits(params: dict[str, Any], x: Array, task: Array) -> Array:
    """`[n, D]` and the index of a head -> `[n, C]`."""
    for layer in params["torso"]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"][None])
    return x @ params["heads"]["w"][task] + params["heads"]["b"][task][None]


def loss(params: dict[str, Any], batch: tuple[Array, Array, Array]) -> Array:
    """Mean cross-entropy of one task."""
    x, y, task = batch
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x, task), y).mean()


def train(
    method: str, problem: Problem, settings: Settings, seed: Array, test: tuple[Array, Array]
) -> History:
    """One run. `alone` trains K networks, one a task: the same examples and passes, K times the
    parameters. Equal seeds see equal batches, whatever the method."""
    k, alone = problem.num_tasks, method == ALONE
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    test_x, test_y = test
    adam = optax.adam(settings.learning_rate)
    tasks = jnp.arange(k)

    if alone:
        keys = jax.random.split(init_key, k)
        params = jax.vmap(lambda key: init_network(key, problem, settings.width, 1))(keys)
        tasks = jnp.zeros_like(tasks)
        tx = adam  # elementwise, so K networks in one tree stay apart
        per_task = jax.vmap(jax.value_and_grad(loss))
        predict = jax.vmap(logits)
    else:
        params = init_network(init_key, problem, settings.width, k)
        shared = {
            "torso": True,
            "heads": False,
        }  # surgery of the torso; each head sees its own task
        make: Any = surgery.METHODS[method]
        tx = optax.chain(make(num_tasks=k, seed=seed, mask=shared, diagnostics=True), adam)
        per_task = surgery.per_task_value_and_grad(loss)
        predict = jax.vmap(logits, in_axes=(None, 0, 0))

    def step(carry, n):
        params, state = carry
        x, y = problem.train(jax.random.fold_in(batch_key, n), settings.batch_size)
        losses, grads = per_task(params, (x, y, tasks))
        extra = {} if alone else {"task_losses": losses}
        updates, state = tx.update(grads, state, params, **extra)
        seen: tuple[Any, ...] = (jnp.nan, jnp.nan, losses.mean())
        if not alone:
            found, pairs = surgery.diagnostics(state), k * (k - 1) / 2
            seen = (found.conflicts / pairs, jnp.triu(found.cosine, 1).sum() / pairs, seen[2])
        return (optax.apply_updates(params, updates), state), seen

    def period(carry, numbers):
        carry, seen = jax.lax.scan(step, carry, numbers)
        right = predict(carry[0], test_x, tasks).argmax(-1) == test_y
        return carry, History(right.mean(1), *(jnp.mean(x) for x in seen))

    numbers = jnp.arange(settings.steps).reshape(-1, settings.eval_every)
    return jax.lax.scan(period, (params, tx.init(params)), numbers)[1]


def train_seeds(method: str, problem: Problem, settings: Settings, seeds: Array) -> History:
    """`train` for all seeds at once, leaves `[S, N, ...]`; one test set for all runs."""
    test = problem.test(jax.random.key(0), settings.test_size)

    def run(seed, test):
        return train(method, problem, settings, seed, test)

    return jax.jit(jax.vmap(run, in_axes=(0, None)))(seeds, test)
