"""The relative paths in the options of a config file: each starts at the folder of the file.

The types of the options tell which of them are paths. See docs/adr/0006-configs.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import is_dataclass
from os import PathLike
from pathlib import Path, PurePath
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import AliasChoices, BaseModel, RootModel, TypeAdapter, ValidationError

__all__ = ["from_folder"]


def from_folder(model: type, options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the options of a model with the relative paths in them made absolute.

    A path that begins with "~" stays: `Path.expanduser` knows its folder.

    Args:
        model: a model of pydantic, a dataclass, a NamedTuple or a TypedDict.
    """
    fields = _fields(model)
    return {
        name: _absolute(fields[name], value, folder) if name in fields else value
        for name, value in options.items()
    }


def _fields(kind: Any) -> dict[str, Any]:
    """Return the types of the fields of a class, also by their aliases; none of another type."""
    if not isinstance(kind, type):
        return {}
    infos: Mapping[str, Any] = getattr(kind, "__pydantic_fields__", {})  # of a dataclass
    if issubclass(kind, BaseModel):
        infos = kind.model_fields
    if not infos:
        # Of a NamedTuple, or a TypedDict: also of that of typing_extensions.
        named = hasattr(kind, "_fields") or hasattr(kind, "__required_keys__")
        return get_type_hints(kind) if named or is_dataclass(kind) else {}
    found: dict[str, Any] = {}
    for field, info in infos.items():
        other = info.validation_alias or info.alias or field
        names = other.choices if isinstance(other, AliasChoices) else [other]
        found |= {name: info.annotation for name in (field, *names) if isinstance(name, str)}
    return found


def _absolute(kind: Any, value: Any, folder: Path) -> Any:
    """Return a value of a type with the relative paths in it made absolute."""
    kind = getattr(kind, "__value__", kind)  # of an alias by `type`
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _absolute(inner[0], value, folder)
    if origin in (Union, UnionType):
        others = [one for one in inner if not _has_paths(one)]
        if any(_accepts(one, value) for one in others):
            return value
        for one in inner:
            value = value if one in others else _absolute(one, value, folder)
        return value
    if _is_path(origin or kind):
        relative = isinstance(value, str) and value and not value.startswith("~")
        return str(folder / value) if relative else value
    if isinstance(kind, type) and issubclass(kind, RootModel):
        return _absolute(kind.model_fields["root"].annotation, value, folder)
    fields = _fields(kind)
    if isinstance(value, Mapping):
        if fields:
            return from_folder(kind, value, folder)
        if len(inner) == 2:
            keys, values = inner
            return {
                _absolute(keys, key, folder): _absolute(values, each, folder)
                for key, each in value.items()
            }
    elif isinstance(value, Collection) and not isinstance(value, (str, bytes)):
        kinds = inner if len(inner) == len(value) and ... not in inner else inner[:1] * len(value)
        if fields and len(value) <= len(fields):  # a NamedTuple as a list; later ones have defaults
            kinds = tuple(fields.values())[: len(value)]
        if kinds:
            return [_absolute(*each, folder) for each in zip(kinds, value, strict=True)]
    return value


def _is_path(kind: Any) -> bool:
    return kind is PathLike or (isinstance(kind, type) and issubclass(kind, PurePath))


def _has_paths(kind: Any, above: tuple[Any, ...] = ()) -> bool:
    """Return whether there may be a path in a value of a type; it may be in itself."""
    kind = getattr(kind, "__value__", kind)
    if kind in above:
        return False
    if _is_path(get_origin(kind) or kind):
        return True
    return any(
        _has_paths(one, (*above, kind)) for one in (*get_args(kind), *_fields(kind).values())
    )


def _accepts(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True
