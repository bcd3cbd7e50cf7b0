"""Vectors of what tasks are called and what they ask for, without a language model.

A task's text is its name and, for Meta-World's tasks, a short description. It is counted into a
vector of fixed length: its words, and groups of 3 to 5 letters within them, so that `open` and
`opening` meet; each is sent to one coordinate, and to a sign, by a hash of its letters (Weinberger
et al. 2009, *Feature Hashing for Large Scale Multitask Learning*, arXiv 0902.2206). Nothing is
learnt or downloaded, and a task's vector does not depend on which other tasks there are.
"""

import collections
import hashlib
import re
from collections.abc import Sequence

import numpy as np

__all__ = ["DESCRIPTIONS", "features", "task_vectors"]

DESCRIPTIONS: dict[str, str] = {
    "assembly": "lift the ring by its handle and drop it over the peg",
    "basketball": "carry the ball to the basket and drop it in",
    "bin-picking": "grasp the cube in one bin and put it in the other bin",
    "box-close": "grasp the lid by its knob and cover the box with it",
    "button-press": "press the button on the front of the box",
    "button-press-topdown": "press the button on top of the box from above",
    "button-press-topdown-wall": "reach over the wall, press the button on top from above",
    "button-press-wall": "go around the wall, press the button on the front of the box",
    "coffee-button": "press the button of the coffee machine",
    "coffee-pull": "pull the mug away from the coffee machine",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial half a circle",
    "disassemble": "lift the ring by its handle off the peg",
    "door-close": "push the door until it is closed",
    "door-lock": "turn the lock of the door down",
    "door-open": "pull the handle of the door until it is open",
    "door-unlock": "turn the lock of the door up",
    "drawer-close": "push the drawer until it is closed",
    "drawer-open": "pull the handle of the drawer until it is open",
    "faucet-close": "turn the handle of the faucet clockwise",
    "faucet-open": "turn the handle of the faucet counter clockwise",
    "hammer": "grasp the hammer and drive the nail into the wall",
    "hand-insert": "insert the gripper into the hole in the table",
    "handle-press": "press the handle down from the front",
    "handle-press-side": "press the handle down from the side",
    "handle-pull": "pull the handle up from the front",
    "handle-pull-side": "pull the handle up from the side",
    "lever-pull": "pull the lever up until it stands upright",
    "peg-insert-side": "grasp the peg and insert it into the hole in the side of the box",
    "peg-unplug-side": "grasp the peg and pull it out of the hole sideways",
    "pick-out-of-hole": "grasp the puck in the hole and lift it to the goal",
    "pick-place": "grasp the puck and place it at the goal in the air",
    "pick-place-wall": "grasp the puck, lift it over the wall, place it at the goal",
    "plate-slide": "slide the plate forward into the cabinet",
    "plate-slide-back": "slide the plate back out of the cabinet",
    "plate-slide-back-side": "slide the plate sideways back out of the cabinet",
    "plate-slide-side": "slide the plate sideways into the cabinet",
    "push": "push the puck along the table to the goal",
    "push-back": "pull the puck back along the table to the goal",
    "push-wall": "push the puck around the wall to the goal",
    "reach": "move the gripper to the goal",
    "reach-wall": "move the gripper over the wall to the goal",
    "shelf-place": "grasp the cube and place it on the shelf",
    "soccer": "push the ball into the net",
    "stick-pull": "grasp the stick, hook it into the thermos handle and pull",
    "stick-push": "grasp the stick and push the thermos with it",
    "sweep": "push the cube off the table",
    "sweep-into": "push the cube into the hole in the table",
    "window-close": "slide the window to the left until it is closed",
    "window-open": "slide the window to the right until it is open",
}

# Words that say nothing of a task.
_COMMON = frozenset(
    (
        "a",
        "along",
        "and",
        "at",
        "by",
        "from",
        "in",
        "is",
        "it",
        "its",
        "of",
        "on",
        "the",
        "to",
        "until",
        "with",
    )
)


def features(name: str) -> dict[str, float]:
    """What is counted of a task: its words and, within each, groups of letters (`<` and `>` mark a
    word's ends), which weigh as much as the word together."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)  # WalkerStand
    text = f"{spaced} {DESCRIPTIONS.get(name, '')}".lower()
    counts: dict[str, float] = collections.defaultdict(float)
    for word in re.findall(r"[a-z]+|[0-9]+", text):
        if word in _COMMON:
            continue
        counts[word] += 1
        marked = f"<{word}>"
        groups = [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)]
        for group in groups:
            counts[group] += 1.0 / len(groups)
    return counts


def task_vectors(names: Sequence[str], size: int = 256) -> np.ndarray:
    """float32 `[K, size]`, the same in every process; length sqrt(size), so that an
    element has variance 1.

    Args:
      names: K task names.
      size: of a vector; collisions of hashes get rarer with it.

    Raises:
      ValueError: `size` below 1, a name without letters or digits, or two tasks with equal vectors,
        which no network could tell apart.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    vectors = np.zeros((len(names), size))
    for vector, name in zip(vectors, names, strict=True):
        for feature, count in features(name).items():
            digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest())
            vector[(digest >> 1) % size] += count * (1.0 if digest & 1 else -1.0)
    norms = np.linalg.norm(vectors, axis=1)
    if not norms.all():
        raise ValueError(f"names must hold letters or digits; got {names[int(norms.argmin())]!r}")
    vectors = (vectors * (np.sqrt(size) / norms[:, None])).astype(np.float32)
    first: dict[bytes, int] = {}
    for k, vector in enumerate(vectors):
        other = first.setdefault(vector.tobytes(), k)
        if other != k:
            raise ValueError(
                f"names must differ in their words; got {names[other]!r} and {names[k]!r}"
            )
    return vectors
