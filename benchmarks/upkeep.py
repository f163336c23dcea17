"""How much memory `du`, `verify` and `gc` take for 200,000 results, beyond that of the start.

Run as a program, it does one of them in a process of its own, and prints the bytes and the seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage.filestorage import FileStorage
from memory import held
from table import Row, amount

RESULTS = 200_000
WORKFLOWS = 200
BESIDE = 10  # each tenth result has side data
BOUND = 100  # MB
RESULT = {"model": "random forest", "depth": 3, "scores": [0.91, 0.93, 0.89], "seconds": 0.5}

_CLEAR = Path("/proc/self/clear_refs")


class Beside:
    """A value that is stored beside its result."""


class BesideSerializer:
    """Writes a file of one byte for each value."""

    name = "beside"
    serializer_class = Beside

    @staticmethod
    def pickle(value: Beside, protocols: dict[str, Any]) -> tuple[str, str]:
        del value
        pid = generate_name()
        with protocols[FILE_PROTOCOL].open(pid, "wb") as file:
            file.write(b"1")
        return BesideSerializer.name, pid

    @staticmethod
    def unpickle(pid: str, protocols: dict[str, Any]) -> Beside:
        del pid, protocols
        return Beside()

    @staticmethod
    def remove(pid: str, protocols: dict[str, Any]) -> None:
        protocols[FILE_PROTOCOL].remove(pid)


CALLS: dict[str, Callable[[FileStorage], Any]] = {
    "du": lambda storage: storage.du(),
    "verify": lambda storage: storage.verify(),
    "gc": lambda storage: storage.gc(0),
    "list_tasks": lambda storage: storage.list_tasks("w0"),
    "prune": lambda storage: storage.prune("w0", keep=1),
    "remove_workflow": lambda storage: storage.remove_workflow("w0"),
}


def measure_in(folder: Path) -> Iterator[Row]:
    small, path = folder / "small", folder / "storage"
    for workflows in (WORKFLOWS, 1):
        fill(path, RESULTS, workflows)
        where = "one workflow" if workflows == 1 else f"{workflows} workflows"
        for name in list(CALLS)[: 3 if workflows > 1 else None]:
            fill(small, 20, 1)
            child = [sys.executable, __file__, name, str(small), str(path)]
            printed = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
            size, seconds = json.loads(printed)
            what = f"{name}: {RESULTS:,} results in {where}, memory"
            yield amount(what, size / 1e6, BOUND, unit="MB", peer=f"({seconds:.3g} s of CPU)")
        rmtree(path)


def fill(folder: Path, results: int, workflows: int) -> None:
    storage = FileStorage(folder)
    storage.run_records = False
    storage.register_persistent_serializers(BesideSerializer)
    for number in range(results):
        value = Beside() if number % BESIDE == 0 else RESULT
        storage.save(f"w{number * workflows // results}", f"result-{number}", value)


def main(name: str, small: str, path: str) -> None:
    call = CALLS[name]
    call(FileStorage(small))  # what is imported and kept on the first call is not the second's
    _CLEAR.write_text("5", encoding="ascii")  # the peak is from here on
    before, start = held("VmRSS"), time.process_time()
    kept = call(FileStorage(path))
    seconds = time.process_time() - start
    print(json.dumps((held("VmHWM") - before, seconds)))
    del kept


if __name__ == "__main__":
    main(*sys.argv[1:])
