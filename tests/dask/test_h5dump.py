"""The files of arrays under HDF5's own tool: a reader that is neither Python nor h5py."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest

from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer

pytestmark = pytest.mark.skipif(
    shutil.which("h5dump") is None,
    reason="h5dump is not installed: apt-get install hdf5-tools",
)

NUMBERS = np.arange(70 * 50, dtype="f8").reshape(70, 50)


def saved(storage: FileStorage, array: da.Array) -> str:
    """Save an array and return the path of its file."""
    storage.save("w", "t", array)
    (path,) = Path(storage.store.root, "w", ".data").glob("*.h5")  # type: ignore[attr-defined]
    return str(path)


def h5dump(*arguments: str) -> list[str]:
    """Return what h5dump prints, line by line."""
    done = subprocess.run(
        ["h5dump", *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert "" == done.stderr
    return [line.strip() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize(
    "chunks",
    [(30, 20), (30, 50), ((3, 67), (49, 1))],
    ids=["grid", "slabs", "irregular"],
)
def test_numbers_and_attributes(
    storage: FileStorage, tmp_path: Path, chunks: Any, compression: str | None
) -> None:
    """Every number, and the attributes that `docs/arrays.md` tells."""
    storage.register_persistent_serializers(DaskArraySerializer(compression=compression))
    array = da.from_array(NUMBERS, chunks=chunks)
    path, out = saved(storage, array), tmp_path / "out"
    h5dump("--dataset=/data", "--binary=LE", f"--output={out}", path)
    assert np.array_equal(NUMBERS, np.fromfile(out).reshape(NUMBERS.shape))
    lines = h5dump("--header", path)
    assert 'DATASET "data" {' in lines
    assert "DATATYPE  H5T_IEEE_F64LE" in lines
    assert "DATASPACE  SIMPLE { ( 70, 50 ) / ( 70, 50 ) }" in lines
    lines = h5dump("--attribute=/data/functionfuse_dtype", path)
    assert '(0): "<f8"' in lines
    lines = h5dump("--attribute=/data/functionfuse_chunks", path)
    sizes = str([list(sizes) for sizes in array.chunks]).replace(" ", "")
    assert f'(0): "{sizes}"' in lines


def test_times_and_masks(storage: FileStorage) -> None:
    """Times are numbers with their units; the mask is a dataset of truth values."""
    times = np.ma.array(np.array(["2001-01-01", "2001-01-02"], "M8[s]"), mask=[True, False])
    path = saved(storage, da.from_array(times, chunks=1))
    assert "(0): 978307200, 978393600" in h5dump("--dataset=/data", path)
    assert "(0): TRUE, FALSE" in h5dump("--dataset=/mask", path)
    assert '(0): "seconds since 1970-01-01"' in h5dump("--attribute=/data/units", path)


def test_text(storage: FileStorage) -> None:
    """UTF-8 of a fixed length."""
    path = saved(storage, da.from_array(np.array(["aé", "xyz"]), chunks=1))
    lines = h5dump(path)
    assert "STRSIZE 12;" in lines
    assert "CSET H5T_CSET_UTF8;" in lines
    assert any(line.startswith('(1): "xyz') for line in lines)
