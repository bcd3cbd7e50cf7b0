"""Plays ViZDoom itself, and writes down what its scenarios pay: `doom_rewards.json`.

ViZDoom's own package knows the scenario's reward, which envpool does not hand out. Both run the
same engine, so equal seeds and actions give equal games. What is recorded here is the reference
of `test_doom.py`. Rules and rewards come from the scenarios' own .cfg files, not from this library.

    python -m pip install vizdoom && python -m tests.machinery.record_doom
"""

import itertools
import json
import pathlib

import envpool
import numpy as np

from mtrl_jax.envs.doom import BUTTONS
from mtrl_jax.envs.pool import environment_seeds

FILE = pathlib.Path(__file__).with_name("doom_rewards.json")
SEED, NUM_STEPS, FRAME_SKIP = 5, 150, 4

# Scenario: (actions to draw from, seed of the draws, draws are held for so many steps, skill if not
# the scenario's own). Chosen so that most ends and events happen within `NUM_STEPS`.
SCRIPTS = {
    "basic": (range(36), 3, 1, 0),
    "defend_the_line": (range(36), 0, 1, 0),
    "predict_position": (range(36), 3, 1, 0),
    "deadly_corridor": ((21, 22, 23, 27, 33), 0, 3, 0),
    "take_cover": (range(36), 0, 1, 0),
    "D3_battle": ((18, 18, 19, 20), 0, 2, 0),
    "D4_battle2": ((18, 18, 19, 20), 4, 2, 0),
    "health_gathering_supreme": (range(36), 1, 1, 0),
    "defend_the_center": ((18, 18, 20), 0, 3, 0),
    "my_way_home": ((3, 3, 4, 5), 3, 5, 0),
    "deadly_corridor at ease": ((3,), 0, 1, 1),
}


def script(name: str) -> np.ndarray:
    """int `[NUM_STEPS]`."""
    choices, seed, hold, _ = SCRIPTS[name]
    draws = np.random.default_rng(seed).choice(list(choices), NUM_STEPS)
    return np.repeat(draws, hold)[:NUM_STEPS]


def play(name: str, actions: np.ndarray, seed: int, limit: int) -> dict[str, list]:
    """Rewards and ends of ViZDoom, in envpool's rows: one more than actions, and one a reset."""
    import vizdoom

    packaged = envpool.make_spec("Basic-v1").config
    scenario = name.split()[0]
    maps = pathlib.Path(packaged.wad_path).parent
    game = vizdoom.DoomGame()
    game.load_config(str(maps / f"{scenario}.cfg"))
    game.set_available_buttons([getattr(vizdoom.Button, button) for button in BUTTONS])
    game.set_available_game_variables([])
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_doom_scenario_path(str(maps / f"{scenario}.wad"))
    game.set_doom_game_path(f"{packaged.base_path}/{packaged.iwad_path}.wad")
    game.set_window_visible(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_episode_timeout((limit + 1) * FRAME_SKIP)
    game.set_seed(seed)
    if SCRIPTS[name][3]:
        game.set_doom_skill(SCRIPTS[name][3])
    game.init()
    presses = [
        (attack, move == 1, move == 2, forward, turn == 1, turn == 2)
        for attack, move, forward, turn in itertools.product(range(2), range(3), range(2), range(3))
    ]
    reward, end, elapsed = [0.0], [""], 0
    for action in actions:
        if end[-1]:
            game.new_episode()
            reward, end, elapsed = [*reward, 0.0], [*end, ""], 0
            continue
        game.set_action([float(press) for press in presses[action]])
        game.advance_action(FRAME_SKIP, True)
        elapsed += 1
        reward.append(round(game.get_last_reward(), 5))
        if game.is_episode_finished():
            end.append("death" if game.is_player_dead() else "exit")
        else:
            end.append("time" if elapsed == limit else "")
    game.close()
    return {"reward": reward, "end": end}


def main() -> None:
    record = {}
    for k, name in enumerate(SCRIPTS):
        limit = 75 if name in ("basic", "predict_position") else 525
        # The last row is of the suite of one scenario only, so its number is 0.
        seed = int(environment_seeds(SEED, 0 if " " in name else k, 1)[0])
        record[name] = play(name, script(name), seed, limit)
    text = json.dumps(record, indent=None).replace('}, "', '},\n "')
    FILE.write_text(text + "\n")


if __name__ == "__main__":
    main()
