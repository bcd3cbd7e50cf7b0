"""Scores of a random policy and of a human on 57 Atari games, and the games of the AI-ON list.

Published with dqn_zoo (Quan & Ostrovski 2020): episodes of at most 108,000 frames after up to 30
no-ops. With sticky actions they are a slight mismatch, as everywhere in the literature.
"""

from typing import NamedTuple

__all__ = ["AMTLB_ONLY", "ATARI_57", "Reference"]


class Reference(NamedTuple):
    """Mean score of an episode; `in_amtlb` says whether the game is among the 59 of AMTLB."""

    random: float
    human: float
    in_amtlb: bool


ATARI_57: dict[str, Reference] = {
    "Alien": Reference(227.8, 7127.7, True),
    "Amidar": Reference(5.8, 1719.5, True),
    "Assault": Reference(222.4, 742.0, True),
    "Asterix": Reference(210.0, 8503.3, True),
    "Asteroids": Reference(719.1, 47388.7, True),
    "Atlantis": Reference(12850.0, 29028.1, True),
    "BankHeist": Reference(14.2, 753.1, True),
    "BattleZone": Reference(2360.0, 37187.5, True),
    "BeamRider": Reference(363.9, 16926.5, True),
    "Berzerk": Reference(123.7, 2630.4, True),
    "Bowling": Reference(23.1, 160.7, True),
    "Boxing": Reference(0.1, 12.1, True),
    "Breakout": Reference(1.7, 30.5, True),
    "Centipede": Reference(2090.9, 12017.0, True),
    "ChopperCommand": Reference(811.0, 7387.8, True),
    "CrazyClimber": Reference(10780.5, 35829.4, True),
    "Defender": Reference(2874.5, 18688.9, False),
    "DemonAttack": Reference(152.1, 1971.0, True),
    "DoubleDunk": Reference(-18.6, -16.4, True),
    "Enduro": Reference(0.0, 860.5, True),
    "FishingDerby": Reference(-91.7, -38.7, True),
    "Freeway": Reference(0.0, 29.6, True),
    "Frostbite": Reference(65.2, 4334.7, True),
    "Gopher": Reference(257.6, 2412.5, True),
    "Gravitar": Reference(173.0, 3351.4, True),
    "Hero": Reference(1027.0, 30826.4, False),
    "IceHockey": Reference(-11.2, 0.9, True),
    "Jamesbond": Reference(29.0, 302.8, True),
    "Kangaroo": Reference(52.0, 3035.0, True),
    "Krull": Reference(1598.0, 2665.5, True),
    "KungFuMaster": Reference(258.5, 22736.3, True),
    "MontezumaRevenge": Reference(0.0, 4753.3, True),
    "MsPacman": Reference(307.3, 6951.6, True),
    "NameThisGame": Reference(2292.3, 8049.0, True),
    "Phoenix": Reference(761.4, 7242.6, True),
    "Pitfall": Reference(-229.4, 6463.7, True),
    "Pong": Reference(-20.7, 14.6, True),
    "PrivateEye": Reference(24.9, 69571.3, True),
    "Qbert": Reference(163.9, 13455.0, True),
    "Riverraid": Reference(1338.5, 17118.0, True),
    "RoadRunner": Reference(11.5, 7845.0, True),
    "Robotank": Reference(2.2, 11.9, True),
    "Seaquest": Reference(68.4, 42054.7, True),
    "Skiing": Reference(-17098.1, -4336.9, True),
    "Solaris": Reference(1236.3, 12326.7, True),
    "SpaceInvaders": Reference(148.0, 1668.7, True),
    "StarGunner": Reference(664.0, 10250.0, True),
    "Surround": Reference(-10.0, 6.5, False),
    "Tennis": Reference(-23.8, -8.3, True),
    "TimePilot": Reference(3568.0, 5229.2, True),
    "Tutankham": Reference(11.4, 167.6, True),
    "UpNDown": Reference(533.4, 11693.2, True),
    "Venture": Reference(0.0, 1187.5, True),
    "VideoPinball": Reference(16256.9, 17667.9, True),
    "WizardOfWor": Reference(563.5, 4756.5, True),
    "YarsRevenge": Reference(3092.9, 54576.9, True),
    "Zaxxon": Reference(32.5, 9173.3, True),
}

# The five games of AMTLB without a human score.
AMTLB_ONLY = ("AirRaid", "Carnival", "ElevatorAction", "JourneyEscape", "Pooyan")
