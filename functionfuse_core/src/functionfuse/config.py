"""Configs: what a storage, a backend and their options may be, and what is wrong with one."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .entrypoints import BACKENDS, NOUNS, STORAGES
from .errors import FunctionFuseError, OptionsError, PluginError, UnknownKindError
from .names import close_to
from .registry import find_entry, record_of
from .source import Source

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["Config", "Section", "check_options", "make_storage", "make_workflow", "read", "schema"]

Model = TypeVar("Model", bound="BaseModel")
ConfigLike = Mapping[str, Any] | str | os.PathLike[str]

FIELDS = ("storage", "serializers", "backend", "reuse")
SECTION = ("kind", "options")
POLICIES = ("unchanged", "always", "never")
_EXAMPLE = '{"kind": "file", "options": {"path": "storage"}}'
_EXAMPLES = {"storage": _EXAMPLE, "backend": '{"kind": "local", "options": {}}'}


class Section(NamedTuple):
    """A kind and its options; `path` is where they stand in the config."""

    kind: str
    options: Mapping[str, Any]
    path: tuple[str | int, ...]

    def __repr__(self) -> str:  # options may be secret
        return f"<{self.kind!r} with {', '.join(map(str, self.options)) or 'no options'}>"


class Config(NamedTuple):
    """A config whose form is checked; kinds and options are looked at when they are used."""

    source: Source
    storage: Section | None
    serializers: Sequence[str]
    backend: Section | None
    reuse: str | None


def read(config: ConfigLike) -> Config:
    """Return a config, given as a dictionary or as the path of a YAML, TOML or JSON file.

    It has the fields `storage`, `serializers`, `backend` and `reuse`; or, for a storage alone,
    `kind` and `options`. In a file, `${NAME}` in a text stands for an environment variable.

    Raises:
        OptionsError: the file can't be read, or the config is not of this form.
    """
    if not isinstance(config, (Mapping, str, os.PathLike)):
        raise OptionsError(
            f"a config is a dictionary like {_EXAMPLE}, or the path of a file with one, not"
            f" {type(config).__name__}"
        )
    source = Source(config)
    data = source.data
    if not isinstance(data, Mapping):
        raise OptionsError(
            f"{source.where(())}a config is a mapping like {_EXAMPLE}, not {type(data).__name__}"
        )
    if any(key in data for key in SECTION) and not any(key in data for key in FIELDS):
        return Config(source, _section(source, data, (), "storage"), (), None, None)
    if not data:
        raise OptionsError(f"{source.where(())}a storage's config names its kind: {_EXAMPLE}")
    _refuse_unknown(source, data, (), "a config", FIELDS, close=(*FIELDS, *SECTION))
    sections = {
        name: _section(source, data[name], (name,), name) if name in data else None
        for name in ("storage", "backend")
    }
    return Config(
        source,
        sections["storage"],
        _serializers(source, data.get("serializers", ())),
        sections["backend"],
        _reuse(source, data.get("reuse")),
    )


def make_storage(config: Config) -> Any:
    """Return the storage of a config; imports its kind's plugin, and reads or writes nothing yet.

    Raises:
        OptionsError: the config has no storage, or an option is unknown, missing or wrong.
        UnknownKindError: no installed distribution brings the kind.
        PluginError: the kind's plugin can't be used.
    """
    if config.storage is None:
        source = config.source
        raise OptionsError(f"{source.where(())}the config has no storage")
    storage = _made(config.source, STORAGES, config.storage)
    for place, name in enumerate(config.serializers):
        serializer = _serializer(config.source, name, ("serializers", place))
        storage.register_persistent_serializers(serializer)
    return storage


def make_workflow(config: Config, nodes: Sequence[Any], workflow_name: str) -> Any:
    """Return a workflow of a config's backend ("local" if it has none), with its storage.

    Raises:
        OptionsError, UnknownKindError, PluginError: as `make_storage`.
        GraphError, InvalidNameError: as the backend's own class.
    """
    section = config.backend or Section("local", {}, ())
    workflow = _made(config.source, BACKENDS, section, nodes, workflow_name)
    if config.storage is not None:
        workflow.set_storage(make_storage(config))
    if config.reuse is not None:
        workflow.set_reuse(config.reuse)
    return workflow


def check_options(
    model: type[Model],
    *,
    kind: str,
    options: Mapping[str, Any],
    noun: str = "storage",
    source: Source | None = None,
    path: Sequence[str | int] = (),
) -> Model:
    """Return the checked model of the options of a kind.

    In a config file, a relative path (an option whose type is `pathlib.Path`) starts at the folder
    of the file.

    Args:
        source, path: where the options stand, for errors.

    Raises:
        OptionsError: an option is unknown, missing or wrong; secrets are not in the message.
    """
    from pydantic import ValidationError

    source = source or Source({})
    try:
        return model.model_validate(_from_file(model, options, source.folder))
    except ValidationError as error:
        # pydantic's own message shows the input, secrets included.
        problems = error.errors(include_input=False, include_url=False, include_context=False)
    known = [
        name for field, info in model.model_fields.items() for name in (field, info.alias) if name
    ]
    lines = []
    for problem in problems:
        steps = problem["loc"]
        unknown, missing = (problem["type"] == name for name in ("extra_forbidden", "missing"))
        option = _option(steps, options, missing=missing)
        if unknown and len(steps) > 1:
            message = f"unknown option {option!r}"
        elif unknown:
            close = close_to(option, known)
            message = f"unknown option {option!r}{close}; known: {', '.join(known) or 'none'}"
        elif missing:
            message = f"option {option!r} is missing"
        else:
            message = f"option {option!r}: {source.hidden(problem['msg'])}"
        where = source.where((*path, *steps), key=unknown)
        lines.append(f"{where}{noun} {kind!r}: {message}" if where else message)
    if source.name:
        raise OptionsError("\n".join(lines))
    raise OptionsError(f"{noun} {kind!r}: " + "; ".join(lines))


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft-07) of configs, over the installed plugins.

    This imports every plugin that brings a storage or a backend; one that can't be used is left
    out, with a warning in the log.
    """
    from .schema import schema_of_configs

    return schema_of_configs(POLICIES)


