"""Which cell runs next, which runs again, and how long it will take: a state, and pure functions
from one state to the next.

Nothing here knows of processes, files or clocks; `matrix.run` has them, and tells a state what
happened. Workers are numbers.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mtrl_jax.benchmark.cells import Cell

__all__ = [
    "TRIES",
    "Running",
    "State",
    "assign",
    "fail",
    "finish",
    "give_back",
    "lose",
    "new",
    "progress",
    "remaining",
    "runs_again",
    "stop",
]

# Of a cell whose process is killed: by memory that ran out or by hand, several times in a row. Each
# goes on from its last checkpoint, so many of them cost little; a crash that repeats itself ends.
TRIES = 10


class Running(NamedTuple):
    """A cell that a worker has.

    Attributes:
      cell: of the matrix.
      part: of it that is done, in [0, 1].
      since: seconds, when the worker got it.
    """

    cell: Cell
    part: float
    since: float


class State(NamedTuple):
    """Every cell is in one of `queue`, `running`, `done` and `failed`.

    Attributes:
      queue: cells in the order in which they should start.
      running: by number of the worker.
      done: cells whose rows are in the table.
      failed: name of a cell to the sentence that says why.
      deaths: name of a cell to how many processes ended under it.
      took: name of a cell that was finished here to its seconds.
      stopping: whether nothing new may start.
    """

    queue: tuple[Cell, ...]
    running: dict[int, Running]
    done: tuple[Cell, ...]
    failed: dict[str, str]
    deaths: dict[str, int]
    took: dict[str, float]
    stopping: bool


def new(queue: Iterable[Cell], done: Iterable[Cell]) -> State:
    """Before anything runs."""
    return State(tuple(queue), {}, tuple(done), {}, {}, {}, False)


def assign(state: State, worker: int, now: float) -> State:
    """Gives a worker without a cell the first one that nothing stands in the way of, if any."""
    if state.stopping or worker in state.running:
        return state
    ahead = {cell.name for cell in (*state.queue, *(r.cell for r in state.running.values()))}
    cell = next((cell for cell in state.queue if cell.needs not in ahead), None)
    if cell is None:
        return state
    return state._replace(
        queue=tuple(c for c in state.queue if c is not cell),
        running={**state.running, worker: Running(cell, 0.0, now)},
    )


def progress(state: State, worker: int, part: float) -> State:
    """A worker says how much of its cell is done."""
    running = {**state.running, worker: state.running[worker]._replace(part=part)}
    return state._replace(running=running)


def finish(state: State, worker: int, now: float) -> State:
    """A worker's cell is done."""
    cell, _, since = state.running[worker]
    state = _free(state, worker)
    return state._replace(done=(*state.done, cell), took={**state.took, cell.name: now - since})


def fail(state: State, worker: int, sentence: str) -> State:
    """A worker's cell cannot be run, nor can those that start from it."""
    cell = state.running[worker].cell
    return _give_up(_free(state, worker), cell, sentence)


def give_back(state: State, worker: int) -> State:
    """A worker's cell was interrupted: it is the next one to start."""
    cell = state.running[worker].cell
    state = _free(state, worker)
    return state._replace(queue=(cell, *state.queue))


def lose(state: State, worker: int, code: int, log: object) -> State:
    """A worker's process ended.

    Args:
      state: of before.
      worker: its number.
      code: what the process returned, below 0 if a signal killed it.
      log: where it wrote what it had to say.
    """
    if worker not in state.running:
        return state
    name = state.running[worker].cell.name
    deaths = state.deaths.get(name, 0) + 1
    state = state._replace(deaths={**state.deaths, name: deaths})
    if state.stopping or runs_again(code, deaths):
        return give_back(state, worker)
    times = f", {deaths} times in all" if deaths > 1 else ""
    return fail(state, worker, f"{name}: its process ended with {code}{times}; see {log}")


def runs_again(code: int, deaths: int) -> bool:
    """The policy: whether a cell whose process ended gets another one.

    Args:
      code: what the process returned. One that a signal killed may have been in somebody's way;
        any other has said in its log what is wrong, and would say it again.
      deaths: how many processes have ended under this cell, this one included.
    """
    return code < 0 and deaths < TRIES


def stop(state: State) -> State:
    """Nothing new may start."""
    return state._replace(stopping=True)


def remaining(state: State, now: float, num_workers: int) -> float | None:
    """Seconds to go, from what cells of the same agent took for a step, start-up included; None
    while nothing is known."""
    seconds: dict[str, float] = {}
    steps: dict[str, float] = {}
    known = [(cell, 1.0, state.took[cell.name]) for cell in state.done if cell.name in state.took]
    known += [(cell, part, now - since) for cell, part, since in state.running.values()]
    for cell, part, spent in known:
        if part > 0.05 and cell.steps:  # controls train for no step
            seconds[cell.agent] = seconds.get(cell.agent, 0.0) + spent
            steps[cell.agent] = steps.get(cell.agent, 0.0) + part * cell.steps
    if not steps:
        return None
    mean = sum(seconds.values()) / sum(steps.values())
    rate = {agent: seconds[agent] / steps[agent] for agent in steps}
    to_go = [(cell, 1.0) for cell in state.queue]
    to_go += [(cell, 1.0 - part) for cell, part, _ in state.running.values()]
    return sum(rate.get(cell.agent, mean) * part * cell.steps for cell, part in to_go) / num_workers


def _free(state: State, worker: int) -> State:
    return state._replace(running={n: r for n, r in state.running.items() if n != worker})


def _give_up(state: State, cell: Cell, sentence: str) -> State:
    state = state._replace(failed={**state.failed, cell.name: sentence})
    after: Sequence[Cell] = [other for other in state.queue if other.needs == cell.name]
    state = state._replace(queue=tuple(c for c in state.queue if c not in after))
    for other in after:
        state = _give_up(state, other, f"{other.name} needs {cell.name}, which failed")
    return state
