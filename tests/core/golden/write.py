#!/usr/bin/env python3
"""Write the golden files of the present format versions, beside this script: `python write.py`.

A golden file is never changed and never removed: every later release must read it. When the format
gets a new version, or a value of a new kind is worth keeping, run this in an environment with the
oldest Python and the oldest packages that are supported, and `git add` what is new; what exists is
left alone.

The bytes depend on this script and on the versions of Python, numpy, pandas, cloudpickle and xxhash
alone, and those of the libraries: clock, host and token are fixed. The headers record most of those
versions. Values of libraries that are not installed are left out.
"""

from __future__ import annotations

import datetime as dt
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from functionfuse import File
from functionfuse.serializers import FILE_PROTOCOL
from functionfuse.serializers import file as files
from functionfuse.storage import resultfile, sidedata
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.pickling import Pickled
from functionfuse.storage.results import Describe

HERE = Path(__file__).parent
KEY = "golden key"
CREATED = 1769860800_500_000_000  # 2026-01-31, noon, in nanoseconds
HOSTILE = ["../../../x", ".hidden", "a/b", "%2F", "[1]*?", "new\nline", "ü", "\udcff", "a\0b"]
PYTHON = ".".join(platform.python_version_tuple()[:2])
LONG = "a long name with ünïcode " * 20


