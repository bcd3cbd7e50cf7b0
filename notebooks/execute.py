"""Executes the notebooks, which are kept with their output.

python notebooks/execute.py                                        # all of them, in place
python notebooks/execute.py notebooks/distral_in_five_minutes.ipynb
"""

import os
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent


def execute(
    path: pathlib.Path, parameters: Mapping[str, Any] | None = None, timeout: int = 1200
) -> nbformat.NotebookNode:
    """The notebook with the output of a run from a fresh kernel, which imports this checkout, on as
    many virtual devices of the CPU as its metadata say under `cpu_devices`.

    Args:
      path: of the notebook; it is not written to.
      parameters: other values for names that the cell with the tag "parameters" sets.
      timeout: seconds for each cell.

    Raises:
      ValueError: a parameter that the cell does not set.
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    [cell] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    source = cell.source
    for name, value in (parameters or {}).items():
        line = rf"^{name} = [^#\n]*?(?=\s*(?:#.*)?$)"
        if not re.search(line, cell.source, re.MULTILINE):
            raise ValueError(f"{path.name} has no parameter {name}")
        cell.source = re.sub(line, f"{name} = {value!r}", cell.source, flags=re.MULTILINE)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("PYTEST_CURRENT_TEST", None)
    if "cpu_devices" in notebook.metadata:
        devices = str(notebook.metadata["cpu_devices"])
        environment |= {"JAX_NUM_CPU_DEVICES": devices, "JAX_PLATFORMS": "cpu"}
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"  # devices that wait on a busy machine complain
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(cwd=str(FOLDER), env=environment)
    cell.source = source
    notebook.metadata.pop("language_info", None)  # of this Python, and of no use
    return notebook


def main() -> None:
    paths = [pathlib.Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        notebook = execute(path)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
