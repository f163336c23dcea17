"""`gc` where no file can be made: without a free inode, and on a read-only mount."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.filestore import FileStore

INODES = 60
YOUNG = f".tmp-{bytes(8).hex()}-ffff"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with few inodes."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can mount a file system")
    made = ["mount", "-t", "tmpfs", "-o", f"nr_inodes={INODES},size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(made, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill(folder: Path) -> list[str]:
    """Take all inodes for temporary files of writers that died long ago, and one of today."""
    (folder / YOUNG).touch()
    names: list[str] = []
    with suppress(OSError):
        while True:
            path = folder / f".tmp-{bytes(8).hex()}-{len(names):x}"
            path.touch()
            os.utime(path, (1, 1))
            names.append(path.name)
    assert len(names) > INODES // 2
    return sorted(names)


def test_gc_frees_inodes_where_there_is_none(small: Path) -> None:
    """What is old is listed, and removed; what is young stays. Then results can be saved again."""
    storage = FileStorage(small / "store")
    storage.save("w", "t", 1)
    old = fill(small / "store" / "w")
    with pytest.raises(OSError, match="No space"):
        storage.save("w", "t", 2)
    for dry_run in (True, False):
        assert old == [Path(found.key).name for found in storage.gc(dry_run=dry_run)]
    assert (small / "store" / "w" / YOUNG).exists()
    storage.save("w", "t", 2)


def test_a_dry_run_needs_no_right_to_write(small: Path) -> None:
    """On a read-only mount, it lists what could be removed."""
    storage = FileStorage(small / "store")
    storage.save("w", "t", 1)
    old = fill(small / "store" / "w")
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    assert old == [Path(found.key).name for found in storage.gc(dry_run=True)]
    with pytest.raises(OSError, match="Read-only"):
        storage.gc()


@pytest.mark.parametrize("touched", [True, False])
def test_the_clock_is_that_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, touched: bool
) -> None:
    """Where no file can be made, the folder's change tells it; at last, this machine's clock."""
    real, utime, calls = os.open, os.utime, []

    def full(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "full")
        return real(path, flags, *args, **options)

    def touch(path: Any) -> None:
        calls.append(path)
        if not touched:
            raise OSError(errno.EROFS, "read-only")
        utime(path)

    monkeypatch.setattr(os, "open", full)
    monkeypatch.setattr(os, "utime", touch)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    now = FileStore(str(tmp_path)).now()
    assert [str(tmp_path)] == calls
    assert now == (tmp_path.stat().st_ctime if touched else 1.0)
