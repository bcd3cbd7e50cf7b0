"""Which pool of trials an update plays in, and at which draw; how many slots score tasks."""

import numpy as np

from mtrl_jax.algorithms.few_shot import HostLearner
from mtrl_jax.envs.trials import TrialFamily, TrialPool

__all__ = ["Pools", "test_slots", "training_seed"]

DRAWS = 50  # updates from one pool to the next, where tasks are new for ever
SLOTS = 20  # that are scored at the same time, about


class Pools:
    """The pools of one training run: which one update n plays in, and at which draw.

    Pools hold `DRAWS` updates, and then others come; of a finite number of training tasks all of
    them, and then the same ones again.
    """

    def __init__(self, family: TrialFamily, made: HostLearner, seed: int) -> None:
        self._family, self._made, self._seed = family, made, seed
        self._draws = made.train_tasks // made.num_slots or DRAWS
        self._at = (-1, 0)
        self._pool: TrialPool | None = None

    def at(self, update: int) -> TrialPool:
        """The pool whose next draw is of this update."""
        generation, draw = divmod(update, self._draws)
        if self._pool is None or self._at != (generation, draw):
            self.close()
            fresh = 0 if self._made.train_tasks else generation
            seed = training_seed(self._seed, fresh)
            slots, copies = self._made.num_slots, self._made.copies
            self._pool = TrialPool(self._family.train, slots, copies, seed)
            self._pool.skip(draw)
        self._at = (generation, draw + 1)
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
        self._pool = None


def training_seed(seed: int, generation: int) -> int:
    """Of the pools that a seed's run learns in; none is `TEST_SEED`."""
    return int(np.random.SeedSequence([seed, generation]).generate_state(1)[0] >> 2)


def test_slots(num_tasks: int, num_environments: int) -> tuple[int, int]:
    """Slots of a pool to score in, and draws of each, which together are so many tasks.

    Raises:
      ValueError: if environments cannot have equally many.
    """
    each, left = divmod(num_tasks, num_environments)
    if left or not each:
        raise ValueError(
            f"test_tasks must be a multiple of {num_environments} environments; got {num_tasks}"
        )
    most = max(SLOTS // num_environments, 1)
    slots = max(n for n in range(1, most + 1) if each % n == 0)
    return slots * num_environments, each // slots
