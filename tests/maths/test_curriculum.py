"""Weights of tasks: against NumPy, against the papers' own recursions, and in one gradient step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtrl_jax import curriculum, learner, surgery
from mtrl_jax.types import EnvSpec
from tests.machinery import tiny

K = 3


def spec(has_success=True, k=K):
    names = tuple("abcdef"[:k])
    return EnvSpec(names, (2,), np.float32, None, 2, np.ones((k, 2), bool), np.ones(k), has_success)


def episodes(counts, scores, name="success"):
    counts, scores = np.asarray(counts, np.float32), np.asarray(scores, np.float32)
    found = dict.fromkeys(
        ("episode/return", "episode/success", "episode/length"), np.zeros(len(counts))
    )
    return {**found, "episode/count": counts, f"episode/{name}": counts * scores}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


# ------------------------------------------------------------------------------------------ fixed


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), None),
        ((2, 2, 2), None),
        ((0.1, 0.1, 0.1), None),
        ((1, 2, 3), (0.5, 1.0, 1.5)),
        ((2, 1, 0), (4 / 3, 2 / 3, 0.0)),  # the mean over those that are there
        ((0, 0, 7), (0.0, 0.0, 1.0)),
    ],
)
def test_fixed_weights_have_mean_one(values, expected):
    found = curriculum.fixed(values, K)
    if expected is None:
        assert found is None
    else:
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, 1e-7)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((1, 2), "must hold 3 numbers, one per task"),
        ((1, 2, -1), "finite and not negative; got -1"),
        ((1, 2, np.nan), "not negative; got nan"),
        ((1, 2, np.inf), "not negative; got inf"),
        ((1, True, 1), "not negative; got True"),
        ((1, None, 1), "not negative; got None"),
        ((0, 0.0, 0), "must have one above 0"),
    ],
)
def test_weights_that_mean_nothing_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        curriculum.fixed(values, K)


# ----------------------------------------------------------------------------- one gradient step


def _quadratic(shared, task, target):
    """A loss whose gradients are written down: shared - target, and own - target."""
    loss = 0.5 * jnp.square(shared["w"] - target).sum() + 0.5 * jnp.square(task["v"] - target).sum()
    return loss, {}


def _step(method, weights, k=K, frozen=None):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=4).astype(np.float32)
    own, target = (x.astype(np.float32)[:k] for x in rng.normal(size=(2, K, 4)))
    params = learner.Params({"w": jnp.asarray(shared)}, {"v": jnp.asarray(own)})
    chain = optax.chain(surgery.METHODS[method](num_tasks=k, diagnostics=True), optax.sgd(1.0))
    transforms = learner.Transforms(chain, optax.sgd(1.0), frozen)
    state = learner.init_optimisers(transforms, params)
    step = functools.partial(learner.gradient_step, _quadratic, transforms, weights=weights)
    new, state, metrics = jax.jit(step)(params, state, jnp.asarray(target))
    return shared, own, target, new, metrics


def test_weights_multiply_losses_before_a_mean_and_leave_the_tasks_own_alone():
    w = curriculum.fixed((1, 2, 3), K)
    shared, own, target, new, metrics = _step("mean", w)
    gradient = (w[:, None] * (shared - target)).mean(0)
    np.testing.assert_allclose(new.shared["w"], shared - gradient, 1e-6)
    np.testing.assert_allclose(new.task["v"], target, 0, 1e-6)  # a whole step, whatever the weight
    losses = 0.5 * np.square(shared - target).sum(1) + 0.5 * np.square(own - target).sum(1)
    np.testing.assert_allclose(metrics["loss/total"], losses, 1e-5)  # without weights


def test_surgery_sees_gradients_that_are_weighted():
    w = curriculum.fixed((1, 2, 3), K)
    shared, _, target, new, _ = _step("mgda", w)
    update = shared - np.asarray(new.shared["w"])

    def is_the_shortest(g):  # of the convex hull of the rows: Frank and Wolfe's condition
        alpha = np.linalg.lstsq(g.T, update)[0]
        inside = (alpha > -1e-5).all() and abs(alpha.sum() - 1) < 1e-4
        return inside and (g @ update > update @ update - 1e-4).all()

    assert is_the_shortest(w[:, None] * (shared - target))
    assert not is_the_shortest(shared - target)


@pytest.mark.parametrize("method", ["mean", "mgda", "pcgrad"])
def test_a_task_with_weight_zero_is_not_there_for_the_others(method):
    three = _step(method, curriculum.fixed((2, 1, 0), K))
    two = _step(method, curriculum.fixed((2, 1), 2), 2)
    np.testing.assert_allclose(three[3].shared["w"], two[3].shared["w"], 0, 1e-6)
    np.testing.assert_allclose(three[3].task["v"][2], three[2][2], 0, 1e-6)  # its own go on


def test_what_is_frozen_is_not_seen_by_surgery_and_stays_to_the_bit():
    frozen = learner.Params({"w": False, "u": True}, {"v": False, "s": True})
    rng = np.random.default_rng(1)
    params = learner.Params(
        {"w": jnp.asarray(rng.normal(size=4), jnp.float32), "u": jnp.ones(2)},
        {"v": jnp.asarray(rng.normal(size=(K, 4)), jnp.float32), "s": jnp.ones((K, 1))},
    )
    target = jnp.asarray(rng.normal(size=(K, 4)), jnp.float32)

    def loss(shared, task, one):
        extra = 100.0 * (shared["u"].sum() + task["s"].sum()) * one.sum()
        return _quadratic(shared, task, one)[0] + extra, {}

    def step(loss, params, frozen):
        chain = optax.chain(
            surgery.mgda(num_tasks=K), optax.clip_by_global_norm(0.5), optax.adam(0.1)
        )
        transforms = learner.Transforms(chain, optax.adam(0.1), frozen)
        state = learner.init_optimisers(transforms, params)
        return jax.jit(functools.partial(learner.gradient_step, loss, transforms))(
            params, state, target
        )

    new, state, _ = step(loss, params, frozen)
    np.testing.assert_array_equal(new.shared["u"], params.shared["u"])
    np.testing.assert_array_equal(new.task["s"], params.task["s"])
    rest = learner.Params({"w": params.shared["w"]}, {"v": params.task["v"]})
    without, own, _ = step(_quadratic, rest, None)
    np.testing.assert_allclose(new.shared["w"], without.shared["w"], 1e-6)
    np.testing.assert_allclose(new.task["v"], without.task["v"], 1e-6)
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(own))  # no moments of them


# ------------------------------------------------------------------------------------------ rules


def test_success_weighs_what_fails():
    plan = curriculum.make(spec(), (), "success:rate=1:floor=.1")
    state = curriculum.init(plan, K)
    np.testing.assert_array_equal(curriculum.weights(plan, state), np.ones(K, np.float32))
    state = curriculum.observe(plan, state, episodes([4, 2, 1], [0.75, 0.5, 0.0]))
    # Failures .25, .5, 1: shares 1/7, 2/7, 4/7 of nine tenths of a mean of 1.
    expected = 0.1 + 0.9 * 3 * np.array([1, 2, 4]) / 7
    np.testing.assert_allclose(curriculum.weights(plan, state), expected, 1e-6)
    solved = curriculum.observe(plan, state, episodes([1, 1, 1], [1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(curriculum.weights(plan, solved), np.ones(K, np.float32))


@pytest.mark.parametrize("has_success", [True, False])
def test_progress_against_numpy(has_success):
    plan = curriculum.make(spec(has_success), (), "progress:rate=.3:slow=.05:floor=.2")
    state, rng = curriculum.init(plan, K), np.random.default_rng(2)
    fast, slow, low, high, seen = (np.zeros(K) for _ in range(5))
    for _ in range(40):
        n, x = rng.integers(0, 4, K), rng.uniform(size=K)
        n[2] = 0  # a task of which no episode ever ends
        state = curriculum.observe(
            plan, state, episodes(n, x, "success" if has_success else "return")
        )
        for k in np.flatnonzero(n):
            if not seen[k]:
                fast[k] = slow[k] = low[k] = high[k] = x[k]
            else:
                for _ in range(n[k]):  # one by one: the power is that of a loop
                    fast[k] += 0.3 * (x[k] - fast[k])
                slow[k] = fast[k] + 0.95 ** n[k] * (slow[k] - fast[k])
            low[k], high[k] = min(low[k], fast[k]), max(high[k], fast[k])
            seen[k] += n[k]
    np.testing.assert_allclose(state.fast, fast, 1e-5)
    np.testing.assert_allclose(state.episodes, seen)
    p = np.abs(fast - slow)[:2] / (1.0 if has_success else (high - low)[:2])
    p = np.array([*p, p.mean()])
    found = curriculum.weights(plan, state)
    np.testing.assert_allclose(found, 0.2 + 0.8 * p / p.mean(), 1e-4)
    np.testing.assert_allclose(np.mean(found), 1.0, 1e-6)


def test_progress_with_a_fast_rate_of_one_is_matiisens_online_algorithm():
    plan = curriculum.make(spec(), (), "progress:rate=1:slow=.1:floor=.5")
    state, rng = curriculum.init(plan, K), np.random.default_rng(3)
    q, last = np.zeros(K), None
    for _ in range(30):
        x = rng.uniform(size=K)
        state = curriculum.observe(plan, state, episodes(np.ones(K), x))
        if last is not None:
            q = 0.1 * (x - last) + 0.9 * q  # arXiv 1707.00183: the reward is the change of score
        last = x
    share = np.abs(q) / np.abs(q).mean()
    np.testing.assert_allclose(curriculum.weights(plan, state), 0.5 + 0.5 * share, 1e-4)


@pytest.mark.parametrize(
    ("text", "has_success", "k", "words"),
    [
        (
            "sucess",
            True,
            K,
            "curriculum must be one of success, progress, or nothing; got 'sucess'",
        ),
        ("success", False, K, "must be progress where the suite knows no success"),
        ("progress:rate=nan", True, K, "rate must be a number; got 'nan'"),
        ("progress:rate=0", True, K, "rate must lie in .0, 1.; got 0"),
        ("progress:floor=2", True, K, "floor must lie in"),
        ("progress:speed=1", True, K, "has the options rate, slow, floor, over; got speed"),
        ("progress", True, 1, "needs at least two tasks"),
    ],
)
def test_rules_that_mean_nothing_are_refused(text, has_success, k, words):
    with pytest.raises(ValueError, match=words):
        curriculum.make(spec(has_success, k), (), text)


def test_weights_are_fixed_or_moved():
    with pytest.raises(ValueError, match="task_weights must be left out where a curriculum"):
        curriculum.make(spec(), (1, 2, 3), "success")
