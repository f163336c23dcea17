"""The data in a report page, unpacked as its script does."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

__all__ = ["column", "data_of", "read"]


def data_of(html: str) -> Any:
    """Return the data of a page."""
    [text] = re.findall(r'<script type="text/plain" id="data">(.*?)</script>', html)
    return json.loads(zlib.decompress(base64.b64decode(text, validate=True)))


def read(path: Path) -> Any:
    """Return the data of a page in a file."""
    return data_of(path.read_text("utf-8"))


def column(data: Any, name: str) -> list[Any]:
    """Return a column, with the texts of its table. One that has only zeros is left out there."""
    values: list[Any] = data["columns"].get(name, [0] * len(data["columns"]["name"]))
    table = data["tables"].get(name)
    return [table[number] for number in values] if table else values
