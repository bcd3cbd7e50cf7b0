"""Suites of goals against their rules, whole episodes, files, and what is no such file."""

import json
import pickle

import jax
import numpy as np
import pytest

from experiments.offline import record
from mtrl_jax import evaluate, recorded
from mtrl_jax.envs import goals, suites
from tests.machinery import tiny

EPISODES, LENGTH = 10, 7
NAMES = [f"goal_{kind}:episode_length={LENGTH}" for kind in ("rooms", "plane")]


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.fixture(scope="module", params=NAMES, ids=["rooms", "plane"])
def made(request):
    """A suite, and a recording of uniform play in it."""
    suite = suites.make(request.param)
    agent = evaluate.random_agent(suite.spec)
    rows = record.collect(suite, agent, (), jax.random.key(3), EPISODES)
    header = {
        "suite": request.param,
        "task_names": list(suite.spec.task_names),
        "level": "random",
        "source": {},
    }
    return suite, recorded.Recording(header, **rows)


def _after(rooms, place, action):
    """Where an action leads, by the rules."""
    if not rooms:
        return np.clip(place + np.float32(goals.STEP) * np.clip(action, -1, 1), -1, 1)
    plan = goals.MAP.split()
    row, column = place + [(-1, 0), (1, 0), (0, -1), (0, 1)][action]
    free = 0 <= row < 9 and 0 <= column < 9 and plan[row][column] == "."
    return np.array([row, column]) if free else place


def _paid(rooms, place, goal):
    if rooms:
        return tuple(place) == tuple(goal)
    return np.hypot(*(place - goal)) < goals.RADIUS


def test_recorded_episodes_follow_the_rules(made):
    suite, data = made
    rooms, goal = suite.spec.num_actions > 0, np.asarray(suite.tasks)
    for k in range(suite.spec.num_tasks):
        assert not rooms or goals.MAP.split()[goal[k][0]][goal[k][1]] == "."
        for e in range(EPISODES):
            mine = np.flatnonzero((data.task == k) & (data.episode == e))
            assert 1 <= len(mine) <= LENGTH and (np.diff(mine) == 1).all()
            for n, i in enumerate(mine):
                place = _after(rooms, data.observation[i], data.action[i])
                np.testing.assert_allclose(data.next_observation[i], place, atol=1e-6)
                at_goal = _paid(rooms, place, goal[k])
                assert data.ended[i] == at_goal and data.reward[i] == at_goal
                last = n == len(mine) - 1
                assert last == (at_goal or n == LENGTH - 1)
                if not last:  # nothing of another episode
                    after = data.observation[i + 1]
                    np.testing.assert_array_equal(after, data.next_observation[i])
    assert len(np.unique(data.action, axis=0)) > 3


def test_labels_are_what_each_task_pays(made):
    suite, data = made
    labels = recorded.relabel(suite, data)
    rooms, goal = suite.spec.num_actions > 0, np.asarray(suite.tasks)
    want = [[_paid(rooms, place, g) for place in data.next_observation] for g in goal]
    np.testing.assert_array_equal(labels.reward, np.array(want, np.float32))
    np.testing.assert_array_equal(labels.ended, want)
    assert 0 < labels.ended.sum() < labels.ended.size
    assert suite.env.least_reward == labels.reward.min()
    other = data._replace(reward=data.reward + 0.5)
    with pytest.raises(
        ValueError, match=r"transitions have another reward or end than suite goal_"
    ):
        recorded.relabel(suite, other)
    with pytest.raises(ValueError, match=r"suite maze8: data can be shared .* relabel"):
        recorded.check_relabels(suites.make("maze8"), "maze8")


def test_a_file_gives_back_what_it_was_given_and_is_the_same_file_each_time(made, tmp_path):
    suite, data = made
    name = data.header["suite"]
    for path in (tmp_path / "a.npz", tmp_path / "b.npz"):
        recorded.save(path, data)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = recorded.load(tmp_path / "a.npz", suite.spec, name)
    tiny.assert_trees_equal(found._replace(header=()), data._replace(header=()))
    assert found.header["level"] == "random" and found.header["version"] == 1
    with np.load(tmp_path / "a.npz", allow_pickle=False) as plain:  # NumPy alone reads it
        assert json.loads(str(plain["header"]))["task_names"] == list(suite.spec.task_names)


def _rewritten(path, **changes):
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    np.savez(path, **{name: x for name, x in arrays.items() if x is not None})


def _header(**changes):
    return lambda text: np.array(json.dumps({**json.loads(str(text)), **changes}))


def _pickled(path):
    path.write_bytes(pickle.dumps({"observation": [1]}))


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def _array_of_objects(path):
    _rewritten(path, header=lambda x: np.array([_Trap()], object))


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 0xFF
    path.write_bytes(whole)


def _with(**changes):
    return lambda path: _rewritten(path, **changes)


BAD = {
    "missing": (lambda path: path.unlink(), "is no file; --record makes one"),
    "pickle": (_pickled, r"is no \.npz archive; pickles are never read"),
    "objects": (_array_of_objects, "Object arrays cannot be loaded"),
    "cut": (_cut, "is damaged or cut off"),
    "flipped": (_flipped, "is damaged or cut off"),
    "lacks": (_with(reward=lambda x: None), "must hold the arrays action, .* got action"),
    "no header": (_with(header=lambda x: np.zeros(3)), "its header is not that of"),
    "format": (_with(header=_header(format="x")), "its header is not that of"),
    "version": (_with(header=_header(version=2)), "version 2 is not 1"),
    "suite": (
        _with(header=_header(suite="maze8")),
        "recorded on suite maze8 .*, not on goal_rooms",
    ),
    "tasks": (_with(header=_header(task_names=["a"])), "with tasks .'a'., not on"),
    "shape": (_with(observation=lambda x: x[:, :1]), r"observation must be int32 of shape .* got"),
    "length": (_with(reward=lambda x: x[1:]), "reward must be float32 of shape"),
    "dtype": (_with(action=lambda x: x.astype(float)), "action must be int32 of shape"),
    "empty": (_with(task=lambda x: x[:0]), "there is no transition in it"),
    "action": (_with(action=lambda x: x + 2), r"action must lie in \[0, 4\); got"),
    "place": (_with(observation=lambda x: x + 9), r"observation must lie in \[0, \[9 9\]\)"),
    "nan": (_with(reward=lambda x: x * np.float32(np.nan)), "reward must be finite"),
    "task": (_with(task=lambda x: np.minimum(x, 5)), "there is nothing of task room6"),
}


@pytest.fixture(scope="module")
def file(made, tmp_path_factory):
    suite, data = made
    path = tmp_path_factory.mktemp("files") / "x.npz"
    recorded.save(path, data)
    return suite, data.header["suite"], path.read_bytes()


@pytest.mark.parametrize("made", NAMES[:1], ids=["rooms"], indirect=True)
@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_what_is_no_such_file_is_refused_in_one_sentence(file, tmp_path, spoil, message):
    suite, name, whole = file
    path = tmp_path / "x.npz"
    path.write_bytes(whole)
    recorded.load(path, suite.spec, name)
    spoil(path)
    with pytest.raises(ValueError, match=message) as caught:
        recorded.load(path, suite.spec, name)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
