"""A run that begins with what another has learnt: which parameters go over, task by task.

Tasks are matched by name, so that there may be more, fewer, or the same in another order:

  * parameters that all tasks share go over;
  * what belongs to one task (a head, a column, an embedding, its row of a layer that is told the
    task's number, its temperature, its moments of observations and returns) goes to the task of
    that name. A task that is new here keeps its fresh ones, and one that is not here is left out;
  * optimisers, surgery's memory, replay and counters begin anew.

`plan` decides all of it from shapes and names, before anything is computed, and says so in rows;
`carry` does it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.learner import OptState, Params
from mtrl_jax.normalisers import Moments
from mtrl_jax.replay import ReplayState
from mtrl_jax.types import ArrayTree, EnvSpec

__all__ = ["Move", "Tasks", "carry", "check_like", "one_more_task", "plan", "table"]

# Arrays `[K]` of a state that belong to the tasks and are neither parameters nor moments.
OF_TASKS = ("log_temperature",)

_KINDS = (Params, OptState, Moments, ReplayState)


class Tasks(NamedTuple):
    """Names of the tasks, and how the run keeps them.

    Attributes:
      before: of the run that has learnt.
      now: of the run that begins.
      together: whether all tasks have one set of moments of observations.
      separate: whether every leaf leads with K, the shared parameters too: each task by itself.
    """

    before: tuple[str, ...]
    now: tuple[str, ...]
    together: bool = False
    separate: bool = False


class Move(NamedTuple):
    """What becomes of a leaf of the fresh state, or of all leaves below a path.

    Attributes:
      path: of it, as in `params/shared/dense0/kernel`.
      axis: on which the tasks' own entries are the last K; -1 where it has none.
      carried: whether it goes over: whole, or (with an axis) what stands before the tasks' entries
        and the entries of the tasks that both runs have.
      fill: whether a new task's entry is that of the first task, not the fresh one.
      why: in a few words.
    """

    path: str
    axis: int
    carried: bool
    fill: bool
    why: str


# ------------------------------------------------------------------------------------- what to do


def plan(before: ArrayTree, now: ArrayTree, more: ArrayTree, tasks: Tasks) -> list[Move]:
    """What is to become of each part of a fresh state.

    Args:
      before: shapes and dtypes of the state that has learnt (arrays do).
      now: of the fresh state.
      more: of a fresh state for one task more. It shows which shared parameters grow with the
        tasks; those have the tasks' entries at the end of the axis that grows.
      tasks: their names, and how they are kept.

    Raises:
      ValueError: naming the first parameter that is not of one kind in both, with its shapes.
    """
    old, grown = _nodes(before), _nodes(more)
    moves: list[Move] = []
    for path, node in _nodes(now).items():
        name = path.rpartition("/")[2]
        if isinstance(node, OptState):
            moves.append(Move(path, -1, False, False, "optimisers and surgery begin anew"))
        elif isinstance(node, ReplayState):
            moves.append(Move(path, -1, False, False, "replay begins empty"))
        elif isinstance(node, Params):
            moves += _of_params(path, old.get(path), node, grown[path], tasks)
        elif isinstance(node, Moments) or name in OF_TASKS:
            fill = tasks.together and isinstance(node, Moments) and node.mean.ndim > 1
            why = "one a task" if not fill else "the same for all tasks"
            for leaf, x in _leaves(node, path).items():
                _same(leaf, _leaves(old.get(path), path).get(leaf), x, 0)
                moves.append(Move(leaf, 0, True, fill, why))
        else:
            moves.append(Move(path, -1, False, False, "begins anew"))
    return moves


def _of_params(path: str, before: Any, now: Params, more: Params, tasks: Tasks) -> list[Move]:
    """Of one network's parameters."""
    old, new, grown = (_leaves(tree, path) for tree in (before, now, more))
    lacking = [leaf for leaf in new if leaf not in old] + [leaf for leaf in old if leaf not in new]
    if lacking:
        has, lacks = ("this run", "that one") if lacking[0] in new else ("that run", "this one")
        raise ValueError(f"{has} has a parameter {lacking[0]}, {lacks} has none of that name")
    moves = []
    for leaf, x in new.items():
        own = tasks.separate or leaf.startswith(f"{path}/task/".lstrip("/"))
        axis = 0 if own else _growing(leaf, x, grown[leaf])
        _same(leaf, old[leaf], x, axis)
        extra = 0 if own or axis < 0 else x.shape[axis] - len(tasks.now)
        if not own and axis >= 0 and old[leaf].shape[axis] - len(tasks.before) != extra:
            raise ValueError(_differ(leaf, old[leaf], x))
        why = "shared" if axis < 0 else "one a task" if own else "shared, with an entry a task"
        moves.append(Move(leaf, axis, True, False, why))
    return moves


def _growing(leaf: str, now: Any, more: Any) -> int:
    """The axis of a shared parameter that one task more makes longer by one, -1 if none is."""
    longer = [n for n, (a, b) in enumerate(zip(now.shape, more.shape, strict=True)) if a != b]
    if not longer:
        return -1
    if len(longer) > 1 or more.shape[longer[0]] != now.shape[longer[0]] + 1:
        raise ValueError(
            f"{leaf} is shared and {list(now.shape)}, with one task more {list(more.shape)}: which "
            "of it belongs to which task cannot be told"
        )
    return longer[0]


def _same(leaf: str, before: Any, now: Any, axis: int) -> None:
    """Raises ValueError unless two leaves differ in nothing but the length of `axis`."""
    if before is None:
        raise ValueError(f"this run has {leaf}, that one has none")
    rest = [[n for i, n in enumerate(x.shape) if i != axis] for x in (before, now)]
    if rest[0] != rest[1] or len(before.shape) != len(now.shape) or before.dtype != now.dtype:
        raise ValueError(_differ(leaf, before, now))


