"""Acts with a policy that `mtrl_jax.export` wrote; jax is all that it needs (and flatbuffers, with
which jax reads its own serialised functions).

A folder of a policy holds::

    policy.json               what it is: observations, actions, tasks, memory, step, versions
    task_policy.jaxexport     the function, as `jax.export` serialises it; with
    distilled_policy.jaxexport  that of the policy which tasks share, where there is one
    numbers.npz               the arrays that the functions read

The function is the agent's own `act`, for K tasks of E rows each, with E left open. Its arguments
are positional, those of `arguments`; its results the actions `[K, E, ...]`, their log-probabilities
`[K, E]` and the memory. `load` deals rows of any tasks out to it and brings their actions back.
"""

import json
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

__all__ = ["POLICIES", "SCHEMA", "Arguments", "Policy", "load"]

SCHEMA = 1  # of a folder's contents; raised with every change that older readers cannot follow
POLICIES = ("task_policy", "distilled_policy")
DESCRIPTION, NUMBERS, FUNCTION = "policy.json", "numbers.npz", "{}.jaxexport"
KEY_IMPLEMENTATION, KEY_WORDS = "threefry2x32", 2


class Arguments(NamedTuple):
    """What an exported function takes, in this order; every leaf but parameters is `[K, E, ...]`.

    Attributes:
      parameters: tuple of arrays, `parameter/0` and so on of `numbers.npz`.
      observation: as the environment gives it; normalisation is inside.
      reward: float32, of the action before; not looked at where `first`.
      first: bool, an episode begins.
      memory: tuple of arrays, what the call before gave, or `memory/0` and so on.
      key: uint32 `[K, E, 2]`, data of a threefry key for each row.
    """

    parameters: Any
    observation: Any
    reward: Any
    first: Any
    memory: Any
    key: Any


class Policy(NamedTuple):
    """A policy that can act, from `load`.

    Attributes:
      description: what `policy.json` says.
      name: which of `POLICIES` it is.
      function: the exported function of `Arguments`.
      parameters: tuple of arrays, on the default device.
      start: tuple of arrays `[K, ...]`, each task's memory at the start of an episode.
      reads: fields of `Arguments` that make a difference.
    """

    description: dict[str, Any]
    name: str
    function: Any
    parameters: tuple[jax.Array, ...]
    start: tuple[np.ndarray, ...]
    reads: tuple[str, ...]

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(self.description["tasks"])

    def act(
        self,
        observation: Any,
        task: Any,
        memory: Any = None,
        key: Any = None,
        *,
        reward: Any = None,
        first: Any = None,
    ) -> tuple[jax.Array, Any]:
        """Actions for B rows, each of any task, and the memory to bring to the next call.

        The result of a row depends on that row, its number and the key alone. A call compiles once
        for each largest number of rows that a task has in it. May be called inside `jax.jit`, where
        all but `task` may be traced.

        Args:
          observation: `[B, ...]`, as the environment gives it. Of a padded suite: rows of one task
            (or of several of one shape) as it has them, or any rows padded, as `policy.json` says.
          task: name or number of the task of all rows, or a sequence of B.
          memory: None where every row begins an episode, then what the last call returned.
          key: `jax.random.key(n)`, another for each call; None where nothing is drawn.
          reward: float `[B]`, what the action before was paid; where `reads` has it and an episode
            goes on.
          first: bool `[B]`, rows that begin an episode; none of them with a memory, all without.

        Returns:
          int32 `[B]`, or float32 `[B, A]`, which the environment is to cut off to [-1, 1]; A is of
          the task itself, unless rows are of tasks that differ in it. And the memory, leaves
          `[B, ...]`, () where the policy has none.

        Raises:
          ValueError: naming the argument, what came and what was expected.
        """
        rows = _rows(observation)
        tasks = _tasks(self.task_names, task, rows) if rows else np.zeros(0, int)
        observation = _observation(self.description, observation, tasks)
        memory, first = _memory(self.start, memory, first, tasks)
        reward = _reward("reward" in self.reads, reward, first)
        index, slot = _deal(tasks, len(self.task_names))
        dealt = _take((observation, reward, first, memory, _row_keys(self.reads, key, rows)), index)
        action, _, memory = self.function(self.parameters, *dealt)
        action, memory = _back((action, memory), slot)
        coordinates = _own(self.description, "action", "coordinates", tasks)
        return action if coordinates is None else action[:, np.array(coordinates)], memory


