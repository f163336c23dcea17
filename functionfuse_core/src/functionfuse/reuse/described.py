"""What a result refers to, for its header: the project's classes and functions, and its digest.

A pickle has only the names of classes, and the bytes of sets differ from process to process. So the
header tells these names, and where it must be, a digest of the value and not of its bytes.
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

_DIFFERENT_BYTES = "torch"  # the package whose equal values have other bytes in each process

# Texts that may be part of a global's name, each behind its length; one may begin inside another.
_texts = re.compile(rb"\x8c(?=.([\w.]+)\x94)", re.DOTALL).findall


class _Names(Protocol):
    @property
    def names(self) -> Sequence[tuple[str | None, str | None]]: ...
    @property
    def unordered(self) -> bool: ...


class Pickled(Protocol):
    """What this module needs of `functionfuse.storage.pickling.Pickled`."""

    @property
    def data(self) -> bytes: ...
    @property
    def named(self) -> _Names: ...
    @property
    def code(self) -> tuple[Any, ...]: ...


def describing(
    own: frozenset[str] = frozenset(),
) -> Callable[[Any, Pickled], tuple[list[str], str]]:
    """Return `described` as a run hands it to its storage, in whatever process that saves.

    Args:
        own: top-level packages that belong to the project, wherever they are installed.
    """
    return partial(described, own=own, script=module_name("__main__"))


def described(
    value: Any, pickled: Pickled, own: frozenset[str] = frozenset(), script: str = ""
) -> tuple[list[str], str]:
    """Return what `Storage.save` asks of a value: the project's names in it, and its digest.

    Args:
        own: see `describing`.
        script: the name by which the module `__main__` counts; "" for this process's own.

    Returns:
        names: classes and functions as "module:qualified name", sorted. Where the pickle repeats
            a text, there may be more of them than it names.
        digest: of the value, in hexadecimal digits; "" where that of its bytes is as good.
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
    """Return module and qualified name of what is the project's."""
    # What a function has made has no name by which it could be found again.
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
    return found | _resolved(fetched, pickled.data, own) if fetched else found


def _names_of(code: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Iterate module and name of code that a pickle holds, and of the variables that it reads.

    A method counts with its class. A module has no name; and one that code imports when it runs
    has the name `IMPORTED`, where nothing else leads to that code.
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
            with suppress(ImportError):  # it fails when it runs, too
                package = variables.get("__package__") or ""
                yield resolve_name("." * level + module, package), IMPORTED


def _variable(value: Any, path: Path) -> list[tuple[str, str]]:
    """Return module and name of the variable that code reads by a path, if it is of a module."""
    found = []
    for name in (*path[1:], ""):
        if not isinstance(value, ModuleType):
            break
        found = [(value.__name__, name)]
        value = vars(value).get(name)
    return found


def _resolved(
    fetched: Iterable[tuple[str | None, str | None]], data: bytes, own: frozenset[str]
) -> set[tuple[str, str]]:
    """Return all that names may be of which a text was fetched from the pickle's memo.

    The text is anywhere in the pickle, and the name is one that a loaded module defines: pickling
    has just looked it up there.
    """
    modules = _own_modules(len(sys.modules), next(reversed(sys.modules)), own)
    texts: set[str] = set()
    found = set()
    for module, name in fetched:
        for one in modules if module is None else modules.intersection([module]):
            if name is not None:
                if _defines(one, name) and one.encode() in data:
                    found.add((one, name))
                continue
            texts = texts or _texts_in(data)
            if _is_in(one, texts, data):
                defined = list(getattr(sys.modules.get(one), "__dict__", ()))
                found |= {(one, n) for n in defined if _is_in(n, texts, data) and _defines(one, n)}
    return found


def _texts_in(data: bytes) -> set[str]:
    found = {text.decode("ascii") for text in set(_texts(data))}
    return found | {text.partition(".")[0] for text in found}


def _is_in(name: str, texts: set[str], data: bytes) -> bool:
    # `texts` has none of these.
    unusual = not name.isascii() or len(name) > 255
    return name in texts or (unusual and name.encode("utf-8", "replace") in data)


@lru_cache(maxsize=8)
def _own_modules(_count: int, _newest: str, own: frozenset[str]) -> frozenset[str]:
    """Return the project's modules that are loaded; the first two tell whether these changed."""
    return frozenset(name for name in list(sys.modules) if is_own(name, own))


def _defines(module: str, name: str) -> bool:
    """Tell whether a global is of a module, and not imported by it."""
    try:
        found = vars(sys.modules[module])[name.partition(".")[0]]
        return getattr(found, "__module__", None) in (module, None)
    except KeyError:
        return False
    except Exception:  # noqa: BLE001  # an object that stands for another can raise anything
        return True
