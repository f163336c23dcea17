"""A lease: its holder computes a result, and others wait for that result.

A lease is a blob with a random token, put with `if_absent`. While its holder works, a thread puts
it again every `HEARTBEAT` seconds. If the blob is older than `LOST_AFTER` seconds, the holder has
died or can't reach the store, and another process may take the lease. So two may compute a result
at the same time: a result is never wrong for that, only computed twice. Who may not remove the blob
empties it: an empty one is free.
"""

from __future__ import annotations

import logging
import threading
from os import urandom

from ..errors import ResultNotFoundError
from .blobstore import BlobStore

__all__ = ["Lease"]

logger = logging.getLogger(__name__)

HEARTBEAT = 2.0  # seconds between signs of life
LOST_AFTER = 10.0  # seconds without one


class Lease:
    """One blob with the token of the holder; an unpickled lease is not held."""

    def __init__(self, store: BlobStore, key: str) -> None:
        self.store = store
        self.key = key
        self.token = b""
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    def __reduce__(self) -> tuple[type[Lease], tuple[BlobStore, str]]:
        return type(self), (self.store, self.key)

    def acquire(self) -> bool:
        """Take the lease unless it is held; return whether that worked. Doesn't wait."""
        token = urandom(16)
        for _ in range(2):
            try:
                self.store.put(self.key, [token], if_absent=True)
            except FileExistsError:
                if not self._is_free():
                    return False
                try:
                    self.store.delete([self.key])
                    continue
                except PermissionError:
                    self.store.put(self.key, [token])  # another process may do so, too
            self.token, self._ended = token, threading.Event()
            self._beating = threading.Thread(
                target=self._beat,
                args=(token, self._ended),
                name=f"lease {self.key}",
                daemon=True,
            )
            self._beating.start()
            return True
        return False

    def release(self) -> None:
        """Give the lease back, if it is still held.

        An error of the store is logged: others then wait until the lease counts as lost.
        """
        if self._beating is None:
            return
        self._ended.set()
        self._beating.join()  # or its last sign of life could come after the end
        self._beating = None
        try:
            if self._is_mine(self.token):
                try:
                    self.store.delete([self.key])
                except PermissionError:
                    self.store.put(self.key, [b""])
        except Exception as error:  # noqa: BLE001  # the result is stored, whatever this is
            logger.warning(
                "the lease %r can't be given back, so others wait for %g s: %r",
                self.key,
                LOST_AFTER,
                error,
            )

    def _is_free(self) -> bool:
        for blob in self.store.list(self.key):
            if blob.key == self.key:
                return not blob.size or self.store.now() - blob.modified > LOST_AFTER
        return False

    def _is_mine(self, token: bytes) -> bool:
        try:
            return bytes(self.store.get(self.key)) == token
        except ResultNotFoundError:
            return False

    def _beat(self, token: bytes, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT):
            try:
                if not self._is_mine(token):
                    return  # it was taken for dead; the other one goes on
                self.store.put(self.key, [token])
            except Exception as error:  # noqa: BLE001  # it may be over the next time
                logger.warning("no sign of life for the lease %r: %r", self.key, error)
