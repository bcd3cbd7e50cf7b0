"""Time of SAC's gradient step beside the time of its matrix products alone, alternating, medians.

  python -m timings.sac                    # MT10 at the published size, about two minutes
  python -m timings.sac --hidden=256x256 --batch=64

products  the matrix products of one step and nothing else: forward passes, gradients by inputs and
          by weights of one actor and two critics, each weight's gradient as one product over all
          tasks (no per-task gradients, biases, activations, optimiser)
mean      the whole step as training makes it: batches drawn from full rings, losses, per-task
          gradients, their mean, clip, adam, temperatures, slow critics
pcgrad    the same with PCGrad on actor and critics
"""

import datetime
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from mtrl_jax.algorithms import experience, sac, sac_step
from mtrl_jax.envs.metaworld import MT10
from mtrl_jax.types import EnvSpec

_HIDDEN = flags.DEFINE_string("hidden", "400x400x400", "Widths of every network.")
_BATCH = flags.DEFINE_integer("batch", 128, "Samples of each of the ten tasks.", 1)
_LAYER_NORM = flags.DEFINE_bool("layer_norm", False, "In the critics.")
_SURGERY = flags.DEFINE_list("surgery", ["mean", "pcgrad"], "Variants of the whole step.")
_ROUNDS = flags.DEFINE_integer("rounds", 8, "Alternating rounds; the first is dropped.", 2)
_STEPS = flags.DEFINE_integer("steps", 4, "Gradient steps in one measurement.", 1)
_OUT = flags.DEFINE_string("out", "timings/results/sac.jsonl", "Where the line goes.")

F, A, K = 39, 4, len(MT10)


def mt10_spec() -> EnvSpec:
    """MT10's, without its environments."""
    return EnvSpec(
        task_names=MT10,
        observation_shape=(F,),
        observation_dtype=np.dtype(np.float32),
        vocabulary=None,
        num_actions=0,
        action_mask=np.ones((K, 0), bool),
        episode_limit=np.full(K, 500),
        has_success=True,
        action_size=A,
    )


def products(hidden: tuple[int, ...], rows: int) -> tuple[Callable[[], Any], float]:
    """A call that makes one step's products, and their floating-point operations."""
    count = [0.0]
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape).astype(np.float32) / 20.0)

    sizes = {"actor": (F + K, *hidden, 2 * A), "critic": (F + A + K, *hidden, 1)}

    def layers(name):
        return [normal(*s) for s in zip(sizes[name], sizes[name][1:], strict=False)]

    # Slow critics, critics before and after their step: different numbers, as in training.
    nets = {"actor": layers("actor")}
    nets |= {f"{age}{c}": layers("critic") for age in ("slow", "old", "new") for c in range(2)}
    x = {
        "actor": normal(rows, F + K),
        "next": normal(rows, F + K),
        **{
            f"{age}{c}": normal(rows, F + A + K) for age in ("slow", "old", "new") for c in range(2)
        },
    }

    def dot(a, b):
        count[0] += 2.0 * a.shape[0] * a.shape[1] * b.shape[1]
        return a @ b

    def forward(weights, x):
        seen = [x]
        for w in weights:
            seen.append(dot(seen[-1], w))
        return seen

    def backward(weights, seen, by_weights, by_input):
        g, grads = seen[-1], []
        for i in reversed(range(len(weights))):
            if by_weights:
                grads.append(dot(seen[i].T, g))
            if i > 0 or by_input:
                g = dot(g, weights[i].T)
        return grads if by_weights else g

    def step(nets, x):
        out = [forward(nets["actor"], x["next"])[-1]]
        for c in range(2):
            out.append(forward(nets[f"slow{c}"], x[f"slow{c}"])[-1])
            out.append(
                backward(nets[f"old{c}"], forward(nets[f"old{c}"], x[f"old{c}"]), True, False)
            )
            out.append(
                backward(nets[f"new{c}"], forward(nets[f"new{c}"], x[f"new{c}"]), False, True)
            )
        out.append(backward(nets["actor"], forward(nets["actor"], x["actor"]), True, False))
        return out

    program = jax.jit(step).lower(nets, x).compile()
    return lambda: jax.block_until_ready([program(nets, x) for _ in range(_STEPS.value)]), count[0]


def whole(method: str, hidden: tuple[int, ...]) -> Callable[[], Any]:
    """A call that makes gradient steps as `sac.update` does, from full rings."""
    spec = mt10_spec()
    config = sac.Config(
        hidden=hidden,
        batch_size=_BATCH.value,
        capacity=20_000,
        layer_norm=_LAYER_NORM.value,
        surgery=method,
    )
    parts = sac.make_parts(spec, config)
    state = jax.jit(lambda key: sac.init(parts, key))(jax.random.key(0))
    rng = np.random.default_rng(0)

    def fill(x):
        return jnp.asarray(rng.normal(size=x.shape).astype(np.float32)).astype(x.dtype)

    rows = jax.tree.map(fill, state.rings.rows)._replace(ended=state.rings.rows.ended)
    rings = state.rings._replace(rows=rows, stored=jnp.full(K, config.capacity, jnp.int32))

    def steps(learned, rings, count):
        def one(i, learned):
            batch, noise = experience.draw_batch(
                rings,
                state.reward_scale,
                jax.random.fold_in(state.key, count + i),
                config.batch_size,
            )
            return sac_step.step(parts.numbers, learned, state.observations, batch, noise)[0]

        return jax.lax.fori_loop(0, _STEPS.value, one, learned)

    program = jax.jit(steps, donate_argnums=0)
    carry = [state.learned, 0]

    def call():
        carry[0] = jax.block_until_ready(program(carry[0], rings, carry[1]))
        carry[1] += _STEPS.value

    return call


def main(argv: list[str]) -> None:
    del argv
    hidden = tuple(int(n) for n in _HIDDEN.value.split("x"))
    alone, flops = products(hidden, K * _BATCH.value)
    variants = {"products": alone} | {name: whole(name, hidden) for name in _SURGERY.value}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        call()  # compiles
    for _ in range(_ROUNDS.value):
        for name, call in variants.items():
            began = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - began) / _STEPS.value)
    times = {name: values[1:] for name, values in times.items()}

    def over(a, b):
        return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))

    row = {
        "figure": "sac_step",
        "hidden": _HIDDEN.value,
        "batch": _BATCH.value,
        "layer_norm": _LAYER_NORM.value,
        "gflop": flops / 1e9,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "over_products": {name: over(name, "products") for name in _SURGERY.value},
        "over_mean": {name: over(name, "mean") for name in _SURGERY.value if "mean" in times},
        "load": os.getloadavg()[0],
        "rounds": _ROUNDS.value,
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()}-core {platform.machine()} {jax.local_devices()[0].platform}",
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(row, indent=1))
    out = pathlib.Path(_OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    app.run(main)
