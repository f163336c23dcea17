"""Find one plugin by its kind and load only that; explain every failure."""

from __future__ import annotations

import importlib
import re
import threading
from types import ModuleType
from typing import Any, NamedTuple

import pluggy

from .. import hookspecs
from ..errors import PluginError, UnknownKindError
from ..names import close_to
from .entrypoints import (
    BACKENDS,
    BLOCK,
    COMMANDS,
    HOOKS,
    NOUNS,
    SERIALIZERS,
    STORAGES,
    Entry,
    blocked_by,
    entries,
    forget,
    visible,
)

__all__ = [
    "GROUPS",
    "Group",
    "check_version",
    "find",
    "find_entry",
    "hook_caller",
    "record_of",
    "register",
]


class Group(NamedTuple):
    """The hook and the records of one group of entry points.

    Attributes:
        hook: the hook that returns records.
        record: the type of the records.
        published: kind to the distribution of ours that provides it, for advice on installing.
        field: the field of a record that has its kind.
    """

    hook: str
    record: type
    published: dict[str, str]
    field: str = "kind"


GROUPS = {
    STORAGES: Group(
        "functionfuse_storages",
        hookspecs.StorageKind,
        {"S3": "functionfuse-s3", "ray": "functionfuse-ray"},
    ),
    SERIALIZERS: Group(
        "functionfuse_serializers",
        hookspecs.SerializerKind,
        {"dask.array.core.Array": "functionfuse-dask"},
    ),
    BACKENDS: Group(
        "functionfuse_backends",
        hookspecs.BackendKind,
        {"ray": "functionfuse-ray"},
    ),
    COMMANDS: Group("functionfuse_cli_commands", hookspecs.CliCommand, {}, "name"),
}


class State:
    """The plugins that this process has loaded so far."""

    def __init__(self) -> None:
        # One per group: two groups may have the same name.
        self.managers: dict[str, pluggy.PluginManager] = {}
        self.records: dict[tuple[str, str, str], Any] = {}


_state = State()
_loading = threading.RLock()


def find(group: str, kind: str) -> Any:
    """Return the record of `kind` from the entry points of `group`; "s3" finds "S3" too.

    Only the module that the entry point names is imported, once per process.

    Raises:
        UnknownKindError: no installed distribution provides the kind.
        PluginError: two distributions provide it, it is blocked, it was made for another version
            of the plugin API, or it can't be loaded.
    """
    return record_of(find_entry(group, kind))


def find_entry(group: str, kind: str) -> Entry:
    """Return the only entry point of a kind, without importing it. Raises as `find`."""
    found = _named(group, kind)
    if not found:
        forget()  # the plugin may have been installed after the scan
        found = _named(group, kind)
    if not found:
        raise UnknownKindError(_unknown(group, kind))
    free = [(entry, blocked_by(entry)) for entry in found]
    allowed = [entry for entry, block in free if not block]
    if not allowed:
        entry, block = free[0]
        raise PluginError(f"the {entry} is blocked: the environment variable {BLOCK} has {block!r}")
    if len(allowed) > 1:
        owners = " and ".join(f"module {entry.value!r} from {entry.owner}" for entry in allowed)
        raise PluginError(
            f"the {NOUNS[group]} {kind!r} is brought by {owners}; uninstall one of them, or block"
            f" it: {BLOCK}={allowed[-1].name}"
        )
    return allowed[0]


def record_of(entry: Entry) -> Any:
    """Load the module of an entry point, and return its only record. Raises PluginError."""
    known = entry.group, entry.kind, entry.value
    if known not in _state.records:
        with _loading:
            register(entry)
            _state.records[known] = _record(entry)
    return _state.records[known]


def register(entry: Entry) -> pluggy.PluginManager:
    """Import the module of an entry point and register it, once per process.

    Returns the manager of its group; `hook_caller` calls the hooks of this module only.

    Raises:
        PluginError: the import or registration fails, or the module implements an unknown hook.
    """
    manager = _state.managers.get(entry.group)
    if manager is None:
        manager = _state.managers[entry.group] = pluggy.PluginManager("functionfuse")
        manager.add_hookspecs(hookspecs)
    if manager.has_plugin(_name(entry)):
        return manager
    if not re.fullmatch(r"[\w.]+", entry.value):
        raise PluginError(f"the entry point of {entry} does not name a module, as it has to")
    try:
        module = importlib.import_module(entry.value)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"the {entry} can't be imported: {type(error).__name__}: {error}"
        ) from error
    _add(manager, module, entry)
    return manager


