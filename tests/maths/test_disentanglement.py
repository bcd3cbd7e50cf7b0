"""Both scores on codes whose score is known; the classifier and the information by scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score

from mtrl_jax.benchmark import disentanglement

F = 4


def draw(rng, n):
    """Two continuous factors, one of two values and one of three."""
    kinds = rng.integers(0, 2, (n, 1)), rng.integers(0, 3, (n, 1))
    return np.hstack([rng.random((n, 2)), *kinds])


def score(encode, seed=0, **sizes):
    sizes = {"pairs": 32, "train": 600, "test": 600} | sizes
    return disentanglement.beta_vae_score(draw, encode, np.random.default_rng(seed), **sizes)


def test_true_factors_score_all_and_constants_chance():
    assert score(lambda f: f) == 1.0
    assert score(lambda f: -7.0 * f + 100.0) == 1.0  # whatever the units
    shuffled = [2, 0, 3, 1]
    assert score(lambda f: np.hstack([f[:, shuffled], np.zeros((len(f), 2))])) == 1.0
    chance = score(lambda f: np.full((len(f), 5), 0.3), test=6000)
    assert abs(chance - 1 / F) < 4 * np.sqrt(F - 1) / F / np.sqrt(6000)
    noise = np.random.default_rng(1)
    chance = score(lambda f: noise.normal(size=(len(f), 5)), test=6000)
    assert abs(chance - 1 / F) < 0.05


def test_entangled_codes_score_between():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(F, F)))[0]
    entangled = score(lambda f: f @ turn, pairs=8)
    assert 0.4 < entangled < 0.95 < score(lambda f: f, pairs=8)


def test_the_shared_factor_is_the_one_that_does_not_differ():
    x, y = disentanglement.difference_points(draw, lambda f: f, np.random.default_rng(0), 16, 200)
    np.testing.assert_array_equal(x.argmin(1), y)
    assert (x[np.arange(200), y] == 0).all() and (np.sort(x, 1)[:, 1] > 0).all()
    assert np.bincount(y, minlength=F).min() > 25
    # Means over pairs of |difference|: a third for uniform numbers, a half for coins.
    np.testing.assert_allclose(x[y != 0, 0].mean(), 1 / 3, atol=0.02)
    np.testing.assert_allclose(x[y != 2, 2].mean(), 1 / 2, atol=0.03)


def test_the_classifier_is_scikit_learns():
    """On points that no line separates, with the same penalty."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 900)
    x = rng.normal(size=(900, 4)) * [1, 10, 0.1, 1] + np.eye(3, 4)[y] * [2, 20, 0.2, 0]
    mine = disentanglement.fit_linear(x[:600], y[:600])
    scaled = (x - x[:600].mean(0)) / x[:600].std(0)
    theirs = LogisticRegression(C=1 / (600 * 1e-4), tol=1e-8, max_iter=1000)
    theirs.fit(scaled[:600], y[:600])
    assert (mine(x) == theirs.predict(scaled)).mean() > 0.995
    assert 0.6 < (mine(x[600:]) == y[600:]).mean() < 0.9


def grid():
    """Every combination of 5, 4 and 2 values once: factors that are independent to the count."""
    return np.stack(np.meshgrid(range(5), range(4), range(2)), -1).reshape(-1, 3).astype(float)


def test_the_gap_of_codes_whose_information_is_known():
    v = grid()
    assert disentanglement.mig(v, v) == pytest.approx(1.0, abs=1e-12)
    assert disentanglement.mig(np.ones((40, 3)), v) == pytest.approx(0.0, abs=1e-12)
    # Each factor twice: no latent is alone with it, and yet the first score is perfect.
    assert disentanglement.mig(np.hstack([v, v]), v) == pytest.approx(0.0, abs=1e-12)
    assert score(lambda f: np.hstack([f, f])) == 1.0
    # One latent that knows whether the first factor is 0, none that knows the others.
    code = np.stack([v[:, 0] == 0, np.zeros(40)], 1)
    h = -(0.2 * np.log(0.2) + 0.8 * np.log(0.8))
    assert disentanglement.mig(code, v) == pytest.approx(h / np.log(5) / 3, abs=1e-12)
    # Two latents know of it, one all and one whether it is 0.
    code = np.stack([v[:, 0], v[:, 0] == 0], 1)
    want = (np.log(5) - h) / np.log(5) / 3
    assert disentanglement.mig(code, v) == pytest.approx(want, abs=1e-12)


def test_information_is_scikit_learns():
    rng = np.random.default_rng(3)
    a = rng.integers(0, 7, 500)
    b = (a + rng.integers(0, 3, 500)) % 5
    assert disentanglement.mutual_information(a, b) == pytest.approx(mutual_info_score(a, b))
    p = np.bincount(a) / 500
    assert disentanglement.mutual_information(a, a) == pytest.approx(-(p * np.log(p)).sum())


def test_continuous_factors_and_rotations():
    v = draw(np.random.default_rng(4), 20_000)
    noise = np.random.default_rng(5).normal(size=v.shape)
    assert disentanglement.mig(v, v) > 0.99
    assert disentanglement.mig(noise, v) < 0.01
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(F, F)))[0]
    assert disentanglement.mig(v @ turn, v) < 0.3
    assert disentanglement.mig(v + 0.05 * noise, v) < disentanglement.mig(v, v)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score(lambda f: f, pairs=0), "pairs must be at least 1; got 0"),
        (lambda: score(lambda f: f, train=None), "num_points must be an integer; got None"),
        (lambda: score(lambda f: f, test=True), "num_points must be an integer; got True"),
        (lambda: score(lambda f: f[:, 0]), "codes must be finite numbers of shape"),
        (lambda: score(lambda f: np.full((len(f), 2), np.nan)), "codes must be finite"),
        (lambda: score(lambda f: f[:-1]), "codes must have a row for each of"),
        (lambda: disentanglement.mig(grid()[:, :1], grid()), "Z of at least 2"),
        (lambda: disentanglement.mig(grid()[:9], grid()), "codes must have shape"),
        (lambda: disentanglement.mig(grid(), grid() * [1, 0, 1]), "got one value only in column 1"),
        (lambda: disentanglement.mig(grid(), grid(), 1), "bins must be at least 2; got 1"),
        (lambda: disentanglement.mig(grid(), grid() + np.inf), "factors must be finite"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
