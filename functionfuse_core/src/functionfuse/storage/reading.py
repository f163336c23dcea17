"""Reading a result: nothing of it is unpickled before its digests are right."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import FunctionFuseError, ResultNotFoundError
from ..serializers import Serializer
from .blobstore import BlobStore
from .header import names_in_header, plain_pickle
from .headers import may_hold
from .infos import refuse_other
from .keys import folder_of, key_of
from .pickling import loads
from .resultfile import check, unpack
from .sidedata import SideReader
from .sidefiles import check_side_data

__all__ = ["read_result"]

logger = logging.getLogger(__name__)


def read_result(
    store: BlobStore,
    workflow: str,
    task: str,
    serializers: Iterable[Serializer],
    *,
    digest: str,
    allow: Sequence[str] | None,
    key: bytes | None,
) -> Any:
    """Return a stored result; see `Storage.read_unchanged`.

    Args:
        allow, key: as `trust` and `key` in `StorageOptions`.

    Raises:
        FunctionFuseError: see `Storage.read_task`; it doesn't name the task.
    """
    info = None
    try:
        data = store.get(key_of(workflow, task))
        if key is None:
            pickled = plain_pickle(data, names_in_header(workflow, task), digest)
            if pickled is not None:
                try:
                    return loads(pickled, (), allow=allow)
                except Exception as error:  # noqa: BLE001  # explained below
                    logger.debug("%r can't be unpickled: %r", task, error)
        info, contents = check(data, key)
        refuse_other(info, workflow, task)
        if digest not in ("", info.digest):
            raise ResultNotFoundError(f"{task!r} is another value")
        restore = None
        if info.side_data:
            folder = folder_of(workflow)
            if key is not None:
                check_side_data(store, folder, info.side_data)
            restore = SideReader(store, folder, serializers, info.side_data, allow=allow).restore
        return unpack(info, contents, allow=allow, restore=restore)
    except FunctionFuseError:
        if info and info.side_data and not may_hold(store, key_of(workflow, task), info.token):
            # It was replaced meanwhile.
            return read_result(
                store, workflow, task, serializers, digest=digest, allow=allow, key=key
            )
        raise
