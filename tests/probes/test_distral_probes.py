"""Each of the seven algorithms on tiny environments, against optimal values and policies in NumPy.

All memoryless probes of `probe_envs` are played at once, as tasks of one suite (the observation
says which probe it is), three tasks of each probe, so that every algorithm compiles once. The
entropy cost tau is not small: the optimum then lies inside the simplex, and every number of the
answer depends on the costs, on the discount and on what pi_0 has learnt.

With Q(a) the optimal regularised value of an action, and in states that look the same in n tasks:

    pi_i ~ pi_0^alpha exp(Q_i / tau),  V_i = tau log sum_a pi_0(a)^alpha exp(Q_i(a) / tau)
    pi_0 = mean over the n tasks of pi_i            (where anything trains pi_0)

`a3c_multitask` has one policy and one value for tasks it cannot tell apart: it solves their mean.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import probe_envs
import pytest

from mtrl_jax import rollout
from mtrl_jax.algorithms import distral
from mtrl_jax.envs import functional
from mtrl_jax.losses.distral import ALGORITHMS
from mtrl_jax.networks import columns
from mtrl_jax.types import EnvSpec, FunctionalSuite

TAU, GAMMA = 0.6, 0.8
REWARDS = (1.0, -0.5, 0.4)
RIGHT = (0.0, 0.0, 1.0)  # two tasks against one: a mean of policies that is not uniform
TASKS = {
    "constant_reward": REWARDS,
    "observed_reward": REWARDS,
    "delayed_reward": REWARDS,
    "action_matters": RIGHT,
    "action_and_cue": RIGHT,
    "truncation": REWARDS,
}
VARIANTS = 3
# Where all actions are worth the same and entropy is free (alpha = 1), any pi_i = pi_0 will do.
FREE = ("constant_reward", "observed_reward", "delayed_reward", "truncation")
NUM_ENVS, UPDATES = 16, 300
TOLERANCE = 0.05  # values lie between -2 and 7


# ------------------------------------------------------------------------- all probes as one suite


class _Task(NamedTuple):
    probe: Any  # int32, index into TASKS
    value: Any  # what the probe calls its task


class _AllProbes(NamedTuple):
    """Task (p, value) is probe p at `value`; what p observes follows a one-hot vector of p."""

    probes: tuple

    def _observe(self, cue, time, task):
        seen = jnp.stack([probe.observe(cue, time)[0] for probe in self.probes])
        return jnp.append(jax.nn.one_hot(task.probe, len(self.probes)), seen[task.probe])

    def reset(self, key, task):
        state = probe_envs.ProbeState(jax.random.rademacher(key, (), jnp.float32), jnp.int32(0))
        return state, functional.restart(self._observe(*state, task))

    def step(self, key, state, action, task):
        rewards = jnp.stack([p.reward(*state, action, task.value) + 0.0 for p in self.probes])
        state = state._replace(time=state.time + 1)
        ended = state.time >= jnp.array([p.length for p in self.probes])[task.probe]
        truncates = jnp.array([p.truncates for p in self.probes])[task.probe]
        discount = jnp.where(ended & ~truncates, 0.0, 1.0)
        observation = self._observe(*state, task)
        return state, functional.transition(observation, rewards[task.probe], discount), ended


def _suite():
    probes = tuple(probe_envs.PROBES[name]().env for name in TASKS)
    names = [f"{name}_{n}" for name in TASKS for n in range(VARIANTS)]
    spec = EnvSpec(
        task_names=tuple(names),
        observation_shape=(len(probes) + 1,),
        observation_dtype=np.dtype(np.float32),
        vocabulary=None,
        num_actions=probe_envs.NUM_ACTIONS,
        action_mask=np.ones((len(names), probe_envs.NUM_ACTIONS), bool),
        episode_limit=np.repeat([p.length for p in probes], VARIANTS),
        has_success=False,
    )
    values = jnp.asarray([value for name in TASKS for value in TASKS[name]])
    index = jnp.repeat(jnp.arange(len(probes)), VARIANTS)
    return FunctionalSuite(spec, _AllProbes(probes), _Task(index, values))


# ------------------------------------------------------------------------------- the known answers


class _Answer(NamedTuple):
    """Of one kind of row of one probe: values `[n]`, P(action 1) of the tasks `[n]` and of pi_0."""

    value: np.ndarray
    policy: np.ndarray
    distilled: float


def _solve(q, alpha, mixed):
    """The equations at the top for action values q `[n, A]`; `mixed`: one policy for all tasks."""
    if mixed:
        q = np.broadcast_to(q.mean(0), q.shape)
    pi_0 = np.full(q.shape[1], 0.5)
    for _ in range(5000):
        weights = pi_0**alpha * np.exp(q / TAU)
        pi = weights / weights.sum(1, keepdims=True)
        pi_0 = pi.mean(0)
    return _Answer(TAU * np.log(weights.sum(1)), pi[:, 1], float(pi_0[1]))


def _answers(algorithm):
    """(probe, row of the episode, cue) to its `_Answer`."""
    alpha = ALGORITHMS[algorithm].alpha
    solve = functools.partial(_solve, alpha=alpha, mixed=algorithm == "a3c_multitask")
    c, right = np.array(REWARDS)[:, None], np.array(RIGHT)[:, None]
    either = np.zeros((VARIANTS, 2))  # rewards that do not depend on the action
    actions = np.array([[0.0, 1.0]])
    answers = {}
    for cue in (-1, 1):
        answers["constant_reward", 0, cue] = solve(either + c)
        answers["observed_reward", 0, cue] = solve(either + c * cue)
        answers["delayed_reward", 1, cue] = last = solve(either + c)
        answers["delayed_reward", 0, cue] = solve(either + GAMMA * last.value[:, None])
        answers["action_matters", 0, cue] = solve(np.where(actions == right, 1.0, -1.0))
        wanted = (cue > 0) ^ (right > 0)
        answers["action_and_cue", 0, cue] = solve(np.where(actions == wanted, 1.0, -1.0))
        # V = c + (what a row's entropy is worth) + gamma V; after one reward the tasks are known.
        bonus = solve(either).value[0]
        forever = (np.array(REWARDS) + bonus) / (1 - GAMMA)
        answers["truncation", 0, cue] = solve(either + c + GAMMA * forever[:, None])
        for row in (1, 2, 3):
            answers["truncation", row, cue] = answers["truncation", 0, cue]._replace(value=forever)
    return answers


# --------------------------------------------------------------------------------- what is learnt


def _config(algorithm, **changes):
    numbers = {
        "algorithm": algorithm,
        "entropy_cost": TAU,
        "discount": GAMMA,
        "unroll_length": 6,
        "learning_rate": 0.02,
        "final_learning_rate": 0.0,
        "max_grad_norm": 100.0,
        "hidden": (32,),
    }
    return distral.Config(**(numbers | changes))


# What a test costs is compiling: 15 s for each algorithm with LLVM's optimisations, 4 s without.
_QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def _train(suite, config, updates=UPDATES):
    """State after training, and the last rollout (the last learning rates are next to 0)."""
    agent = distral.agent(suite.spec, config, updates)
    env_index = jnp.asarray(rollout.env_indices(suite.spec.num_tasks, NUM_ENVS))

    def run(key):
        def one(carry, u):
            state, loop = carry
            loop, experience = rollout.unroll(
                suite,
                agent.act,
                agent.policy_params(state),
                loop,
                jax.random.fold_in(key, u),
                config.unroll_length,
            )
            state, _ = agent.update(state, experience)
            return (state, loop), experience

        state = agent.init(key)
        loop = rollout.init_env_loop(suite, key, env_index, agent.init_actor)
        (state, _), experience = jax.lax.scan(one, (state, loop), jnp.arange(updates))
        return state, jax.tree.map(lambda x: x[-1], experience)

    return jax.device_get(jax.jit(run, compiler_options=_QUICKLY)(jax.random.key(0)))


def _probability_of_one(log_prob, action):
    """P(action 1), from what acting says of the action it drew."""
    return np.where(action == 1, np.exp(log_prob), 1 - np.exp(log_prob))


def _flat(rows):
    """Leaves `[T, K, E, ...]` to `[K, T E, ...]`: rows as environments; acting cannot tell."""
    return jax.tree.map(lambda x: np.moveaxis(x, 1, 0).reshape(x.shape[1], -1, *x.shape[3:]), rows)


def _inputs(experience):
    """Rows 0..T-1 as environments, and the action before each of them."""
    before = np.concatenate([experience.actor_state.prev_action[None], experience.action[:-1]])
    return _flat(jax.tree.map(lambda x: x[:-1], experience.timestep)), _flat(before)


def _distilled(suite, config, state, experience):
    """P(action 1) under pi_0 at rows 0..T-1, `[K, T E]`."""
    agent = distral.agent(suite.spec, config)
    rows, before = _inputs(experience)
    actor = agent.init_actor(before.shape[1])._replace(prev_action=before)
    keys = jax.random.split(jax.random.key(1), before.shape)
    act = functools.partial(agent.act, distilled=True)
    action, log_prob, _ = jax.jit(act, compiler_options=_QUICKLY)(
        agent.policy_params(state), actor, rows, keys
    )
    return _probability_of_one(np.asarray(log_prob), np.asarray(action))


def _values(suite, config, params, experience):
    """V at rows 0..T-1, `[K, T E]`, by the column that has the value; needs no recurrence."""
    column = columns.from_spec(suite.spec, config.hidden, "none", config.core_size)
    rows, before = _inputs(experience)
    own = bool(params.task)

    def one(params, *inputs):
        return column.apply({"params": params}, *(x[None] for x in inputs), ())[1][0]

    return np.asarray(
        jax.vmap(one, (0 if own else None, 0, 0, 0, 0))(
            params.task if own else params.shared,
            rows.observation,
            np.where(rows.first, -1, before),
            rows.reward,
            rows.first,
        )
    )


def _rows_of_episodes(suite, experience):
    """For each row `[K, T E]` where its episode stands (-1: unknown or over) and its cue."""
    first = np.asarray(experience.timestep.first)[:-1]
    time = np.full(first.shape, -1)
    for t in range(len(first)):  # rows before the first reset row of the rollout are left out
        before = time[t - 1] if t else time[0]
        time[t] = np.where(first[t], 0, np.where(before >= 0, before + 1, -1))
    acted = time < np.asarray(suite.spec.episode_limit)[:, None]
    cue = np.sign(np.asarray(experience.timestep.observation)[:-1, ..., -1])
    return _flat(np.where(acted, time, -1)), _flat(cue)


def _errors(suite, config, state, experience):
    """Largest difference from the known answers, by probe: of values, policies, pi_0."""
    algorithm = config.algorithm
    found = {
        "value": _values(suite, config, state.params, experience),
        "policy": _probability_of_one(_flat(experience.log_prob), _flat(experience.action)),
    }
    if ALGORITHMS[algorithm].distils:
        found["distilled"] = _distilled(suite, config, state, experience)
    time, cue = _rows_of_episodes(suite, experience)
    errors = {(name, what): 0.0 for name in TASKS for what in found}
    for (name, row, sign), answer in _answers(algorithm).items():
        for n in range(VARIANTS):
            k = list(TASKS).index(name) * VARIANTS + n
            here = time[k] == row
            if name in ("observed_reward", "action_and_cue"):
                here &= cue[k] == sign
            assert here.any(), f"no row {row} of {name} in the last rollout"
            for what in found:
                known = np.broadcast_to(getattr(answer, what), VARIANTS)[n]
                error = float(np.abs(found[what][k, here] - known).max())
                errors[name, what] = max(errors[name, what], error)
    return errors


# One column and two, with a distilled policy and without; all seven where time is no matter.
QUICK = ("kl_ent_1col", "kl_2col", "a3c_multitask")


@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in ALGORITHMS],
)
def test_learns_the_known_answers(algorithm):
    suite, config = _suite(), _config(algorithm)
    errors = _errors(suite, config, *_train(suite, config))
    free = () if ALGORITHMS[algorithm].alpha < 1 else FREE
    wrong = {
        (name, what): round(error, 3)
        for (name, what), error in errors.items()
        if not error < TOLERANCE and not (what != "value" and name in free)
    }
    assert not wrong
    assert len(errors) == len(TASKS) * (3 if ALGORITHMS[algorithm].distils else 2)


def test_surgery_of_the_shared_gradient_leaves_the_tasks_solvable():
    """PCGrad stops wherever gradients oppose: where pi_0 ends is open, what tasks learn is not."""
    suite, config = _suite(), _config("kl_ent_2col", surgery="pcgrad")
    state, experience = _train(suite, config)
    errors = _errors(suite, config, state, experience)
    assert max(errors[name, "value"] for name in FREE) < TOLERANCE
    time, cue = _rows_of_episodes(suite, experience)
    one = _probability_of_one(_flat(experience.log_prob), _flat(experience.action))
    for name in ("action_matters", "action_and_cue"):
        for n in range(VARIANTS):
            k = list(TASKS).index(name) * VARIANTS + n
            wanted = RIGHT[n] > 0
            if name == "action_and_cue":
                wanted = (cue[k] > 0) ^ wanted
            assert np.where(wanted, one, 1 - one)[k, time[k] == 0].min() > 0.75


@pytest.mark.slow
@pytest.mark.parametrize(("core", "low", "high"), [("lstm", 0.85, 1.0), ("none", -0.4, 0.4)])
def test_only_a_recurrent_core_remembers_the_cue(core, low, high):
    """The last of four actions is asked for the cue; the best return without memory is 0.

    At a small entropy cost an agent without a core learns to hand the cue on through its previous
    action. That costs the entropy of every action on the way, here more than it brings.
    """
    suite = probe_envs.memory(length=4)
    config = _config("kl_ent_2col", core=core, core_size=16, discount=0.95, unroll_length=10)
    _, experience = _train(suite, config)
    rows = jax.tree.map(lambda x: x[1:], experience.timestep)
    asked = rows.valid & (rows.reward != 0)
    mean = (rows.reward * asked).sum((0, 2)) / asked.sum((0, 2))
    assert asked.sum() >= 2 * suite.spec.num_tasks * NUM_ENVS
    assert (low <= mean).all() and (mean <= high).all(), mean
