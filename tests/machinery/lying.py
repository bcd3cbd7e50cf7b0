"""The spec that the suites of the tests of `envs.check` have, or only say they have."""

import numpy as np

from mtrl_jax.types import EnvSpec

NAMES = ("left", "right")
SPEC = EnvSpec(
    task_names=NAMES,
    observation_shape=(3,),
    observation_dtype=np.float32,
    vocabulary=None,
    num_actions=2,
    action_mask=np.ones((2, 2), bool),
    episode_limit=np.array([4, 4]),
    has_success=True,
)
TASKS = {"goal": np.array([0, 2])}
