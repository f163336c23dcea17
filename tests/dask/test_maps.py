"""How HDF5 files stay what they are, and how many of them are open."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import dask.array as da
import numpy as np
import pytest

from functionfuse.errors import DamagedResultError
from functionfuse.storage import disk
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer, sources

LARGE = 1 << 21  # items of float64 in 16 MiB


@pytest.mark.parametrize("options", [{}, {"compression": "lzf"}, {"format": "zarr"}])
def test_a_big_file_can_t_be_written_in_place(options: dict[str, str]) -> None:
    """By another user, in a folder that everybody can write; once it is complete."""
    before = os.umask(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o777)
            storage = FileStorage(Path(folder, "store"))
            storage.register_persistent_serializers(DaskArraySerializer(**options))
            values = np.random.default_rng(0).random(LARGE * 3 // 2)
            storage.save("w", "t", da.from_array(values, chunks=LARGE))
            side = Path(folder, "store", "w", ".data").rglob("*")
            big = [path for path in side if path.is_file() and path.stat().st_size >= 1 << 24]
            path = big[0]
            assert 0o444 == path.stat().st_mode & 0o777
            found = storage.read_task("w", "t")
            held = found.persist()
            if not os.geteuid():
                command = ["setpriv", "--reuid=65534", "--clear-groups", "truncate", "-s0", path]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert "Permission denied" in done.stderr
            assert np.array_equal(values, held.compute())
            assert np.array_equal(values, found.compute())
            storage.save("w", "t", 1)
            assert not path.exists()
    finally:
        os.umask(before)


def test_a_small_file_is_checked_whenever_it_is_read(storage: FileStorage) -> None:
    """It can be written in place; what was read before, is in memory of its own."""
    storage.save("w", "t", da.full(LARGE // 2, 1.0, chunks=LARGE // 2))
    [path] = Path(storage.path, "w", ".data").glob("*.h5")
    found = storage.read_task("w", "t")
    held = found.persist()
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert (held.compute() == 1.0).all()
    with pytest.raises(DamagedResultError, match="not what was written"):
        found.sum().compute()


def test_blocks_count_as_maps(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each distinct file whose blocks are alive takes a descriptor; so many, then it is read."""
    monkeypatch.setattr(sources, "BIG", 1 << 16)
    monkeypatch.setattr(disk, "_MOST_MAPS", len(disk._maps) + 2)
    values = []
    for number in range(5):
        storage.save("w", f"{number}", da.full(1 << 14, number, chunks=1 << 14))
        values.append(storage.read_task("w", f"{number}").persist())
    assert len(disk._maps) == disk._MOST_MAPS
    assert [*range(5)] == [value[-1].compute() for value in values]
