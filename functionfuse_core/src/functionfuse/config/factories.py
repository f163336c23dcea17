"""Make a storage, or a workflow with its backend and storage, from a config."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from ..errors import (
    FunctionFuseError,
    OptionsError,
    PluginError,
    UnknownKindError,
    without_locals,
)
from ..plugins.entrypoints import BACKENDS, NOUNS, STORAGES, Entry
from ..plugins.registry import find_entry, record_of
from .form import Config, Section, read
from .options import check_options
from .source import Source, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["check", "storage_factory", "workflow_factory"]


@without_locals
def storage_factory(
    opt: Mapping[str, Any] | str | os.PathLike[str] | EllipsisType = ...,
) -> Any:
    """Return the storage that a config describes: `{"kind": "file", "options": {"path": "…"}}`.

    A config is a dictionary, or the path of a YAML, TOML or JSON file: see
    `functionfuse.config.read`. Without one, it is the file that `functionfuse.config.nearest`
    finds, such as "functionfuse.yaml" in the current folder. Only the kind's own plugin is
    imported, and the store is not read or written yet.

    Raises:
        NoConfigError: none is given, and none is found.
        OptionsError: the config is not of this form, or an option is unknown, missing or wrong.
        UnknownKindError: no installed distribution provides the kind; the message lists the
            installed kinds, and the package to install if it is known.
        PluginError: the kind's plugin can't be used.
    """
    return _storage(read(nearest() if opt is ... else opt))


@without_locals
def workflow_factory(
    config: Mapping[str, Any] | str | os.PathLike[str] | Config,
    *nodes: object,
    workflow_name: str,
) -> Any:
    """Return a workflow with the backend, the storage and the reuse policy of a config.

    Without a `backend`, it is a `LocalWorkflow`. Without a `storage`, no result is stored. See
    `functionfuse.config.read` for the forms of a config.

    Args:
        nodes, workflow_name: see `BaseWorkflow`.

    Raises:
        OptionsError: the config is not of its form, or an option is unknown, missing or wrong.
        UnknownKindError: no installed distribution provides a kind.
        PluginError: a kind's plugin can't be used.
        GraphError, InvalidNameError: as the backend's own class.
    """
    found = config if isinstance(config, Config) else read(config)
    section = found.backend or Section("local")
    workflow = _build(found.source, BACKENDS, section, nodes, workflow_name)
    if found.storage is not None:
        workflow.set_storage(_storage(found))
    if found.reuse is not None:
        workflow.set_reuse(found.reuse)
    return workflow


def check(config: Config) -> dict[str, tuple[str, BaseModel]]:
    """Check the kinds, options and serializers of a config; make neither storage nor workflow.

    Returns the kind and the checked options of each section: "storage", "backend".

    Raises:
        OptionsError: an option is unknown, missing or wrong, or a serializer can't be imported.
        UnknownKindError: no installed distribution provides a kind.
        PluginError: a kind's plugin can't be used.
    """
    found = {}
    for group, section in ((STORAGES, config.storage), (BACKENDS, config.backend)):
        if section is not None:
            _, record, options = _checked(config.source, group, section)
            found[NOUNS[group]] = record.kind, options
    for index, name in enumerate(config.serializers):
        _serializer(config.source, name, ("serializers", index))
    return found


def _storage(config: Config) -> Any:
    """Return the storage of a parsed config."""
    if config.storage is None:
        source = config.source
        raise OptionsError(f"{source.where(())}the config has no storage")
    storage = _build(config.source, STORAGES, config.storage)
    for index, name in enumerate(config.serializers):
        serializer = _serializer(config.source, name, ("serializers", index))
        storage.register_persistent_serializers(serializer)
    return storage


def _build(source: Source, group: str, section: Section, *arguments: Any) -> Any:
    """Call a kind's `build` with its checked options and the arguments, and return the result."""
    entry, record, options = _checked(source, group, section)
    try:
        return record.build(options, *arguments)
    except FunctionFuseError:
        raise
    except ImportError as error:
        problem = f"the {entry} can't be made: {type(error).__name__}: {error}"
        raise _located(PluginError(problem), source, (*section.path, "kind")) from error


def _checked(source: Source, group: str, section: Section) -> tuple[Entry, Any, BaseModel]:
    """Return the entry point and the record of a section's kind, and the checked options."""
    path = section.path
    try:
        entry = find_entry(group, section.kind)
        record = record_of(entry)
    except (PluginError, UnknownKindError) as error:
        raise _located(error, source, (*path, "kind")) from error.__cause__
    options: BaseModel = check_options(
        record.options,
        kind=record.kind,
        options=section.options,
        noun=NOUNS[group],
        source=source,
        path=(*path, "options"),
    )
    return entry, record, options


def _serializer(source: Source, name: str, path: tuple[str | int, ...]) -> Any:
    from ..serializers.base import checked
    from ..serializers.installed import serializer_for

    where = source.where(path)
    module, colon, attribute = name.partition(":")
    try:
        if not colon:
            return serializer_for(name)
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        return checked([found])[0]
    except (PluginError, UnknownKindError) as error:
        raise _located(error, source, path) from error.__cause__
    except OptionsError as error:
        raise OptionsError(f"{where}{error}") from None
    except (AttributeError, ImportError, ValueError) as error:
        problem = f"{type(error).__name__}: {source.hidden(str(error))}"
    raise OptionsError(f"{where}serializer {name!r} can't be imported: {problem}")


def _located(
    error: FunctionFuseError, source: Source, path: tuple[str | int, ...]
) -> FunctionFuseError:
    return type(error)(f"{source.where(path)}{error}")
