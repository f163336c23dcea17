"""All exceptions of Function Fuse. Each also inherits a builtin that callers already catch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from typing import ParamSpec, TypeVar

    Arguments = ParamSpec("Arguments")
    Result = TypeVar("Result")

__all__ = [
    "CodeDiffersError",
    "DamagedResultError",
    "DuplicateNameError",
    "FileError",
    "FingerprintError",
    "FunctionFuseError",
    "GraphError",
    "InvalidNameError",
    "NewerFormatError",
    "NoConfigError",
    "NoMatchError",
    "NodeTimeoutError",
    "OptionsError",
    "OriginalResultError",
    "PluginError",
    "ResultExistsError",
    "ResultNotFoundError",
    "SerializerError",
    "SerializerMissingError",
    "StorageAccessError",
    "StorageConnectionError",
    "StorageError",
    "StoragePathError",
    "UnknownKindError",
    "UnpicklableResultError",
    "UnreadableResultError",
    "UntrustedResultError",
    "WorkerDiedError",
    "without_locals",
]


class FunctionFuseError(Exception):
    """Base of all errors that Function Fuse raises itself."""


class GraphError(FunctionFuseError, TypeError):
    """A node is used as a value, or another object is used where a node is needed."""


class DuplicateNameError(FunctionFuseError, ValueError):
    """Two nodes of a workflow have the same name."""


class FingerprintError(FunctionFuseError, TypeError):
    """A value or a function has no reliable digest, so no result can be reused for it."""


class FileError(FunctionFuseError, OSError):
    """The file of a `File` is missing, is no file, changed while its node ran, or was replaced."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InvalidNameError(FunctionFuseError, ValueError):
    """A workflow or task name is not a string, is empty, or can be confused with another."""


class NoMatchError(FunctionFuseError, KeyError):
    """No node matches a pattern or a name, or no run has an id."""

    # KeyError.__str__ would return the repr of the message.
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class WorkerDiedError(FunctionFuseError, RuntimeError):
    """A worker of an executor ended before it returned the result of its node."""


class NodeTimeoutError(FunctionFuseError, TimeoutError):
    """The function of a node ran longer than its timeout."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class CodeDiffersError(FunctionFuseError, RuntimeError):
    """A worker has other code or other constants than the driver."""


class ResultNotFoundError(FunctionFuseError, FileNotFoundError):
    """No result is stored under this name."""

    # OSError.__str__ expects an errno; these errors have only a message.
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DamagedResultError(FunctionFuseError, ValueError):
    """Stored bytes differ from the bytes that were written."""


class NewerFormatError(FunctionFuseError, ValueError):
    """A stored result has a format that only a newer version can read."""


class OriginalResultError(FunctionFuseError, ValueError):
    """A stored result was written by the original Function Fuse, and has no header."""


class ResultExistsError(FunctionFuseError, FileExistsError):
    """A result is already stored, and the caller asked not to replace it."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnreadableResultError(FunctionFuseError, ImportError):
    """A result's bytes are undamaged, but this process can't unpickle them.

    A class or module that they name is missing or has changed, or they contain code of another
    Python version.
    """


class SerializerMissingError(UnreadableResultError):
    """A result has side data whose serializer is not registered."""


class UntrustedResultError(FunctionFuseError, ValueError):
    """A result lacks the signature that the options require, or names a class they don't allow."""


class UnpicklableResultError(FunctionFuseError, TypeError):
    """A result can't be pickled, so it can't be stored."""


class SerializerError(UnpicklableResultError):
    """A serializer raised an error, so a result can't be stored; that error is the cause."""


class StorageError(FunctionFuseError, OSError):
    """A storage can't do an operation; the stored results stay unchanged."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StoragePathError(StorageError):
    """The location in a storage's options doesn't exist or isn't writable."""


class StorageAccessError(StorageError, PermissionError):
    """A storage denies access: credentials are missing, wrong, expired or insufficient."""


class StorageConnectionError(StorageError, ConnectionError):
    """A storage can't be reached, doesn't answer in time, or has an internal error; try again."""


class OptionsError(FunctionFuseError, ValueError):
    """A config or an option is invalid."""


class NoConfigError(OptionsError):
    """There is no config file where one is looked for."""


class UnknownKindError(FunctionFuseError, LookupError):
    """No installed distribution provides the kind that a config names."""


class PluginError(FunctionFuseError, ImportError):
    """A plugin, or another package that is needed, is not installed or can't be used."""


def without_locals(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let errors leave a function without the locals of its frames: they can have a secret.

    For functions that take the options of a storage. The lines of the traceback stay. But no
    debugger or report of errors can show a value from there.
    """

    @wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        before = sys.exception()  # in an `except` of the caller, whose frames stay
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            _forget_locals(error, before)
            raise

    return called


def _forget_locals(error: BaseException, before: BaseException | None) -> None:
    """Clear the finished frames of an error, and of those that it came from, up to `before`."""
    from traceback import clear_frames

    seen, waiting = {id(before), id(None)}, [error, error.__cause__, error.__context__]
    while waiting:
        other = waiting.pop()
        if other is not None and id(other) not in seen:
            seen.add(id(other))
            clear_frames(other.__traceback__)
            waiting += other.__cause__, other.__context__
