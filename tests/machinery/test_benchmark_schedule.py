"""The schedule of a matrix without a process: what starts, what comes back, what is given up."""

import pytest

from mtrl_jax.benchmark import cells, schedule

LOG = "logs/worker.log"


def cell(name, needs="", agent="x", steps=10):
    return cells.Cell(agent, "scratch", 0, -1, (0,), name, needs, steps)


def names(many):
    return [c.name for c in many]


def where(state):
    """Names by the four places that a cell can be in; each in one of them."""
    running = {n: r.cell.name for n, r in state.running.items()}
    found = (names(state.queue), running, names(state.done), list(state.failed))
    every = [*found[0], *running.values(), *found[2], *found[3]]
    assert len(every) == len(set(every))
    return found


def test_a_cell_waits_for_the_one_that_it_needs_while_others_overtake_it():
    state = schedule.new([cell("after", "first"), cell("first"), cell("other")], [])
    state = schedule.assign(state, 0, 0.0)
    assert where(state) == (["after", "other"], {0: "first"}, [], [])
    state = schedule.assign(state, 1, 0.0)
    assert where(state) == (["after"], {0: "first", 1: "other"}, [], [])
    # Nobody has two cells, and `after` still waits.
    assert schedule.assign(state, 1, 0.0) is state and schedule.assign(state, 2, 0.0) is state
    state = schedule.assign(schedule.finish(state, 0, 1.0), 0, 1.0)
    assert where(state) == ([], {1: "other", 0: "after"}, ["first"], [])


@pytest.mark.parametrize("done", [[cell("first")], []])
def test_what_is_done_before_or_is_of_another_matrix_stands_in_nobodys_way(done):
    state = schedule.assign(schedule.new([cell("after", "first")], done), 0, 0.0)
    assert where(state)[1] == {0: "after"}


def test_a_cell_that_fails_takes_with_it_all_that_start_from_it():
    chain = [cell("a"), cell("b", "a"), cell("c", "b"), cell("d")]
    before = schedule.assign(schedule.new(chain, []), 0, 0.0)
    state = schedule.fail(before, 0, "it is bad")
    assert where(state) == (["d"], {}, [], ["a", "b", "c"])
    assert list(state.failed.values()) == [
        "it is bad",
        "b needs a, which failed",
        "c needs b, which failed",
    ]
    assert where(before) == (["b", "c", "d"], {0: "a"}, [], [])  # states are values


def test_who_runs_again():
    again = [schedule.runs_again(-9, deaths) for deaths in range(1, 13)]
    assert again == [True] * 9 + [False] * 3  # three kills in a row leave no cell out
    assert not any(schedule.runs_again(code, 1) for code in (0, 1, 137))


def test_a_killed_cell_is_the_next_to_start_until_its_tries_are_used_up():
    state = schedule.new([cell("a"), cell("b")], [])
    for death in range(1, schedule.TRIES + 1):
        state = schedule.assign(state, 0, 0.0)
        assert where(state)[1] == {0: "a"}
        state = schedule.lose(state, 0, -9, LOG)
        assert state.deaths == {"a": death}
    assert where(state) == (["b"], {}, [], ["a"])
    assert state.failed["a"] == f"a: its process ended with -9, 10 times in all; see {LOG}"
    # Deaths are counted by cell; a process that ends between two cells costs nobody anything.
    assert schedule.lose(state, 0, -9, LOG) is state
    state = schedule.lose(schedule.assign(state, 0, 0.0), 0, -9, LOG)
    assert where(state)[0] == ["b"] and state.deaths == {"a": schedule.TRIES, "b": 1}


def test_a_process_that_ends_by_itself_gives_its_cell_up_at_once():
    state = schedule.assign(schedule.new([cell("a")], []), 0, 0.0)
    assert where(schedule.lose(state, 0, 1, LOG)) == ([], {}, [], ["a"])


def test_once_stopping_nothing_starts_and_nothing_fails_by_being_ended():
    state = schedule.assign(schedule.new([cell("a"), cell("b"), cell("c")], []), 0, 0.0)
    state = schedule.stop(schedule.assign(state, 1, 0.0))
    assert schedule.assign(state, 2, 0.0) is state
    state = schedule.give_back(state, 0)  # it has saved
    state = schedule.lose(state, 1, 1, LOG)  # it had no time to
    assert where(state) == (["b", "a", "c"], {}, [], [])


def test_time_to_go_is_by_agent_and_by_what_is_done():
    quick, slow = cell("quick", agent="x", steps=100), cell("slow", agent="y", steps=100)
    more = [cell("more", agent="x", steps=50), cell("new", agent="z", steps=30)]
    state = schedule.new([quick, slow, *more], [cell("old", agent="x", steps=1000)])
    state = schedule.assign(schedule.assign(state, 0, 0.0), 1, 10.0)
    # Neither what was done before this process nor the first moments of a cell say anything.
    assert schedule.remaining(schedule.progress(state, 1, 0.05), 11.0, 1) is None
    state = schedule.finish(schedule.progress(state, 1, 0.25), 0, 20.0)
    # x takes 20 s for 100 steps; y 40 s for 25; the unknown z their mean, 60 s for 125.
    expected = 50 * 20 / 100 + 75 * 40 / 25 + 30 * 60 / 125
    assert schedule.remaining(state, 50.0, 1) == pytest.approx(expected)
    assert schedule.remaining(state, 50.0, 2) == pytest.approx(expected / 2)
    control = schedule.new([cell("control", steps=0)], [])
    control = schedule.finish(schedule.assign(control, 0, 0.0), 0, 5.0)
    assert schedule.remaining(control, 6.0, 1) is None
