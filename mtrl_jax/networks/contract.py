"""What a network must take and give, in one table, and whether one of a user's own does.

A network is a flax.linen module, named `module:class` where a command or a `Config` wants one. It
is called for one task at a time, with all that is known of the task besides its number in `x`.

| | what | |
|---|---|---|
| field `num_tasks` | K, int | must be there |
| field `hidden` | widths, a tuple of ints, as configured | must be there |
| field `size` | outputs: actions, values, or means and deviations | must be there |
| field `out_scale` | variance of the first outputs; of policies 0 (PPO) or 1e-4 (SAC), so that they start uniform or nearly | set where there is one |
| field `activation` | key of `layers.ACTIVATIONS`, as configured | set where there is one |
| field `layer_norm` | bool, as configured (of SAC: for critics only) | set where there is one |
| field `task_names` | K texts | set where there is one |
| any other field | `:name=value` behind the class | or its default |
| `__call__(x, task)` | float32 `[B, F]` and int32 `[]`, traced | |
| returns | floats `[B, size]` | |
| collection `params` | floats that all tasks share | may be empty |
| collection `task` | floats of one task alone; `apply` is given that task's own, and K of them are leaves `[K, ...]` | may be empty |

Nothing else: no other collections (a batch norm's statistics), no random numbers after `init`.
Rows of `x` are samples that know nothing of each other. `layers.own` makes parameters of one task.
A shared parameter that is longer for more tasks ends with one entry a task in that axis (a layer that
reads `[x; one-hot number]` does), or tasks could not be told apart in it (`mtrl_jax.begin`).
"""  # noqa: E501, a table

from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import by_name

__all__ = ["OPTIONAL", "check", "make"]

OPTIONAL = ("out_scale", "activation", "layer_norm", "task_names")
_OF_FLAX = ("parent", "name")  # fields of every module
_ROWS = 3  # B of the trial
_INPUTS = 5  # F of it, where nobody says


def make(text: str, fields: dict[str, Any], optional: dict[str, Any], num_inputs: int = 0) -> Any:
    """A network of a user's own.

    Args:
      text: `module:class`, with options.
      fields: what it must have.
      optional: of these it gets those that it has.
      num_inputs: F, 0 if unknown.

    Raises:
      ValueError: as `by_name.load` and `check`, or for a field that it lacks.
    """
    path, options = by_name.parse(text)
    build = by_name.load(path, "network")
    lacking = [name for name in fields if not by_name.accepts(build, name)]
    if lacking:
        raise ValueError(
            f"network {text!r} must have the fields {', '.join(fields)}; it lacks "
            f"{', '.join(lacking)}"
        )
    for name in options:
        if name in fields or name in _OF_FLAX:
            raise ValueError(f"network {text!r} has no option {name}: it is not yours to set")
    had = {name: value for name, value in optional.items() if by_name.accepts(build, name)}
    net = by_name.call(text, "network", build, **fields, **{**had, **options})
    check(net, text, fields["num_tasks"], fields["size"], num_inputs)
    return net


def check(net: Any, text: str, num_tasks: int, size: int, num_inputs: int = 0) -> None:
    """Whether a network keeps to the table above, by `jax.eval_shape`: nothing runs.

    Args:
      net: the module.
      text: what it is called, for the message.
      num_tasks: K.
      size: of its output.
      num_inputs: F, 0 if unknown.

    Raises:
      ValueError: in one sentence, with what came and what was expected.
    """
    where = f"network {text!r}"
    if not all(callable(getattr(net, name, None)) for name in ("init", "apply")):
        raise ValueError(
            f"{where} must be a flax.linen module, with init and apply; got a {type(net).__name__}"
        )
    if getattr(net, "num_tasks", None) != num_tasks:
        raise ValueError(
            f"{where} must keep num_tasks = {num_tasks} as a field; it has "
            f"{getattr(net, 'num_tasks', 'none')}"
        )
    x = jax.ShapeDtypeStruct((_ROWS, num_inputs or _INPUTS), jnp.float32)
    task = jax.ShapeDtypeStruct((), jnp.int32)
    expected = "__call__(x, task) is given float32 [B, F] and one traced int32"
    variables = _tried(where, expected, net.init, jax.random.key(0), x, task)
    if not isinstance(variables, dict) or not set(variables) <= {"params", "task"}:
        kept = ", ".join(map(str, variables)) if isinstance(variables, dict) else type(variables)
        raise ValueError(
            f"{where} must keep what it learns in the collections params (shared) and task (one "
            f"task's own), and nothing else; init made {kept}"
        )
    for path, leaf in jax.tree.leaves_with_path(variables):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{where} must have parameters of floats; {jax.tree_util.keystr(path)} is "
                f"{leaf.dtype}"
            )
    both = {"params": variables.get("params", {}), "task": variables.get("task", {})}
    y = _tried(where, expected, net.apply, both, x, task)
    shape = getattr(y, "shape", None)
    if shape != (_ROWS, size) or not jnp.issubdtype(y.dtype, jnp.floating):
        came = f"{y.dtype} {list(shape)}" if shape is not None else f"a {type(y).__name__}"
        raise ValueError(f"{where} must return floats [B, size] = [{_ROWS}, {size}]; got {came}")


def _tried(where: str, expected: str, function: Any, *args: Any) -> Any:
    try:
        return jax.eval_shape(function, *args)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"{where}: {expected}; {type(error).__name__}: {text}") from error
