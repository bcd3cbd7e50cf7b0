"""Surgery written another way: float64 NumPy on vectors of length P, and the inputs that are
hard."""

import itertools

import numpy as np

# Four tasks, three conflicting pairs, full rank.
FOUR = np.array(
    [[3, -1, 2, 0, 1, -2], [-2, 2, -1, 1, 0, 1], [1, 0, -3, 2, -1, 1], [0, -2, 1, -1, 2, 3.0]]
)


def pcgrad_literal(jacobian, orders):
    """Algorithm 1 of Yu et al. 2020 on vectors, given the order of each task's visits: all p_i."""
    jacobian = np.asarray(jacobian, np.float64)
    projected = []
    for i, order in enumerate(orders):
        p = jacobian[i].copy()
        for j in order:
            dot = p @ jacobian[j]
            if dot < 0:
                p = p - dot / (jacobian[j] @ jacobian[j]) * jacobian[j]
        projected.append(p)
    return np.stack(projected)


def all_orders(num_tasks):
    """Every combination of independent orders of the K tasks."""
    others = [[j for j in range(num_tasks) if j != i] for i in range(num_tasks)]
    return itertools.product(*(list(itertools.permutations(o)) for o in others))


def gauss(rng, num_tasks, size):
    """Independent normal gradients."""
    return rng.normal(size=(num_tasks, size))


def conflict(rng, num_tasks, size):
    """Plus or minus one direction, with noise."""
    sign = np.where(np.arange(num_tasks) % 2, 1.0, -1.0)
    return sign[:, None] * rng.normal(size=size) + 0.5 * rng.normal(size=(num_tasks, size))


def spread(rng, num_tasks, size):
    """Norms over two decades."""
    return rng.normal(size=(num_tasks, size)) * np.logspace(-1, 1, num_tasks)[:, None]


def hard(num_tasks, size):
    """Jacobians on which solvers break, by name."""
    rng = np.random.default_rng(5)
    base = gauss(rng, num_tasks, size)
    zero_row, opposed, same = base.copy(), base.copy(), np.tile(base[:1], (num_tasks, 1))
    zero_row[1] = 0.0
    opposed[1] = -opposed[0]
    mixed = base * np.logspace(-15, 15, num_tasks)[:, None]
    return {
        "zero": np.zeros_like(base),
        "one zero row": zero_row,
        "only one non-zero row": base * (np.arange(num_tasks) == 2)[:, None],
        "opposed": opposed,
        "all on a line": np.outer(np.where(np.arange(num_tasks) % 2, -2.0, 1.0), base[0]),
        "identical": same,
        "rank two": rng.normal(size=(num_tasks, 2)) @ rng.normal(size=(2, size)),
        "stationary": np.vstack([base[:-1], -base[:-1].sum(0)]),
        "huge": base * 1e15,
        "tiny": base * 1e-15,
        "mixed scales": mixed,
    }