def _differ(leaf: str, before: Any, now: Any) -> str:
    return f"{leaf} is {_shape(before)} in that run and {_shape(now)} in this one"


def one_more_task(spec: EnvSpec) -> EnvSpec:
    """A spec like `spec` with one task more, which is as the first one is: for `plan`."""
    fields: dict[str, Any] = {"task_names": (*spec.task_names, "one task more")}
    for name in ("action_mask", "episode_limit", "observation_mask"):
        values = getattr(spec, name)
        if values is not None:
            fields[name] = np.concatenate([values, np.asarray(values)[:1]])
    return spec._replace(**fields)


def table(moves: Iterable[Move], tasks: Tasks) -> str:
    """The rows of a plan, one a line: path, what is carried, what is fresh, what is left out."""
    both = [name for name in tasks.now if name in tasks.before]
    new = [name for name in tasks.now if name not in tasks.before]
    gone = [name for name in tasks.before if name not in tasks.now]
    rows = [("", "carried", "fresh", "dropped", "")]
    for move in moves:
        kept, fresh, dropped = ("all", "", "") if move.carried else ("", "all", "")
        if move.axis >= 0:
            kept, fresh, dropped = (", ".join(names) or "-" for names in (both, new, gone))
            if move.fill:
                kept, fresh = ", ".join(tasks.now), "-"
        rows.append((move.path, kept or "-", fresh or "-", dropped or "-", move.why))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


# ---------------------------------------------------------------------------------------- doing it


def carry(
    before: ArrayTree, now: ArrayTree, moves: Sequence[Move], tasks: Tasks, num_seeds: int = 1
) -> ArrayTree:
    """The state that a run begins with.

    Args:
      before: the state that has learnt; of several seeds `[S, ...]`.
      now: the fresh state, likewise.
      moves: of `plan` with these two.
      tasks: as there.
      num_seeds: S.

    Returns:
      A state like `now`; what is not carried is its own.
    """
    lead = 1 if num_seeds > 1 else 0
    old = _leaves(before, "")
    whole = {move.path: move for move in moves if move.carried}
    leaves, structure = jax.tree_util.tree_flatten_with_path(now)
    done = []
    for path, x in leaves:
        move = whole.get(_text(path))
        done.append(x if move is None else _moved(old[_text(path)], x, move, tasks, lead))
    return jax.tree.unflatten(structure, done)


def _moved(before: Any, now: Any, move: Move, tasks: Tasks, lead: int) -> np.ndarray:
    old = np.asarray(before)
    if move.axis < 0:
        return np.array(old)
    new, axis = np.array(now), move.axis + lead

    def at(entries: Any) -> tuple[Any, ...]:
        return (*(slice(None),) * axis, entries)

    first, first_old = new.shape[axis] - len(tasks.now), old.shape[axis] - len(tasks.before)
    new[at(slice(first))] = old[at(slice(first_old))]
    for k, name in enumerate(tasks.now):
        if name in tasks.before or move.fill:
            source = tasks.before.index(name) if name in tasks.before else 0
            new[at(first + k)] = old[at(first_old + source)]
    return new


# ------------------------------------------------------------------------- what a user's own gives


def check_like(state: Any, fresh: ArrayTree) -> None:
    """Holds a state that somebody made against the fresh one, leaf by leaf.

    Args:
      state: that a run is to begin with.
      fresh: of the run's own agent.

    Raises:
      ValueError: with the path of the first leaf that differs, what it is, and what this run has:
        for a leaf too many or too few, another shape or dtype, no array, or numbers that are not
        finite where the fresh ones are.
    """
    what, own = (
        {_text(path): x for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}
        for tree in (state, fresh)
    )
    for path in own:
        if path not in what:
            raise ValueError(
                f"begin_from returned a state without {path}; this run has {_shape(own[path])}"
            )
    for path, x in what.items():
        if path not in own:
            raise ValueError(f"begin_from returned a state with {path}, which this run has not")
        if not hasattr(x, "dtype") or _shape(x) != _shape(own[path]):
            raise ValueError(
                f"begin_from returned {path} as {_shape(x)}; this run has {_shape(own[path])}"
            )
        if x is not own[path] and _not_finite(x) and not _not_finite(own[path]):
            raise ValueError(
                f"begin_from returned {path} with numbers that are not finite; this run has "
                f"{_shape(own[path])}, finite ones"
            )
    structures: list[Any] = [jax.tree.structure(tree) for tree in (state, fresh)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"begin_from returned a {type(state).__name__} whose containers are not those of this "
            f"run's {type(fresh).__name__}, though its leaves are"
        )


def _not_finite(x: Any) -> bool:
    floats = jnp.issubdtype(x.dtype, jnp.floating)
    return floats and not math.isfinite(float(np.abs(np.asarray(x, np.float64)).max(initial=0.0)))


def _shape(x: Any) -> str:
    if not hasattr(x, "dtype"):
        return f"{x!r}"[:60] if x is None or isinstance(x, bool | int | float | str) else "no array"
    return f"{x.dtype} {list(x.shape)}"


# ------------------------------------------------------------------------------------------- trees


def _text(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _nodes(state: ArrayTree) -> dict[str, Any]:
    """Parameters, optimisers, moments and rings by their paths, and every other array."""
    found = jax.tree_util.tree_flatten_with_path(state, is_leaf=lambda x: isinstance(x, _KINDS))[0]
    return {_text(path): node for path, node in found}


def _leaves(tree: ArrayTree, path: str) -> dict[str, Any]:
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {f"{path}/{_text(p)}".strip("/"): x for p, x in found}
