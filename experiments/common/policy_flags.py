"""Flags of the binaries that take a policy out of a run: which checkpoint, and how it acts."""

from absl import flags

from mtrl_jax.types import Agent

__all__ = ["greedy", "step"]

_STEP = flags.DEFINE_string(
    "step",
    None,
    "Environment steps of the checkpoint to take, or best: the one that --keep_best of the run "
    "has kept. (default: the newest)",
)
_ACTIONS = flags.DEFINE_enum(
    "actions",
    "default",
    ["default", "drawn", "likeliest"],
    "How the policy acts: as in the run's own evaluations, drawn as in training, or the likeliest.",
)


def step() -> str | None:
    """What `runs.step_of` reads; None for the newest checkpoint."""
    return _STEP.value


def greedy(agent: Agent) -> bool:
    """Whether actions are the likeliest: as --actions says, or as the run evaluates."""
    return {"drawn": False, "likeliest": True}.get(_ACTIONS.value, agent.greedy_eval)
