"""`storage_factory`: from a config to a storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import OptionsError
from ..hookspecs import StorageKind
from ..registry import close_to, find
from .options import check_options
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
    storage: Storage = record.build(
        check_options(record.options, kind=record.kind, options=options)
    )
    return storage


_EXAMPLE = '{"kind": "file", "options": {"path": "storage"}}'
