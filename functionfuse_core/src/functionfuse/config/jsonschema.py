"""The JSON Schema of configs with the kinds of the installed plugins, for editors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import PluginError, UnknownKindError
from ..plugins.entrypoints import BACKENDS, NOUNS, STORAGES, entries
from ..plugins.registry import find
from .form import POLICIES

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["schema"]

logger = logging.getLogger(__name__)

Schema = dict[str, Any]

VARIABLE: Schema = {"$ref": "#/definitions/variable"}
_ABOUT = ("title", "description", "default")
_LIMITS = ("enum", "const", "pattern", "maxLength")


def schema() -> Schema:
    """Return the JSON Schema (draft-07) of configs with the kinds of the installed plugins.

    This imports every plugin that provides a storage or a backend. A plugin that can't be used is
    left out, with a warning in the log.
    """
    definitions: dict[str, Any] = {
        "variable": {
            "description": "The value of an environment variable.",
            "type": "string",
            "pattern": r"^\$\{",
        }
    }
    storage = {"anyOf": list(_kinds(STORAGES, definitions))}
    definitions["storage"] = storage
    definitions["backend"] = {"anyOf": list(_kinds(BACKENDS, definitions))}
    fields = {
        "storage": {
            "description": "Where the results are kept.",
            "$ref": "#/definitions/storage",
        },
        "serializers": {
            "description": (
                "Serializers to register: 'module:name', or the type of one that a plugin brings."
            ),
            "type": "array",
            "items": {"type": "string"},
        },
        "backend": {
            "description": "What runs the workflows; 'local' if there is none.",
            "$ref": "#/definitions/backend",
        },
        "reuse": {
            "description": (
                "When a stored result is taken: 'unchanged': if code and inputs are the same;"
                " 'always': if there is one; 'never'."
            ),
            **_or_variable({"enum": list(POLICIES)}),
        },
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A config of Function Fuse",
        "anyOf": [
            {
                "type": "object",
                "properties": fields,
                "additionalProperties": False,
                "minProperties": 1,
            },
            {"$ref": "#/definitions/storage"},
        ],
        "definitions": definitions,
    }


def _kinds(group: str, definitions: Schema) -> Iterator[Schema]:
    """Iterate over the schemas of a group's kinds; add nested models to `definitions`."""
    for kind in sorted({entry.kind for entry in entries(group)}):
        try:
            record = find(group, kind)
        except (PluginError, UnknownKindError) as error:
            logger.warning("left out of the schema: %s", error)
            continue
        prefix = f"{NOUNS[group]} {kind} "
        options = _options(record.options, prefix, definitions)
        names = sorted({kind, kind.lower()})
        yield {
            "type": "object",
            "properties": {"kind": {"enum": names}, "options": options},
            "required": ["kind", "options"] if options.get("required") else ["kind"],
            "additionalProperties": False,
        }
    yield {
        "type": "object",
        "properties": {"kind": VARIABLE, "options": {"type": "object"}},
        "required": ["kind"],
        "additionalProperties": False,
    }


def _options(model: type[BaseModel], prefix: str, definitions: Schema) -> Schema:
    """Return the schema of a model in draft-07 that accepts a variable for each scalar."""
    found = model.model_json_schema(ref_template=f"#/definitions/{prefix}{{model}}")
    for name, definition in found.pop("$defs", {}).items():
        definitions[prefix + name] = _open(definition)
    found["properties"] = _values(found.get("properties", {}))
    return found


def _open(schema: Any) -> Any:
    """Return a schema that accepts `${NAME}` for every value that is not free text."""
    if not isinstance(schema, dict):
        return schema
    node: Schema = dict(schema)
    if "prefixItems" in node:  # of draft 2020-12
        node["items"] = node.pop("prefixItems")
    for word, change in _WITHIN.items():
        if word in node:
            node[word] = change(node[word])
    return _or_variable(node)


def _or_variable(node: Schema) -> Schema:
    kind = node.get("type")
    free = kind == "string" and not any(limit in node for limit in _LIMITS)
    scalar = kind in ("string", "integer", "number", "boolean", "null") or (
        "enum" in node or "const" in node
    )
    if free or not scalar:
        return node
    about: Schema = {word: node[word] for word in _ABOUT if word in node}
    rest = {word: value for word, value in node.items() if word not in about}
    return {**about, "anyOf": [rest, VARIABLE]}


def _each(node: Any) -> Any:
    return [_open(item) for item in node] if isinstance(node, list) else _open(node)


def _values(node: dict[str, Any]) -> dict[str, Any]:
    return {name: _open(item) for name, item in node.items()}


# Keywords with schemas of values, and the functions that open these schemas.
_WITHIN: dict[str, Callable[[Any], Any]] = {
    "properties": _values,
    "patternProperties": _values,
    "additionalProperties": _open,
    "items": _each,
    "anyOf": _each,
    "oneOf": _each,
    "allOf": _each,
}
