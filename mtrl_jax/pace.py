"""How many dispatches are launched before the metrics of the first are read: a second's worth.

A dispatch is `RunConfig.updates_per_dispatch` updates, on an accelerator a few milliseconds, after
each of which the host would read a row and launch the next one while the device waits. Launched
ahead they are the same programs in the same order, so a run's numbers do not depend on how many
there were; whatever is due (log rows, evaluations, checkpoints) is due where it was, since no
dispatch is launched beyond that.

On a CPU and with several processes each dispatch is read before the next: there the host is the
device, or the processes ask each other after every one whether to stop.
"""

import time
from collections.abc import Callable
from typing import Any

from mtrl_jax.engines import RunConfig
from mtrl_jax.types import Metrics

__all__ = ["SECONDS", "Pace", "due_after", "every"]

SECONDS = 1.0  # between two readings


class Pace:
    """`pace(carry, step)` makes the dispatches from `step` on; the first waits, being compiled.

    Args:
      engine: an `engines.Engine`.
      per_update, per_dispatch: environment steps.
      due: `(previous, step) -> bool`, whether something is to be done after the dispatch that goes
        from one to the other.
      clock: seconds.
    """

    def __init__(
        self,
        engine: Any,
        per_update: int,
        per_dispatch: int,
        due: Callable[[int, int], bool],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._engine, self._due, self._clock = engine, due, clock
        self._per_update, self._per_dispatch = per_update, per_dispatch
        self._wanted = 1

    def __call__(self, carry: Any, step: int) -> tuple[Any, list[tuple[int, Metrics]]]:
        """The carry after some dispatches, of which at most the last has something due behind it;
        and of each the step that it came to and its metrics."""
        began, pending = self._clock(), []
        while True:
            carry, one = self._engine.launch(carry, step // self._per_update)
            previous, step = step, step + self._per_dispatch
            pending.append((step, one))
            if len(pending) >= self._wanted or self._due(previous, step):
                break
        done = [(at, self._engine.read(one)) for at, one in pending]
        seconds = max(self._clock() - began, 1e-6) / len(done)
        self._wanted = max(
            1, min(int(SECONDS / seconds), 2 * self._wanted, self._engine.most_ahead)
        )
        return carry, done


def due_after(config: RunConfig, previous: int, step: int, total: int) -> dict[str, bool]:
    """What is to be done after the dispatch from `previous` to `step`; all of it after the last."""
    intervals = {
        "log": config.log_every,
        "eval": config.eval_every,
        "checkpoint": config.checkpoint_every,
    }
    return {what: step >= total or every(previous, step, n) for what, n in intervals.items()}


def every(previous: int, step: int, n: int) -> bool:
    """Whether a multiple of `n` lies in `(previous, step]`."""
    return step // n > previous // n
