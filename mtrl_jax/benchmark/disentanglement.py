"""How well single latents stand for single factors: the beta-VAE metric, and the gap of MIG.

Two, because they disagree: the first asks whether latents tell factors apart, and is passed where a
factor has several latents; the second asks whether each factor is in *one* latent. Both need the
true factors. Locatello et al. 2019 (arXiv 1811.12359) found that seeds differ more than methods do:
report several encoders.

NumPy on the host; codes are posterior means, not draws.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from mtrl_jax.ranges import Count, check_value

__all__ = [
    "Encode",
    "beta_vae_score",
    "difference_points",
    "fit_linear",
    "mig",
    "mutual_information",
]

Draw = Callable[[np.random.Generator, int], np.ndarray]
Encode = Callable[[np.ndarray], np.ndarray]

_WEIGHT_DECAY = 1e-4  # of the classifier, so that its optimum exists where classes are separable


def beta_vae_score(
    draw: Draw,
    encode: Encode,
    rng: np.random.Generator,
    pairs: int = 64,
    train: int = 10_000,
    test: int = 5_000,
) -> float:
    """Accuracy of a linear classifier that is to say which factor two sets of images share.

    Higgins et al. 2017, *beta-VAE*, section 3. For each point a factor y is drawn, then L pairs of
    factor vectors that agree in y and are independent otherwise:

        x = 1/L sum_l |z_l - z'_l|,   z = encode(factors)

    The numbers of points and pairs are those of public code (disentanglement_lib); the paper's were
    not at hand. A point costs 2 L images.

    Args:
      draw: `(rng, n)` to factors `[n, F]`, independent of each other.
      encode: factors `[n, F]` to codes `[n, Z]`; draws what else an image needs by itself.
      rng: of the factors.
      pairs: L.
      train: points that the classifier is fitted to.
      test: points of the accuracy.

    Returns:
      In [0, 1]; 1 for the factors themselves, about 1 / F for codes that say nothing.

    Raises:
      ValueError: for a number below 1, or codes that are not finite `[n, Z]`.
    """
    check_value("pairs", pairs, Count)
    x, y = difference_points(draw, encode, rng, pairs, train)
    predict = fit_linear(x, y)
    x, y = difference_points(draw, encode, rng, pairs, test)
    return float((predict(x) == y).mean())


def difference_points(
    draw: Draw, encode: Encode, rng: np.random.Generator, pairs: int, num_points: int
) -> tuple[np.ndarray, np.ndarray]:
    """The points `[N, Z]` of `beta_vae_score`, and the factor int `[N]` that each shares."""
    check_value("num_points", num_points, Count)
    num_factors = draw(rng, 1).shape[1]
    y = rng.integers(0, num_factors, num_points)
    at_once = max(1, 8192 // pairs)
    points = []
    for start in range(0, num_points, at_once):
        shared = y[start : start + at_once].repeat(pairs)
        first, second = draw(rng, len(shared)), draw(rng, len(shared))
        rows = np.arange(len(shared))
        second[rows, shared] = first[rows, shared]
        apart = np.abs(_codes(encode, first) - _codes(encode, second))
        points.append(apart.reshape(-1, pairs, apart.shape[1]).mean(1))
    return np.concatenate(points), y


def fit_linear(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Multinomial logistic regression on standardised inputs, by L-BFGS.

        min_W,b 1/N sum_n [ log(sum_c exp(o_nc)) - o_n{y_n} ] + lambda/2 |W|^2,   o = W x + b

    Args:
      x: float `[N, Z]`.
      y: int `[N]`, from 0.

    Returns:
      A function of `[M, Z]` to the likeliest classes, int `[M]`.
    """
    mean, std = x.mean(0), x.std(0)
    std = np.where(std > 1e-12 * (1.0 + np.abs(mean)), std, 1.0)  # a constant tells nothing

    def inputs(x: np.ndarray) -> np.ndarray:
        return np.hstack([(x - mean) / std, np.ones((len(x), 1))])

    rows, classes = inputs(np.asarray(x, np.float64)), int(y.max()) + 1
    target = np.eye(classes)[y]
    decay = np.full((rows.shape[1], 1), _WEIGHT_DECAY)
    decay[-1] = 0.0  # not of b

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(rows.shape[1], classes)
        logits = rows @ weights
        logits -= logits.max(1, keepdims=True)
        probs = np.exp(logits)
        total = probs.sum(1, keepdims=True)
        value = (np.log(total[:, 0]) - (logits * target).sum(1)).mean()
        grad = rows.T @ (probs / total - target) / len(rows) + decay * weights
        return value + 0.5 * (decay * weights**2).sum(), grad.ravel()

    start = np.zeros(rows.shape[1] * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    weights = found.x.reshape(rows.shape[1], classes)
    return lambda x: (inputs(np.asarray(x, np.float64)) @ weights).argmax(1)


def mig(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> float:
    """Mutual information gap: how much more the best latent knows of a factor than the second best.

    Chen et al. 2018, arXiv 1802.04942, with codes (and continuous factors) in bins of equal width:

        MIG = 1/F sum_f (I(z_1; v_f) - I(z_2; v_f)) / H(v_f)

    z_1 and z_2 are the two latents that know most of v_f. The bins bias I upwards by about
    (bins - 1)^2 / (2 N) nats, which takes as much from a gap.

    Args:
      codes: `[N, Z]`, Z of at least 2.
      factors: `[N, F]`, none of them constant.
      bins: of each latent, and of each factor that has more values than that.

    Returns:
      In [0, 1]; 1 where each factor is in a latent of its own, 0 for codes that say nothing.

    Raises:
      ValueError: for wrong shapes, numbers that are not finite, a constant factor, or bins below 2.
    """
    check_value("bins", bins, Count)
    codes, factors = _matrix("codes", codes), _matrix("factors", factors)
    if len(codes) != len(factors) or codes.shape[1] < 2:
        raise ValueError(
            f"codes must have shape [N, Z] with N = {len(factors)} as factors and Z of at least 2; "
            f"got {codes.shape}"
        )
    if bins < 2:
        raise ValueError(f"bins must be at least 2; got {bins}")
    latents = [_bin(column, bins) for column in codes.T]
    gaps = []
    for f, column in enumerate(factors.T):
        values, v = np.unique(column, return_inverse=True)
        if len(values) < 2:
            raise ValueError(f"factors must vary; got one value only in column {f}")
        v = v if len(values) <= bins else _bin(column, bins)
        known = np.sort([mutual_information(z, v) for z in latents])
        gaps.append((known[-1] - known[-2]) / mutual_information(v, v))
    return float(np.mean(gaps))


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Of two discrete variables, from their joint counts, in nats; of one with itself its entropy.

        I(a; b) = sum_{a,b} p(a, b) log(p(a, b) / (p(a) p(b)))

    Args:
      a, b: int `[N]`, from 0.
    """
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1.0 / len(a))
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def _bin(column: np.ndarray, bins: int) -> np.ndarray:
    """int `[N]` in [0, bins): parts of equal width of a column's range; 0 for a constant."""
    low, high = column.min(), column.max()
    if low == high:
        return np.zeros(len(column), np.int64)
    return np.minimum(((column - low) / (high - low) * bins).astype(np.int64), bins - 1)


def _codes(encode: Encode, factors: np.ndarray) -> np.ndarray:
    codes = _matrix("codes", encode(factors))
    if len(codes) != len(factors):
        raise ValueError(f"codes must have a row for each of {len(factors)}; got {codes.shape}")
    return codes


def _matrix(name: str, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite numbers of shape [N, columns]; got {x.shape}")
    return x
