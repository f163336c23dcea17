"""`storage_factory`: from a config to a storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import OptionsError
from ..hookspecs import StorageKind
from ..registry import close_to, find
from .storage import Storage

__all__ = ["storage_factory"]


def storage_factory(opt: Mapping[str, Any]) -> Storage:
    """Return the storage that a config describes: `{"kind": "file", "options": {"path": "…"}}`.

    Nothing but the kind's own plugin is imported, and nothing is read or written yet.

    Raises:
        OptionsError: the config is not of this form, or an option is unknown, missing or wrong.
        UnknownKindError: no installed distribution brings the kind; tells which do and what to
            install.
        PluginError: the kind's plugin can't be used.
    """
    if not isinstance(opt, Mapping):
        raise OptionsError(
            f"a storage's config is a dictionary like {_EXAMPLE}, not {type(opt).__name__}"
        )
    for key in opt:
        if key not in ("kind", "options"):
            raise OptionsError(
                f"a storage's config has no field {key!r}{close_to(str(key), ['kind', 'options'])};"
                f" it looks like {_EXAMPLE}"
            )
    kind = opt.get("kind")
    if not isinstance(kind, str) or not kind:
        raise OptionsError(f"a storage's config names its kind: {_EXAMPLE}")
    options = opt.get("options", {})
    if not isinstance(options, Mapping):
        raise OptionsError(
            f"the options of storage {kind!r} are a dictionary, not {type(options).__name__}"
        )
    record: StorageKind = find("functionfuse.storages", kind)
    storage: Storage = record.build(_checked(record, options))
    return storage


def _checked(record: StorageKind, options: Mapping[str, Any]) -> BaseModel:
    try:
        return record.options.model_validate(dict(options))
    except ValidationError as error:
        # pydantic's own message shows the input, secrets included.
        problems = error.errors(include_input=False, include_url=False, include_context=False)
    known = [
        name
        for field, info in record.options.model_fields.items()
        for name in (field, info.alias)
        if name
    ]
    lines = []
    for problem in problems:
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            lines.append(
                f"unknown option {where!r}{close_to(where, known)}; known: {', '.join(known)}"
            )
        elif problem["type"] == "missing":
            lines.append(f"option {where!r} is missing")
        else:
            lines.append(f"option {where!r}: {problem['msg']}")
    raise OptionsError(f"storage {record.kind!r}: " + "; ".join(lines)) from None


_EXAMPLE = '{"kind": "file", "options": {"path": "storage"}}'