def hook_caller(manager: pluggy.PluginManager, entry: Entry, hook: str) -> Any:
    """Return a caller for the hook of one registered module only."""
    name = _name(entry)
    others = [plugin for other, plugin in manager.list_name_plugin() if other != name]
    return manager.subset_hook_caller(hook, others)


def _name(entry: Entry) -> str:
    # The kind is not enough: another module may provide it later, when this one is blocked.
    return f"{entry.kind} = {entry.value}"


def _add(manager: pluggy.PluginManager, module: ModuleType, entry: Entry) -> None:
    name = _name(entry)
    if manager.is_registered(module):
        other = (manager.get_name(module) or "").partition(" = ")[0]
        raise PluginError(
            f"the {entry} shares its module with {other!r}; every kind needs a module of its own"
        )
    try:
        manager.register(module, name=name)
        callers = manager.get_hookcallers(module) or []
        unknown = [caller.name for caller in callers if not caller.has_spec()]
    except pluggy.PluginValidationError as error:
        manager.unregister(name=name)
        problems = "; ".join(str(error).splitlines())
        raise PluginError(f"the {entry} has a wrong hook implementation: {problems}") from error
    if unknown:
        manager.unregister(name=name)
        known = [name for name in dir(hookspecs) if name.startswith("functionfuse_")]
        close = close_to(unknown[0], known)
        raise PluginError(
            f"the {entry} implements {unknown[0]!r}, which is no hook of functionfuse-core"
            f" {_version()}{close}"
        )
    commands = GROUPS[COMMANDS].hook
    if entry.group == HOOKS and commands in [caller.name for caller in callers]:
        manager.unregister(name=name)
        raise PluginError(
            f"the {entry} implements {commands!r}. Each command needs an entry point of its own,"
            f" with its name, in the group {COMMANDS!r} instead of {HOOKS!r}"
        )


def _record(entry: Entry) -> Any:
    group = GROUPS[entry.group]
    try:
        answers = hook_caller(_state.managers[entry.group], entry, group.hook)()
        records = [record for answer in answers for record in answer]
    except Exception as error:
        raise PluginError(
            f"the {entry} fails in its hook {group.hook!r}: {type(error).__name__}: {error}."
            f" functionfuse-core {_version()} has version {hookspecs.API_VERSION} of the plugin"
            " API"
        ) from error
    if not answers:
        raise PluginError(
            f"the {entry} does not implement the hook {group.hook!r}; is it decorated with"
            " @hookimpl?"
        )
    for record in records:
        if not isinstance(record, group.record):
            raise PluginError(
                f"the {entry} returns {type(record).__name__} from its hook {group.hook!r}, and"
                f" not {group.record.__name__}"
            )
    kinds = [getattr(record, group.field) for record in records]
    if kinds != [entry.kind]:
        raise PluginError(
            f"the {entry} returns records of kinds {kinds} from its hook {group.hook!r}, and not"
            f" one, of kind {entry.kind!r}"
        )
    check_version(entry, records[0].api_version)
    return records[0]


def check_version(entry: Entry, version: int) -> None:
    """Raise PluginError if a record was made for another version of the plugin API."""
    ours = hookspecs.API_VERSION
    if version != ours:
        older = isinstance(version, int) and version < ours
        upgrade = (entry.name if older else "") or "functionfuse-core"
        raise PluginError(
            f"the {entry} was made for version {version} of the plugin API, and functionfuse-core"
            f" {_version()} has version {ours}: pip install --upgrade {upgrade}"
        )


def _named(group: str, kind: str) -> list[Entry]:
    """Return the entry points of a kind; if there are none, ignore case."""
    found = [entry for entry in entries(group) if entry.kind == kind]
    if not found:
        found = [entry for entry in entries(group) if entry.kind.lower() == kind.lower()]
    # Sorted, so that an error is the same everywhere. A single one needs no read of metadata.
    found = visible(found)
    return sorted(found, key=lambda entry: (entry.name, entry.value)) if found[1:] else found


def _unknown(group: str, kind: str) -> str:
    noun, published = NOUNS[group], GROUPS[group].published
    installed = sorted({entry.kind for entry in entries(group)})
    known = [name for name in published if name.lower() == kind.lower()]
    message = f"no {noun} of kind {kind!r} is installed"
    if known:
        from importlib import metadata  # for errors only

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


def _version() -> str:
    from importlib import metadata  # for errors only

    return metadata.version("functionfuse-core")
