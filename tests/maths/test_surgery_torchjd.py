"""Every method that torchjd has, against torchjd on the same matrices. Skipped where it is
absent."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from surgery_reference import FOUR, conflict, gauss, spread

from mtrl_jax import surgery

torch = pytest.importorskip("torch", reason="torch and torchjd: install the `oracle` extra")
aggregation = pytest.importorskip("torchjd.aggregation", reason="torchjd: the `oracle` extra")
scalarization = pytest.importorskip("torchjd.scalarization", reason="torchjd: the `oracle` extra")

K, SIZE = 4, 9


def exact_projector():
    from torchjd.linalg import QuadprogProjector

    return QuadprogProjector(norm_eps=0.0, reg_eps=1e-10)


# Our arguments, theirs, and the relative tolerance of the update. Theirs run in float64;
# Frank-Wolfe (MGDA), CLARABEL (CAGrad) and ECOS (Nash-MTL) leave errors of their own.
PAIRS = {
    "upgrad": ({}, lambda: aggregation.UPGrad(projector=exact_projector()), 2e-5),
    "dual_proj": ({}, lambda: aggregation.DualProj(projector=exact_projector()), 2e-5),
    "cagrad": ({"c": 0.5}, lambda: aggregation.CAGrad(c=0.5), 1e-3),
    "nash_mtl": ({}, lambda: aggregation.NashMTL(n_tasks=K), 1e-3),
    "imtl_g": ({}, lambda: aggregation.IMTLG(), 5e-5),
    "aligned_mtl": ({}, lambda: aggregation.AlignedMTL(), 5e-5),
    "fairgrad": ({"alpha": 2.0}, lambda: aggregation.FairGrad(alpha=2.0), 1e-3),
    "config": ({}, lambda: aggregation.ConFIG(), 5e-5),
    "mean": ({}, lambda: aggregation.Mean(), 1e-6),
    "sum": ({}, lambda: aggregation.Sum(), 1e-6),
}


@functools.cache
def compiled(name, **arguments):
    tx = surgery.METHODS[name](num_tasks=K, **arguments)
    return tx, jax.jit(tx.update)


def matrices():
    rng = np.random.default_rng(11)
    for kind in (gauss, conflict, spread):
        for _ in range(3):
            yield kind(rng, K, SIZE)


@pytest.mark.parametrize("name", PAIRS)
def test_same_update(name):
    arguments, make, tolerance = PAIRS[name]
    tx, update = compiled(name, **arguments)
    compared = 0
    for jacobian in matrices():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cvxpy's own
            want = make()(torch.tensor(jacobian)).numpy()
        if name == "nash_mtl":
            # Their solver sometimes gives up in silence: its own equation decides whether to
            # compare.
            w = np.linalg.lstsq(jacobian.T, want, rcond=None)[0]
            products = (jacobian @ want) * w
            if abs(products / products.mean() - 1).max() > 1e-3:
                continue
        got = np.asarray(update(jnp.asarray(jacobian, jnp.float32), tx.init(jnp.zeros(SIZE)))[0])
        assert np.linalg.norm(got - want) < tolerance * np.linalg.norm(want)
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
def test_scales_of_aligned_mtl(scale):
    weights = jax.jit(functools.partial(surgery.aligned_mtl_weights, scale=scale))
    for jacobian in matrices():
        want = aggregation.AlignedMTL(scale_mode=scale)(torch.tensor(jacobian)).numpy()
        got = np.asarray(weights(jnp.asarray(jacobian @ jacobian.T, jnp.float32))) @ jacobian
        assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)


def test_mgda_is_no_longer_than_theirs():
    # The minimum is unique as a vector; Frank-Wolfe comes near it from above.
    weights = jax.jit(surgery.mgda_weights)
    for jacobian in matrices():
        theirs = aggregation.MGDA(epsilon=1e-9, max_iters=3000)(torch.tensor(jacobian)).numpy()
        w = np.asarray(weights(jnp.asarray(jacobian @ jacobian.T, jnp.float32)), np.float64)
        ours = w @ jacobian
        assert (w >= 0).all() and abs(w.sum() - 1) < 1e-5
        assert np.linalg.norm(ours) <= np.linalg.norm(theirs) * (1 + 1e-5)
        assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)


def permutations_for(monkeypatch, rows):
    rows = iter(rows)
    monkeypatch.setattr(torch, "randperm", lambda n: torch.tensor(next(rows)))


@pytest.mark.parametrize("draw", range(3))
def test_pcgrad_with_the_same_permutations(monkeypatch, draw):
    orders = np.asarray(surgery.random_orders(jax.random.key(draw), K))
    weights = jax.jit(surgery.pcgrad_weights)
    for jacobian in matrices():
        # Theirs draws permutations of all tasks and skips the task itself.
        permutations_for(monkeypatch, [[*row, i] for i, row in enumerate(orders.tolist())])
        want = aggregation.PCGrad()(torch.tensor(jacobian)).numpy()
        gram = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
        got = np.asarray(weights(gram, jnp.asarray(orders))) @ jacobian
        assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)


def test_gradvac_over_several_updates(monkeypatch):
    step = jax.jit(surgery.gradvac_weights)
    theirs, target = aggregation.GradVac(beta=0.3, eps=0.0), jnp.zeros((K, K))
    for n, jacobian in enumerate(matrices()):
        orders = np.asarray(surgery.random_orders(jax.random.key(n), K)).tolist()
        others = [[j for j in range(K) if j != i] for i in range(K)]
        permutations_for(
            monkeypatch, [[others[i].index(j) for j in o] for i, o in enumerate(orders)]
        )
        want = theirs(torch.tensor(jacobian)).numpy()
        gram = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
        weights, target = step(gram, target, jnp.asarray(orders), 0.3)
        got = np.asarray(weights) @ jacobian
        assert np.linalg.norm(got - want) < 5e-5 * np.linalg.norm(want)


def test_graddrop_has_the_same_two_values_per_coordinate():
    torch.manual_seed(0)
    draws = np.stack([aggregation.GradDrop()(torch.tensor(FOUR)).numpy() for _ in range(300)])
    keys = jax.random.split(jax.random.key(0), 300)
    ours = np.asarray(jax.vmap(lambda key: surgery.graddrop_leaf(key, jnp.asarray(FOUR)))(keys))
    for n in range(FOUR.shape[1]):
        assert set(np.unique(ours[:, n])) == set(np.unique(draws[:, n]))
    # Means of 300 draws: standard errors of both.
    error = np.sqrt(ours.var(0) / 300 + draws.var(0) / 300)
    assert (np.abs(ours.mean(0) - draws.mean(0)) < 4.5 * error + 1e-6).all()


LOSSES = np.array(
    [[4.0, 1.0, 2.0, 8.0], [3.0, 0.9, 2.5, 7.0], [2.8, 0.5, 2.0, 6.5], [2, 0.6, 1, 6]]
)


def loss_weights(scalarizer, losses):
    """The weights of a scalariser: derivatives of its value with respect to the losses."""
    values = torch.tensor(losses, dtype=torch.float32, requires_grad=True)
    scalarizer(values).backward()
    return values.grad.numpy()


def test_famo():
    tx = surgery.famo(num_tasks=4, diagnostics=True)
    theirs, state = scalarization.FAMO(4), tx.init(jnp.zeros(6))
    after = np.ones(4)
    for n, losses in enumerate(LOSSES):
        _, state = tx.update(
            jnp.asarray(FOUR),
            state,
            task_losses=jnp.asarray(losses, jnp.float32),
            task_losses_after=jnp.asarray(after, jnp.float32),
        )
        want = loss_weights(theirs, losses)
        np.testing.assert_allclose(surgery.diagnostics(state).weights, want, rtol=1e-4)
        after = losses * (0.8 + 0.1 * np.roll(np.arange(4), n))
        theirs.update(torch.tensor(after, dtype=torch.float32))


def test_dwa_and_uncertainty():
    dwa, uw = surgery.dwa(num_tasks=4, diagnostics=True), None
    uw = surgery.uncertainty_weighting(num_tasks=4, learning_rate=0.1, diagnostics=True)
    their_dwa, their_uw = scalarization.DWA(), scalarization.UW(4)
    optimiser = torch.optim.SGD(their_uw.parameters(), lr=0.1)
    states = [dwa.init(jnp.zeros(6)), uw.init(jnp.zeros(6))]
    for losses in LOSSES:
        now = jnp.asarray(losses, jnp.float32)
        for n, (tx, theirs) in enumerate(((dwa, their_dwa), (uw, their_uw))):
            _, states[n] = tx.update(jnp.asarray(FOUR), states[n], task_losses=now)
            optimiser.zero_grad()
            want = loss_weights(theirs, losses)
            got = surgery.diagnostics(states[n]).weights
            np.testing.assert_allclose(got, want, rtol=1e-5)
        optimiser.step()
        their_dwa.step()
