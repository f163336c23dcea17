"""A file and its digest, read through a map and into memory: why results are mapped from 16 MiB."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import process_time

from xxhash import xxh3_128_hexdigest

from functionfuse.storage.disk import BIG, map_file, read_all
from pairs import time_pair
from table import Row, at_most

MIB = 1 << 20
ROUNDS = 11


def measure_in(folder: Path) -> Iterator[Row]:
    for mebi, bound in ((1, 2.0), (4, 3.0), (16, 1.0), (256, 1.0)):
        path = folder / "file"
        path.write_bytes(os.urandom(mebi * MIB))
        in_memory = partial(digest, path, read_all)
        in_map = partial(digest, path, partial(map_file, access=mmap.ACCESS_COPY))
        measured = partial(time_pair, rounds=ROUNDS, calls=128 // mebi or 1, clock=process_time)
        if mebi * MIB < BIG:
            yield at_most(f"read {mebi} MiB into memory / map", bound, measured(in_memory, in_map))
        else:
            yield at_most(f"map {mebi} MiB / read into memory", bound, measured(in_map, in_memory))


def digest(path: Path, read: Callable[[int, int], memoryview | mmap.mmap | None]) -> str:
    """Open a file, read or map it, and return the digest of its bytes."""
    with path.open("rb", buffering=0) as file:
        data = read(file.fileno(), os.fstat(file.fileno()).st_size)
    if data is None:
        raise OSError(f"{path} can't be mapped")
    return xxh3_128_hexdigest(data)
