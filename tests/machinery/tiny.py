"""The smallest runs that go through every part of the machinery, and what tests ask about them.

A distinct program costs seconds to compile, so all these tests share one shape.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtrl_jax import engines, learner, rollout
from mtrl_jax.algorithms import distral
from mtrl_jax.envs import functional
from mtrl_jax.types import Agent, FunctionalSuite, HostSuite, Timestep
from tests.probes import probe_envs

K, E, T = 2, 8, 5

CONFIG = distral.Config(hidden=(4,), unroll_length=T, entropy_cost=0.1, learning_rate=0.01)
RUN = engines.RunConfig(
    total_env_steps=4 * 5 * T * K * E,
    num_envs_per_task=E,
    updates_per_dispatch=5,
    log_every=10 * T * K * E,
    eval_every=10**9,
    checkpoint_every=10 * T * K * E,
    eval_episodes=4,
)

# Of each kind of method another one is tested at every run.
_LIKE_OTHERS = {
    *("gradvac", "mgda", "imtl_g", "fairgrad", "dual_proj", "config", "graddrop", "gradnorm"),
    *("uncertainty_weighting", "dwa", "gradient_cosine", "imtl_l", "stch", "go4align", "sdmgrad"),
    *("ol_aux", "pivrg", "db_mtl", "excess_mtl", "m_config", "sum"),
}


def suite(tasks: tuple[float, ...] = (0.0, 1.0)) -> FunctionalSuite:
    """Episodes of three actions, of which the last should match a cue or its opposite."""
    return probe_envs.memory(tasks)


def run_config(**changes: Any) -> engines.RunConfig:
    return dataclasses.replace(RUN, **changes)


@contextlib.contextmanager
def quick_compiles(quick: bool = True) -> Iterator[None]:
    """XLA without most of its optimisations, which take longer than these tests run; or with them,
    where they are what is tested."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def slow_but(quick: Iterable[str], names: Iterable[str]) -> list[Any]:
    """Names for `parametrize`; all but the `quick` ones are behind the marker slow."""
    few = set(quick)
    return [n if n in few else pytest.param(n, marks=pytest.mark.slow) for n in names]


def quick_methods(names: Iterable[str]) -> list[Any]:
    """Methods of surgery for `parametrize`, where each takes a second to compile: one of a kind is
    quick, and whatever is new."""
    names = list(names)
    return slow_but(set(names) - _LIKE_OTHERS, names)


def assert_trees_equal(a: Any, b: Any) -> None:
    """To the bit, NaNs and typed keys included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(_plain(x), _plain(y), err_msg=jax.tree_util.keystr(path))


def assert_trees_close(a: Any, b: Any, atol: float) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(_plain(x), np.float64), np.asarray(_plain(y), np.float64)
        np.testing.assert_allclose(x, y, 0, atol, err_msg=jax.tree_util.keystr(path))


def _plain(x: Any) -> np.ndarray:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)


# --------------------------------------------------------------- an agent without a network


class ToyState(NamedTuple):
    params: learner.Params  # task: {"w": [K, d, A]}
    opt_state: learner.OptState
    updates: Any  # int32


def toy_agent(spec: Any, *, nan_at: int = -1) -> Agent:
    """REINFORCE on one matrix a task; the loss of the last task is NaN at update `nan_at`."""
    shape = (*spec.observation_shape, spec.num_actions)
    transforms = learner.Transforms(optax.identity(), optax.sgd(0.1))

    def init(key):
        w = 0.1 * jax.random.uniform(key, (spec.num_tasks, *shape))
        params = learner.Params({}, {"w": w})
        return ToyState(params, learner.init_optimisers(transforms, params), jnp.int32(0))

    def log_probs(w, observation):
        return jax.nn.log_softmax(observation @ w)

    def act(policy, actor_state, timestep, keys, *, distilled=False):
        logits = jax.vmap(log_probs)(policy.task["w"], timestep.observation)
        action = jax.vmap(jax.vmap(jax.random.categorical))(keys, logits).astype(jnp.int32)
        log_prob = jnp.take_along_axis(logits, action[..., None], -1)[..., 0]
        return action, log_prob, actor_state

    def update(state, experience):
        rows = experience.timestep

        def loss(shared, task, batch):
            observation, action, reward, valid, bad = batch
            chosen = jnp.take_along_axis(log_probs(task["w"], observation), action[..., None], -1)[
                ..., 0
            ]
            value = -jnp.where(valid, chosen * reward, 0.0).mean()
            return jnp.where(bad, jnp.nan, value), {"loss/chosen": chosen.mean()}

        def lead(x):
            return jnp.moveaxis(x, 1, 0)

        bad = (state.updates == nan_at) & (jnp.arange(spec.num_tasks) == spec.num_tasks - 1)
        batch = (
            lead(rows.observation[:-1]),
            lead(experience.action),
            lead(rows.reward[1:]),
            lead(rows.valid[1:]),
            bad,
        )
        params, opt_state, metrics = learner.gradient_step(
            loss, transforms, state.params, state.opt_state, batch
        )
        return ToyState(params, opt_state, state.updates + 1), metrics

    return Agent(
        init=init,
        init_actor=lambda num_envs: (),
        policy_params=lambda state: state.params,
        act=act,
        update=update,
        unroll_length=T,
        has_distilled=False,
    )


# --------------------------------------------------------- functional environments as a pool


@functools.cache
def _compiled(env: Any) -> Any:
    reset, step = functional.auto_reset_batch(env)

    def advance(key, index, state, action, task):
        pair = jax.vmap(jax.vmap(jax.random.split))(functional.environment_keys(key, index))
        return step(pair[..., 1], state, action, task)

    return (
        jax.jit(lambda key, index, task: reset(functional.environment_keys(key, index), task)),
        jax.jit(advance),
    )


class FunctionalPool:
    """The environments of a functional suite behind the calls of a pool.

    Step t draws from `fold_in(key, t)` as `rollout.unroll` does, so that both make one trajectory.
    """

    def __init__(self, inner: FunctionalSuite, num_envs: int, key: Any, num_groups: int) -> None:
        self.spec, self.num_groups = inner.spec, num_groups
        self._tasks, self._key = inner.tasks, key
        self._reset, self._step = _compiled(inner.env)
        index = rollout.env_indices(inner.spec.num_tasks, num_envs)
        self._index = np.split(index, num_groups, axis=1)
        self._state: list[Any] = [None] * num_groups
        self._rows: list[Any] = [None] * num_groups
        self._time = [0] * num_groups
        self.closed = False

    def reset(self, group: int) -> Timestep:
        self._state[group], row = self._reset(
            jax.random.fold_in(self._key, 0), self._index[group], self._tasks
        )
        return jax.tree.map(np.array, row)

    def send(self, group: int, action: np.ndarray) -> None:
        assert self._rows[group] is None
        key = jax.random.fold_in(self._key, self._time[group])
        self._state[group], row = self._step(
            key, self._index[group], self._state[group], action, self._tasks
        )
        self._rows[group] = jax.tree.map(np.array, row)
        self._time[group] += 1

    def recv(self, group: int) -> Timestep:
        row, self._rows[group] = self._rows[group], None
        assert row is not None
        return row

    def close(self) -> None:
        self.closed = True


def host_suite() -> HostSuite:
    """The tiny suite on the host path."""
    inner = suite()

    def make(num_envs, seed, num_groups):
        return FunctionalPool(inner, num_envs, jax.random.key(seed), num_groups)

    return HostSuite(inner.spec, make)
