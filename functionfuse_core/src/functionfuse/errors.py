"""Every exception of Function Fuse; each is also the builtin that callers catch already."""

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
    "NoMatchError",
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
    """Something that is no node, or no value for a node, stands where one is needed."""


class DuplicateNameError(FunctionFuseError, ValueError):
    """Two nodes of one workflow have one name."""


class FingerprintError(FunctionFuseError, TypeError):
    """A value or a function can't be told from another, so no result can be reused for it."""


class InvalidNameError(FunctionFuseError, ValueError):
    """A workflow or task name is not a string, is empty, or can't be kept apart from another."""


class NoMatchError(FunctionFuseError, KeyError):
    """A pattern or a name that should pick nodes picks none."""

    # KeyError's own __str__ is the repr of what was looked for.
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class WorkerDiedError(FunctionFuseError, RuntimeError):
    """A worker of an executor ended before it gave its node's result back."""


class CodeDiffersError(FunctionFuseError, RuntimeError):
    """A worker has imported other code than the driver, or has other constants."""


class ResultNotFoundError(FunctionFuseError, FileNotFoundError):
    """No result of that name is stored."""

    # OSError's own __str__ and __reduce__ look at errno; a plain message is all there is here.
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DamagedResultError(FunctionFuseError, ValueError):
    """Stored bytes are not the bytes that were written."""


class NewerFormatError(FunctionFuseError, ValueError):
    """A stored result was written in a format that this version does not know yet."""


class ResultExistsError(FunctionFuseError, FileExistsError):
    """A result is stored already, and was to be left as it is."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnreadableResultError(FunctionFuseError, ImportError):
    """A result's bytes are sound, but no value can be made of them here.

    A class or module that they name is not there, or has changed, or they hold code of another
    Python.
    """


class SerializerMissingError(UnreadableResultError):
    """A result has side data of a serializer that is not registered."""


class UntrustedResultError(FunctionFuseError, ValueError):
    """A result is not signed as the options demand, or names what they don't allow."""


class UnpicklableResultError(FunctionFuseError, TypeError):
    """A result can't be pickled, so it can't be stored."""


class StorageError(FunctionFuseError, OSError):
    """A storage can't do what it was asked; what is stored stays as it is."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StoragePathError(StorageError):
    """A storage can't be used where its options say: there is no such place, or no writing."""


class StorageAccessError(StorageError, PermissionError):
    """A storage refuses: credentials are missing, wrong, expired, or don't allow it."""


class StorageConnectionError(StorageError, ConnectionError):
    """A storage can't be reached, does not answer in time, or fails itself; try again."""


class OptionsError(FunctionFuseError, ValueError):
    """A config is not as documented."""


class UnknownKindError(FunctionFuseError, LookupError):
    """No installed distribution brings the kind that a config names."""


class PluginError(FunctionFuseError, ImportError):
    """A plugin is installed but can't be used."""
