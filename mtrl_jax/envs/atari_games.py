"""Named lists of Atari games, as envpool spells them without the version.

`AMTLB` are the 59 games of the AI-ON benchmark, `ATARI_57` those of the literature with published
human scores (`benchmark/atari_scores.py`); 54 are in both. The small ones are for small machines.
"""

__all__ = ["AMTLB", "ATARI_4", "ATARI_12", "ATARI_57", "ids"]

ATARI_57 = tuple(
    """Alien Amidar Assault Asterix Asteroids Atlantis BankHeist BattleZone BeamRider Berzerk
    Bowling Boxing Breakout Centipede ChopperCommand CrazyClimber Defender DemonAttack DoubleDunk
    Enduro FishingDerby Freeway Frostbite Gopher Gravitar Hero IceHockey Jamesbond Kangaroo Krull
    KungFuMaster MontezumaRevenge MsPacman NameThisGame Phoenix Pitfall Pong PrivateEye Qbert
    Riverraid RoadRunner Robotank Seaquest Skiing Solaris SpaceInvaders StarGunner Surround Tennis
    TimePilot Tutankham UpNDown Venture VideoPinball WizardOfWor YarsRevenge Zaxxon""".split()
)
_NOT_AMTLB = ("Defender", "Hero", "Surround")
_AMTLB_ONLY = ("AirRaid", "Carnival", "ElevatorAction", "JourneyEscape", "Pooyan")
AMTLB = tuple(sorted({*ATARI_57, *_AMTLB_ONLY} - {*_NOT_AMTLB}))
# Of both lists: short games with dense rewards among them.
ATARI_12 = (
    "Pong",
    "Breakout",
    "Freeway",
    "Boxing",
    "SpaceInvaders",
    "Assault",
    "BeamRider",
    "Enduro",
    "Qbert",
    "Seaquest",
    "MsPacman",
    "Krull",
)
ATARI_4 = ATARI_12[:4]


def ids(games: tuple[str, ...]) -> tuple[str, ...]:
    """The ids that envpool knows."""
    return tuple(f"{game}-v5" for game in games)
