"""What TensorBoard and Weights & Biases get, and what happens where they are not installed."""

import importlib.util
import sys
import types

import numpy as np
import pytest
from PIL import Image

from mtrl_jax import engines, writers
from mtrl_jax.envs import maze

ROW = {
    "task/a/episode/return": np.array([1.0, 3.0]),
    "task/b/c/episode/return": np.array([5.0, 7.0]),  # a task may have a slash in its name
    "task/a/episode/length": 4.0,
    "task/b/c/episode/length": np.nan,
    "task/a/episode/longest": 9.0,
    "eval/task_policy/a/return": 2.0,
    "eval/task_policy/b/c/return": 4.0,
    "loss/total": 1.5,
}
TASKS = ("a", "b/c")


def events(folder):
    """(step, summary value) of all event files."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found += [(event.step, value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def picture(path):
    Image.fromarray(np.full((3, 5, 3), 7, np.uint8)).save(path)
    return path


def test_means_over_tasks_are_of_what_every_task_has():
    assert writers.means_over_tasks(ROW, TASKS) == {
        "mean/episode/return": 4.0,
        "eval/task_policy/mean/return": 3.0,
    }


def test_tensorboard_has_means_hyperparameters_and_pictures(tmp_path):
    folder = tmp_path / "tensorboard"
    settings = {"seed": 3, "config/hidden": [64, 64], "suite": "maze8", "config/separate": False}
    (writer,) = writers.open_extra(["tensorboard"], tmp_path, -1, TASKS, settings)
    writer = writers.Writers([writer, writers.NullWriter()])
    writer.write(4, ROW)
    writer.picture(5, "learning_curves", picture(tmp_path / "x.png"))
    writer.close()
    found = events(folder)
    scalars = {value.tag: (step, value.simple_value) for step, value in found if value.simple_value}
    assert scalars == {
        "task/a/episode/return": (4, 2.0),
        "task/b/c/episode/return": (4, 6.0),
        "task/a/episode/length": (4, 4.0),
        "mean/episode/return": (4, 4.0),
        "eval/task_policy/a/return": (4, 2.0),
        "eval/task_policy/b/c/return": (4, 4.0),
        "eval/task_policy/mean/return": (4, 3.0),
        "loss/total": (4, 1.5),
    }
    images = [(step, value.tag, value.image) for step, value in found if value.image.width]
    assert [(s, t, i.width, i.height) for s, t, i in images] == [(5, "learning_curves", 5, 3)]
    (hparams,) = [v for _, v in found if v.tag == "_hparams_/session_start_info"]
    content = hparams.metadata.plugin_data.content
    for text in (b"config/hidden", b"[64, 64]", b"suite", b"maze8", b"config/separate"):
        assert text in content


class FakeWandb(types.ModuleType):
    """Keeps what it is asked for."""

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.Settings = [], dict
        self.Image = lambda path: ("image", path)
        self.__spec__ = importlib.util.spec_from_loader("wandb", None)

    def init(self, **arguments):
        run = types.SimpleNamespace(arguments=arguments, logged=[], axes=[], finished=False)
        run.log = run.logged.append
        run.define_metric = lambda *args, **more: run.axes.append((args, more))
        run.finish = lambda: setattr(run, "finished", True)
        self.runs.append(run)
        return run


def test_wandb_gets_rows_over_environment_steps_and_goes_on_with_one_run(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (-1, 4):
        (writer,) = writers.open_extra(["wandb"], tmp_path, step, TASKS, {"seed": 3})
        writer.write(4, ROW)
        writer.picture(5, "learning_curves", picture(tmp_path / "x.png"))
        writer.close()
    first, second = fake.runs
    assert first.finished and second.finished
    assert first.arguments["id"] == second.arguments["id"] and first.arguments["id"]
    assert first.arguments["resume"] == "allow" and first.arguments["config"] == {"seed": 3}
    assert first.arguments["dir"] == str(tmp_path)
    assert (("*",), {"step_metric": "env_steps"}) in first.axes
    row, image = first.logged
    assert row["env_steps"] == 4 and row["mean/episode/return"] == 4.0
    assert row["task/b/c/episode/return"] == 6.0
    assert "task/b/c/episode/length" not in row  # nan
    assert image == {"env_steps": 5, "learning_curves": ("image", str(tmp_path / "x.png"))}
    (other,) = writers.open_extra(["wandb"], tmp_path / "..", 0, TASKS, {})
    other.close()
    assert fake.runs[2].arguments["id"] != first.arguments["id"]


@pytest.mark.parametrize("name", list(writers.WRITERS))
def test_what_is_not_installed_is_one_sentence_before_training(name, monkeypatch):
    real = importlib.util.find_spec
    package = writers.WRITERS[name].package
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda x, *a: None if x == package else real(x, *a)
    )
    config = engines.RunConfig(100, 1, writers=(name,))
    with pytest.raises(ValueError, match=rf"writers: '{name}' needs {package}.*mtrl_jax\[{name}\]"):
        engines.check(config, maze.maze8())
    engines.check(engines.RunConfig(100, 1, writers=()), maze.maze8())


def test_unknown_writers_are_refused():
    with pytest.raises(ValueError, match="writers must be some of tensorboard, wandb; got 'csv'"):
        engines.check(engines.RunConfig(100, 1, writers=("csv",)), maze.maze8())
