"""Writes a policy to a folder that `mtrl_jax.serve` acts with, where jax is all that there is.

What is written is the agent's own `act`, traced once with an open number of environments and
lowered for CPU, CUDA and TPU. Parameters are arguments of it and lie beside it: constants would be
folded by the compiler, in whose arithmetic an exponential has other last digits.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend import core

import mtrl_jax
from mtrl_jax import rollout, serve
from mtrl_jax.ranges import Count, StepsOr0, check_value
from mtrl_jax.types import Agent, ArrayTree, EnvSpec, Timestep

__all__ = ["PLATFORMS", "check_folder", "onnx_models", "write"]

PLATFORMS = ("cpu", "cuda", "tpu")
ONNX = "{}.onnx"


def write(
    folder: str | pathlib.Path,
    spec: EnvSpec,
    agent: Agent,
    policy: ArrayTree,
    *,
    step: int,
    greedy: bool | None = None,
    about: dict[str, Any] | None = None,
) -> pathlib.Path:
    """The folder, with the task policies and, where the agent has one, the distilled policy.

    Args:
      folder: new, empty, or that of an earlier export, which is replaced.
      spec: of the suite.
      agent: who acts.
      policy: `agent.policy_params(state)` of one seed.
      step: environment steps that it has learnt for.
      greedy: as in `rollout.acting`.
      about: JSON, kept as `run` in the description.

    Raises:
      ValueError: a folder with other files, or as `rollout.acting`.
      OSError: it cannot be written.
      ImportError: flatbuffers is not installed.
    """
    check_value("step", step, StepsOr0)
    folder = pathlib.Path(folder)
    check_folder(folder)
    start = agent.init_actor(1)  # [K, 1, ...]
    names = serve.POLICIES[: 1 + agent.has_distilled]
    arguments = _arguments(spec, policy, start)
    functions, reads = {}, {}
    for name in names:
        act = rollout.acting(agent, distilled=name == "distilled_policy", greedy=greedy)
        function = _function(act, jax.tree.structure(policy), jax.tree.structure(start))
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
        functions[name] = bytes(exported.serialize())
        reads[name] = _reads(function, arguments)
    greedy = agent.greedy_eval if greedy is None else greedy
    description = {
        "schema": serve.SCHEMA,
        "mtrl_jax": mtrl_jax.__version__,
        "jax": jax.__version__,
        "platforms": list(PLATFORMS),
        "step": step,
        "policies": list(names),
        "tasks": list(spec.task_names),
        "observation": {
            "shape": list(spec.observation_shape),
            "dtype": np.dtype(spec.observation_dtype).name,
            "normaliser": "inside: give what the environment gives",
            **_has("elements", spec, spec.observation_mask),
            **_own_shapes(spec, spec.observation_mask),
        },
        "action": _action(spec),
        "actions": "likeliest" if greedy else "drawn",
        "memory": [
            {"shape": list(x.shape[2:]), "dtype": x.dtype.name} for x in jax.tree.leaves(start)
        ],
        "reads": reads,
        "run": about or {},
    }
    numbers = {f"parameter/{n}": np.asarray(x) for n, x in enumerate(jax.tree.leaves(policy))}
    numbers |= {f"memory/{n}": np.asarray(x)[:, 0] for n, x in enumerate(jax.tree.leaves(start))}
    _write(folder, functions, numbers, description)
    return folder


def onnx_models(
    spec: EnvSpec, agent: Agent, policy: ArrayTree, *, rows: int = 1, greedy: bool | None = None
) -> dict[str, bytes]:
    """Each policy as an ONNX model, by the name of its file, for runtimes that know no jax.

    Its inputs are `observation`, `reward`, `first` and `memory/0` and so on, with E fixed, as in
    `serve.Arguments`, less those that it makes no use of; its outputs `action` and `next_memory/0`
    and so on. Parameters are constants of it. jax2onnx 0.17.1 does not translate random keys.

    Args:
      spec, agent, policy, greedy: as of `write`.
      rows: E, of each task in one call.

    Raises:
      ValueError: the policy reads a key, or as `rollout.acting`.
      ImportError: jax2onnx is not installed.
    """
    check_value("rows", rows, Count)
    try:
        import jax2onnx
    except ImportError as error:
        raise ImportError("ONNX needs jax2onnx (python -m pip install jax2onnx)") from error
    start = agent.init_actor(rows)
    shapes = _arguments(spec, policy, start, rows)
    parameters, key = jax.tree.leaves(policy), jnp.zeros(shapes.key.shape, jnp.uint32)
    memory = [f"memory/{n}" for n in range(len(shapes.memory))]
    found = {}
    for name in serve.POLICIES[: 1 + agent.has_distilled]:
        act = rollout.acting(agent, distilled=name == "distilled_policy", greedy=greedy)
        function = _function(act, jax.tree.structure(policy), jax.tree.structure(start))
        if "key" in _reads(function, shapes):
            raise ValueError("onnx must be left out of a policy that draws (DQN's too reads a key)")

        def answer(observation: Any, reward: Any, first: Any, *memory: Any, fn: Any = function):
            action, _, memory = fn(parameters, observation, reward, first, memory, key)
            # Apart from the action, which may be one of them: a value has one name.
            return action, *(x + jnp.zeros_like(x) for x in memory)

        inputs = [shapes.observation, shapes.reward, shapes.first, *shapes.memory]
        # Traced before: jax2onnx puts its own layers in the place of flax's, which do not vmap.
        traced = core.jaxpr_as_fun(jax.make_jaxpr(answer)(*inputs))
        model: Any = jax2onnx.to_onnx(
            lambda *x, traced=traced: tuple(traced(*x)),
            inputs,
            model_name=name,
            input_names=["observation", "reward", "first", *memory],
            output_names=["action", *(f"next_{one}" for one in memory)],
        )
        found[ONNX.format(name)] = model.SerializeToString()
    return found


def check_folder(folder: pathlib.Path) -> None:
    """Raises ValueError unless `folder` is new, empty, or holds an exported policy and no more."""
    known = {serve.DESCRIPTION, serve.NUMBERS}
    known |= {form.format(name) for form in (serve.FUNCTION, ONNX) for name in serve.POLICIES}
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder: {folder} is not a directory")
    other = sorted({path.name for path in folder.iterdir()} - known) if folder.exists() else []
    if other:
        raise ValueError(f"folder: {folder} holds other files ({other[0]}); choose an empty one")


def _write(
    folder: pathlib.Path,
    functions: dict[str, bytes],
    numbers: dict[str, np.ndarray],
    description: dict[str, Any],
) -> None:
    """The description goes first and comes last: a folder without it is no policy."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / serve.DESCRIPTION).unlink(missing_ok=True)
    for name in serve.POLICIES:
        for form in (serve.FUNCTION, ONNX):
            (folder / form.format(name)).unlink(missing_ok=True)
    for name, data in functions.items():
        (folder / serve.FUNCTION.format(name)).write_bytes(data)
    np.savez(folder / serve.NUMBERS, **numbers)  # type: ignore[arg-type]  # of an option
    text = json.dumps(description, indent=1) + "\n"
    (folder / serve.DESCRIPTION).write_text(text, encoding="utf-8")


