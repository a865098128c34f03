"""A notebook as a page: its text, its code, and what the code gave when the notebook was last executed."""

import base64
import json
import re
from pathlib import Path
from typing import Any


def page(path: Path) -> str:
    """The notebook in Markdown; pictures are those of `pictures`."""
    parts = []
    for i, cell in enumerate(_cells(path)):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for j, output in enumerate(cell["outputs"]):
            parts.append(_shown(output, _name(path, i, j), cell["metadata"].get("alt", "")))
    first, _, rest = "\n\n".join(part for part in parts if part).partition("\n")
    return f"{first}\n\n[The notebook itself]({path.name})\n{rest}\n"


def pictures(path: Path) -> dict[str, bytes]:
    """The notebook's pictures, by the names of their files."""
    return {
        _name(path, i, j): base64.b64decode("".join(output["data"]["image/png"]))
        for i, cell in enumerate(_cells(path))
        for j, output in enumerate(cell.get("outputs", ()))
        if "image/png" in output.get("data", {})
    }


def _cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _name(path: Path, cell: int, output: int) -> str:
    return f"{path.stem}_{cell}_{output}.png"


def _shown(output: dict[str, Any], picture: str, alt: str) -> str:
    """An output; `alt` is what a picture is called in the metadata of its cell."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![{alt}]({picture})"
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{re.sub(chr(27) + r'[^m]*m', '', text).rstrip()}\n```" if text.strip() else ""
