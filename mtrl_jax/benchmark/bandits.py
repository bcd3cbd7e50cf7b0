"""What is known of Bernoulli bandits with uniform priors: reference policies and their regret.

NumPy only. A trial is n pulls of one bandit, whose probabilities are uniform on [0, 1]; counts
`[..., A, 2]` are the successes and failures of each arm so far. Regret is that of the pulls, by the
probabilities of the arms and not by the rewards that were drawn.
"""

import functools
from collections.abc import Callable

import numpy as np

from mtrl_jax.ranges import Count, Unit, check_value

__all__ = ["bayes_return", "gittins_indices", "gittins_policy", "pull", "thompson_policy"]

Policy = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]  # counts, pulls left, rng

GRID = 1001  # rewards of a sure arm that an index is looked for between


def gittins_indices(pulls: int, discount: float = 1.0) -> np.ndarray:
    """The index of an arm for every horizon: the sure reward that is as good as going on with it.

    Gittins 1979, *Bandit processes and dynamic allocation indices*, JRSS B 41, for horizons that
    end (Kaufmann 2018, *On Bayesian index policies for sequential resource allocation*, arXiv
    1601.01190, FH-Gittins; from memory). With p = (1 + s) / (2 + s + f), the index is the lambda at
    which both arguments of the maximum are equal:

        V_m(s, f) = max( lambda (1 + g + ... + g^(m-1)), Q_m(s, f) )
        Q_m(s, f) = p (1 + g V_{m-1}(s + 1, f)) + (1 - p) g V_{m-1}(s, f + 1)

    An infinite horizon is approached where g^pulls is small.

    Args:
      pulls: n, the longest horizon.
      discount: g.

    Returns:
      float64 `[n + 1, n, n]`, indices by pulls left m, successes s and failures f; NaN where
      m + s + f > n or m = 0.

    Raises:
      ValueError: for `pulls` below 1 or a discount outside [0, 1].
    """
    check_value("pulls", pulls, Count)
    check_value("discount", discount, Unit)
    sure = np.linspace(0.0, 1.0, GRID)
    s, f = np.mgrid[: pulls + 1, : pulls + 1]
    p = ((1.0 + s) / (2.0 + s + f))[:-1, :-1, None]
    value, worth = np.zeros((pulls + 1, pulls + 1, GRID)), 0.0
    found = np.full((pulls + 1, pulls, pulls), np.nan)
    for m in range(1, pulls + 1):
        worth = 1.0 + discount * worth
        go_on = p * (1.0 + discount * value[1:, :-1]) + (1 - p) * discount * value[:-1, 1:]
        gain = go_on - sure * worth  # falls with the sure reward
        first = np.clip((gain > 0).sum(-1), 1, GRID - 1)[..., None]
        above, below = (np.take_along_axis(gain, first - n, -1)[..., 0] for n in (1, 0))
        share = above / np.where(above > below, above - below, 1.0)
        index = sure[first[..., 0] - 1] + share * (sure[1] - sure[0])
        found[m] = np.where((s + f)[:-1, :-1] + m <= pulls, index, np.nan)
        value[:-1, :-1] = np.maximum(sure * worth, go_on)
    return found


def gittins_policy(pulls: int) -> Policy:
    """Pulls an arm of the highest index for the pulls that are left, ties at random.

    With one arm unknown it is the Bayes-optimal policy, and else close to it.
    """
    table = gittins_indices(pulls)

    def policy(counts: np.ndarray, left: int, rng: np.random.Generator) -> np.ndarray:
        index = table[left, counts[..., 0], counts[..., 1]]
        best = index >= index.max(-1, keepdims=True) - 1e-9
        return np.where(best, rng.random(best.shape), -1.0).argmax(-1)

    return policy


def thompson_policy() -> Policy:
    """Pulls the arm that is best in a draw of the posterior.

    Thompson 1933, *On the likelihood that one unknown probability exceeds another in view of the
    evidence of two samples*, Biometrika 25.
    """

    def policy(counts: np.ndarray, left: int, rng: np.random.Generator) -> np.ndarray:
        return rng.beta(1 + counts[..., 0], 1 + counts[..., 1]).argmax(-1)

    return policy


def pull(
    policy: Policy, probabilities: np.ndarray, pulls: int, rng: np.random.Generator
) -> np.ndarray:
    """Plays trials.

    Args:
      policy: `(counts [R, A, 2], pulls left, rng) -> arms [R]`.
      probabilities: `[R, A]`, one bandit a trial.
      pulls: n.
      rng: of the policy and of rewards.

    Returns:
      float64 `[R, n]`, the probability of the arm of each pull.
    """
    check_value("pulls", pulls, Count)
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2:
        raise ValueError(f"probabilities must have shape [R, A], got {probabilities.shape}")
    rows = np.arange(len(probabilities))
    counts = np.zeros((*probabilities.shape, 2), int)
    earned = np.zeros((len(probabilities), pulls))
    for n in range(pulls):
        arm = policy(counts, pulls - n, rng)
        earned[:, n] = probabilities[rows, arm]
        counts[rows, arm, np.where(rng.random(len(rows)) < earned[:, n], 0, 1)] += 1
    return earned


def bayes_return(num_arms: int, pulls: int) -> float:
    """Expected reward of n pulls under the best policy that there is, by dynamic programming over
    all counts: for a few arms and pulls only, since there are (n + 2A choose 2A) of them.

    Raises:
      ValueError: for a number below 1.
    """
    check_value("num_arms", num_arms, Count)
    check_value("pulls", pulls, Count)

    @functools.cache
    def value(arms: tuple[tuple[int, int], ...], left: int) -> float:
        best = 0.0
        for n, (s, f) in enumerate(arms if left else ()):
            p, others = (1 + s) / (2 + s + f), (*arms[:n], *arms[n + 1 :])
            won, lost = (tuple(sorted((*others, arm))) for arm in ((s + 1, f), (s, f + 1)))
            best = max(best, p * (1 + value(won, left - 1)) + (1 - p) * value(lost, left - 1))
        return best

    return value(((0, 0),) * num_arms, pulls)
