"""Values that tell which one they are, so that a wrong or a torn one is found out."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from kept_values import Kept


def value_of(seed: int, size: int, *, side: bool | str = False) -> dict[str, Any]:
    """Return a value that tells which one it is, so that `seed_of` can find a wrong one out.

    Args:
        side: whether it has side data; the name of a format of dask arrays: also such arrays.
    """
    data = np.frombuffer(random.Random(seed).randbytes(size), dtype="u1")
    value = {"seed": seed, "size": size, "data": data}
    if side:
        value["kept"] = Kept(random.Random(seed + 1).randbytes(min(size, 5000)))
    if isinstance(side, str):
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
    return int(value["seed"])
