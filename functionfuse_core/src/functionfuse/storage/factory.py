"""`storage_factory`: from a config to a storage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..config import make_storage, read
from .storage import Storage

__all__ = ["storage_factory"]


def storage_factory(opt: Mapping[str, Any] | str | os.PathLike[str]) -> Storage:
    """Return the storage that a config describes: `{"kind": "file", "options": {"path": "…"}}`.

    A config is a dictionary, or the path of a YAML, TOML or JSON file: see
    `functionfuse.config.read`.
    Nothing but the kind's own plugin is imported, and nothing is read or written yet.

    Raises:
        OptionsError: the config is not of this form, or an option is unknown, missing or wrong.
        UnknownKindError: no installed distribution brings the kind; tells which do and what to
            install.
        PluginError: the kind's plugin can't be used.
    """
    storage: Storage = make_storage(read(opt))
    return storage
