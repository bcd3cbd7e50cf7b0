"""The words that every layer shares: axes, time steps, rollouts, and what `train.py` calls.

Axes, named once and used in every docstring::

    T  time steps of one rollout (rollouts are time-major)
    K  tasks; anything per task leads with K
    E  environments of one task
    A  discrete actions, or coordinates of a continuous one
    D  devices; the axis exists inside `learner.py` only
    S  seeds of one run, outermost, on the functional path only

A batch of time steps is ``[K, E, ...]``, a rollout ``[T, K, E, ...]``.
"""

from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = jax.Array
ArrayTree = Any
Key = jax.Array
Metrics = dict[str, Any]


class Timestep(NamedTuple):
    """What an environment hands out, one row a step. All fields carry the batch axes, if any.

    One convention for functional environments and for pools (the one of `dm_env` and envpool): an
    episode of L actions takes L + 1 rows, the first of which is a *reset row*. The row that ends an
    episode carries the true final observation, so `observation` is always what to bootstrap from;
    the action chosen on that row is ignored, and the row after it is the next reset row.

    Attributes:
      observation: what the agent acts on, dtype and shape as in `EnvSpec`.
      reward: float32, of the transition into this row; meaningless where not `valid`.
      discount: float32, of the transition into this row: 0.0 exactly at true termination, else 1.0,
        so that truncation bootstraps.
      first: bool, True on a reset row.
      valid: bool, False exactly where the transition into this row is not the environment's answer
        to the action sent (reset rows, and rows of an environment that rests). Nothing may learn
        from such a transition.
      success: bool, the environment says that the task was solved by this transition.
    """

    observation: Any
    reward: Any
    discount: Any
    first: Any
    valid: Any
    success: Any


class EnvSpec(NamedTuple):
    """What a suite's environments look like; equal for all its tasks unless it leads with K.

    Attributes:
      task_names: K names, used in metrics, tables and file names.
      observation_shape: of one environment.
      observation_dtype: NumPy dtype.
      vocabulary: None, or an int array `observation_shape`: the number of classes of each
        categorical element of an integer observation, which a torso turns into one-hot vectors.
      num_actions: A, size of the shared discrete action space; 0 where actions are continuous.
      action_mask: bool `[K, A]`, False for actions, or coordinates of a continuous one, that a task
        does not have; also `[K, 0]` where actions are continuous and every task has all of them.
      episode_limit: int `[K]`, most actions in an episode (0: no limit known).
      has_success: whether `Timestep.success` means anything.
      action_size: 0 where actions are discrete, else the number of coordinates of a continuous one:
        float32, [-1, 1] in each, whatever the environment's own bounds. The environment cuts off
        what lies outside, so that an agent may draw from an unbounded distribution.
      observation_mask: None, or bool `[K, *observation_shape]`, False for elements that a task does
        not have, where its observations are 0 (`envs/pad.py`); None: all have all.
    """

    task_names: tuple[str, ...]
    observation_shape: tuple[int, ...]
    observation_dtype: Any
    vocabulary: np.ndarray | None
    num_actions: int
    action_mask: np.ndarray
    episode_limit: np.ndarray
    has_success: bool
    action_size: int = 0
    observation_mask: np.ndarray | None = None

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of one environment's action: () for a discrete one."""
        return (self.action_size,) if self.action_size else ()

    @property
    def action_dtype(self) -> np.dtype:
        return np.dtype(np.float32 if self.action_size else np.int32)

    @property
    def coordinate_mask(self) -> np.ndarray | None:
        """bool `[K, A]`, which coordinates of a continuous action a task has; None: all have all,
        or actions are discrete."""
        mask = np.asarray(self.action_mask)
        return mask if self.action_size and mask.size and not mask.all() else None

    @property
    def num_tasks(self) -> int:
        return len(self.task_names)


class FunctionalEnv(Protocol):
    """A pure-JAX environment family: one environment, one task, no side effects, no auto-reset.

    `task` is a pytree of arrays (a layout, a goal, a rule); the tasks of a suite are such pytrees
    with a leading K, so that one vmap covers tasks and one covers environments.
    """

    def reset(self, key: Key, task: ArrayTree) -> tuple[ArrayTree, Timestep]: ...

    def step(
        self, key: Key, state: ArrayTree, action: Array, task: ArrayTree
    ) -> tuple[ArrayTree, Timestep, Array]:
        """Returns the new state, its time step, and whether the episode ended (for any reason)."""
        ...


