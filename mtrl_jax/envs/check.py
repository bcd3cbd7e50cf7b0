"""Whether a suite is what its spec says, asked once when it is bound.

Everything downstream believes the spec: networks are built from its shapes, tables from its names.
So what it says is held against what environments give before anything compiles: of JAX functions
by `jax.eval_shape`, which runs nothing, of a pool by the first two rows of a small one.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mtrl_jax.envs import functional
from mtrl_jax.ranges import CountOr0, check_value
from mtrl_jax.types import ArrayTree, EnvSpec, FunctionalSuite, HostSuite, Pool, Timestep

__all__ = ["called", "check_pool", "check_shapes", "check_spec", "check_suite"]

_ROW = {
    "reward": np.float32,
    "discount": np.float32,
    "first": np.bool_,
    "valid": np.bool_,
    "success": np.bool_,
}


def called(suite: FunctionalSuite | HostSuite) -> str:
    """A name for a suite that nobody has named: its environment's, or that of what makes pools."""
    what = suite.env if isinstance(suite, FunctionalSuite) else suite.make_pool
    what = getattr(what, "func", what)  # of functools.partial
    return getattr(what, "__qualname__", type(what).__qualname__)


def check_suite(suite: FunctionalSuite | HostSuite, name: str = "") -> None:
    """All that can be known of a suite without playing it: `check_shapes`, and of a host suite the
    first two rows of a pool with one environment a task, which is made and closed.

    Args:
      suite: of either kind.
      name: what the suite is called, for the message; by default what its environment is called.

    Raises:
      ValueError: in one sentence with the suite, what its spec says and what came.
    """
    name = name or called(suite)
    check_shapes(suite, name)
    if isinstance(suite, HostSuite):
        check_pool(suite, name)


def check_shapes(suite: FunctionalSuite | HostSuite, name: str = "") -> None:
    """`check_spec`, and of a functional suite shapes and dtypes of tasks, reset and step; nothing
    runs, and no pool is made.

    Args:
      suite: of either kind.
      name: as in `check_suite`.

    Raises:
      ValueError: as `check_suite`.
    """
    if not isinstance(suite, FunctionalSuite | HostSuite):
        raise ValueError(f"suite must be a FunctionalSuite or a HostSuite; got {type(suite)}")
    name = name or called(suite)
    check_spec(suite.spec, name)
    if isinstance(suite, FunctionalSuite):
        _check_functional(suite, f"suite {name}: ")


def check_spec(spec: EnvSpec, name: str) -> None:
    """Whether a spec agrees with itself.

    Args:
      spec: of a suite.
      name: of the suite.

    Raises:
      ValueError: naming the suite, the field, what came and what it must be.
    """
    where = f"suite {name}: "
    if not isinstance(spec, EnvSpec):
        raise ValueError(f"{where}spec must be a types.EnvSpec; got {type(spec).__name__}")
    _check_names(spec, where)
    for field in ("num_actions", "action_size"):
        check_value(where + field, getattr(spec, field), CountOr0)
    if (spec.num_actions > 0) == (spec.action_size > 0):
        raise ValueError(
            f"{where}one of num_actions (of discrete actions) and action_size (of continuous ones) "
            f"must be 0, the other not; got {spec.num_actions} and {spec.action_size}"
        )
    check_value(where + "has_success", spec.has_success, bool)
    _check_observation(spec, where)
    mask, limit = np.asarray(spec.action_mask), np.asarray(spec.episode_limit)
    k = spec.num_tasks
    for field, x in (("action_mask", mask), ("episode_limit", limit)):
        if x.shape[:1] != (k,):
            raise ValueError(
                f"{where}{field} must lead with K = {k}, the number of task_names; got "
                f"{x.shape[0] if x.ndim else x}"
            )
    width, field = spec.action_size or spec.num_actions, "num_actions"
    if spec.action_size:
        field = "action_size (or 0, where every task has all coordinates)"
    every = spec.action_size and mask.shape == (k, 0)
    if not every and (mask.shape, mask.dtype) != ((k, width), np.bool_):
        raise ValueError(
            f"{where}action_mask must be {_array(np.bool_, (k, width))}, K tasks and {field}; got "
            f"{_array(mask.dtype, mask.shape)}"
        )
    if not every and not mask.any(axis=1).all():
        idle = spec.task_names[int(np.argmin(mask.any(axis=1)))]
        raise ValueError(f"{where}action_mask must leave each task an action; {idle!r} has none")
    if limit.ndim != 1 or limit.dtype.kind not in "iu" or (limit < 0).any():
        raise ValueError(
            f"{where}episode_limit must be integers, 0 where no limit is known; got {limit!r}"
        )


