"""A notebook as a page: its text, its code, and the output that it is kept with."""

import base64
import json
from typing import Any

_PICTURES = {"image/png": "png", "image/gif": "gif"}


def markdown(source: str, name: str) -> tuple[str, dict[str, bytes]]:
    """The page, and its pictures by file name.

    Args:
      source: what the .ipynb holds.
      name: what the pictures' names begin with.
    """
    parts, pictures = [], {}
    for cell in json.loads(source)["cells"]:
        text = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            kind = next((kind for kind in _PICTURES if kind in data), None)
            if kind:
                file = f"{name}-{cell['id']}.{_PICTURES[kind]}"
                pictures[file] = base64.b64decode(_joined(data[kind]))
                parts.append(f"![Output of the code above]({file})")
            else:
                shown = _joined(output.get("text") or data["text/plain"]).rstrip()
                parts.append(f"```text\n{shown}\n```")
    return "\n\n".join(parts) + "\n", pictures


def _joined(text: Any) -> str:
    """Strings in a notebook may be lists of lines."""
    return text if isinstance(text, str) else "".join(text)
