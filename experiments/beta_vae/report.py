"""What has been learnt to see: KL of each latent, disentanglement, reconstructions, traversals."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.benchmark import disentanglement
from mtrl_jax.envs import rooms
from mtrl_jax.losses import representation
from mtrl_jax.networks.autoencoder import Autoencoder, pixels
from mtrl_jax.types import ArrayTree

from .frames import Images, image_suite
from .train import encode, pictures, posterior

__all__ = ["LATENTS", "scores", "show", "write"]

LATENTS = "latents.json"
SHOWN, VALUES = 8, np.linspace(-2.0, 2.0, 9)  # images; latents; of a latent
Draw = Callable[[Any], np.ndarray]  # codes [B, Z] to images [B, H, W, C]
ACTIVE = 0.01  # nats, as `representation.beta_vae_loss` counts
# Of the beta-VAE metric; of MIG. Less than published, which would take minutes.
POINTS = {"pairs": 16, "train": 1024, "test": 512}
MIG_IMAGES = 8192


def write(
    folder: pathlib.Path,
    config: Any,
    nets: Autoencoder,
    params: ArrayTree,
    images: Images,
    denoising: ArrayTree = None,
) -> None:
    """Draws the pictures, then writes latents.json: all of it is there, or the file is not.
    `denoising` are the parameters of the autoencoder that J is of, if there is one."""

    def draw(z: Any) -> np.ndarray:
        return np.asarray(pictures(nets, params["decoder"], z, config.objective, denoising))

    images = images._replace(held_out=jnp.asarray(images.held_out, jnp.float32) / 255.0)
    found: dict[str, Any] = {}
    codes = np.asarray(encode(nets, params["encoder"], images.held_out))
    kl = np.zeros(0)
    if config.objective != "denoising":
        kl = np.asarray(
            jax.vmap(representation.latent_kl)(posterior(nets, params["encoder"], images.held_out))
        ).mean(0)
        found = {"kl": np.round(kl.astype(float), 4).tolist(), "active": int((kl > ACTIVE).sum())}
        _traversals(folder, draw, codes[0], kl)
    _reconstructions(folder, draw, codes[:SHOWN], images.held_out[:SHOWN])
    found |= _scores(config, nets, params, images, codes)
    temporary = folder / f"{LATENTS}.tmp"
    temporary.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(temporary, folder / LATENTS)


def _scores(
    config: Any, nets: Autoencoder, params: ArrayTree, images: Images, codes: np.ndarray
) -> dict[str, float]:
    if images.factors is not None:
        return {"mig": disentanglement.mig(codes, images.factors)}
    env = image_suite(config.suite).env if config.suite else None
    if isinstance(env, rooms.Rooms):
        return scores(env, nets, params["encoder"], config.seed)
    return {}


def scores(env: rooms.Rooms, nets: Autoencoder, params: ArrayTree, seed: int) -> dict[str, float]:
    """Both scores of disentanglement, of an encoder's `params` on the rooms' true factors.

    Factors are independent of each other, so rooms of all conjunctions are among them: these
    numbers are for reports and choose nothing.
    """

    @jax.jit
    def codes_of(keys: Any, factors: Any) -> Any:
        def look(key: Any, factors: Any) -> Any:
            return env.observe(*rooms.scene(key, factors))

        return encode(nets, params, pixels(jax.vmap(look)(keys, factors)))

    rng = np.random.default_rng(seed)
    tasks = jnp.asarray(rooms.conjunctions("all"))

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        key = jax.random.key(int(rng.integers(2**31)))
        return np.array(factors_of(jax.random.split(key, n)))  # to be written to

    @jax.jit
    def factors_of(keys: Any) -> Any:
        def one(key: Any) -> Any:
            for_task, for_room = jax.random.split(key)
            task = tasks[jax.random.randint(for_task, (), 0, len(tasks))]
            return rooms.factors_of(rooms.draw(for_room), task)

        return jax.vmap(one)(keys)

    def codes(factors: np.ndarray) -> np.ndarray:
        keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), len(factors))
        return np.asarray(codes_of(keys, jnp.asarray(factors, jnp.float32)))

    score = disentanglement.beta_vae_score(draw, codes, rng, **POINTS)
    factors = draw(rng, MIG_IMAGES)
    return {"beta_vae_score": score, "mig": disentanglement.mig(codes(factors), factors)}


def _reconstructions(folder: pathlib.Path, draw: Draw, codes: np.ndarray, images: Any) -> None:
    rows = [np.concatenate(np.asarray(x), axis=1) for x in (images, draw(codes))]
    _picture(folder / "plots" / "reconstructions.png", np.concatenate(rows))


def _traversals(folder: pathlib.Path, draw: Draw, code: np.ndarray, kl: np.ndarray) -> None:
    """A row for each of the latents of highest KL: one image's code with that latent from -2 to 2,
    all others as they were."""
    chosen = np.argsort(-kl)[:SHOWN]
    z = np.tile(code, (len(chosen), len(VALUES), 1))
    for row, latent in enumerate(chosen):
        z[row, :, latent] = VALUES
    out = draw(z.reshape(-1, len(kl)))
    rows = out.reshape(len(chosen), len(VALUES), *out.shape[1:])
    _picture(
        folder / "plots" / "traversals.png",
        np.concatenate([np.concatenate(row, axis=1) for row in rows]),
    )


def _picture(path: pathlib.Path, image: np.ndarray) -> None:
    """An image `[H, W, 1 or 3]` in [0, 1], two pixels for one."""
    from matplotlib import image as files  # not needed to learn

    path.parent.mkdir(parents=True, exist_ok=True)
    large = np.clip(image, 0.0, 1.0).repeat(2, 0).repeat(2, 1)
    if large.shape[-1] != 3:
        large = large[..., :1].repeat(3, -1)
    files.imsave(path, large)


def show(folder: pathlib.Path) -> None:
    """Prints what `write` has written."""
    found = json.loads((folder / LATENTS).read_text())
    if "kl" in found:
        kl = found["kl"]
        order = sorted(range(len(kl)), key=lambda n: -kl[n])
        print(f"\n{found['active']} of {len(kl)} latents have a mean KL above {ACTIVE} nats:")
        used = [n for n in order if kl[n] > ACTIVE]
        for start in range(0, len(used), 8):
            part = used[start : start + 8]
            print("  " + "  ".join(f"z{n} {kl[n]:.2f}" for n in part))
        print(f"  all together {sum(kl):.2f}")
    if "beta_vae_score" in found:
        print(f"disentanglement  beta-VAE metric {found['beta_vae_score']:.3f}", end=", ")
        print(f"mutual information gap {found['mig']:.3f}")
    elif "mig" in found:
        print(f"disentanglement  mutual information gap {found['mig']:.3f}")
    else:
        print("disentanglement  none: the true factors are not known")
    names = sorted(path.name for path in (folder / "plots").iterdir())
    print(f"numbers {folder / LATENTS}, figures {folder / 'plots'}/: {', '.join(names)}")
