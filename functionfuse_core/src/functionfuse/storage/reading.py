"""Reading a result: nothing of it is unpickled before its digests are right."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import FunctionFuseError, ResultNotFoundError
from ..serializers import Serializer
from ..serializers.script import may_name_script
from .blobstore import BlobStore
from .header import TaskInfo, names_in_header, plain_pickle
from .headers import may_hold
from .infos import refuse_other
from .keys import folder_of, key_of
from .pickling import Restore, loads
from .resultfile import check, unchecked, unpack
from .sidedata import SideReader
from .sidefiles import check_side_data

__all__ = ["Reader"]

logger = logging.getLogger(__name__)

_MAPPED_FROM = 16 << 20  # bytes; smaller ones are copied in memory as fast


class Reader:
    """Reads the results of one storage.

    Args:
        store: the blob store.
        serializers: those that are registered, now or later.
        allow, key: as `trust` and `key` in `StorageOptions`.
    """

    def __init__(
        self,
        store: BlobStore,
        serializers: Mapping[str, Serializer],
        allow: Sequence[str] | None,
        key: bytes | None,
    ) -> None:
        self._store = store
        self._serializers = serializers
        self._allow = allow
        self._key = key

    def read(self, workflow: str, task: str, digest: str) -> Any:
        """Return a stored result; see `Storage.read_unchanged`.

        Raises:
            FunctionFuseError: see `Storage.read_task`; it doesn't name the task.
        """
        info = None
        try:
            data = self._store.get(key_of(workflow, task))
            if self._key is None:
                pickled = plain_pickle(data, names_in_header(workflow, task), digest)
                if pickled is not None and not may_name_script(bytes(data[: -len(pickled)])):
                    try:
                        return loads(pickled, (), allow=self._allow)
                    except Exception as error:  # noqa: BLE001  # explained below
                        logger.debug("%r can't be unpickled: %r", task, error)
            info, contents = check(data, self._key)
            refuse_other(info, workflow, task)
            if digest not in ("", info.digest):
                raise ResultNotFoundError(f"{task!r} is another value")
            restore = self._restore(workflow, info) if info.side_data else None
            planned = bool(digest)
            return unpack(info, contents, allow=self._allow, restore=restore, planned=planned)
        except FunctionFuseError:
            if info and info.side_data and not self._is_there(workflow, task, info):
                return self.read(workflow, task, digest)  # it was replaced meanwhile
            raise

    def again(self, workflow: str, task: str, info: TaskInfo) -> Any:
        """Return another copy of a result; see `Storage.read_again`."""
        cheap = info.size >= _MAPPED_FROM and self._store.concurrency == 1 and not info.side_data
        if cheap and self._key is None:
            data = self._store.get(key_of(workflow, task))
            found, contents = unchecked(data)
            if found.token == info.token:
                return unpack(found, contents, allow=self._allow, planned=True)
        raise ResultNotFoundError(f"{task!r} can't be read again without cost")

    def _restore(self, workflow: str, info: TaskInfo) -> Restore:
        """Return what gives the objects that serializers keep."""
        folder, serializers = folder_of(workflow), self._serializers.values()
        if self._key is not None:
            check_side_data(self._store, folder, info.side_data)
        reader = SideReader(self._store, folder, serializers, info.side_data, allow=self._allow)
        return reader.restore

    def _is_there(self, workflow: str, task: str, info: TaskInfo) -> bool:
        return may_hold(self._store, key_of(workflow, task), info.token)
