"""What commands share: their options, the storage that they open, and their output."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ..errors import FunctionFuseError, PluginError
from ..show.texts import printable

__all__ = [
    "Parser",
    "UsageError",
    "check_folder",
    "chosen_folder",
    "common_options",
    "emit",
    "open_storage",
]


class UsageError(FunctionFuseError, ValueError):
    """A command is used in a wrong way."""


class Parser(ArgumentParser):
    """A parser whose errors are exceptions, and that takes whole options only."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{printable(message)}. See {self.prog} --help")


def common_options(parser: ArgumentParser) -> None:
    """Add the options that all commands have, before and after the command's name."""
    found = parser.add_argument_group("common options")
    found.add_argument("--storage", metavar="FOLDER", help="open the storage in this folder")
    found.add_argument(
        "--config",
        metavar="FILE",
        help="open the storage of this config; by default that of $FUNCTIONFUSE_CONFIG, or of the"
        " nearest functionfuse.yaml, .yml, .toml or .json in this folder and those above",
    )
    found.add_argument("--json", action="store_true", help="print one JSON document")
    found.add_argument("--debug", action="store_true", help="print the traceback of an error")


def chosen_folder(arguments: Namespace) -> str | None:
    """Return the folder of `--storage`; None if the option isn't given.

    Raises:
        UsageError: it is no folder's name, or `--config` is given, too.
    """
    folder: str | None = arguments.storage
    if folder is not None:
        if arguments.config is not None:
            raise UsageError("--storage and --config exclude each other")
        check_folder(folder, "--storage")
    return folder


def check_folder(path: str, option: str) -> None:
    """Raise UsageError if an option for a folder has an address, such as "s3://bucket"."""
    if not path:
        raise UsageError(f"{option} takes a folder, and not an empty text")
    if re.match(r"\w+://", path):
        raise UsageError(
            f"{option} takes a folder, and not the address {path!r}. Other kinds of storages need a"
            " config: docs/config.md"
        )


def open_storage(arguments: Namespace) -> Any:
    """Return the storage that a command's options name; see `common_options`.

    Raises:
        UsageError: both options are given, or the folder is missing.
        NoConfigError, OptionsError: there is no config, or it is wrong.
        UnknownKindError, PluginError: the storage's plugin is missing or can't be used.
    """
    folder = chosen_folder(arguments)
    if folder is not None:
        if not os.path.isdir(folder):
            raise UsageError(f"there is no folder {folder!r}")
        from ..storage.filestore import FileStore
        from ..storage.storage import Storage

        return Storage(FileStore(os.path.abspath(folder)))  # no options, so no pydantic
    from ..config.factories import storage_factory  # takes longer than the rest of a command

    storage = storage_factory(... if arguments.config is None else arguments.config)
    if not hasattr(storage, "list_workflows"):
        raise PluginError(f"{storage!r} can't be used here: it has no list_workflows")
    return storage


def emit(
    arguments: Namespace, document: Mapping[str, Any], text: str | Callable[[], str] = ""
) -> None:
    """Print the outcome of a command: the document with `--json`, else the text.

    Args:
        text: control characters in its lines are escaped; nothing is printed for "".
    """
    if arguments.json:
        text = json.dumps(_finite(document))
    if lines := text() if callable(text) else text:
        shown = "\n".join(map(printable, lines.split("\n")))
        data = f"{shown}\n".encode(sys.stdout.encoding or "utf-8", "backslashreplace")
        sys.stdout.flush()
        left = memoryview(data)
        while left:  # where Python doesn't buffer, a pipe takes a part
            left = left[sys.stdout.buffer.write(left) :]


def _finite(value: Any) -> Any:
    """Return a value of a document without the floats that JSON lacks: None replaces them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value
