"""Finding and loading one kind among a hundred installed distributions, in a fresh process."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from table import Row, amount

STARTS = 25
DISTRIBUTIONS = 100

# Each start is a process of its own; it prints how many seconds its last line took.
TIMED = """
import sys, time
sys.path.insert(0, sys.argv[1])
import pydantic
class Model(pydantic.BaseModel): x: int  # so that pydantic has looked for its own plugins
{before}
started = time.perf_counter()
{code}
print(time.perf_counter() - started)
"""
OURS = "registry.find('functionfuse.storages', 'kind-50')"
PEER = (
    "manager = pluggy.PluginManager('functionfuse');"
    "manager.add_hookspecs(hookspecs);"
    "manager.load_setuptools_entrypoints('functionfuse.storages', name='kind-50');"
    "manager.hook.functionfuse_storages()"
)
PLUGIN = """
from pydantic import BaseModel
from functionfuse.hookspecs import StorageKind, hookimpl

class Options(BaseModel):
    path: str

@hookimpl
def functionfuse_storages():
    return [StorageKind("kind-{number}", Options, lambda options: options, api_version=1)]
"""


def measure() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="functionfuse-bench-") as name:
        folder = Path(name)
        for number in range(DISTRIBUTIONS):
            install(folder, number)
        found, peer, whole = [], [], []
        for _ in range(STARTS + 1):  # the first is not counted
            found.append(start(folder, "from functionfuse.plugins import registry", OURS))
            peer.append(start(folder, "import pluggy; from functionfuse import hookspecs", PEER))
            whole.append(start(folder, "", f"from functionfuse.plugins import registry; {OURS}"))
    yield row("a kind of 100 is found and loaded", found, f"pluggy's own {median(peer):.3g} ms")
    yield row("the same, with the import of the registry and pluggy", whole, "")


def row(what: str, seconds: list[float], peer: str) -> Row:
    return amount(what, median(seconds), 15, unit="ms", peer=peer)


def median(seconds: list[float]) -> float:
    return statistics.median(seconds[1:]) * 1e3


def start(folder: Path, before: str, code: str) -> float:
    timed = TIMED.format(before=before, code=code)
    done = subprocess.run(
        [sys.executable, "-c", timed, folder], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def install(folder: Path, number: int) -> None:
    """Lay a distribution with one plugin, and as much metadata as usual, into a folder."""
    info = folder / f"plugin_{number}-1.0.dist-info"
    info.mkdir()
    description = "What it does, at some length.\n" * 100
    metadata = f"Metadata-Version: 2.1\nName: plugin-{number}\nVersion: 1.0\n\n{description}"
    (info / "METADATA").write_text(metadata)
    points = f"[functionfuse.storages]\nkind-{number} = plugin_{number}\n"
    (info / "entry_points.txt").write_text(points)
    (folder / f"plugin_{number}.py").write_text(PLUGIN.replace("{number}", str(number)))
