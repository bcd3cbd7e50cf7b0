"""A small run on envpool, as a process that a test can kill: `python -m ... <folder> <updates>`."""

import pathlib
import sys

from mtrl_jax import engines, train
from mtrl_jax.envs import suites
from tests.machinery import tiny

NUM_ENVS = 4
PER_UPDATE = tiny.T * NUM_ENVS


def run(folder: pathlib.Path, updates: int) -> train.Result:
    suite = suites.make("envpool:CartPole-v1")
    config = engines.RunConfig(
        total_env_steps=updates * PER_UPDATE,
        num_envs_per_task=NUM_ENVS,
        seed=3,
        log_every=10 * PER_UPDATE,
        checkpoint_every=20 * PER_UPDATE,
        eval_every=10**9,
        eval_episodes=1,
    )
    settings = {"seed": 3, "total_env_steps": config.total_env_steps}
    return train.run(config, suite, tiny.toy_agent(suite.spec), folder, settings)


if __name__ == "__main__":
    run(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
