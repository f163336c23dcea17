"""The form of a config: its fields and sections, and the errors in them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import OptionsError, without_locals
from ..names import close_to
from .source import Hidden, Source

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["POLICIES", "Config", "Section", "read"]

Model = TypeVar("Model", bound="BaseModel")
ConfigLike = Mapping[str, Any] | str | os.PathLike[str]

FIELDS = ("storage", "serializers", "backend", "reuse")
SECTION = ("kind", "options")
POLICIES = ("unchanged", "always", "never")
_EXAMPLE = '{"kind": "file", "options": {"path": "storage"}}'
_EXAMPLES = {"storage": _EXAMPLE, "backend": '{"kind": "local", "options": {}}'}


class Section(NamedTuple):
    """A kind and its options; `path` leads to them in the config."""

    kind: str
    hidden: Hidden = Hidden({})
    path: tuple[str | int, ...] = ()

    @property
    def options(self) -> Mapping[str, Any]:
        """The options, which can be secret: never a local of a frame that can raise."""
        return self.hidden.get()  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<{self.kind!r} with {', '.join(map(str, self.options)) or 'no options'}>"


class Config(NamedTuple):
    """A config whose form is checked; its kinds and options are checked on use."""

    source: Source
    storage: Section | None
    serializers: Sequence[str]
    backend: Section | None
    reuse: str | None


@without_locals
def read(config: ConfigLike) -> Config:
    """Read a config from a dictionary, or from a YAML, TOML or JSON file with this path.

    Its fields are `storage`, `serializers`, `backend` and `reuse`; or, for a storage only, `kind`
    and `options`. In a file, `${NAME}` in a string stands for an environment variable.

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
    return Section(kind, Hidden(options), path)


def _refuse_unknown(
    source: Source,
    data: Mapping[Any, Any],
    path: tuple[str | int, ...],
    noun: str,
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
                f"{where}{noun} has no field {key!r}{suggestion}; it has {', '.join(known)}, as in"
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
