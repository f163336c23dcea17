"""Values of libraries that are stored in their own way, and others; for several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from functionfuse.storage.filestorage import FileStorage

COUNT = 20_000


def frame() -> Any:
    """Return a polars frame with a column of each type that goes by Arrow."""
    from datetime import UTC, date, datetime, time, timedelta
    from decimal import Decimal

    import polars as pl

    numbers, some = range(COUNT), [None, 1] * (COUNT // 2)
    pairs = ["x", "y"] * (COUNT // 2)
    start = datetime(2026, 1, 31, tzinfo=UTC)
    return pl.DataFrame(
        {
            "whole": numbers,
            "real": [number / 8 for number in numbers],
            "small": pl.Series(numbers, dtype=pl.Int16),
            "missing": some,
            "text": [f"text {number} {'of many letters' * (number % 3)}" for number in numbers],
            "bytes": [b"some bytes, more than twelve"] * COUNT,
            "flag": [True, False] * (COUNT // 2),
            "decimal": pl.Series([Decimal("1.25")] * COUNT, dtype=pl.Decimal(20, 2)),
            "date": [date(2026, 1, 31)] * COUNT,
            "time": [time(12, 30)] * COUNT,
            "moment": pl.Series([start] * COUNT, dtype=pl.Datetime("ms", "Europe/Oslo")),
            "duration": [timedelta(seconds=number) for number in numbers],
            "category": pl.Series(pairs, dtype=pl.Categorical),
            "enum": pl.Series(pairs, dtype=pl.Enum(["y", "x", "z"])),
            "list": [[number, None] for number in numbers],
            "texts": [["a", f"text of item {number}"] for number in numbers],
            "struct": [{"a": number, "b": "text in a struct"} for number in numbers],
            "array": pl.Series([[1, 2]] * COUNT, dtype=pl.Array(pl.Int64, 2)),
        }
    )


def tensors() -> Any:
    """Return tensors of torch of many kinds, which share memory where their names say so."""
    import torch

    base = torch.arange(2 * COUNT, dtype=torch.float32)
    return {
        "base": base,
        "shared": base[5:-5],
        "strided": base.reshape(2, COUNT).T,
        "bfloat16": base.bfloat16(),
        "float16": base.half(),
        "float8": base.to(torch.float8_e4m3fn),
        "unsigned": base.to(torch.uint16),
        "bool": base > 5,
        "complex": torch.complex(base, base),
        "conjugate": torch.complex(base, base).conj(),
        "negative": torch.complex(base, base).conj().imag,
        "empty": torch.empty(0, 3),
        "number": torch.tensor(1.5),
        "expanded": torch.ones(1).expand(100, COUNT),
        "gradient": (base / 7).requires_grad_(),
        "parameter": torch.nn.Parameter(base.clone()),
    }


def module() -> Any:
    """Return a module of torch with two layers of the same weights, and their optimizer."""
    import torch

    tied = torch.nn.Linear(200, 200)
    model = torch.nn.Sequential(tied, torch.nn.Linear(200, 200))
    model[1].weight = tied.weight
    optimizer = torch.optim.Adam(model.parameters())
    # Products of matrices can differ in their last bits from process to process.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) % 7)
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {"model": model, "optimizer": optimizer}


def part_of_table() -> Any:
    import pyarrow as pa

    texts = pa.array([f"text {number}" for number in range(COUNT)])
    return pa.table({"number": range(COUNT), "text": texts}).slice(50, 7)


class Panics:
    """Makes polars' loader panic."""

    def __reduce__(self) -> Any:
        return panic, ("of its own",)


def panic(text: str) -> Any:
    import polars as pl

    raise pl.exceptions.PanicException(text)


def numpy_values() -> dict[str, Any]:
    import numpy as np

    numbers = np.arange(COUNT)
    records = np.array([(1.5, "ab")] * 60, np.dtype([("x", "<f8"), ("name", "<U4")]))
    masked = np.ma.array(numbers, mask=numbers % 3 == 0)
    return {"numpy": numbers, "records": records, "masked": masked, "strided": numbers[::3]}


def pandas_values() -> dict[str, Any]:
    import numpy as np
    import pandas as pd

    pairs = ["x", "y"] * (COUNT // 2)
    index = pd.MultiIndex.from_product([["b", "a"], range(COUNT // 2)])
    return {
        "numbers": pd.DataFrame({"a": np.arange(COUNT), "b": np.arange(COUNT) / 8}),
        "texts": pd.DataFrame({"a": pairs}),
        "categories": pd.Series(pairs, dtype="category"),
        "objects": pd.Series([{"a": 1}, None] * 9, dtype=object),
        "index": pd.Series(pairs, index=index),
    }


def other_values() -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa
    import scipy.sparse
    import xarray as xr
    from sklearn.linear_model import LinearRegression

    numbers = np.arange(COUNT) / 8
    column = numbers[:, None]
    return {
        "plain": {"a": [1, "text"], "b": (None, 1.5)},
        "sparse": scipy.sparse.csr_array(column),
        "xarray": xr.Dataset({"a": ("x", numbers)}, {"x": numbers}, {"note": "text"}),
        "model": LinearRegression().fit(column, numbers),
        "table": pa.table({"a": range(COUNT), "b": ["text"] * COUNT}),
    }


VALUES: dict[str, Callable[[], Any]] = {
    "polars": lambda: {"frame": frame(), "series": frame()["text"], "part": frame()[:9]},
    "pyarrow": part_of_table,
    "torch": tensors,
    "torch, module": module,
    "numpy": numpy_values,
    "pandas": pandas_values,
    "other": other_values,
}


def trip(storage: FileStorage, value: Any) -> tuple[Any, Any]:
    """Return a stored value, and the header of its result."""
    storage.save("w", "t", value)
    return storage.read_task("w", "t"), storage.task_info("w", "t")


def trusting(storage: FileStorage, *allow: str) -> FileStorage:
    """Return a storage of the same folder with an allow-list."""
    return FileStorage(storage.store.root, trust={"allow": list(allow)})


def digests(folder: Path, *names: str, seed: int) -> list[str]:
    """Return the digests of some of `VALUES`, made and saved by another process."""
    command = [sys.executable, __file__, str(folder), *names]
    variables = os.environ | {"PYTHONHASHSEED": str(seed)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=variables, text=True)
    return done.stdout.splitlines()


if __name__ == "__main__":
    storage = FileStorage(sys.argv[1])
    for name in sys.argv[2:]:
        made = VALUES[name]()
        for part, value in made.items() if isinstance(made, dict) else [("", made)]:
            print(name, part, trip(storage, value)[1].digest)
