"""Find one plugin by its kind and load it, and nothing else; explain every failure."""

from __future__ import annotations

import difflib
from importlib import metadata
from typing import Any

import pluggy

from . import hookspecs
from .errors import PluginError, UnknownKindError

__all__ = ["close_to", "find"]

# Kinds of distributions that we publish ourselves, to tell what to install.
_PUBLISHED = {
    "functionfuse.storages": {"S3": "functionfuse-s3", "ray": "functionfuse-ray"},
}
_HOOKS = {"functionfuse.storages": "functionfuse_storages"}

# pluggy keeps names apart per manager, not per group.
_managers: dict[str, pluggy.PluginManager] = {}


def find(group: str, kind: str) -> Any:
    """Return the record of `kind` from the entry points of `group`; "s3" finds "S3" too.

    Only the module that the entry point names is imported, once per process.

    Raises:
        UnknownKindError: no installed distribution brings the kind.
        PluginError: two distributions bring it, or the one that does can't be loaded.
    """
    entries = list(metadata.entry_points(group=group))
    found = [entry for entry in entries if entry.name == kind]
    if not found:
        found = [entry for entry in entries if entry.name.lower() == kind.lower()]
    if not found:
        raise UnknownKindError(_unknown(group, kind, sorted({entry.name for entry in entries})))
    if len(found) > 1:
        owners = " and ".join(_owner(entry) for entry in found)
        raise PluginError(f"{kind!r} of {group} is brought by {owners}; uninstall one of them")
    return _load(group, found[0])


def close_to(word: str, known: list[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest of `known`, or "" if none is close."""
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f" (did you mean {lowered[close[0]]!r}?)" if close else ""


def _load(group: str, entry: metadata.EntryPoint) -> Any:
    manager = _managers.get(group)
    if manager is None:
        manager = _managers[group] = pluggy.PluginManager("functionfuse")
        manager.add_hookspecs(hookspecs)
    where = f"{entry.name!r} of {group}: module {entry.value!r} from {_owner(entry)}"
    if not manager.has_plugin(entry.name):
        try:
            manager.register(entry.load(), name=entry.name)
            manager.check_pending()
        except Exception as error:
            if manager.has_plugin(entry.name):
                manager.unregister(name=entry.name)
            raise PluginError(
                f"the plugin for {where} can't be loaded: {type(error).__name__}: {error}"
            ) from error
    records = [
        record
        for records in getattr(manager.hook, _HOOKS[group])()
        for record in records
        if record.kind == entry.name
    ]
    if len(records) != 1:
        raise PluginError(
            f"the plugin for {where} gives {len(records)} records of kind {entry.name!r} from its"
            f" hook {_HOOKS[group]!r}, and not one"
        )
    return records[0]


def _owner(entry: metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def _unknown(group: str, kind: str, installed: list[str]) -> str:
    published = _PUBLISHED.get(group, {})
    known = [name for name in published if name.lower() == kind.lower()]
    message = f"no storage of kind {kind!r} is installed"
    if known:
        distribution = published[known[0]]
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            message += f"; it comes with {distribution}: pip install {distribution}"
        else:
            message += f": {distribution} {version} does not bring it yet, a later release will:"
            message += f" pip install --upgrade {distribution}"
    else:
        message += close_to(kind, [*installed, *published])
    return f"{message}. Installed kinds: {', '.join(installed) or 'none'}"