def _function(act: rollout.Act, policy_tree: Any, memory_tree: Any) -> Callable[..., Any]:
    """`act` of `serve.Arguments`, one after the other, instead of its own records."""

    def function(*flat: Any) -> tuple[Any, Any, tuple[Any, ...]]:
        given = serve.Arguments(*flat)
        row = Timestep(
            given.observation,
            given.reward,
            jnp.ones_like(given.reward),
            given.first,
            ~given.first,
            jnp.zeros_like(given.first),
        )
        action, log_prob, memory = act(
            jax.tree.unflatten(policy_tree, given.parameters),
            jax.tree.unflatten(memory_tree, given.memory),
            row,
            jax.random.wrap_key_data(given.key, impl=serve.KEY_IMPLEMENTATION),
        )
        return action, log_prob, tuple(jax.tree.leaves(memory))

    return function


def _arguments(
    spec: EnvSpec, policy: ArrayTree, start: ArrayTree, rows: int | None = None
) -> serve.Arguments:
    """Shapes and dtypes of what a function takes, with E left open or of `rows`."""
    envs = rows or export.symbolic_shape("rows")[0]

    def leaf(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((spec.num_tasks, envs, *shape), dtype)

    return serve.Arguments(
        tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.tree.leaves(policy)),
        leaf(spec.observation_dtype, *spec.observation_shape),
        leaf(jnp.float32),
        leaf(jnp.bool_),
        tuple(leaf(x.dtype, *x.shape[2:]) for x in jax.tree.leaves(start)),
        leaf(jnp.uint32, serve.KEY_WORDS),
    )


def _reads(function: Any, arguments: serve.Arguments) -> list[str]:
    """The arguments behind the parameters on which a result depends."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    live = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    for equation in reversed(jaxpr.eqns):
        if live.intersection(equation.outvars):
            live |= {v for v in equation.invars if isinstance(v, core.Var)}
    sizes = [len(jax.tree.leaves(argument)) for argument in arguments]
    names = [n for n, size in zip(serve.Arguments._fields, sizes, strict=True) for _ in range(size)]
    used = [n for n, v in zip(names, jaxpr.invars, strict=True) if v in live and n != "parameters"]
    return list(dict.fromkeys(used))


def _action(spec: EnvSpec) -> dict[str, Any]:
    if spec.action_size:
        kind = {"kind": "continuous", "size": spec.action_size, "low": -1.0, "high": 1.0}
        mask = spec.coordinate_mask
        return kind | _has("coordinates", spec, mask) | _own_shapes(spec, mask)
    return {
        "kind": "discrete",
        "number": spec.num_actions,
        **_has("allowed", spec, spec.action_mask),
    }


def _has(name: str, spec: EnvSpec, mask: np.ndarray | None) -> dict[str, dict[str, list[int]]]:
    """By task, the places at which a mask `[K, ...]`, flattened, is True; nothing without one."""
    if mask is None:
        return {}
    return {
        name: {t: np.flatnonzero(m).tolist() for t, m in zip(spec.task_names, mask, strict=True)}
    }


def _own_shapes(spec: EnvSpec, mask: np.ndarray | None) -> dict[str, dict[str, list[int]]]:
    """By task, the shape of what it has of something padded; nothing without a mask."""
    if mask is None:
        return {}
    return {
        "own_shape": {t: [int(m.sum())] for t, m in zip(spec.task_names, mask, strict=True)},
    }
