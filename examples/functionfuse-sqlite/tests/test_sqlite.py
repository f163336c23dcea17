"""What the storage in SQLite promises beyond the conformance kit."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
from tempfile import TemporaryDirectory

import pytest

from functionfuse import storage_factory
from functionfuse.cli.main import run
from functionfuse.errors import OptionsError, StoragePathError
from functionfuse_sqlite import SqliteStore


def test_options(tmp_path) -> None:
    """They are those of every storage, a path and a timeout; others are refused."""
    path = str(tmp_path / "results.db")
    for wrong in ({}, {"path": path, "timeout": 0}, {"path": path, "tiemout": 1}):
        with pytest.raises(OptionsError):
            storage_factory({"kind": "sqlite", "options": wrong})
    storage = storage_factory({"kind": "sqlite", "options": {"path": path, "timeout": 5}})
    assert storage.store.timeout == 5.0
    assert os.listdir(tmp_path) == []


def test_the_command_vacuum(tmp_path, capsys) -> None:
    """It is found by its entry point; it makes the file smaller, and leaves what is stored."""
    path = tmp_path / "results.db"
    config = tmp_path / "functionfuse.json"
    config.write_text(json.dumps({"kind": "sqlite", "options": {"path": str(path)}}))
    storage = storage_factory(config)
    storage.save("w", "kept", bytes(100))
    storage.save("w", "removed", bytes(3 << 20))
    storage.remove_task("w", "removed")
    found = []
    for options in (["--dry-run"], [], []):
        assert run(["vacuum", "--config", str(config), "--json", *options]) == 0
        found.append(json.loads(capsys.readouterr().out)["bytes"])
    assert found[0] == found[1] > 3 << 20
    assert found[2] == 0
    assert path.stat().st_size < 1 << 20
    assert bytes(100) == storage.read_task("w", "kept")
    assert run(["vacuum", "--storage", str(tmp_path)]) == 2
    assert "vacuum is for storages of the kind 'sqlite'" in capsys.readouterr().err


def test_a_path_that_can_t_be_used(tmp_path) -> None:
    """It is said when a workflow begins."""
    (tmp_path / "file").write_text("no database, but long enough to look like something")
    for path in (tmp_path / "file", tmp_path / "file" / "results.db", tmp_path):
        storage = storage_factory({"kind": "sqlite", "options": {"path": str(path)}})
        with pytest.raises(StoragePathError, match="path"):
            storage.new_workflow("w")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("log", [True, False])
def test_a_reader_without_the_right_to_write(log) -> None:
    """They read, whether or not SQLite's log is there; that they can't write is said early."""
    with TemporaryDirectory() as folder:  # those of pytest are closed to other users
        os.chmod(folder, 0o755)
        path = f"{folder}/results.db"
        code = f"from functionfuse_sqlite import SqliteStore as S; S({path!r}).put('w/t', [b'x'])"
        code += "; import os; os._exit(0)" if log else ""
        subprocess.run([sys.executable, "-c", code], check=True)
        assert log == os.path.exists(f"{path}-wal")
        store, child = SqliteStore(path), os.fork()
        if not child:
            try:
                os.setgid(65534)
                os.setuid(65534)
                assert store.get("w/t") == b"x"
                assert [blob.key for blob in store.list("")] == ["w/t"]
                with pytest.raises(StoragePathError, match="readonly"):
                    store.prepare("w/")
                os._exit(0)
            finally:
                os._exit(1)
        assert (child, 0) == os.waitpid(child, 0)
        store.put("w/t", [b"y"])
        assert store.get("w/t") == b"y"


def test_a_writer_that_takes_too_long(tmp_path) -> None:
    """Others wait, and then raise an OSError; nothing of theirs is stored."""
    path = str(tmp_path / "results.db")
    SqliteStore(path).put("w/t", [b"before"])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = SqliteStore(path, timeout=0.05)
    with pytest.raises(OSError, match="locked"):
        store.put("w/t", [b"after"])
    assert store.get("w/t") == b"before"
    other.execute("ROLLBACK")
    other.close()
    store.put("w/t", [b"after"])
    assert store.get("w/t") == b"after"


def test_a_copy_is_one_transaction(tmp_path) -> None:
    """The bytes stay in the database."""
    store = SqliteStore(str(tmp_path / "results.db"))
    store.put("w/t", [bytes(3 << 20)])
    statements: list[str] = []
    with store._connections.use() as connection:
        connection.set_trace_callback(statements.append)
    store.copy("w/t", "w/u")
    words = [statement.split()[0] for statement in statements]
    assert words == ["PRAGMA", "BEGIN", "INSERT", "DELETE", "INSERT", "COMMIT"]
    assert bytes(3 << 20) == store.get("w/u")


def test_a_full_database(tmp_path) -> None:
    """It is the OSError of a full disk, and nothing is changed."""
    store = SqliteStore(str(tmp_path / "results.db"))
    store.put("w/t", [bytes(100_000)])
    with store._connections.use() as connection:
        connection.execute("PRAGMA max_page_count = 40")
    for write in (
        lambda: store.put("w/t", [b"x" * 200_000]),
        lambda: store.copy("w/t", "w/u"),
    ):
        with pytest.raises(OSError, match="full") as caught:
            write()
        assert caught.value.errno == errno.ENOSPC
    assert [blob.key for blob in store.list("")] == ["w/t"]
    assert bytes(100_000) == store.get("w/t")
    store.put("w/t", [b"little"])
    assert store.get("w/t") == b"little"


@pytest.mark.parametrize("durable", [False, True])
def test_durable(tmp_path, durable: bool) -> None:
    """A durable put is committed with the log flushed, another without waiting for the disk."""
    store = SqliteStore(str(tmp_path / "results.db"))
    statements: list[str] = []
    with store._connections.use() as connection:
        connection.set_trace_callback(statements.append)
    store.put("w/t", [b"x"], durable=durable)
    level = "FULL" if durable else "NORMAL"
    assert f"PRAGMA synchronous = {level}" in statements
    assert statements[-1] == "COMMIT"
    store.flush(["w/t"])
    assert "PRAGMA synchronous = FULL" in statements[statements.index("COMMIT") :]