def load(path: str | pathlib.Path, policy: str = "task_policy") -> Policy:
    """The policy in a folder that `mtrl_jax.export` wrote.

    Args:
      path: of the folder.
      policy: "task_policy", or "distilled_policy", which tasks share, where there is one.

    Raises:
      ValueError: no such folder, another schema, no such policy, or files that do not go together.
      ImportError: flatbuffers is not installed.
    """
    folder = pathlib.Path(path)
    description = _description(folder)
    if policy not in description["policies"]:
        known = ", ".join(description["policies"])
        raise ValueError(f"policy must be one of {known} in {folder}; got {policy!r}")
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ImportError("jax.export needs flatbuffers: pip install flatbuffers") from error
    try:
        exported = export.deserialize(bytearray((folder / FUNCTION.format(policy)).read_bytes()))
        with np.load(folder / NUMBERS, allow_pickle=False) as numbers:
            parameters = _leaves(numbers, "parameter")
            start = _leaves(numbers, "memory")
    except Exception as error:  # whatever the readers raise for damaged files
        cause = " ".join(str(error).split())[:300]
        raise ValueError(f"path: the policy in {folder} cannot be read: {cause}") from error
    expected = [(x.shape, x.dtype) for x in exported.in_avals[: len(parameters)]]
    if expected != [(x.shape, x.dtype) for x in parameters]:
        raise ValueError(
            f"path: {NUMBERS} in {folder} does not belong to {FUNCTION.format(policy)}"
        )
    return Policy(
        description,
        policy,
        jax.jit(exported.call),
        jax.tree.map(jnp.asarray, parameters),
        start,
        tuple(description["reads"][policy]),
    )


