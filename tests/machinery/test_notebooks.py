"""The notebooks run at small sizes, and are kept with the output of a whole run."""

import base64
import copy
import pathlib
import re
from typing import Any

import nbformat
import pytest

from notebooks.execute import FOLDER, execute
from tests.machinery import tiny

SMALL: dict[str, dict[str, Any]] = {
    "pcgrad_in_your_training_loop": {"STEPS": 60, "SEEDS": 2, "RATES": (1e-3,)},
    "distral_in_five_minutes": {"STEPS": 5_000, "ENVS": 2},
    "mtrl_jax_on_a_colab_tpu": {
        "MAZE_STEPS": 20_480,
        "ALGORITHM": "a3c_multitask",  # one column for all tasks compiles soonest
        "ENVS": 8,
        "GAMES": "small_games:catch",
        "GAME_STEPS": 2_560,
        "LOOP_STEPS": 5,
    },
}
LIMIT = 60_000  # bytes of a picture
MACHINE_PATH = re.compile(r"/(?:home|root|Users|tmp|usr|opt|work|var)/\S|[A-Z]:\\")
STORED = {path.stem: nbformat.read(path, as_version=4) for path in FOLDER.glob("*.ipynb")}


def complaints(notebook: nbformat.NotebookNode) -> list[str]:
    """What is wrong with a notebook that is shown to somebody."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its cells were not executed in order from a fresh kernel")
    for cell in notebook.cells:
        if not re.fullmatch(r"[a-z]+(-[a-z]+)*", cell.id):
            found.append(f"{cell.id}: no readable id")
    for cell in code:
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"{cell.id}: an error or a warning")
            if MACHINE_PATH.search(output.get("text", "") + str(output.get("data", {}).values())):
                found.append(f"{cell.id}: a path of a machine")
            for kind, data in output.get("data", {}).items():
                if kind.startswith("image/") and len(base64.b64decode(data)) > LIMIT:
                    found.append(f"{cell.id}: a picture of more than {LIMIT} bytes")
    return found


def kinds(notebook: nbformat.NotebookNode) -> dict[str, list[list[str]]]:
    """What each code cell that shows something shows."""
    return {
        cell.id: [sorted(output.get("data", {"text": ""})) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.outputs
    }


def test_all_notebooks_have_a_small_size() -> None:
    assert set(STORED) == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_what_is_stored_is_fit_to_be_seen(name: str) -> None:
    assert complaints(STORED[name]) == []
    pictures = [k for outputs in kinds(STORED[name]).values() for o in outputs for k in o]
    assert sum(kind.startswith("image/") for kind in pictures) >= 2
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 200_000


@pytest.mark.parametrize("name", tiny.slow_but(["pcgrad_in_your_training_loop"], SMALL))
def test_it_runs_and_shows_what_is_stored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # they take longer than the run
    path: pathlib.Path = FOLDER / f"{name}.ipynb"
    fresh = execute(path, SMALL[name], timeout=200)
    assert complaints(fresh) == []
    assert kinds(fresh) == kinds(STORED[name])
    assert [cell.source for cell in fresh.cells] == [cell.source for cell in STORED[name].cells]


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no parameter STEP$"):
        execute(FOLDER / "distral_in_five_minutes.ipynb", {"STEP": 1})


def _drop_output(cell: Any) -> None:
    cell.outputs, cell.execution_count = [], None


def _fail(cell: Any) -> None:
    cell.outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]


def _tell_path(cell: Any) -> None:
    cell.outputs = [nbformat.v4.new_output("stream", text="saved in /home/me/runs")]


def _warn(cell: Any) -> None:
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="slow")]


def _large_picture(cell: Any) -> None:
    data = {"image/png": base64.b64encode(bytes(LIMIT + 1)).decode()}
    cell.outputs = [nbformat.v4.new_output("display_data", data)]


def _number(cell: Any) -> None:
    cell.id = "4f2a"


@pytest.mark.parametrize("spoil", [_drop_output, _fail, _tell_path, _warn, _large_picture, _number])
def test_what_is_wrong_is_seen(spoil: Any) -> None:
    notebook = copy.deepcopy(next(iter(STORED.values())))
    spoil([cell for cell in notebook.cells if cell.cell_type == "code"][-1])
    assert len(complaints(notebook)) == 1
