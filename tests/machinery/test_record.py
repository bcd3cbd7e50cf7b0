"""Recording: one picture a row of one episode, and GIFs that hold what was drawn."""

import jax
import numpy as np
import pytest
from PIL import Image

from mtrl_jax import evaluate, record
from mtrl_jax.envs import maze
from mtrl_jax.types import FunctionalSuite


@pytest.fixture(scope="module")
def frames():
    suite = maze.maze8(episode_length=7)
    agent = evaluate.random_agent(suite.spec)
    return record.episode_frames(suite, agent, (), jax.random.key(0))


def test_one_picture_a_row_until_the_episode_ends(frames):
    assert [len(one) for one in frames] == [8] * 8  # seven actions and the reset row
    for one in frames:
        assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in one)
        assert any((picture != one[0]).any() for picture in one[1:])


def test_a_long_episode_is_cut(frames):
    suite = maze.maze8(episode_length=7)
    agent = evaluate.random_agent(suite.spec)
    cut = record.episode_frames(suite, agent, (), jax.random.key(0), max_actions=2)
    for short, whole in zip(cut, frames, strict=True):
        np.testing.assert_array_equal(np.stack(short), np.stack(whole[:3]))


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
        record.episode_frames(suite, agent, (), jax.random.key(0), max_actions=0)
    blind = FunctionalSuite(suite.spec, object(), suite.tasks)
    assert record.can_render(suite) and not record.can_render(blind)
    with pytest.raises(ValueError, match="render"):
        record.episode_frames(blind, agent, (), jax.random.key(0))
