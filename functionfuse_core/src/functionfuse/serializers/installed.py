"""Find the serializers of installed plugins by the type of a value.

A value can only exist if the module of its type is imported. So there is nothing to search for
until the module of a claimed type is imported. A plugin is imported at the first value of its type.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import OptionsError, PluginError
from ..plugins import entrypoints
from ..plugins.entrypoints import SERIALIZERS, Entry, blocked_by, entries
from ..plugins.registry import find_entry, record_of
from . import content
from .base import Serializer, checked

__all__ = ["FILE", "awake", "build", "serializer_for", "serializer_of", "type_name"]


class _Claims:
    """The types that installed plugins claim, for one generation of `entrypoints`."""

    def __init__(self) -> None:
        found = entries(SERIALIZERS)
        self.generation = entrypoints.generation
        self.names = {entry.kind for entry in found if not blocked_by(entry)}
        self.modules: Sequence[str] = sorted({part for kind in self.names for part in _parts(kind)})
        self.awake = False


FILE = "functionfuse.File"  # the type that core claims itself

_claims: _Claims | None = None
_built: dict[tuple[str, str], Serializer] = {}


def awake() -> bool:
    """Return whether values of a type that core or a plugin claims can exist in this process."""
    return content.files_exist or _plugins_awake()


def _plugins_awake() -> bool:
    claims = _claims
    if claims is None or claims.generation != entrypoints.generation:
        claims = _look()
    if not claims.awake:
        for name in claims.modules:
            if name in sys.modules:
                claims.awake = True
                return True
    return claims.awake


def serializer_of(kind: type) -> Serializer | None:
    """Return the serializer for a type or its nearest base; None if there is none.

    Raises:
        PluginError: two distributions claim the type, or the plugin can't be used.
    """
    if type_name(kind) == FILE:
        return serializer_for(FILE)
    if not _plugins_awake() or _claims is None:
        return None
    for base in kind.__mro__:
        name = type_name(base)
        if name in _claims.names:
            return serializer_for(name)
    return None


def serializer_for(name: str) -> Serializer:
    """Return the serializer for a type, by the type's module and qualified name.

    Raises:
        UnknownKindError: no installed distribution has one.
        PluginError: two distributions have one, or the plugin can't be used.
    """
    if name == FILE:
        from .file import FileSerializer  # on use: few processes need it

        return FileSerializer()
    return build(find_entry(SERIALIZERS, name))


def build(entry: Entry) -> Serializer:
    """Return the serializer of an entry point; it is made once per process."""
    known = entry.kind, entry.value
    if known not in _built:
        record = record_of(entry)
        try:
            (serializer,) = checked([record.build()])
        except OptionsError as error:
            raise PluginError(f"the {entry} gives what can't be used: {error}") from None
        except Exception as error:
            raise PluginError(
                f"the {entry} can't be made: {type(error).__name__}: {error}"
            ) from error
        claimed = type_name(serializer.serializer_class)
        if claimed != entry.kind:
            raise PluginError(f"the {entry} claims another type than its name says: {claimed}")
        _built.setdefault(known, serializer)
    return _built[known]


def type_name(kind: type) -> str:
    """Return module and qualified name of a type, the key of its serializer."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _look() -> _Claims:
    global _claims  # noqa: PLW0603  # looked up at every save
    _claims = _Claims()
    return _claims


def _parts(kind: str) -> set[str]:
    """Return the possible modules of a type's name; one is imported if the type exists.

    They are the part before the last dot and, for a class within a class, the part before the last
    dot but one.
    """
    module = kind.rpartition(".")[0]
    return {module, module.rpartition(".")[0]} - {""}
