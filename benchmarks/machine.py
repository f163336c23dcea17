"""The machine that figures come from, and the folders on it that are measured."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path

__all__ = ["default_places", "describe", "file_system"]

_MEMORY = Path("/dev/shm")
_MOUNTS = Path("/proc/mounts")
_MODEL = Path("/proc/cpuinfo")
_ENOUGH = 3 << 29  # 1.5 GiB: 100,000 small results at a page each, or two of 256 MiB


def describe() -> str:
    """Return processor, system and Python in a line."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} cores ({_model()}), {system}, {python}"


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on; "unknown" where none is told."""
    if not _MOUNTS.exists():
        return "unknown"
    place = folder.resolve()
    found: dict[Path, str] = {}  # of two mounts on one folder, the later one is seen
    for line in _MOUNTS.read_text(encoding="utf-8").splitlines():
        _, point, kind, *_ = line.split(" ")
        found[Path(point.replace("\\040", " "))] = kind
    return next((found[point] for point in (place, *place.parents) if point in found), "unknown")


def default_places() -> list[Path]:
    """Return a folder in memory and one on disk, without those that are missing or too small."""
    temporary = Path(tempfile.gettempdir())
    if file_system(temporary) == "tmpfs":
        temporary = Path(__file__).parent
    places = [temporary] if file_system(_MEMORY) != "tmpfs" else [_MEMORY, temporary]
    return [place for place in places if _writable(place)]


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= _ENOUGH


def _model() -> str:
    if _MODEL.exists():
        for line in _MODEL.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.machine()