class Grid:
    """What `GridSerializer` keeps beside a result."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows


class GridSerializer:
    """Writes grids as text."""

    name = "golden grid"
    serializer_class = Grid

    @staticmethod
    def pickle(obj: Grid, protocols: dict[str, Any]) -> tuple[str, Any]:
        name = f"grid {len(obj.rows)}.txt"
        with protocols[FILE_PROTOCOL].open(name, "wb") as file:
            file.write("; ".join(" ".join(map(str, row)) for row in obj.rows).encode())
        return GridSerializer.name, name

    @staticmethod
    def unpickle(pid: Any, protocols: dict[str, Any]) -> Grid:
        with protocols[FILE_PROTOCOL].open(pid, "rb") as file:
            return Grid([[int(cell) for cell in line.split()] for line in file.read().split(b";")])

    @staticmethod
    def remove(pid: Any, protocols: dict[str, Any]) -> None:
        protocols[FILE_PROTOCOL].remove(pid)


def plain() -> Any:
    return {
        "numbers": [0, -1, 2**70, 1.5, 2j, True, None],
        "texts": ("", "text", "ü\U0001f600", b"bytes", bytearray(b"array")),
        "sets": [{1}, frozenset({2})],
        "moment": dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC),
        "deep": [[[[[{"a": [1]}]]]]],
    }


def numpy_arrays() -> dict[str, Any]:
    frozen = np.arange(300.0)
    frozen.flags.writeable = False
    point = np.dtype([("x", "<f8"), ("name", "<U4"), ("flags", "u1", (3,))])
    return {
        "c": np.arange(600, dtype="<i4").reshape(20, 30),
        "fortran": np.asfortranarray(np.arange(600, dtype=">i2").reshape(20, 30)),
        "small": np.arange(3, dtype="u1"),
        "strided": np.arange(2000)[::4],
        "read-only": frozen,
        "no rows": np.zeros((0, 5), "f4"),
        "scalar": np.float32(1.5),
        "no dimension": np.array(7),
        "structured": np.array([(1.5, "ab", (1, 2, 3))] * 60, point),
        "times": np.arange("2026-01-01", "2026-12-31", dtype="M8[D]"),
        "objects": np.array([None, "x", {"a": 1}], object),
        "masked": np.ma.array(np.arange(200.0), mask=np.arange(200) % 3 == 0),
    }


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "whole": range(200),
            "real": np.arange(200) / 8,
            "text": ["a", None] * 100,
            "kind": pd.Categorical(["x", "y"] * 100),
            "time": pd.date_range("2026-01-31", periods=200, tz="UTC"),
        }
    )


def shared() -> dict[str, Any]:
    array = np.arange(500)
    return {"first": array, "again": [array, array], "view": array[::2]}


def by_value() -> Callable[[int], int]:
    # In a namespace of its own: cloudpickle writes the path of the module that a function is from.
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def adder(step):\n    return lambda number: number + step\nadd = adder(21)", names)
    add: Callable[[int], int] = names["add"]
    return add


VALUES: dict[str, Callable[[], Any]] = {
    "plain": plain,
    "numpy": numpy_arrays,
    "frame": frame,
    "shared": shared,
    f"by value, Python {PYTHON}": by_value,
    "side data": lambda: {"grid": Grid([[1, 2], [3, 4]]), "n": 1},
    "side data with its type": lambda: [Grid([[1], [2], [3]])],
}


def of_polars() -> dict[str, Any]:
    import polars as pl

    numbers = range(1500)
    frame = pl.DataFrame(
        {
            "whole": pl.Series(numbers, dtype=pl.UInt32),
            "text": [f"t{number % 7}" if number % 3 else None for number in numbers],
            "list": pl.Series([[number, None] for number in numbers], dtype=pl.List(pl.UInt16)),
        }
    )
    return {
        "frame": frame,
        "series": pl.Series("enum", ["x", "y"] * 8500, dtype=pl.Enum(["y", "x", "z"])),
        "small": pl.DataFrame({"a": [1, None]}),
    }


def of_pyarrow() -> dict[str, Any]:
    import pyarrow as pa

    texts = pa.array([f"text {number % 30}" for number in range(9000)])
    table = pa.table({"text": texts, "code": texts.dictionary_encode()}).slice(40, 30)
    return {
        "table": table.replace_schema_metadata({"note": "kept"}),
        "batch": table.to_batches()[0],
        "chunked": pa.chunked_array([texts.slice(9, 3), texts.slice(50, 3)]),
        "array": texts.slice(9, 3),
    }


def of_torch() -> dict[str, Any]:
    import torch

    base = torch.arange(300, dtype=torch.float32)
    return {
        "base": base,
        "shared": base.reshape(20, 15).T,
        "small": base[:3],
        "half": base[:40].to(torch.bfloat16),
        "unsigned": base[:40].to(torch.uint16),
        "conjugate": torch.complex(base[:4], base[:4]).conj(),
        "parameter": torch.nn.Parameter(base[:200].clone()),
        "storage": base[:2].clone().untyped_storage(),
        "empty": torch.empty(0, 2),
    }


# By the name of the library.
LIBRARIES: dict[str, Callable[[], Any]] = {
    "polars": of_polars,
    "pyarrow": of_pyarrow,
    "torch": of_torch,
}


SIGNED: dict[str, Callable[[], Any]] = {
    "plain": plain,
    "array": lambda: numpy_arrays()["c"],
    "side data": lambda: {"grid": Grid([[1, 2], [3, 4]]), "n": 1},
}


def write(root: Path) -> None:
    """Write what is missing in the stores below a folder."""
    # The clock and the token are all that differs from run to run.
    time.time_ns = lambda: CREATED
    resultfile.unique = lambda: "676f6c64656e5f74-1"  # type: ignore[attr-defined]
    resultfile._HOST = "golden"
    sidedata._distribution = lambda _: "golden-grids 1.0"
    files.generate_name = lambda: "golden note"  # type: ignore[attr-defined]
    Grid.__module__ = "golden"  # whatever this script is called
    storage = FileStorage(root / "v1" / "store")
    signed = FileStorage(root / "v2" / "signed", key=KEY)
    for each in (storage, signed):
        each.register_persistent_serializers(GridSerializer)
    for name, value in VALUES.items():
        save(storage, "values", name, value())
    for name, value in LIBRARIES.items():
        if find_spec(name):
            save(storage, "libraries", name, value())
    for name in [*HOSTILE, LONG]:
        save(storage, "names", name, name)
    save(storage, "../names", ".", "dots")
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder, "note.txt")
        note.write_text("kept")
        save(storage, "values", "side data of a file", [File(note)] * 2)
    save(storage, "values", "described", frozenset({1, 2}), describe=described)
    for name, value in SIGNED.items():
        save(signed, "values", name, value())


def described(value: Any, pickled: Pickled) -> tuple[list[str], str]:
    return ["golden:Grid", "golden:Outer.Inner"], "00112233445566778899aabbccddeeff"


def save(
    storage: FileStorage, workflow: str, task: str, value: Any, describe: Describe | None = None
) -> None:
    if not storage.file_exists(workflow, task):
        details: dict[str, Any] = {
            "function": "golden.write",
            "fingerprint": {"code": "0" * 32, "inputs": {}},
            "describe": describe,
        }
        storage.save(workflow, task, value, seconds=0.25, durable=True, **details)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if sys.argv[1:] else HERE)
