"""Convolutions as one product beside XLA's own: `python -m timings.convolutions`.

The torso of Distral's columns and the Nature network, forward, and forward and backward, with
kernels of each task's own (eight tasks, a vmap) and shared by all. Both ways alternate in one
process; medians of `--rounds` in milliseconds, and their ratio, as one JSON line a case.
"""

import argparse
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks.convolution import block_conv
from timings.envs import alternate

NUM_TASKS = 8
NETWORKS = {
    # (features, size, stride) of each layer, then channels and pixels of the picture.
    "column": (((16, 8, 4), (32, 4, 2)), 3, 42),
    "column84": (((16, 8, 4), (32, 4, 2)), 3, 84),
    "nature": (((32, 8, 4), (64, 4, 2), (64, 3, 1)), 4, 84),
}


def library_conv(x: Any, kernel: Any, stride: int) -> Any:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def torso(conv: Any, strides: tuple[int, ...], kernels: list[Any], picture: Any) -> Any:
    x = jnp.moveaxis(picture, 1, -1).astype(jnp.float32) / 255.0
    for kernel, stride in zip(kernels, strides, strict=True):
        x = jax.nn.relu(conv(x, kernel, stride))
    return x


def case(network: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    layers, channels, pixels = NETWORKS[network]
    rng = np.random.default_rng(0)
    picture = jnp.asarray(rng.integers(0, 256, (NUM_TASKS, batch, channels, pixels, pixels)))
    picture = picture.astype(jnp.uint8)
    kernels, depth = [], channels
    for features, size, _ in layers:
        shape = (NUM_TASKS, size, size, depth, features)
        kernels.append(
            jnp.asarray(rng.normal(0, (size * size * depth) ** -0.5, shape), jnp.float32)
        )
        depth = features
    strides = tuple(stride for *_, stride in layers)
    lines = []
    for of, axis, params in (("task", 0, kernels), ("shared", None, [k[0] for k in kernels])):
        for passes in ("forward", "backward"):
            runs = {}
            for name, conv in (("library", library_conv), ("product", block_conv)):
                one = functools.partial(torso, conv, strides)
                if passes == "backward":
                    one = jax.grad(lambda k, x, one=one: jnp.square(one(k, x)).mean())
                program = jax.jit(jax.vmap(one, (axis, 0)))
                runs[name] = lambda f=program, p=params: jax.block_until_ready(f(p, picture))
            seconds = alternate(runs, rounds)
            lines.append(
                {
                    "network": network,
                    "kernels": of,
                    "pass": passes,
                    "batch": batch,
                    **{f"{name}_ms": round(1e3 * s, 2) for name, s in seconds.items()},
                    "ratio": round(seconds["library"] / seconds["product"], 2),
                    "jax": jax.__version__,
                }
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    for network in NETWORKS:
        for batch in (2, 40):
            for line in case(network, batch, rounds):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