class FunctionalSuite(NamedTuple):
    """A suite whose environments are JAX functions: the whole training loop compiles."""

    spec: EnvSpec
    env: FunctionalEnv
    tasks: ArrayTree  # leaves [K, ...]


class Pool(Protocol):
    """K tasks of E host environments each, as NumPy. Built from `(name, seed)`, never restored.

    Environments are numbered 0..E-1 within each task and dealt to `num_groups` equal groups
    (contiguous ranges of E), each of which steps by itself, so that one group's environments run
    while another group's results are used.
    """

    spec: EnvSpec
    num_groups: int

    def reset(self, group: int) -> Timestep:
        """First time step of a group, leaves `[K, E / num_groups, ...]`; called once."""
        ...

    def send(self, group: int, action: np.ndarray) -> None:
        """Starts a step with actions `[K, E / num_groups, *spec.action_shape]`, checked here;
        returns at once."""
        ...

    def recv(self, group: int) -> Timestep:
        """Waits for what `send` started. The arrays are the caller's to keep."""
        ...

    def close(self) -> None: ...


class HostSuite(NamedTuple):
    """A suite whose environments live on the host.

    Attributes:
      spec: of its environments.
      make_pool: `(num_envs, seed, num_groups) -> Pool`; with `render=True` where pictures are to be
        had, and for envpool's with `stagger=True` (`envs/pool.py`).
      max_envs: most environments of a task in one pool that evaluation should ask for, where they
        are large (0: no limit).
      part: `(indices) -> HostSuite` of some of its tasks, in that order, or None: what the
        benchmark needs, which plays games one by one.
    """

    spec: EnvSpec
    make_pool: Any
    max_envs: int = 0
    part: Any = None


class Rollout(NamedTuple):
    """T steps of K tasks with E environments each; both environment paths fill the same record.

    Attributes:
      timestep: leaves `[T + 1, K, E, ...]`. Row t is what action t was chosen on; row t + 1 holds
        the reward, discount and validity of that transition. Row T is row 0 of the next rollout.
      action: int32 `[T, K, E]`, or float32 `[T, K, E, A]` where actions are continuous.
      log_prob: float32 `[T, K, E]`, of the action under the policy that chose it.
      actor_state: the agent's memory before row 0, leaves `[K, E, ...]`.
    """

    timestep: Timestep
    action: Any
    log_prob: Any
    actor_state: ArrayTree


class Agent(NamedTuple):
    """What `train.py` and `evaluate.py` call: pure functions of one algorithm bound to its numbers.

    The state is opaque to the caller, so an agent without parameters or gradients fits.

    Attributes:
      init: `(key) -> state`.
      init_actor: `(E) -> actor_state`, the agent's memory at the start, leaves `[K, E, ...]`.
      policy_params: `(state) -> policy_params`, the part of the state that acting reads.
      act: `(policy_params, actor_state, timestep, keys, *, distilled=False) -> (action, log_prob,
        actor_state)` with leaves `[K, E, ...]`; `distilled` asks for the shared policy instead of
        the task's own.
      update: `(state, rollout) -> (state, metrics)`; metrics are scalars or `[K]`, averaged over
        the devices that the agent was made for (`learner.Collectives`).
      unroll_length: T, steps of a rollout.
      has_distilled: whether there is a shared policy to evaluate.
      greedy_eval: whether scores are of the likeliest actions instead of drawn ones.
      has_greedy: whether `act` takes one keyword more, `greedy`; true with `greedy_eval`.
      overlap: whether a host suite's pool may step while an update runs, with the policy of before
        it; otherwise the pool waits for the new one.
      num_devices: D that `update` was made for; a run on another number refuses the agent.
      observe: None, or `(state, episodes) -> state`, called behind every update with the sums over
        the episodes that ended in its rollout (`rollout.episode_statistics`, of all devices).
      environments: None, or `(state, E) -> int32 [K]`: of each task's E environments, how many step
        in the next rollout, the first ones; the others rest. Functional suites only.
    """

    init: Any
    init_actor: Any
    policy_params: Any
    act: Any
    update: Any
    unroll_length: int
    has_distilled: bool
    greedy_eval: bool = False
    has_greedy: bool = False
    overlap: bool = True
    num_devices: int = 1
    observe: Any = None
    environments: Any = None
