"""A student's parameters and answers, and what of them a Q-network can begin with.

A torso that all tasks share, as in `q_network`, and `networks.student.Student` behind it.
Parameters are `learner.Params`: `shared` has a "torso" and a "head"; `task` has "head", the tasks'
own, and "map", kernels `[K, H, F]` from the student's features to its teachers', where there are
such.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import learner
from mtrl_jax.networks import multitask, torsos
from mtrl_jax.networks.student import OUTPUTS, Student
from mtrl_jax.types import Array, ArrayTree, EnvSpec, Key

__all__ = ["Net", "init_params", "make", "outputs", "outputs_of_task", "size", "to_q_network"]


class Net(NamedTuple):
    """A student's two parts, and what it reads."""

    torso: torsos.Torso
    head: Student
    spec: EnvSpec


def make(
    spec: EnvSpec, outputs: str, torso: str, hidden: tuple[int, ...], controller: int = 0
) -> Net:
    """The student that these names mean for `spec`.

    Args:
      spec: of the suite.
      outputs: one of `networks.student.OUTPUTS`.
      torso: "auto" or a key of `torsos.TORSOS`.
      hidden: widths of the body.
      controller: units of a controller's hidden layer, 0 for none.

    Raises:
      ValueError: for an unknown name, a torso that does not read these observations, no hidden
        layer, or separate students behind convolutions, which would be shared.
    """
    if outputs not in OUTPUTS:
        raise ValueError(f"outputs must be one of {', '.join(OUTPUTS)}; got {outputs!r}")
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden must hold at least one positive width; got {hidden}")
    if controller < 0:
        raise ValueError(f"controller must not be negative; got {controller}")
    chosen = torsos.choose(spec, torso)
    if outputs == "separate" and torsos.TORSOS[chosen.kind] and spec.num_tasks > 1:
        raise ValueError(
            f"outputs 'separate' shares nothing, but the torso {chosen.kind!r} is shared; use "
            "controllers or shared, or one task"
        )
    head = Student(spec.num_tasks, hidden, spec.num_actions, outputs, controller)
    return Net(chosen, head, spec)


def init_params(net: Net, key: Key, num_features: int = 0) -> learner.Params:
    """Fresh parameters; with a map to each teacher's `num_features` features, unless there are
    none."""
    observation = jnp.zeros((1, *net.spec.observation_shape), net.spec.observation_dtype)
    torso = net.torso.init(jax.random.fold_in(key, 0), observation)
    seen: Any = jax.eval_shape(lambda: net.torso.apply(torso, observation))
    shared, own = multitask.init(net.head, jax.random.fold_in(key, 1), seen.shape[-1])
    halves = {"torso": torso.get("params", {}), "head": shared}
    task: dict[str, ArrayTree] = {"head": own} if own else {}
    if num_features:
        width = net.head.hidden[-1]
        shape = (net.spec.num_tasks, width, num_features)
        task["map"] = jax.random.normal(jax.random.fold_in(key, 3), shape) * width**-0.5
    return learner.Params(halves if jax.tree.leaves(halves) else {}, task)


def size(params: learner.Params) -> int:
    """How many parameters answer: all but the maps, which only training needs."""
    kept = params._replace(task={k: v for k, v in params.task.items() if k != "map"})
    return sum(x.size for x in jax.tree.leaves(kept))


def outputs(net: Net, params: learner.Params, observation: Array) -> Array:
    """float32 `[K, B, A]` of observations `[K, B, ...]`: logits, or values where the student was
    taught these."""

    def one(task, observation, k):
        return outputs_of_task(net, params.shared, task, observation, k)[0]

    return jax.vmap(one)(params.task, observation, jnp.arange(net.spec.num_tasks))


def outputs_of_task(
    net: Net, shared: ArrayTree, task: ArrayTree, observation: Array, k: Array
) -> tuple[Array, Array]:
    """Outputs `[B, A]` and features `[B, H]` of task `k` at observations `[B, ...]`; `task` holds
    its own parameters."""
    x: Any = net.torso.apply({"params": shared.get("torso", {})}, observation)
    variables = {"params": shared.get("head", {}), "task": task.get("head", {})}
    answer: Any = net.head.apply(variables, x, k)
    y, features = answer
    return y.astype(jnp.float32), features.astype(jnp.float32)


def to_q_network(
    params: learner.Params, fresh: learner.Params, outputs: str = "keep"
) -> learner.Params:
    """Parameters of a Q-network that begins where a student stopped.

    Actor-Mimic's transfer to a new game (Parisotto et al. 2015, section 4): the softmax and the
    feature maps are dropped and what is left learns on as a DQN, with a fresh optimiser. As in the
    authors' code the output layer is kept by default, so that the first action-values are the
    student's logits, to the bit.

    Args:
      params: of a student with outputs "shared", or "controllers" without a hidden layer, whose
        body is as wide as the Q-network's.
      fresh: of a Q-network "blind" or "onehot" (`q_network.init_params`); what it is told of the
        task's number counts for nothing at first.
      outputs: "keep" the student's output layer; begin with the "mean" of its controllers' output
        layers; or leave it "fresh".

    Returns:
      Of the structure and shapes of `fresh`.

    Raises:
      ValueError: if the two do not fit, or there is no such output layer.
    """
    ways = ("keep", "mean", "fresh")
    if outputs not in ways:
        raise ValueError(f"outputs must be one of {', '.join(ways)}; got {outputs!r}")
    student, theirs = params.shared.get("head", {}), fresh.shared.get("head", {})
    if "dense0" not in student or "out" not in theirs:
        raise ValueError(
            "params must be of a student with a shared body, and fresh of a Q-network all of whose "
            "layers are shared"
        )
    own = params.task.get("head", {})
    has = {"keep": "out" in student, "mean": "out_kernel" in own, "fresh": True}
    if not has[outputs] or (outputs == "mean" and "controller_kernel" in own):
        raise ValueError(f"params have no output layer to begin with by outputs={outputs!r}")
    head = {name: layer for name, layer in student.items() if name != "out"}
    first = head["dense0"]["kernel"]
    extra = theirs["dense0"]["kernel"].shape[0] - first.shape[0]  # the task's number, one-hot
    head["dense0"] = {**head["dense0"], "kernel": jnp.pad(first, ((0, max(extra, 0)), (0, 0)))}
    if outputs == "mean":
        head["out"] = {"kernel": own["out_kernel"].mean(0), "bias": own["out_bias"].mean(0)}
    else:
        head["out"] = (student if outputs == "keep" else theirs)["out"]
    begun = fresh._replace(shared={"torso": params.shared.get("torso", {}), "head": head})
    have, want = (jax.tree.map(jnp.shape, tree, is_leaf=None) for tree in (begun, fresh))
    if have != want:
        raise ValueError(f"params do not fit the Q-network: they give {have}, it has {want}")
    return begun
