"""ViZDoom through envpool: scenarios with one action space, one observation, and their own rewards.

Every scenario is played with the same six buttons, of which one combination is an action, and seen
as one RGB frame. (The scenarios' own button sets differ, most are smaller.) One frame and not
envpool's stack of four: an agent with a memory needs no more, the rest are copies of bytes that
a CPU would convolve again, and the pictures of DeepMind Lab that this suite stands in for came
singly too.

Rewards and ends are rebuilt in `doom_scenarios`; `doom_engine` looks after the processes.
"""

import functools
import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl_jax.envs import doom_engine
from mtrl_jax.envs.doom_scenarios import FRAME_SKIP, SCENARIOS, Scenario, score
from mtrl_jax.envs.envpool_spec import Encoding, TaskSpec, library, shared_spec
from mtrl_jax.envs.pool import EnvpoolPool
from mtrl_jax.types import HostSuite

__all__ = ["BUTTONS", "NUM_ACTIONS", "TAG8", "doom_suite"]

ENV_ID = "VizdoomCustom-v1"
# Right and left, of a move or a turn, are never pressed together:
# action = ((attack * 3 + move) * 2 + forward) * 3 + turn, with move and turn in none, right, left.
BUTTONS = ("ATTACK", "MOVE_RIGHT", "MOVE_LEFT", "MOVE_FORWARD", "TURN_RIGHT", "TURN_LEFT")
NUM_ACTIONS = 2 * 3 * 2 * 3
# An engine is a process of some 18 megabytes.
MAX_ENVS = 8

TAG8 = (
    "basic",
    "defend_the_line",
    "predict_position",
    "deadly_corridor",
    "take_cover",
    "D3_battle",
    "D4_battle2",
    "health_gathering_supreme",
)

_CFG = """\
doom_skill = {skill}
episode_start_time = {start_tics}
{game_args}
screen_resolution = RES_160X120
screen_format = CRCGCB
render_hud = false
render_crosshair = false
render_weapon = true
render_decals = false
render_particles = false
available_buttons = {{ {buttons} }}
available_game_variables = {{ POSITION_X }}
"""


def doom_suite(names: Sequence[str], image_size: int = 84) -> HostSuite:
    """A suite of ViZDoom scenarios, by the names of their files.

    Observations are uint8 `[3, image_size, image_size]`, actions 0..35, rewards the scenarios' own
    times `SCENARIOS[name].scale`. `discount` is 0 at a death or a goal, 1 when time is up.

    Raises:
      ValueError: an unknown name, one name twice, or a picture of less than 36 pixels, which the
        convolutions cannot read.
      ImportError: envpool is not installed.
    """
    for name in names:
        if name not in SCENARIOS:
            raise ValueError(f"unknown Doom scenario {name!r} (known: {', '.join(SCENARIOS)})")
    if image_size < 36:
        raise ValueError(f"image_size must be at least 36; got {image_size}")
    library()
    scenarios = {name: SCENARIOS[name] for name in names}
    spec = shared_spec([_task(name, SCENARIOS[name], image_size) for name in names])
    return HostSuite(
        spec,
        functools.partial(DoomPool, scenarios, image_size=image_size),
        max_envs=MAX_ENVS,
        part=lambda indices: doom_suite([names[i] for i in indices], image_size),
    )


class DoomPool(EnvpoolPool):
    """A pool of scenarios, `{name: rules}`; see `EnvpoolPool` for the arguments and errors.

    Raises:
      RuntimeError: the engine cannot be started from the directory for temporary files.
    """

    def __init__(
        self, scenarios: dict[str, Scenario], *args: Any, image_size: int = 84, **kwargs: Any
    ) -> None:
        import envpool

        packaged = envpool.make_spec("Basic-v1").config
        maps = os.path.dirname(packaged.wad_path)
        workspace = doom_engine.make_workspace(packaged.vzd_path)
        tasks = []
        for name, scenario in scenarios.items():
            cfg = workspace.path / f"{name}.cfg"
            cfg.write_text(_cfg(scenario))
            task = _task(name, scenario, image_size)
            paths = {
                "cfg_path": str(cfg),
                "wad_path": os.path.join(maps, f"{name}.wad"),
                "vzd_path": str(workspace.path / doom_engine.ENGINE),
            }
            tasks.append(task._replace(options=task.options | paths))
        try:
            super().__init__(tasks, *args, **kwargs)
        except BaseException:
            doom_engine.release(workspace)
            raise
        self._end = weakref.finalize(self, _end, self._pools, workspace)

    def close(self) -> None:
        """Ends the engines and removes their files; also done when the pool is collected."""
        self._end()


def _end(pools: list[Any], workspace: doom_engine.Workspace) -> None:
    pools.clear()
    doom_engine.release(workspace)


def _cfg(scenario: Scenario) -> str:
    game_args = f"game_args = {scenario.game_args}" if scenario.game_args else ""
    return _CFG.format(
        skill=scenario.skill,
        start_tics=scenario.start_tics,
        game_args=game_args,
        buttons=" ".join(BUTTONS),
    )


def _task(name: str, scenario: Scenario, image_size: int) -> TaskSpec:
    """Without the paths, which exist when a pool is made."""
    return TaskSpec(
        env_id=ENV_ID,
        options={
            "use_combined_action": True,
            "stack_num": 1,
            "img_height": image_size,
            "img_width": image_size,
            "frame_skip": FRAME_SKIP,
            "max_episode_steps": scenario.limit,
            # The one variable that envpool's info lacks travels in the reward.
            "reward_config": {"POSITION_X": (1.0, -1.0)},
            "selected_weapon_reward_config": {},
        },
        encoding=Encoding("image", "score", ("obs",)),
        observation_shape=(3, image_size, image_size),
        observation_dtype=np.dtype(np.uint8),
        vocabulary=None,
        num_actions=NUM_ACTIONS,
        episode_limit=scenario.limit,
        padded_actions=False,
        action_dtype=np.dtype(np.float64),
        name=name,
        score=functools.partial(score, scenario),
    )
