"""The check of one worker: its versions, the storage as it sees it, the code that it imports."""

from __future__ import annotations

import logging
import pickle
import platform
import socket
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Any, NamedTuple

from ray.experimental import internal_kv
from ray.util import get_node_ip_address

import functionfuse
from functionfuse.backends import Outcome, compare, rest_of, unpack
from functionfuse.errors import (
    CodeDiffersError,
    PluginError,
    ResultNotFoundError,
    StorageAccessError,
    StorageError,
    StoragePathError,
)
from functionfuse.run.job import text_of
from functionfuse.run.packing import Packed
from functionfuse.storage.blobstore import BlobStore

from . import __version__

__all__ = ["SHIP", "Token", "examine", "kept_at", "look", "refusal_of", "versions", "where"]

logger = logging.getLogger(__name__)

SHIP = (
    "Install the same on all nodes of the cluster, or ship it with the run:"
    ' ray_init_args={"runtime_env": {"pip": [...], "py_modules": [...]}}'
)
_SHARE = (
    "Use a folder that the driver and all nodes share under the same path, or a storage of kind"
    " 'S3' or 'ray'"
)
_LATER = (
    "If the folder is shared, the file system shows new files too late there: let it cache names"
    " for a shorter time (on NFS, by the mount options 'lookupcache=positive' and 'actimeo=3')"
)
_ALLOW = (
    "Workers need the rights of the driver: in a folder, their user needs them. Credentials are in"
    " the storage's options, or in the environment of the workers:"
    ' ray_init_args={"runtime_env": {"env_vars": {...}}}'
)

_MOST = 100  # runs of which a process keeps something
_looked_at: dict[bytes, bool] = {}  # by run: whether this process has also tried the storage


class Token(NamedTuple):
    """What the driver has put into the storage.

    Attributes:
        folder: of the workflow, in the store.
        key, content: of the blob; `key` is "" for a storage without a `BlobStore`.
        late: seconds for which it is looked for.
    """

    folder: str
    key: str
    content: bytes
    late: float


def kept_at(run: bytes) -> bytes:
    """Return the key of a run's token in Ray's key-value store."""
    return run + b"-token"


def versions() -> dict[str, str]:
    """Return the versions that must be the same on workers."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {
        "Python": python,
        "functionfuse": functionfuse.__version__,
        "functionfuse_ray": __version__,
    }


def look(
    expected: dict[str, str], modules: dict[str, str], head: bytes, opens: Any
) -> tuple[Any, ...]:
    """Check a worker; return what differs, what lacks, packed errors, and hints.

    It goes to workers by value, so it imports what it needs.
    """
    import importlib
    import platform
    import sys

    different, lacking = {}, ""
    for name, version in expected.items():
        found = ".".join(platform.python_version_tuple()[:2])
        if name != "Python":
            try:
                found = importlib.import_module(name).__version__
            except ImportError as error:
                found, lacking = "", f"{type(error).__name__}: {error}"
        if found != version:
            different[name] = version, found
    rest: list[bytes] = []
    if not different and not lacking:
        rest = importlib.import_module("functionfuse_ray.examining").examine(head, opens)
    hints = {}
    for name, version in modules.items():
        there = getattr(sys.modules.get(name), "__dict__", {}).get("__version__", version)
        if there != version and name not in different:
            hints[name] = version, there
    return different, lacking, rest, hints


look.__module__ = "__main__"  # so it goes by value


def examine(head: bytes, opens: Packed) -> list[bytes]:
    """Check this worker; return the error that it has found, and its cause, packed.

    Args:
        head: the pickle of the run's key, the token, and packed jobs.
        opens: the packed storage.
    """
    run, token, code = pickle.loads(head)
    try:
        if token is not None:
            _try(opens, Token(*token))
        for job in code:
            _compare(job)
    except Exception as error:  # noqa: BLE001  # raised again in the driver
        return [rest_of(Outcome.of_error(0, each)) for each in (error, error.__cause__) if each]
    keep(_looked_at, run, token is not None)
    return []


def keep(found: dict[bytes, Any], run: bytes, value: object) -> None:
    """Keep a value for a run, and those of the newest other runs."""
    found[run] = value
    while len(found) > _MOST:
        del found[next(iter(found))]


def refusal_of(run: bytes, opens: Packed) -> Exception | None:
    """Return why this process can't do jobs of a run; None if it can. It is checked once.

    Args:
        opens: the packed storage; b"" if the job needs none.
    """
    tried = _looked_at.get(run)
    if tried or (tried is not None and not opens):
        return None
    try:
        kept = internal_kv._internal_kv_get(kept_at(run))
        expected, token = pickle.loads(kept) if kept else (versions(), None)
        if expected != versions():
            text = f"{versions()}, and the driver {expected}"
            raise CodeDiffersError(f"{where()} has other versions: {text}. {SHIP}")
        if token is not None and opens:
            _try(opens, token)
        keep(_looked_at, run, token is not None and bool(opens))
    except Exception as error:  # noqa: BLE001  # raised again in the driver
        return error
    return None


def where() -> str:
    """Return the name and the address of this node of the cluster."""
    address = get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"node {socket.gethostname()!r} ({address}) of the Ray cluster"


def _try(opens: Packed, token: Token) -> None:
    """Read the driver's token through the storage, and see whether results can be written."""
    try:
        storage = unpack(opens)
    except Exception as error:
        raise _refused("can't open the storage", error) from error
    if not token.key:
        return
    store = storage.store
    try:
        found = _read(store, token)
    except Exception as error:
        raise _refused(f"can't read from {storage!r}", error) from error
    if found != token.content:
        raise StoragePathError(
            f"{where()} sees another place than the driver in {storage!r}: what the driver has put"
            f" there is missing, also after {token.late:g} s. Nothing was computed there. {_SHARE}."
            f" {_LATER}"
        )
    try:
        store.prepare(token.folder)
    except Exception as error:
        raise _refused(f"can't write to {storage!r}", error) from error


def _read(store: BlobStore, token: Token) -> bytes:
    """Return the token's blob, b"" if it is missing; folders in a network can show it late."""
    until, pause = monotonic() + token.late, 0.05
    while True:
        try:
            return bytes(store.get(token.key))
        except ResultNotFoundError:
            if monotonic() >= until:
                return b""
        sleep(pause)
        pause = min(1.0, 2 * pause)


def _refused(what: str, error: Exception) -> Exception:
    """Return the error of a storage that works for the driver, and not here."""
    kind: type[Exception] = StorageError
    cure = _ALLOW
    if isinstance(error, ImportError):
        kind, cure = PluginError, SHIP
    elif isinstance(error, StorageError):
        kind = type(error)
    elif isinstance(error, PermissionError):
        kind = StorageAccessError
    return kind(f"{where()} {what}: {text_of(error)}. {cure}")


def _compare(job: Sequence[Any]) -> None:
    """Compare the code of a packed job. What is no difference will be an error of its node."""
    try:
        compare(job)
    except CodeDiffersError as error:
        raise CodeDiffersError(f"{where()}: {error}") from error
    except ImportError as error:
        lacks = f"{where()} can't import a function of the graph: {text_of(error)}"
        raise PluginError(f"{lacks}. {SHIP}") from error
    except AttributeError as error:
        lacks = f"{where()} lacks a function of the graph: {text_of(error)}"
        raise CodeDiffersError(f"{lacks}. {SHIP}") from error
    except Exception as error:  # noqa: BLE001
        logger.info("code can't be compared: %r", error)
