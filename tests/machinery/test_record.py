"""Recording: one picture a row of one episode, and GIFs that hold what was drawn."""

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.evaluate import gifs
from mtrl_jax import evaluate, record
from mtrl_jax.envs import maze
from mtrl_jax.types import FunctionalSuite, HostSuite, Timestep


@pytest.fixture(scope="module")
def episodes():
    suite = maze.maze8(episode_length=7)
    agent = evaluate.random_agent(suite.spec)
    return record.play(suite, agent, (), jax.random.key(0))


@pytest.fixture
def frames(episodes):
    return [episode.frames for episode in episodes]


def test_one_picture_a_row_until_the_episode_ends(frames, episodes):
    assert all(episode.finished for episode in episodes)
    assert [len(one) for one in frames] == [8] * 8  # seven actions and the reset row
    for one in frames:
        assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in one)
        assert any((picture != one[0]).any() for picture in one[1:])


def test_a_long_episode_is_cut(frames):
    suite = maze.maze8(episode_length=7)
    agent = evaluate.random_agent(suite.spec)
    cut = record.play(suite, agent, (), jax.random.key(0), max_actions=2)
    for short, whole in zip(cut, frames, strict=True):
        np.testing.assert_array_equal(np.stack(short.frames), np.stack(whole[:3]))
        assert not short.finished
        assert record.outcome(short, has_success=True).startswith("cut after 2 actions, return so")


class _TwoTasks:
    """Two tasks: one is solved by its second action and begins anew, the other goes on."""

    def __init__(self):
        self._t = 0

    def reset(self, group):
        return self._row()

    def send(self, group, action):
        self._t += 1

    def recv(self, group):
        return self._row()

    def render(self, group):
        return [np.full((2, 2, 3), self._t, np.uint8)] * 2

    def close(self):
        pass

    def _row(self):
        first = np.array([[self._t in (0, 3)], [self._t == 0]])
        solved = np.array([[self._t == 2], [self._t == 99]])
        reward = np.full((2, 1), 10.0**self._t, np.float32)
        return Timestep(np.zeros((2, 1)), reward, 1.0 - solved, first, ~first, solved)


def test_a_task_that_begins_anew_keeps_what_it_had():
    spec = maze.maze8().spec._replace(
        task_names=("a", "b"), action_mask=np.ones((2, 4), bool), episode_limit=np.array([9, 9])
    )
    suite = HostSuite(spec, lambda *_, **__: _TwoTasks())
    agent = evaluate.random_agent(spec)
    short, long = record.play(suite, agent, (), jax.random.key(0), max_actions=5)
    assert [len(short.frames), len(long.frames)] == [3, 6]
    assert (short.episode_return, short.success, short.finished) == (110.0, True, True)
    assert (long.episode_return, long.success, long.finished) == (111110.0, False, False)


def test_outcomes_in_words():
    def said(count, value, success, finished, has_success=True):
        frames = [np.zeros((1, 1, 3), np.uint8)] * (count + 1)
        episode = record.Episode(frames, value, success, finished)
        return record.outcome(episode, has_success=has_success)

    assert said(12, 0.955, True, True) == "solved after 12 actions, return 0.95"
    assert said(1, 0.0, False, True) == "not solved after 1 action, return 0.00"
    assert said(9, 4.0, False, True, False) == "over after 9 actions, return 4.00"
    assert said(9, 4.0, True, False) == "solved, cut after 9 actions, return so far 4.00"


