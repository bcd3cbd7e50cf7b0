"""Multi-task problems of scikit-learn's 1797 handwritten digits (8 x 8): nothing is downloaded.

two_digits, three_digits   in the manner of MultiMNIST (Sabour et al. 2017, arXiv 1710.09829; as
    two tasks: Sener & Koltun 2018, arXiv 1810.04650): scans laid over each other on a canvas of
    11 x 11, the brighter pixel wins; task k reads the digit at place k, all from the same input.
many_tasks                 in the manner of CIFAR-100's 20 coarse groups of 5 classes as 20 tasks
    (Rosenbaum et al. 2018, arXiv 1711.01239), in structure only: 100 classes, each a digit under
    one of ten fixed transformations (the eight symmetries of the square, two of them also in
    negative), in 20 groups of five digits. The inputs of one task are not those of another.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..common.digits import digits

Array = jax.Array
CANVAS = 11
PLACES = ((0, 0), (3, 3), (0, 3))  # row and column of each scan; two of them share 25 to 40 pixels


class Problem(NamedTuple):
    """K classification tasks.

    Attributes:
      num_tasks: K.
      num_classes: C, of every task.
      num_pixels: D.
      train, test: `key, n -> (inputs float32 [K, n, D] in [0, 1], labels int32 [K, n])`, drawn with
        replacement from scans that the other never shows.
    """

    num_tasks: int
    num_classes: int
    num_pixels: int
    train: Callable[[Array, int], tuple[Array, Array]]
    test: Callable[[Array, int], tuple[Array, Array]]


def overlapping(k: int) -> Problem:
    """K scans on one canvas; all tasks see the same input."""

    def sampler(images, labels):
        images, labels = jnp.asarray(images), jnp.asarray(labels)

        def draw(key, n):
            index = jax.random.randint(key, (k, n), 0, images.shape[0])

            def pad(x, at):
                return jnp.pad(
                    x, ((0, 0), (at[0], CANVAS - 8 - at[0]), (at[1], CANVAS - 8 - at[1]))
                )

            layers = [pad(images[index[i]], PLACES[i]) for i in range(k)]
            canvas = functools.reduce(jnp.maximum, layers).reshape(n, -1)
            return jnp.broadcast_to(canvas[None], (k, *canvas.shape)), labels[index]

        return draw

    train, test = digits()
    return Problem(k, 10, CANVAS**2, sampler(*train), sampler(*test))


def transformations(images: Any) -> Any:
    """`[N, 8, 8] -> [10, N, 8, 8]`: eight symmetries of the square, two of them in negative."""
    turned = [np.rot90(images, r, axes=(1, 2)) for r in range(4)]
    mirrored = [x[:, :, ::-1] for x in turned]
    return np.stack([*turned, *mirrored, 1 - turned[0], 1 - turned[1]])


def many_tasks() -> Problem:
    """20 tasks of 5 classes: task 2 t + h shows digits 5 h .. 5 h + 4 under transformation t."""

    def sampler(images, labels):
        shown = jnp.asarray(transformations(images).reshape(10, len(images), -1))
        ragged = [np.flatnonzero(labels // 5 == h) for h in (0, 1)]
        length = min(map(len, ragged))  # a few scans of the longer half are left out
        halves = jnp.asarray(np.stack([half[:length] for half in ragged]))
        classes = jnp.asarray(labels % 5)
        task = jnp.arange(20)

        def draw(key, n):
            row = halves[(task % 2)[:, None], jax.random.randint(key, (20, n), 0, length)]
            return shown[(task // 2)[:, None], row], classes[row]

        return draw

    train, test = digits()
    return Problem(20, 5, 64, sampler(*train), sampler(*test))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "two_digits": lambda: overlapping(2),
    "three_digits": lambda: overlapping(3),
    "many_tasks": many_tasks,
}
