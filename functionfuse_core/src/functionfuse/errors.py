"""All exceptions of Function Fuse. Each also inherits a builtin that callers already catch."""

from __future__ import annotations

__all__ = [
    "CodeDiffersError",
    "DamagedResultError",
    "DuplicateNameError",
    "FingerprintError",
    "FunctionFuseError",
    "GraphError",
    "InvalidNameError",
    "NewerFormatError",
    "NoConfigError",
    "NoMatchError",
    "NodeTimeoutError",
    "OptionsError",
    "PluginError",
    "ResultExistsError",
    "ResultNotFoundError",
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
]


class FunctionFuseError(Exception):
    """Base of all errors that Function Fuse raises itself."""


class GraphError(FunctionFuseError, TypeError):
    """A node is used as a value, or another object is used where a node is needed."""


class DuplicateNameError(FunctionFuseError, ValueError):
    """Two nodes of a workflow have the same name."""


class FingerprintError(FunctionFuseError, TypeError):
    """A value or a function has no reliable digest, so no result can be reused for it."""


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