def test_gifs_say_task_policy_step_and_outcome_and_are_cut_as_told(
    episodes, tmp_path, monkeypatch, capsys
):
    asked, said = [], []

    def play(*args, max_actions, **more):
        asked.append(max_actions)
        return [episode._replace(frames=episode.frames[: max_actions + 1]) for episode in episodes]

    captioned = record.captioned
    monkeypatch.setattr(record, "play", play)
    monkeypatch.setattr(
        record, "captioned", lambda frames, lines: said.append(lines) or captioned(frames, lines)
    )
    suite = maze.maze8(episode_length=7)
    what = gifs.Recording(step=1_234_000, seed=0, greedy=None, max_actions=3)
    kinds = {"task_policy": False, "distilled_policy": True}
    gifs.write(suite, evaluate.random_agent(suite.spec), (), tmp_path, kinds, what)
    names = suite.spec.task_names
    assert asked == [3, 3]
    assert said[0][0] == f"{names[0]}, task policy after 1,234,000 steps"
    assert said[-1][0] == f"{names[-1]}, distilled policy after 1,234,000 steps"
    assert all(" after 3 actions, return " in lines[1] for lines in said)
    written = {path.name for path in (tmp_path / "gifs").iterdir()}
    assert written == {f"{name}{end}.gif" for name in names for end in ("", "-distilled")}
    with Image.open(tmp_path / "gifs" / f"{names[0]}.gif") as gif:
        assert gif.n_frames <= 4 and gif.height > episodes[0].frames[0].shape[0]
    assert capsys.readouterr().out.count(" after 3 actions, return ") == 2 * len(names)


@pytest.mark.parametrize("width", [42, 84, 210, 480])
def test_a_caption_stands_below_the_picture_and_is_whole(width):
    frames = [np.full((30, width, 3), value, np.uint8) for value in (90, 200)]
    text = ["A-task-of-a-long-name-5x5, distilled policy after 1,000,000 steps", "solved"]
    first, second = record.captioned(frames, text)
    scale = -(-record.LEAST_WIDTH // width)
    assert first.shape == second.shape and first.shape[1] == scale * width
    assert (first[: 30 * scale] == 90).all() and (second[: 30 * scale] == 200).all()
    strip = first[30 * scale :]
    np.testing.assert_array_equal(strip, second[30 * scale :])
    assert (strip > 200).any()
    assert (strip[:, -2:] < 60).all() and (strip[-3:] < 60).all()  # nothing is cut off
    lines = 3 if scale * width < 300 else 2  # the first one is broken
    assert len(strip) == 16 * lines + 6
    assert len(record.captioned(frames, ["short"])[0]) < len(first) or width == 480


def test_a_gif_shows_what_was_drawn(tmp_path):
    """Colours come and go, one is in the last picture only; equal pictures last longer."""
    pictures = np.full((5, 12, 10, 3), 40, np.uint8)
    pictures[1, 3:5, 2:4] = (250, 0, 0)
    pictures[2] = pictures[3] = (0, 0, 250)
    pictures[4, :, 5:] = (0, 250, 0)
    path = tmp_path / "new" / "one.gif"
    record.write_gif(list(pictures), path, fps=20)
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        shown, durations = [], []
        for n in range(gif.n_frames):
            gif.seek(n)
            shown.append(np.asarray(gif.convert("RGB")))
            durations.append(gif.info["duration"])
    np.testing.assert_array_equal(np.stack(shown), pictures[[0, 1, 2, 4]])
    assert durations == [50, 50, 100, 1050]


@pytest.mark.parametrize(
    "pictures",
    [
        [],
        [np.zeros((4, 4), np.uint8)],
        [np.zeros((4, 4, 3))],
        [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)],
    ],
)
def test_pictures_that_make_no_gif(pictures, tmp_path):
    with pytest.raises(ValueError, match="frames must be uint8"):
        record.write_gif(pictures, tmp_path / "x.gif")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_recorded():
    suite = maze.maze8()
    agent = evaluate.random_agent(suite.spec)
    with pytest.raises(ValueError, match="max_actions"):
        record.play(suite, agent, (), jax.random.key(0), max_actions=0)
    blind = FunctionalSuite(suite.spec, object(), suite.tasks)
    assert record.can_render(suite) and not record.can_render(blind)
    with pytest.raises(ValueError, match="render"):
        record.play(blind, agent, (), jax.random.key(0))