def _section(source: Source, data: Any, path: tuple[str | int, ...], noun: str) -> Section:
    if not isinstance(data, Mapping):
        raise OptionsError(
            f"{source.where(path)}a {noun}'s config is a mapping like {_EXAMPLES[noun]}, not"
            f" {type(data).__name__}"
        )
    _refuse_unknown(source, data, path, f"a {noun}'s config", SECTION, example=_EXAMPLES[noun])
    kind = data.get("kind")
    if not isinstance(kind, str) or not kind:
        where = source.where((*path, "kind"))
        raise OptionsError(f"{where}a {noun}'s config names its kind: {_EXAMPLES[noun]}")
    options = data.get("options", {})
    if not isinstance(options, Mapping):
        where = source.where((*path, "options"))
        raise OptionsError(
            f"{where}the options of {noun} {kind!r} are a mapping, not {type(options).__name__}"
        )
    return Section(kind, options, path)


def _refuse_unknown(
    source: Source,
    data: Mapping[Any, Any],
    path: tuple[str | int, ...],
    what: str,
    known: Sequence[str],
    *,
    close: Sequence[str] = (),
    example: str = _EXAMPLE,
) -> None:
    for key in data:
        if key not in known:
            where = source.where((*path, key), key=True)
            suggestion = close_to(str(key), close or known)
            raise OptionsError(
                f"{where}{what} has no field {key!r}{suggestion}; it has {', '.join(known)}, as in"
                f" {example}"
            )


def _serializers(source: Source, names: Any) -> Sequence[str]:
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise OptionsError(
            f"{source.where(('serializers',))}serializers are a list of texts: 'module:name' of one"
            " that is registered, or the type of one that a plugin brings"
        )
    return names


def _reuse(source: Source, policy: Any) -> str | None:
    if policy is None or policy in POLICIES:
        return policy if policy is None else str(policy)
    raise OptionsError(
        f"{source.where(('reuse',))}reuse is one of {', '.join(POLICIES)}, not {policy!r}"
        f"{close_to(str(policy), POLICIES)}"
    )


def _made(source: Source, group: str, section: Section, *arguments: Any) -> Any:
    """Return what a kind's `build` makes of its checked options and the arguments."""
    noun, path = NOUNS[group], section.path
    try:
        entry = find_entry(group, section.kind)
        record = record_of(entry)
    except (PluginError, UnknownKindError) as error:
        raise _located(error, source, (*path, "kind")) from error.__cause__
    options = check_options(
        record.options,
        kind=record.kind,
        options=section.options,
        noun=noun,
        source=source,
        path=(*path, "options"),
    )
    try:
        return record.build(options, *arguments)
    except FunctionFuseError:
        raise
    except ImportError as error:
        what = f"the {entry} can't be made: {type(error).__name__}: {error}"
        raise _located(PluginError(what), source, (*path, "kind")) from error


def _serializer(source: Source, name: str, path: tuple[str | int, ...]) -> Any:
    from .serializers.base import checked
    from .serializers.installed import serializer_for

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


def _option(steps: Sequence[str | int], options: Any, *, missing: bool) -> str:
    """Return the name of an option, without the names of types that pydantic puts between."""
    names, value = [], options
    for number, step in enumerate(steps):
        try:
            value = value[step]
        except (LookupError, TypeError):
            if not missing or number < len(steps) - 1:
                continue
        names.append(str(step))
    return ".".join(names)


def _from_file(
    model: type[BaseModel], options: Mapping[str, Any], folder: Path | None
) -> dict[str, Any]:
    """Return options with the relative paths of a file made absolute."""
    found = dict(options)
    if folder is None:
        return found
    for field, info in model.model_fields.items():
        if info.annotation not in (Path, Path | None):
            continue
        for name in {field, info.alias or field} & found.keys():
            if isinstance(found[name], str) and found[name] and not found[name].startswith("~"):
                found[name] = str(folder / found[name])
    return found
