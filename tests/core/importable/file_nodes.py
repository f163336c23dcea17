"""Functions on files, which other processes import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from functionfuse import File, workflow


@workflow
def text_of(file: File) -> str:
    """Return the content of a file."""
    return Path(file).read_text()


@workflow
def upper(file: File, folder: str) -> dict[str, list[File]]:
    """Write a file, and return it at some depth."""
    path = Path(folder) / f"{file.name}.upper"
    path.write_text(Path(file).read_text().upper())
    return {"files": [File(path)]}


@workflow
def indexed(found: dict[str, list[File]]) -> str:
    """Write a file beside a stored one, as programs do, and return both contents."""
    [file] = found["files"]
    beside = Path(f"{file}.index")
    beside.write_text(file.name)
    return Path(file).read_text() + beside.read_text()


@workflow
def edits(files: Any, path: str, text: str) -> int:
    """Write to a file while the node runs."""
    del files
    Path(path).write_text(text)
    return os.getpid()


@workflow
def replaces(file: File, text: str) -> str:
    """Put another file in the place of a file, with the same time of change."""
    before, new = os.stat(file), Path(f"{file}.new")
    new.write_text(text)
    os.utime(new, ns=(0, before.st_mtime_ns))
    new.replace(file)
    return Path(file).read_text()


@workflow
def touches(file: File) -> str:
    """Change the time of a file."""
    os.utime(file, (1, 1))
    return Path(file).read_text()