def _check_names(spec: EnvSpec, where: str) -> None:
    names = spec.task_names
    if not isinstance(names, tuple) or not names or not all(isinstance(x, str) for x in names):
        raise ValueError(f"{where}task_names must be a tuple of names, one a task; got {names!r}")
    if not all(x.strip() for x in names):
        raise ValueError(f"{where}task_names must not be empty; got {names!r}")
    twice = [x for n, x in enumerate(names) if x in names[:n]]
    if twice:
        raise ValueError(
            f"{where}task_names must differ, or results would be merged; got {twice[0]!r} twice"
        )


def _check_observation(spec: EnvSpec, where: str) -> None:
    shape, vocabulary = spec.observation_shape, spec.vocabulary
    sizes = isinstance(shape, tuple) and all(isinstance(n, int | np.integer) for n in shape)
    if not sizes or not all(n > 0 for n in shape):
        raise ValueError(f"{where}observation_shape must be a tuple of sizes; got {shape!r}")
    try:
        dtype = np.dtype(spec.observation_dtype)
    except TypeError as error:
        raise ValueError(
            f"{where}observation_dtype must be a NumPy dtype; got {spec.observation_dtype!r}"
        ) from error
    _check_observation_mask(spec, where)
    if vocabulary is None:
        return
    classes = np.asarray(vocabulary)
    if classes.shape != shape or classes.dtype.kind not in "iu" or (classes < 1).any():
        raise ValueError(
            f"{where}vocabulary must be the number of classes of each element of an observation, "
            f"integers {list(shape)} of at least 1; got {_array(classes.dtype, classes.shape)}"
        )
    if dtype.kind not in "iu":
        raise ValueError(
            f"{where}vocabulary must be None unless observations are integers; they are {dtype}"
        )


def _check_observation_mask(spec: EnvSpec, where: str) -> None:
    if spec.observation_mask is None:
        return
    mask, shape = np.asarray(spec.observation_mask), (spec.num_tasks, *spec.observation_shape)
    if (mask.shape, mask.dtype) != (shape, np.bool_):
        raise ValueError(
            f"{where}observation_mask must be None or {_array(np.bool_, shape)}, K tasks and "
            f"observation_shape; got {_array(mask.dtype, mask.shape)}"
        )
    if np.dtype(spec.observation_dtype).kind != "f":
        raise ValueError(
            f"{where}observation_mask must be None unless observations are floats; they are "
            f"{np.dtype(spec.observation_dtype)}"
        )


# ------------------------------------------------------------------------------- what comes


def _array(dtype: Any, shape: Any) -> str:
    return f"{np.dtype(dtype) if isinstance(dtype, type) else dtype}{list(shape)}"


def _shown(x: Any, lead: int) -> str:
    """Dtype and shape of a leaf behind its leading axes, or what else it is."""
    return _array(x.dtype, x.shape[lead:]) if hasattr(x, "dtype") else type(x).__name__


