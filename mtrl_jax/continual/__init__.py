"""Methods of continual learning around a learner: what an agent does about forgetting.

Each function makes a `Method` of its numbers; `algorithms.continual` trains with one. All of them
act on the policy's shared parameters, which is what a score depends on; critics are free, and what
belongs to one task alone (an output layer) does not move while others are learnt.
"""

from mtrl_jax.continual.anchors import ewc, l2, mas, online_ewc
from mtrl_jax.continual.columns import layer_sensitivity, sensitivity
from mtrl_jax.continual.imitation import Teacher, distill
from mtrl_jax.continual.method import (
    FINETUNE,
    Lesson,
    Method,
    Situation,
    Steps,
    around,
    part_of,
    with_part,
)
from mtrl_jax.continual.samples import Kept, a_gem, keep, reservoir
from mtrl_jax.continual.shares import packnet, progressive

__all__ = [
    "FINETUNE",
    "Kept",
    "Lesson",
    "Method",
    "Situation",
    "Steps",
    "Teacher",
    "a_gem",
    "around",
    "distill",
    "ewc",
    "keep",
    "l2",
    "layer_sensitivity",
    "mas",
    "online_ewc",
    "packnet",
    "part_of",
    "progressive",
    "reservoir",
    "sensitivity",
    "with_part",
]
