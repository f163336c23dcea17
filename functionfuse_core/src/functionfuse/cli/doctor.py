"""The command `doctor`: checks of the installation, the config and the storage."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib import metadata
from tempfile import NamedTemporaryFile
from typing import Any

from .. import __version__
from ..errors import FunctionFuseError, NoConfigError, PluginError, StoragePathError
from ..hookspecs import API_VERSION, CliCommand
from ..plugins.entrypoints import HOOKS, NOUNS, blocked_by, entries, visible
from ..plugins.registry import find_entry, record_of, register
from ..show.texts import size, table
from .commands import emit, open_storage

__all__ = ["COMMANDS"]

_CORE = "functionfuse-core"
POSIX = os.name == "posix"
_LEAST = 1e9  # bytes of free disk


def _configure(parser: ArgumentParser) -> None:
    parser.epilog = (
        "It imports every plugin, and lists the workflows of the storage. In a folder, it writes a"
        " temporary file and removes it. Another kind of storage is only read, unless you give"
        " --write. The exit status is 1 if a check fails, and its line says the cure."
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="try the storage as a run does before it computes: S3 puts, reads and removes one"
        " object",
    )


def _doctor(arguments: Namespace) -> int:
    checks: list[tuple[str, Callable[[Namespace], str]]] = [
        ("python", _python),
        ("versions", _versions),
        ("extras", _extras),
        ("plugins", _plugins),
        ("config", _config),
        ("storage", _storage),
        ("disk", _disk),
    ]
    found: list[dict[str, Any]] = []
    for name, check in checks:
        failed = ""
        try:
            detail = check(arguments)
        except (FunctionFuseError, OSError) as error:
            failed = detail = "; ".join(str(error).splitlines())
            if isinstance(error, NoConfigError):
                detail += ": `functionfuse config init` makes one"
        found.append({"check": name, "ok": not failed, "detail": detail})
        if failed and name in ("config", "storage"):
            break  # the rest needs them
    rows = [("ok" if each["ok"] else "FAILED", each["check"], each["detail"]) for each in found]
    good = all(each["ok"] for each in found)
    emit(arguments, {"ok": good, "checks": found}, lambda: table(rows))
    return int(not good)


def _python(_: Namespace) -> str:
    if not POSIX:
        raise PluginError(f"{sys.platform} is not supported. On Windows, use WSL")
    return f"{platform.python_version()} on {sys.platform}, {sys.executable}"


def _versions(_: Namespace) -> str:
    """Compare the versions that plugins need with the one that is here."""
    found = {_CORE: __version__}
    for group in NOUNS:
        for entry in visible(entries(group)):
            found[entry.name] = entry.version
            for requirement in entry.distribution.requires or ():
                needed = re.match(rf"{_CORE}\b.*>=\s*([\d.]+)", requirement)
                if needed and _numbers(needed[1]) > _numbers(__version__):
                    raise PluginError(
                        f"{entry.owner} needs {_CORE} {needed[1]}, and this is {__version__}:"
                        f" pip install --upgrade {_CORE}"
                    )
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _extras(_: Namespace) -> str:
    """Tell which extras are installed; none is needed."""
    there, missing = [], []
    for requirement in metadata.requires(_CORE) or ():
        found = re.match(r"([\w.-]+).*extra == .(\w+)", requirement)
        if found is None or found[2] == "all":
            continue
        try:
            metadata.version(found[1])
            there.append(found[2])
        except metadata.PackageNotFoundError:
            missing.append(found[2])
    text = f"installed: {', '.join(there) or 'none'}"
    if missing:
        text += f"; not installed: {', '.join(missing)} (pip install '{_CORE}[{missing[0]}]')"
    return text


def _plugins(_: Namespace) -> str:
    """Import every plugin that is not blocked."""
    count, blocked, problems = 0, 0, []
    for group in NOUNS:
        for entry in visible(entries(group)):
            if blocked_by(entry):
                blocked += 1
                continue
            try:
                if group == HOOKS:
                    register(entry)
                else:
                    record_of(find_entry(group, entry.kind))
                count += 1
            except FunctionFuseError as error:
                problems.append(str(error))
    if problems:
        raise PluginError("; ".join(dict.fromkeys(problems)))
    return f"{count} can be used" + (f", {blocked} blocked" if blocked else "")


def _config(arguments: Namespace) -> str:
    if arguments.storage is not None:
        return "not needed: --storage names a folder"
    from ..config import nearest, read
    from ..config.factories import check
    from ..config.source import VARIABLE

    config = read(nearest() if arguments.config is None else arguments.config)
    check(config)
    by_variable = arguments.config is None and os.environ.get(VARIABLE)
    return os.path.abspath(config.source.name) + (f", named by ${VARIABLE}" if by_variable else "")


def _storage(arguments: Namespace) -> str:
    storage = open_storage(arguments)
    count = len(storage.list_workflows())
    text = f"{storage!r}: {count:,} workflow{'' if count == 1 else 's'}"
    root = _root(storage)
    if not root:
        if not arguments.write or not hasattr(storage, "store"):
            return f"{text}; whether you can write is not tried (--write tries it)"
        storage.store.prepare("")
        return f"{text}; it passes the check that a run makes before it computes"
    there = _existing(root)
    if not os.path.isdir(there):
        raise StoragePathError(f"{there!r} is no folder. Change the option 'path' of the storage")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StoragePathError(
            f"you have no permission to write in {there!r}. Change it, or the option 'path' of the"
            " storage"
        )
    if there != root:
        return f"{text}; the folder is not there yet"
    NamedTemporaryFile(prefix=".tmp-", dir=root).close()
    return f"{text}; you can write"


def _disk(arguments: Namespace) -> str:
    root = _root(open_storage(arguments))
    if not root:
        return "not on this machine"
    there = _existing(root)
    free = shutil.disk_usage(there).free
    if free < _LEAST:
        raise StoragePathError(
            f"only {size(free)} free at {there!r}: `functionfuse gc` and `functionfuse prune"
            " WORKFLOW` remove data that no run needs"
        )
    return f"{size(free)} free at {there!r}"


def _root(storage: Any) -> str:
    """Return the folder of a storage of files; "" for another kind."""
    from ..storage.filestore import FileStore

    store = getattr(storage, "store", None)
    return store.root if isinstance(store, FileStore) else ""


def _existing(path: str) -> str:
    """Return a folder, or the nearest one above it that exists."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


COMMANDS = [
    CliCommand(
        "doctor",
        "Check the installation, the config and the storage",
        _configure,
        _doctor,
        api_version=API_VERSION,
    ),
]