def _check_row(row: Any, spec: EnvSpec, lead: tuple[int, ...], where: str, call: str) -> None:
    """Fields of a row, whose shapes lead with `lead`, against the spec."""
    if not isinstance(row, Timestep):
        raise ValueError(f"{where}{call} must give a types.Timestep; got {type(row).__name__}")
    fields = {"observation": (spec.observation_dtype, spec.observation_shape)}
    fields |= {field: (dtype, ()) for field, dtype in _ROW.items()}
    for field, (dtype, shape) in fields.items():
        x, who = getattr(row, field), "its spec says"
        if field != "observation":
            who = "every row has"
        if not hasattr(x, "dtype"):
            raise ValueError(
                f"{where}{field} of {call} must be one array, {_array(np.dtype(dtype), shape)}; "
                f"got {type(x).__name__}"
            )
        if tuple(x.shape[: len(lead)]) != lead:
            raise ValueError(
                f"{where}{field} of {call} must lead with {list(lead)}, K tasks and their "
                f"environments; got {_array(x.dtype, x.shape)}"
            )
        if (x.dtype, tuple(x.shape[len(lead) :])) != (np.dtype(dtype), tuple(shape)):
            raise ValueError(
                f"{where}{who} {field} {_array(np.dtype(dtype), shape)}, but {call} gives "
                f"{_shown(x, len(lead))}"
            )


# ------------------------------------------------------------------------------- JAX functions


def _check_functional(suite: FunctionalSuite, where: str) -> None:
    spec, k = suite.spec, suite.spec.num_tasks
    for path, leaf in jax.tree.leaves_with_path(suite.tasks):
        shape = np.shape(leaf)
        if shape[:1] != (k,):
            at = jax.tree_util.keystr(path) or "the array"
            raise ValueError(
                f"{where}its spec has {k} task_names, so leaves of tasks must lead with K = {k}; "
                f"{at} has shape {list(shape)}"
            )
    lacks = [call for call in ("reset", "step") if not callable(getattr(suite.env, call, None))]
    if lacks:
        raise ValueError(f"{where}env must be a types.FunctionalEnv; it has no {lacks[0]}")
    env_reset, env_step = functional.over_tasks(suite.env)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (k, 1)))
    action = jax.ShapeDtypeStruct((k, 1, *spec.action_shape), spec.action_dtype)

    state, row = _traced(where, "reset", 2, lambda key: env_reset(key, suite.tasks), keys)
    _check_row(row, spec, (k, 1), where, "reset")
    after, row, ended = _traced(
        where, "step", 3, lambda *x: env_step(*x, suite.tasks), keys, state, action
    )
    _check_row(row, spec, (k, 1), where, "step")
    if (getattr(ended, "dtype", None), getattr(ended, "shape", None)) != (np.bool_, (k, 1)):
        raise ValueError(
            f"{where}step must say last whether the episode ended, bool[]; got {_shown(ended, 2)}"
        )
    _check_state(state, after, where)


def _traced(where: str, call: str, count: int, fn: Callable[..., Any], *args: Any) -> Any:
    """What a call gives, as shapes: `count` things."""
    try:
        found = jax.eval_shape(fn, *args)
    except Exception as error:  # whatever its author's code raises
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{where}{call} fails: {type(error).__name__}: {said}") from error
    if not isinstance(found, tuple) or len(found) != count:
        parts = "(state, timestep)" if count == 2 else "(state, timestep, ended)"
        what = f"{len(found)} things" if isinstance(found, tuple) else type(found).__name__
        raise ValueError(f"{where}{call} must return {parts}; got {what}")
    return found


def _check_state(before: ArrayTree, after: ArrayTree, where: str) -> None:
    """A state stays what it is: loops carry it."""
    built: list[Any] = [jax.tree.structure(state) for state in (before, after)]
    if built[0] != built[1]:
        raise ValueError(
            f"{where}state of step must be built as that of reset, {built[0]}; got {built[1]}"
        )
    for (path, a), b in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            at = f"state{jax.tree_util.keystr(path)}"
            raise ValueError(
                f"{where}{at} of step must be as that of reset, {_shown(a, 2)}; got {_shown(b, 2)}"
            )