def _description(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        schema = description["schema"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"path: {folder} holds no exported policy ({path}: {error!r})") from error
    if schema != SCHEMA:
        raise ValueError(
            f"path: {folder} is of schema {schema}, this version reads {SCHEMA}; export the run "
            "again, or install the mtrl_jax that policy.json names"
        )
    return description


def _leaves(numbers: Any, name: str) -> tuple[np.ndarray, ...]:
    count = sum(key.startswith(f"{name}/") for key in numbers)
    return tuple(numbers[f"{name}/{n}"] for n in range(count))


# ---------------------------------------------------------------------------------- what comes in


def _traced(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def _array(name: str, x: Any, shape: tuple[int | None, ...], dtype: Any, axes: str) -> Any:
    """`x` as an array of `shape` (None: any number) and `dtype`, to which it must be castable."""
    try:
        array = x if isinstance(x, jax.Array) else np.asarray(x)
    except ValueError:  # ragged
        array = np.asarray(None)
    fits = len(array.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    numbers = array.dtype.kind in "biuf" or array.dtype.name == "bfloat16"
    if not fits or not numbers or not np.can_cast(array.dtype, dtype, "same_kind"):
        came = f"{array.dtype} {list(array.shape)}" if numbers else repr(x)[:80]
        raise ValueError(f"{name} must be {np.dtype(dtype)} {axes}; got {came}")
    floating = np.issubdtype(np.dtype(dtype), np.floating)
    if floating and not _traced(array) and not np.isfinite(np.asarray(array)).all():
        raise ValueError(f"{name} must be finite; got NaN or infinity")
    return array.astype(dtype)


def _rows(observation: Any) -> int:
    """B; 0 of what is no observation, which `_observation` refuses."""
    try:
        return int((*np.shape(observation), 0)[0])
    except ValueError:  # ragged
        return 0


def _own(description: dict[str, Any], what: str, places: str, tasks: np.ndarray) -> Any:
    """Places that the tasks of all rows have of a padded observation or action, or None: all, or
    tasks that differ in them."""
    by_task = description[what].get(places)
    if by_task is None or not len(tasks):
        return None
    each = [by_task[description["tasks"][k]] for k in np.unique(tasks)]
    return each[0] if all(one == each[0] for one in each) else None


def _observation(description: dict[str, Any], observation: Any, tasks: np.ndarray) -> Any:
    shape, dtype = description["observation"]["shape"], description["observation"]["dtype"]
    axes = f"[B, {', '.join(map(str, shape))}]" if shape else "[B]"
    own = _own(description, "observation", "elements", tasks)
    came = tuple(np.shape(observation))[1:] if len(tasks) else ()
    if own is not None:
        axes = f"[B, {len(own)}], as the task has it, or padded {axes}"
    if own is None or came == tuple(shape) or math.prod(came) != len(own):
        array = _array("observation", observation, (None, *shape), np.dtype(dtype), axes)
        if not len(array):
            raise ValueError("observation must hold at least one row; got none")
        return array
    array = _array("observation", observation, (None, *came), np.dtype(dtype), axes)
    xp = jnp if isinstance(array, jax.Array) else np
    rows = len(tasks)
    source = np.full(math.prod(shape), len(own))  # the zero behind a row, but for its own places
    source[own] = np.arange(len(own))
    array = xp.concatenate([array.reshape(rows, -1), xp.zeros((rows, 1), array.dtype)], 1)
    return array[:, source].reshape(rows, *shape)


def _tasks(names: tuple[str, ...], task: Any, rows: int) -> np.ndarray:
    """Number of the task of each row, int `[B]`."""
    if _traced(task):
        raise ValueError("task must be known while compiling; got a traced value")
    known = f"task must be one of {', '.join(names)}, or a number below {len(names)}"
    single = isinstance(task, str) or np.ndim(task) == 0
    given = [task] if single else list(task)
    if not single and len(given) != rows:
        raise ValueError(f"task must be one, or one for each of {rows} rows; got {len(given)}")
    if isinstance(given[0], str):
        for one in given:
            if one not in names:
                raise ValueError(f"{known}; got {one!r}")
        numbers = np.array([names.index(one) for one in given])
    else:
        numbers = np.array(given)
        integers = numbers.dtype.kind in "iu" and numbers.ndim == 1
        if not integers or numbers.min() < 0 or numbers.max() >= len(names):
            raise ValueError(f"{known}; got {task!r}")
    return np.repeat(numbers, rows) if single else numbers


def _memory(
    start: tuple[np.ndarray, ...], memory: Any, first: Any, tasks: np.ndarray
) -> tuple[tuple[Any, ...], Any]:
    """Memory of each row, and whether it begins an episode."""
    rows = len(tasks)
    if first is not None:
        if np.dtype(getattr(first, "dtype", np.asarray(first).dtype)) != np.bool_:
            raise ValueError(f"first must be bool [B]; got {first!r}"[:200])
        first = _array("first", first, (rows,), np.bool_, f"[{rows}], as the observation")
    if memory is None:
        if start and first is not None and not (not _traced(first) and np.asarray(first).all()):
            raise ValueError(
                "memory must be what the last call returned, where first is False; got None"
            )
        every = np.ones(rows, bool) if first is None else first
        return tuple(x[tasks] for x in start), every
    given = tuple(memory) if isinstance(memory, tuple | list) else (memory,)
    if len(given) != len(start):
        raise ValueError(f"memory must hold {len(start)} arrays; got {len(given)}")
    leaves = tuple(
        _array(
            f"memory[{n}]", x, (rows, *own.shape[1:]), own.dtype, f"[B = {rows}, ...] as returned"
        )
        for n, (x, own) in enumerate(zip(given, start, strict=True))
    )
    return leaves, np.zeros(rows, bool) if first is None else first


def _reward(needed: bool, reward: Any, first: Any) -> Any:
    rows = first.shape[0]
    if reward is not None:
        return _array("reward", reward, (rows,), np.float32, f"[{rows}], as the observation")
    if needed and (_traced(first) or not np.asarray(first).all()):
        raise ValueError(
            "reward must be given where an episode goes on: this policy looks at it; got None"
        )
    return np.zeros(rows, np.float32)


def _row_keys(reads: tuple[str, ...], key: Any, rows: int) -> Any:
    """uint32 `[B, 2]`: of row n `fold_in(key, n)`."""
    if key is None:
        if "key" in reads:
            raise ValueError("key must be given, as jax.random.key(n): actions are drawn; got None")
        return np.zeros((rows, KEY_WORDS), np.uint32)
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape or str(jax.random.key_impl(key)) != KEY_IMPLEMENTATION:
        raise ValueError(
            f"key must be one key of {KEY_IMPLEMENTATION}, as jax.random.key(n); got {key!r}"
        )
    return _fold(key, np.arange(rows))


# ---------------------------------------------------------------------------------- rows and slots


def _deal(tasks: np.ndarray, num_tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Which row each slot `[K, E]` computes (row 0 where it has none), and the slot of each row."""
    order = np.argsort(tasks, kind="stable")
    counts = np.bincount(tasks, minlength=num_tasks)
    place = np.empty(len(tasks), int)  # of a row among those of its task
    place[order] = np.arange(len(tasks)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = int(counts.max())
    index = np.zeros((num_tasks, width), int)
    index[tasks, place] = np.arange(len(tasks))
    return index, tasks * width + place


@jax.jit
def _take(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


@jax.jit
def _back(tree: Any, slot: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[slot], tree)


@jax.jit
def _fold(key: Any, numbers: Any) -> Any:
    return jax.vmap(lambda n: jax.random.key_data(jax.random.fold_in(key, n)))(numbers)
