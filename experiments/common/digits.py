"""Scikit-learn's 1797 handwritten digits (8 x 8), split once: nothing is downloaded."""

from typing import Any

import numpy as np


def digits(num_train: int = 1200) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Train and test scans `[N, 8, 8]` in [0, 1] with labels `[N]`, split once for all seeds."""
    from sklearn.datasets import load_digits  # slow to import, and not needed for --help

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images, labels = data.images[order].astype(np.float32) / 16, data.target[order].astype(np.int32)

    def split(part):
        return (images[part], labels[part])

    return split(slice(None, num_train)), split(slice(num_train, None))
