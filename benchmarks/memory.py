"""How much memory a save takes beyond the value: what Python allocates, and what the process held.

Run as a program, it saves an array in a process of its own, and prints how far its peak rose.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from functionfuse.storage import storage_factory

__all__ = ["STATUS", "allocated", "beyond_the_value", "held"]

STATUS = Path("/proc/self/status")


def beyond_the_value(folder: Path, size: int) -> dict[str, int]:
    """Return what is measured, and the bytes, for saving a float64 array of `size` bytes."""
    found = {"Python's allocations": _allocated(folder, size)}
    if STATUS.exists():
        child = [sys.executable, __file__, str(folder), str(size)]
        printed = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
        found["peak of the process"] = int(printed)
    return found


def _allocated(folder: Path, size: int) -> int:
    value = np.random.default_rng(0).random(size // 8)
    save(folder, value[:1])  # what is imported and kept on the first save is not the save's
    return allocated(lambda: save(folder, value))


def allocated(call: Callable[[], object]) -> int:
    """Return the most memory that Python has allocated during a call, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def held(field: str = "VmHWM") -> int:
    """Return what this process has held at most, VmHWM, or holds, VmRSS, in bytes."""
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no line {field}")


def save(folder: Path, value: object) -> None:
    storage = storage_factory({"kind": "file", "options": {"path": str(folder / "memory")}})
    storage.save("bench", "array", value)


def main(folder: Path, size: int) -> None:
    value = np.random.default_rng(0).random(size // 8)
    save(folder, value[:1])
    before = held()
    save(folder, value)
    print(held() - before)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