# ------------------------------------------------------------------------------- pools


def check_pool(suite: HostSuite, name: str = "") -> None:
    """What `check_suite` asks of a pool, of a suite whose spec agrees with itself.

    Args:
      suite: whose `make_pool` is called.
      name: as in `check_suite`.

    Raises:
      ValueError: as `check_suite`.
    """
    where = f"suite {name or called(suite)}: "
    try:
        _check_rows(suite, where)
    except (ValueError, ImportError, OSError):
        raise
    except Exception as error:  # whatever its author's code raises
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{where}its pool fails: {type(error).__name__}: {said}") from error


def _check_rows(suite: HostSuite, where: str) -> None:
    spec = suite.spec
    pool: Pool = suite.make_pool(1, 0, 1)
    try:
        _check_same_spec(spec, getattr(pool, "spec", None), where)
        lead = (spec.num_tasks, 1)
        row = pool.reset(0)
        _check_row(row, spec, lead, where, "reset")
        _check_values(row, spec, where, first=True)
        pool.send(0, _any_action(spec))
        row = pool.recv(0)
        _check_row(row, spec, lead, where, "recv")
        _check_values(row, spec, where, first=False)
    finally:
        pool.close()


def _any_action(spec: EnvSpec) -> np.ndarray:
    """One that each task has, `[K, 1, ...]`."""
    if spec.action_size:
        return np.zeros((spec.num_tasks, 1, spec.action_size), np.float32)
    return np.argmax(spec.action_mask, axis=1).astype(np.int32)[:, None]


def _check_same_spec(suite: EnvSpec, pool: Any, where: str) -> None:
    if not isinstance(pool, EnvSpec):
        raise ValueError(
            f"{where}a pool must have a spec, a types.EnvSpec; got {type(pool).__name__}"
        )
    for field in EnvSpec._fields:
        ours, its = getattr(suite, field), getattr(pool, field)
        if not np.array_equal(np.asarray(ours), np.asarray(its)):
            ours, its = (x.tolist() if isinstance(x, np.ndarray) else x for x in (ours, its))
            raise ValueError(f"{where}its spec says {field} = {ours!r}, that of its pool {its!r}")


def _check_values(row: Timestep, spec: EnvSpec, where: str, *, first: bool) -> None:
    """What shapes do not tell: a reset row is one, and classes are in their vocabulary."""
    call = "reset" if first else "recv"
    if not (np.all(row.first == first) and np.all(row.valid != first)):
        kind = "a reset row: first, and not valid" if first else "valid, and not a reset row"
        raise ValueError(
            f"{where}the {'first' if first else 'second'} row of an episode must be {kind}; "
            f"{call} gives first {row.first.tolist()} and valid {row.valid.tolist()}"
        )
    if spec.vocabulary is not None:
        wrong = (row.observation < 0) | (row.observation >= spec.vocabulary)
        if wrong.any():
            k, _, *at = (int(n) for n in np.argwhere(wrong)[0])
            raise ValueError(
                f"{where}its spec says that element {at} of an observation is one of "
                f"{spec.vocabulary[tuple(at)]} classes; {call} gives "
                f"{row.observation[(k, 0, *at)]} for {spec.task_names[k]!r}"
            )
    elif not np.isfinite(row.observation).all():
        k = int(np.argwhere(~np.isfinite(row.observation))[0][0])
        raise ValueError(
            f"{where}observation of {call} must be finite; that of {spec.task_names[k]!r} is not"
        )
    if spec.observation_mask is not None:
        padding = np.where(spec.observation_mask[:, None], 0, row.observation)
        if padding.any():
            k, _, *at = (int(n) for n in np.argwhere(padding)[0])
            raise ValueError(
                f"{where}observation must be 0 where observation_mask is False; {call} gives "
                f"{row.observation[(k, 0, *at)]} at {at} for {spec.task_names[k]!r}"
            )
