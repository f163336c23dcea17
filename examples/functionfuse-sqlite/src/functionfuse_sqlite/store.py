"""`SqliteStore`: blobs as rows of one SQLite database."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from functionfuse.errors import ResultNotFoundError, StoragePathError
from functionfuse.storage import BlobStore
from functionfuse.storage.blobstore import BlobInfo, Buffer
from functionfuse_sqlite.connections import Connections

__all__ = ["SqliteStore"]

_PIECE = 1 << 20  # bytes in a row at most; SQLite itself takes no more than 1,000,000,000
_PAGE = 1000  # keys that a listing reads at once
_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (
    key TEXT PRIMARY KEY, size INTEGER NOT NULL, modified REAL NOT NULL, etag TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS pieces (
    key TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (key, number)
);
"""


class SqliteStore(BlobStore):
    """Blobs in the database file `path`: a row about each blob, and its bytes in pieces of 1 MiB.

    Readers and one writer work at the same time; other writers wait for `timeout` seconds. The
    file must be on a local disk: SQLite's write-ahead log is for the processes of one machine.
    """

    def __init__(self, path: str, *, timeout: float = 60.0) -> None:
        self.path = path
        self.timeout = timeout
        self._connections = Connections(self._connect)

    def __repr__(self) -> str:
        return f"SqliteStore({self.path!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return _reopened, (self.path, self.timeout)

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        """Store a blob, in one transaction; see `BlobStore.put`."""
        # Before the transaction: whoever makes the parts may use the store as well.
        views = [memoryview(part) for part in parts]
        told = key, sum(map(len, views)), time.time(), os.urandom(8).hex()
        with self._writing(durable=durable) as connection:
            clause = "OR IGNORE" if if_absent else "OR REPLACE"
            row = connection.execute(f"INSERT {clause} INTO blobs VALUES (?, ?, ?, ?)", told)
            if not row.rowcount:
                raise FileExistsError(f"there is a blob {key!r} in {self!r} already")
            connection.execute("DELETE FROM pieces WHERE key = ?", (key,))
            connection.executemany(
                "INSERT INTO pieces VALUES (?, ?, ?)",
                ((key, number, piece) for number, piece in enumerate(_pieces(views))),
            )

    def get(self, key: str) -> Buffer:
        """Return a blob; see `BlobStore.get`."""
        data, done = None, 0
        with self._using() as connection:
            # One statement sees one moment, so that size and pieces belong together.
            for size, piece in connection.execute(
                "SELECT size, data FROM blobs LEFT JOIN pieces USING (key)"
                " WHERE key = ? ORDER BY number",
                (key,),
            ):
                data = bytearray(size) if data is None else data
                if piece is not None:
                    data[done : done + len(piece)] = piece
                    done += len(piece)
        if data is None:
            raise ResultNotFoundError(f"no blob {key!r} in {self!r}")
        return data

    def copy(self, key: str, to: str) -> None:
        """Copy the rows of a blob, in one transaction; see `BlobStore.copy`."""
        if key == to:
            return
        told = to, time.time(), os.urandom(8).hex(), key
        with self._writing() as connection:
            row = connection.execute(
                "INSERT OR REPLACE INTO blobs SELECT ?, size, ?, ? FROM blobs WHERE key = ?", told
            )
            if not row.rowcount:
                raise ResultNotFoundError(f"no blob {key!r} in {self!r}")
            connection.execute("DELETE FROM pieces WHERE key = ?", (to,))
            connection.execute(
                "INSERT INTO pieces SELECT ?, number, data FROM pieces WHERE key = ?", (to, key)
            )

    def head(self, key: str, size: int) -> Buffer:
        """Return the beginning of a blob: its first piece will do; see `BlobStore.head`."""
        if size > _PIECE:
            return super().head(key, size)
        with self._using() as connection:
            row = connection.execute(
                "SELECT substr(data, 1, ?) FROM blobs"
                " LEFT JOIN pieces ON pieces.key = blobs.key AND number = 0 WHERE blobs.key = ?",
                (size, key),
            ).fetchone()
        if row is None:
            raise ResultNotFoundError(f"no blob {key!r} in {self!r}")
        return row[0] or b""

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Iterate blobs; see `BlobStore.list`. 1,000 are read at once."""
        after, compared = prefix, ">="
        while True:
            with self._using() as connection:
                page = connection.execute(
                    f"SELECT key, size, modified, etag FROM blobs WHERE key {compared} ?"
                    " AND key < ? ORDER BY key LIMIT ?",
                    (after, prefix + "\x7f", _PAGE),  # keys are ASCII
                ).fetchall()
            for row in page:
                yield BlobInfo(*row)
            if len(page) < _PAGE:
                return
            after, compared = page[-1][0], ">"

    def delete(self, keys: Iterable[str]) -> None:
        """Remove blobs, in one transaction; see `BlobStore.delete`."""
        rows = [(key,) for key in keys]
        with self._writing() as connection:
            connection.executemany("DELETE FROM blobs WHERE key = ?", rows)
            connection.executemany("DELETE FROM pieces WHERE key = ?", rows)

    def prepare(self, folder: str) -> None:
        """Make the file, or raise StoragePathError if that can't be done."""
        del folder
        try:
            with self._writing() as connection:
                connection.execute("PRAGMA user_version = 1")  # something that is written
        except OSError as error:
            raise StoragePathError(
                f"the storage can't be used: {error}. Its option 'path' must be a file that you"
                " can write, in a folder that you can write"
            ) from error

    def flush(self, keys: Iterable[str]) -> None:
        """Have all that was put so far survive a loss of power; see `BlobStore.flush`."""
        del keys
        with self._writing(durable=True) as connection:
            connection.execute("PRAGMA user_version = 1")  # something that is written

    def unused(self) -> int:
        """Return the bytes of the file that removed blobs have left."""
        with self._using() as connection:
            [pages] = connection.execute("PRAGMA freelist_count").fetchone()
            [size] = connection.execute("PRAGMA page_size").fetchone()
        return int(pages * size)

    def vacuum(self) -> int:
        """Write the file anew without its unused bytes, and return their number.

        Readers and writers wait meanwhile. The disk needs room for a second copy.
        """
        freed = self.unused()
        with self._using() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return freed

    @contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Give a connection in a transaction; commit, or roll back if anything is raised."""
        with self._using() as connection:
            # The log is flushed with each commit, or now and then: it is never torn.
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                # When Python removes a generator, another may use the connection by now.
                if connection.in_transaction and not isinstance(error, GeneratorExit):
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """Give this thread's connection; a failure of SQLite is an OSError, as of any store."""
        try:
            with self._connections.use() as connection:
                if connection.in_transaction:  # a KeyboardInterrupt came between two steps
                    connection.execute("ROLLBACK")
                yield connection
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, f"{self!r}: {error}") from error
            raise OSError(f"{self!r}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        folder = os.path.dirname(self.path)
        os.makedirs(folder, exist_ok=True)
        reads = os.path.exists(self.path) and not os.access(folder, os.W_OK)
        where = Path(self.path).as_uri()
        if reads:  # SQLite can't make its log here; if there is none, nobody writes just now
            logged = os.path.exists(f"{self.path}-wal")
            where += "?mode=ro" if logged else "?mode=ro&immutable=1"
        connection = sqlite3.connect(
            where, timeout=self.timeout, isolation_level=None, check_same_thread=False, uri=True
        )
        try:
            if not reads:
                self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        end = time.monotonic() + self.timeout
        while True:
            try:
                # The first of all doesn't wait for others that do the same.
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.005)
            else:
                return


def _pieces(views: Iterable[memoryview]) -> Iterator[bytes | memoryview]:
    """Cut parts into pieces; no more than one piece is ever copied."""
    piece = bytearray()
    for view in views:
        rest = view
        while rest:
            taken = rest[: _PIECE - len(piece)]
            rest = rest[len(taken) :]
            if len(taken) == _PIECE:
                yield taken
                continue
            piece += taken
            if len(piece) == _PIECE:
                yield bytes(piece)
                piece.clear()
    if piece:
        yield bytes(piece)


def _reopened(path: str, timeout: float) -> SqliteStore:
    return SqliteStore(path, timeout=timeout)
