"""Values that tell which one they are, so that a wrong or a torn one is found out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from kept_values import Kept

from functionfuse import File


def value_of(seed: int, size: int, *, side: bool | str = False, folder: str = "") -> dict[str, Any]:
    """Return a value that tells which one it is, so that `seed_of` can find a wrong one out.

    Args:
        side: whether it has side data; the name of a format of dask arrays: also such arrays;
            "file": a `File` instead.
        folder: where its file is.
    """
    data = np.frombuffer(random.Random(seed).randbytes(size), dtype="u1")
    value = {"seed": seed, "size": size, "data": data}
    if side and side != "file":
        value["kept"] = Kept(random.Random(seed + 1).randbytes(min(size, 5000)))
    if side == "file":
        source = Path(folder) / f"source-{seed}.bin"
        source.write_bytes(data.tobytes())
        value["file"] = File(source)
    elif isinstance(side, str):
        import dask.array as da

        value["array"] = array = da.from_array(data, chunks=size // 2 + 1)
        if side != "zarr":
            value["some"] = array[array < 200]  # its chunks are not known
    return value


def seed_of(value: dict[str, Any]) -> int:
    """Return the seed of a value that is, byte for byte, what `value_of` gave for it."""
    expected = value_of(value["seed"], value["size"], side="kept" in value)
    if expected["data"].tobytes() != value["data"].tobytes():
        raise AssertionError(f"the data of seed {value['seed']} is torn")
    if "kept" in value and expected["kept"].data != value["kept"].data:
        raise AssertionError(f"the side data of seed {value['seed']} is torn")
    if "array" in value and expected["data"].tobytes() != value["array"].compute().tobytes():
        raise AssertionError(f"the array of seed {value['seed']} is torn")
    if "file" in value and expected["data"].tobytes() != Path(value["file"]).read_bytes():
        raise AssertionError(f"the file of seed {value['seed']} is torn")
    return int(value["seed"])
