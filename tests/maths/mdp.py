"""Random Markov decision processes solved exactly in float64 NumPy, without the library.

n tasks share S states, A actions and gamma. Policies are [n, S, A], the distilled policy [S, A].
"""

from typing import NamedTuple

import numpy as np


class Mdp(NamedTuple):
    """n tasks: p [n, S, A, S] transitions, r [n, S, A] rewards, start [S], gamma."""

    p: np.ndarray
    r: np.ndarray
    start: np.ndarray
    gamma: float


def random_mdp(
    seed: int, n: int = 3, num_states: int = 6, num_actions: int = 4, *, deterministic: bool = False
) -> Mdp:
    """Tasks that differ in transitions and rewards; gamma 0.9."""
    rng = np.random.default_rng(seed)
    if deterministic:
        p = np.eye(num_states)[rng.integers(num_states, size=(n, num_states, num_actions))]
    else:
        p = rng.dirichlet(np.full(num_states, 0.5), size=(n, num_states, num_actions))
    r = rng.normal(size=(n, num_states, num_actions))
    return Mdp(p, r, rng.dirichlet(np.ones(num_states)), 0.9)


def random_policy(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return softmax(rng.normal(size=shape))


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def regularised(mdp: Mdp, pi: np.ndarray, pi_0: np.ndarray, alpha: float, beta: float):
    """R^reg [n, S, A] for the policies pi."""
    return mdp.r + alpha / beta * np.log(pi_0) - np.log(pi) / beta


def evaluate(mdp: Mdp, pi: np.ndarray, reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V [n, S] and Q [n, S, A] of pi for a given reward, from (I - gamma P_pi) V = R_pi."""
    p_pi = np.einsum("nsa,nsat->nst", pi, mdp.p)
    r_pi = np.einsum("nsa,nsa->ns", pi, reward)
    v = np.linalg.solve(np.eye(pi.shape[1]) - mdp.gamma * p_pi, r_pi[..., None])[..., 0]
    return v, reward + mdp.gamma * np.einsum("nsat,nt->nsa", mdp.p, v)


def occupancy(mdp: Mdp, pi: np.ndarray) -> np.ndarray:
    """d [n, S], sum_t gamma^t Pr(s_t = s), from (I - gamma P_pi^T) d = start."""
    p_pi = np.einsum("nsa,nsat->nst", pi, mdp.p)
    transposed = np.eye(pi.shape[1]) - mdp.gamma * np.swapaxes(p_pi, 1, 2)
    start = np.broadcast_to(mdp.start[:, None], (pi.shape[0], pi.shape[1], 1))
    return np.linalg.solve(transposed, start)[..., 0]


def objective(mdp: Mdp, pi: np.ndarray, pi_0: np.ndarray, alpha: float, beta: float) -> float:
    """J of equation (1), summed over tasks."""
    v, _ = evaluate(mdp, pi, regularised(mdp, pi, pi_0, alpha, beta))
    return float(np.sum(v @ mdp.start))


def optimal_value(mdp: Mdp) -> np.ndarray:
    """Unregularised V* [n, S] by policy iteration with exact evaluation."""
    greedy = np.argmax(mdp.r, axis=-1)
    while True:
        v, q = evaluate(mdp, np.eye(mdp.r.shape[-1])[greedy], mdp.r)
        best = np.argmax(q, axis=-1)
        better = np.take_along_axis(q, best[..., None], -1)[..., 0] > v + 1e-12
        if not better.any():
            return v
        greedy = np.where(better, best, greedy)
