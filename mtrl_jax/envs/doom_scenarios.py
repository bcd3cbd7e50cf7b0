"""ViZDoom scenarios as data: their rules, their own rewards, and what of these envpool hides.

envpool does not hand out a scenario's reward. It sums changes of game variables, and on the step
that ends a game it returns 0.0 with the variables of the step before. `score` rebuilds the reward
from the variables, by the numbers in each scenario's script (the ACS source in its .wad) and .cfg
file. What happens in the last step of a game (1 to 4 tics) is not visible::

    scenario                  rebuilt                          not seen in the last step
    basic                     -1 a tic, -5 a shot, +106 kill   how many of the 4 tics: 2.5 taken
    defend_the_line, _center  +1 a kill, -1 death              kills
    predict_position          -0.001 a tic, +1 kill            the tics; kills as late as a miss
    deadly_corridor           x moved, -100 death, +1000 vest  movement; see VEST_FROM_X
    take_cover                +1 a tic                         the tics: 2.5 taken
    D3_battle, D4_battle2     +1 a kill                        kills
    health_gathering_supreme  +1 a tic, -100 death             the tics: 2.5 taken
    my_way_home               -0.0001 a tic, +1 goal           the tics

A game that ends by itself on the last allowed step is called truncated by envpool, and so by us.
The episode limits are the scenarios' own; `defend_the_line` and `take_cover` have none and get
2100 tics like the rest.

Kempka et al. 2016 (arXiv 1605.02097) is ViZDoom; `D3_battle` and `D4_battle2` are of Dosovitskiy
and Koltun 2017 (arXiv 1611.01779), whose own reward weighs ammunition and health too.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["DEATH", "FRAME_SKIP", "GOAL", "SCENARIOS", "TIME", "Memory", "Scenario", "score"]

FRAME_SKIP = 4  # tics a step, 35 tics a second
LAST_TICS = 2.5  # the mean of 1 to 4
# A rocket that has not hit 45 tics after it was fired ends the game: after 11 rows without rockets.
MISS_ROWS = 11
# Armour at x = 1312 is taken from 36 units away, and nobody walks further than 47 in a step. A
# death between here and the armour is taken for the goal; the last enemies stand at x = 1024.
VEST_FROM_X = 1312.0 - 36.0 - 47.0

# How an episode ended: `score` gives one of these on its last row, else 0.
DEATH, GOAL, TIME = 1, 2, 3


class Scenario(NamedTuple):
    """One scenario.

    Attributes:
      skill: Doom's difficulty, 1 to 5.
      start_tics: how many tics pass before the first observation (the weapon is raised).
      limit: most steps of an episode.
      scale: what the reward is multiplied by; divide a return by it to get the scenario's own.
        Round numbers that give the return of uniform actions a standard deviation near 1/3 in every
        scenario, so that none drowns the others; good returns are then between 0.5 and 10.
      living: reward a tic.
      kill, shot, progress: reward a kill, a round fired, a map unit along x.
      goal: reward of reaching it.
      death: reward of the player's death.
      rule: what the goal is: "" (to stay alive until time is up), "kill" (the only enemy), "rocket"
        (a kill with the only one), "vest" (armour at the end of a corridor), or "end" (whatever
        ends the game).
      kills, ammunition: the game variables that count them.
      game_args: for the engine.
    """

    skill: int
    start_tics: int
    limit: int
    scale: float
    living: float = 0.0
    kill: float = 0.0
    shot: float = 0.0
    progress: float = 0.0
    goal: float = 0.0
    death: float = 0.0
    rule: str = ""
    kills: str = "KILLCOUNT"
    ammunition: str = "AMMO2"
    game_args: str = ""


SCENARIOS = {
    "basic": Scenario(5, 14, 75, 0.002, living=-1.0, shot=-5.0, goal=106.0, rule="kill"),
    "defend_the_line": Scenario(3, 10, 525, 0.1, kill=1.0, death=-1.0),
    "predict_position": Scenario(
        1,
        16,
        75,
        1.0,
        living=-0.001,
        goal=1.0,
        rule="rocket",
        ammunition="AMMO5",
        game_args="+sv_noautoaim 1",
    ),
    "deadly_corridor": Scenario(
        5, 1, 525, 0.002, progress=1.0, goal=1000.0, death=-100.0, rule="vest"
    ),
    "take_cover": Scenario(4, 1, 525, 0.004, living=1.0),
    "D3_battle": Scenario(2, 1, 525, 0.5, kill=1.0, kills="USER2"),
    "D4_battle2": Scenario(2, 1, 525, 0.5, kill=1.0, kills="USER2"),
    "health_gathering_supreme": Scenario(3, 1, 525, 0.004, living=1.0, death=-100.0),
    "defend_the_center": Scenario(3, 10, 525, 0.1, kill=1.0, death=-1.0),
    "my_way_home": Scenario(5, 10, 525, 1.0, living=-0.0001, goal=1.0, rule="end"),
}


class Memory(NamedTuple):
    """What `score` knows of the rows before, each `[E]`.

    Attributes:
      kills, ammunition: the counters on the row before.
      x: how far the player has come from the start.
      empty: rows of this episode without ammunition.
      solved: whether the goal was reached.
    """

    kills: np.ndarray
    ammunition: np.ndarray
    x: np.ndarray
    empty: np.ndarray
    solved: np.ndarray


class Outcome(NamedTuple):
    """Of the transition into a row, each `[E]`; meaningless on reset rows.

    Attributes:
      reward: the scenario's own times `scale`.
      success: the goal was reached, or, where there is none, time is up and the player lives.
      end: DEATH (which includes a missed only shot), GOAL, TIME, or 0 where the episode goes on.
    """

    reward: np.ndarray
    success: np.ndarray
    end: np.ndarray


def score(
    scenario: Scenario, raw: dict[str, np.ndarray], memory: Memory | None
) -> tuple[Outcome, Memory]:
    """The scenario's own reward of one row, and how the episode ended.

    Args:
      scenario: from `SCENARIOS`.
      raw: envpool's state of E environments; `raw["reward"]` must be the change of POSITION_X.
      memory: what the last call returned; None on the first row.
    """
    kills, ammunition = (
        raw[f"info:{name}"].reshape(-1) for name in (scenario.kills, scenario.ammunition)
    )
    fresh = Memory(kills, ammunition, np.zeros_like(kills), np.zeros_like(kills), kills < 0)
    first = raw["step_type"] == 0
    if memory is None:
        memory = fresh
    memory = Memory(*(np.where(first, new, old) for new, old in zip(fresh, memory, strict=True)))

    truncated = raw["done"] & raw["trunc"]
    ended = raw["done"] & ~raw["trunc"]
    killed = kills - memory.kills
    fired = np.maximum(memory.ammunition - ammunition, 0.0)
    x = memory.x + np.where(first, 0.0, raw["reward"])
    empty = memory.empty + (~ended & (ammunition == 0))
    nothing = np.zeros_like(ended)
    reached = {
        "": nothing,
        "kill": (killed > 0) | ended,
        "rocket": (killed > 0) | (ended & (empty < MISS_ROWS)),
        "vest": (raw["info:ARMOR"].reshape(-1) > 0) | (ended & (x > VEST_FROM_X)),
        "end": ended,
    }[scenario.rule]
    reached = reached & ~memory.solved & ~first
    solved = memory.solved | reached
    dead = ended & ~solved
    if scenario.rule == "kill":
        fired = fired + (reached & ended)  # the round that killed, fired in the unseen step

    tics = np.where(ended, LAST_TICS, FRAME_SKIP)
    reward = (
        scenario.living * tics
        + scenario.kill * killed
        + scenario.shot * fired
        + scenario.progress * (x - memory.x)
        + scenario.goal * reached
        + scenario.death * dead
    )
    success = reached if scenario.rule else truncated
    end = np.select([dead, ended, truncated], [DEATH, GOAL, TIME], 0)
    outcome = Outcome((scenario.scale * reward).astype(np.float32), success, end)
    return outcome, Memory(kills, ammunition, x, empty, solved)
