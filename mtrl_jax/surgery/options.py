"""The keyword arguments that every method takes and hands on to `make_transform`."""

from typing import Literal, TypedDict

import jax
import optax

from mtrl_jax.surgery.parts import AxisName, Mask

__all__ = ["SCOPES", "AxisName", "Options", "Scope", "Seed", "Transform"]

Transform = optax.GradientTransformationExtraArgs
Seed = int | jax.Array
Scope = Literal["global", "leaf", "module"]
SCOPES: tuple[Scope, ...] = ("global", "leaf", "module")


class Options(TypedDict, total=False):
    """What every method takes besides its own arguments.

    A method declares `**options: Unpack[Options]`, which type checkers expand, and is decorated
    with `factory`, which shows the same keywords and their defaults at run time.

    Attributes:
      seed: integer, traced integer or typed key; only methods that draw use it. Under `vmap` over
        seeds make the transform inside the mapped function, or use `surgery.reseed` on the states.
      mask: which leaves are shared by the tasks, as for `optax.masked`: a prefix tree of booleans,
        or a function of the parameters that returns one. Surgery sees these leaves only. The
        others (heads) come out as the sum of their task gradients.
      scope: 'global' takes all shared leaves as one vector; 'leaf' and 'module' do surgery
        separately for each leaf, or for each part that the tree of parameters first branches into.
      diagnostics: True records what `surgery.diagnostics` reads: K x K numbers, which cost a Gram
        matrix where the method does not otherwise need one. None: record where it does. 'curvature'
        also estimates the multi-task curvature, which needs `params` and `task_losses` at every
        update and keeps one copy of the parameters and of the summed gradient in the state.
      axis_name: the mapped axis (or axes) over which the *parameters* are sharded, inside
        `shard_map` or `pmap`: partial Gram matrices are summed over it. Not for data parallelism:
        there, average the task gradients over devices before surgery and leave this None.
      replicated: with `axis_name`, which leaves every shard holds in full (same forms as `mask`);
        they are counted once. Default: none.
    """

    seed: Seed
    mask: Mask
    scope: Scope
    diagnostics: bool | Literal["curvature"] | None
    axis_name: AxisName
    replicated: Mask
