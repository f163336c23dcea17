"""The description of a result for its header: the project's names in it, and its digest.

A pickle has only the names of classes, so the header lists them: a plan looks at their code now.
The bytes of sets differ from process to process, so the header then has a digest of the value.

The names are the globals that the pickle refers to. If a global takes its text from the pickle's
memo, `_resolved` takes all texts in the pickle that name a global of a project's module.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from importlib.util import resolve_name
from types import FunctionType, ModuleType
from typing import Any, Protocol

from ..errors import FingerprintError
from ..serializers.script import module_name
from .bytecode import IMPORTED, Path, shape_of
from .project import is_importable, is_own
from .values import digest_of

__all__ = ["described", "describing"]

_DIFFERENT_BYTES = "torch"  # a package whose equal values have other bytes in each process

# Texts that may be part of a global's name. Each follows its length; matches may overlap.
_texts = re.compile(rb"\x8c(?=.([\w.]+)\x94)", re.DOTALL).findall


class _Names(Protocol):
    @property
    def names(self) -> Sequence[tuple[str | None, str | None]]: ...
    @property
    def unordered(self) -> bool: ...


class Pickled(Protocol):
    """The part of `functionfuse.storage.pickling.Pickled` that this module needs."""

    @property
    def opcodes(self) -> Sequence[bytes]: ...
    @property
    def named(self) -> _Names: ...
    @property
    def code(self) -> tuple[Any, ...]: ...


def describing(
    own: frozenset[str] = frozenset(),
) -> Callable[[Any, Pickled], tuple[list[str], str]]:
    """Return `described` for a storage to call, in any process that saves a result.

    Args:
        own: top-level packages that belong to the project, wherever they are installed.
    """
    return partial(described, own=own, script=module_name("__main__"))


def described(
    value: Any, pickled: Pickled, own: frozenset[str] = frozenset(), script: str = ""
) -> tuple[list[str], str]:
    """Return a value's description for `Storage.save`: the project's names in it, and its digest.

    Args:
        own: see `describing`.
        script: the name that replaces `__main__`; "" for the name of this process's script.

    Returns:
        names: classes and functions as "module:qualified name", sorted. If the pickle repeats a
            text, there may be more names than the pickle refers to.
        digest: of the value, in hexadecimal digits; "" if the digest of its bytes will do.
    """
    if not (pickled.code or pickled.named.names or pickled.named.unordered):
        return [], ""
    names = {
        f"{(script or module_name(module)) if module == '__main__' else module}:{name}"
        for module, name in _own_names(pickled, own)
    }
    return sorted(names), _digest(value, pickled, own)


def _digest(value: Any, pickled: Pickled, own: frozenset[str]) -> str:
    named = pickled.named
    tops = (module.partition(".")[0] for module, _ in named.names if module)
    if not (named.unordered or _DIFFERENT_BYTES in tops):
        return ""
    try:
        return digest_of(value, own).hex()
    except FingerprintError:
        return ""


def _own_names(pickled: Pickled, own: frozenset[str]) -> set[tuple[str, str]]:
    """Return module and qualified name of the project's classes and functions in a pickle."""
    # A class or function that a function has made can't be found by its name.
    found = {
        (module, name)
        for module, name in _names_of(pickled.code)
        if "<" not in name and (is_importable if name == IMPORTED else is_own)(module, own)
    }
    fetched = []
    for module, name in pickled.named.names:
        if module is None or name is None:
            fetched.append((module, name))
        elif is_own(module, own):
            found.add((module, name))
    return found | _resolved(fetched, pickled.opcodes, own) if fetched else found


def _names_of(code: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Iterate module and name of the code in a pickle, and of the variables that it reads.

    A method counts as its class. The name of a module is "". A module that code imports at run time
    has the name `IMPORTED`, but only for code that has no name itself.
    """
    for item in code:
        if isinstance(item, ModuleType):
            yield item.__name__, ""
            continue
        name = item.__qualname__
        if not isinstance(item, FunctionType):
            yield str(item.__module__), name
            continue
        yield str(item.__module__), name.rpartition(".")[0] or name
        shape, variables = shape_of(item.__code__), item.__globals__
        for path in shape.names:
            if path[0] in variables:
                yield from _variable(variables[path[0]], path)
        for level, module, *_ in shape.imports if "<" in name else ():
            with suppress(ImportError):  # the import fails at run time too
                package = variables.get("__package__") or ""
                yield resolve_name("." * level + module, package), IMPORTED


def _variable(value: Any, path: Path) -> list[tuple[str, str]]:
    """Return module and name of the variable that code reads by a path from a module, if any."""
    found = []
    for name in (*path[1:], ""):
        if not isinstance(value, ModuleType):
            break
        found = [(value.__name__, name)]
        value = vars(value).get(name)
    return found


def _resolved(
    fetched: Iterable[tuple[str | None, str | None]], frames: Sequence[bytes], own: frozenset[str]
) -> set[tuple[str, str]]:
    """Return all possible names if module or name was fetched from the pickle's memo.

    The text is somewhere in the pickle, and a loaded module defines the name: the pickler has just
    looked it up there.
    """
    modules = _own_modules(len(sys.modules), next(reversed(sys.modules)), own)
    texts: set[str] = set()
    found = set()
    for module, name in fetched:
        for one in modules if module is None else modules.intersection([module]):
            if name is not None:
                if _defines(one, name) and _occurs(one, frames):
                    found.add((one, name))
                continue
            texts = texts or _texts_in(frames)
            if _is_in(one, texts, frames):
                defined = list(getattr(sys.modules.get(one), "__dict__", ()))
                there = [name for name in defined if _is_in(name, texts, frames)]
                found |= {(one, each) for each in there if _defines(one, each)}
    return found


def _texts_in(frames: Sequence[bytes]) -> set[str]:
    found = {text.decode("ascii") for text in {each for frame in frames for each in _texts(frame)}}
    return found | {text.partition(".")[0] for text in found}


def _is_in(name: str, texts: set[str], frames: Sequence[bytes]) -> bool:
    # The pattern of `texts` finds no such names.
    unusual = not name.isascii() or len(name) > 255
    return name in texts or (unusual and _occurs(name, frames))


def _occurs(name: str, frames: Sequence[bytes]) -> bool:
    text = name.encode("utf-8", "replace")
    return any(text in frame for frame in frames)


@lru_cache(maxsize=8)
def _own_modules(_count: int, _newest: str, own: frozenset[str]) -> frozenset[str]:
    """Return the project's loaded modules; the first two are the key of the cache."""
    return frozenset(name for name in list(sys.modules) if is_own(name, own))


def _defines(module: str, name: str) -> bool:
    """Return whether a module defines a global itself, and doesn't import it."""
    try:
        found = vars(sys.modules[module])[name.partition(".")[0]]
        return getattr(found, "__module__", None) in (module, None)
    except KeyError:
        return False
    except Exception:  # noqa: BLE001  # a proxy can raise anything
        return True
