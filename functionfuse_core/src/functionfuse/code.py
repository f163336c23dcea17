"""What code does, apart from how it is written: bytecode without lines, docstrings and paddings.

Equal for code that differs in comments, formatting, docstrings or place, under every patch release
of one Python minor version. See the standard library's `dis` for the instructions.
"""

from __future__ import annotations

import bisect
import dis
import functools
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

__all__ = ["Shape", "is_own", "module_shape", "shape_of"]

_DROPPED = {"NOP", "CACHE", "EXTENDED_ARG", "RESUME"}
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
_CONSTANTS = frozenset(dis.hasconst)
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}
_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS"}
# Methods of containers that change them.
_CHANGING = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop"),
    *("popitem", "popleft", "remove", "reverse", "rotate", "setdefault", "sort", "subtract"),
    "update",
}
_NOT_MEANT = {"__doc__", "__firstlineno__"}  # what a class body stores of how it is written
_FLAGS = 0x3AF  # of co_flags: optimized, newlocals, var*, generator, coroutine, async


@dataclass(frozen=True, slots=True)
class Shape:
    """What a code object, and those inside it, do.

    Attributes:
        text: the instructions and their constants, as bytes.
        names: the global names that are read, each with the attributes read from it at once, as in
            `("module", "function")`, in order of first use.
        imports: (level, name) of the modules that are imported within.
        changed: the names, of globals or of the closure, that the code itself assigns, or whose
            items it changes.
    """

    text: bytes
    names: tuple[tuple[str, ...], ...]
    imports: tuple[tuple[int, str], ...]
    changed: frozenset[tuple[str, ...]]


@functools.lru_cache(maxsize=4096)
def shape_of(code: CodeType) -> Shape:
    """Return what a code object does."""
    reader = _Reader()
    reader.code(code)
    text = b"".join(reader.out)
    return Shape(text, tuple(reader.names), tuple(reader.imports), frozenset(reader.changed))


class _Reader:
    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.names: dict[tuple[str, ...], None] = {}
        self.imports: dict[tuple[int, str], None] = {}
        self.changed: set[tuple[str, ...]] = set()

    def code(self, code: CodeType) -> None:
        kept = _kept(code)
        places = [instruction.offset for instruction in kept]
        arguments = code.co_argcount + code.co_kwonlyargcount
        arguments += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
        heading = (
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
            code.co_flags & _FLAGS,
            code.co_varnames[:arguments],
            code.co_freevars,
            code.co_cellvars,
        )
        self.out.append(b"{%s" % repr(heading).encode())
        for number, instruction in enumerate(kept):
            value = instruction.argval
            self.out.append(b"\n" + instruction.opname.encode() + b" ")
            if instruction.opcode in _CONSTANTS:
                self.constant(value)
            elif instruction.opcode in _JUMPS:
                self.out.append(b"@%d" % bisect.bisect_left(places, value))
            elif value is not None:
                self.out.append(repr(value).encode())
            self.name(kept, number, code)
        for entry in getattr(dis.Bytecode(code), "exception_entries", ()):
            offsets = entry.start, entry.end, entry.target
            bounds = [bisect.bisect_left(places, offset) for offset in offsets]
            self.out.append(b"\ntry %s" % repr((*bounds, entry.depth, entry.lasti)).encode())
        self.out.append(b"}")

    def name(self, kept: list[dis.Instruction], number: int, code: CodeType) -> None:
        """Note what an instruction reads or changes of what is outside."""
        opname, value = kept[number].opname, kept[number].argval
        if opname in _GLOBALS:
            path = (value, *_attributes(kept, number + 1))
            self.names[path] = None
            if path[-1] in _CHANGING:
                self.changed.add(path[:-1])
        elif opname == "LOAD_DEREF":
            path = (value, *_attributes(kept, number + 1))
            if path[-1] in _CHANGING:
                self.changed.add(path[:-1])
        elif opname in ("STORE_GLOBAL", "DELETE_GLOBAL") or (
            opname in ("STORE_DEREF", "DELETE_DEREF") and value in code.co_freevars
        ):
            self.changed.add((value,))
        elif opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
            self.changed.add(_container(kept, number))
        elif opname == "IMPORT_NAME":
            level = kept[number - 2].argval if number >= 2 else 0
            self.imports[level if isinstance(level, int) else 0, value] = None

    def constant(self, value: Any) -> None:
        if isinstance(value, CodeType):
            self.code(value)
        elif isinstance(value, tuple):
            self.out.append(b"(")
            for item in value:
                self.constant(item)
                self.out.append(b",")
            self.out.append(b")")
        elif isinstance(value, frozenset):
            items = ",".join(sorted(map(repr, value)))
            self.out.append(b"<%s>" % items.encode("utf-8", "surrogatepass"))
        elif isinstance(value, int) and not isinstance(value, bool):
            self.out.append(b"%x" % value)  # repr refuses more than 4,300 digits
        else:
            self.out.append(repr(value).encode("utf-8", "surrogatepass"))


def _kept(code: CodeType) -> list[dis.Instruction]:
    kept: list[dis.Instruction] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in _DROPPED:
            continue
        if instruction.opname == "STORE_NAME" and instruction.argval in _NOT_MEANT:
            kept.pop()
            continue
        kept.append(instruction)
    return kept


def _attributes(kept: list[dis.Instruction], number: int) -> Iterator[str]:
    while number < len(kept) and kept[number].opname in _ATTRIBUTES:
        yield kept[number].argval
        number += 1


def _container(kept: list[dis.Instruction], number: int) -> tuple[str, ...]:
    """Return the name of the container whose item is stored or deleted; () if it has none.

    The container lies below the key on the stack. Going back, the first instruction before which
    the stack was lower than that is the one that put it there.
    """
    lowest = -1
    place = number - 1
    while place >= 0 and kept[place].opname == "SWAP":  # as `container[key] += value` ends
        lowest, place = -2, place - 1
    height = 0
    while place >= 0:
        instruction = kept[place]
        if instruction.opcode in _JUMPS:
            return ()
        height -= dis.stack_effect(instruction.opcode, instruction.arg, jump=False)
        if height < lowest:
            break
        place -= 1
    attributes: list[str] = []
    while place >= 0 and kept[place].opname in _ATTRIBUTES:
        attributes.insert(0, kept[place].argval)
        place -= 1
    if place >= 0 and kept[place].opname in {*_GLOBALS, "LOAD_DEREF"}:
        return (kept[place].argval, *attributes)
    return ()


@functools.lru_cache(maxsize=4096)
def is_own(module: str | None) -> bool:
    """Tell whether a module belongs to the user's project.

    That is: `__main__`, and what was loaded from a file that is neither of the standard library nor
    in a folder that packages are installed to, nor of Function Fuse.
    """
    if module is None or module.partition(".")[0] == "functionfuse":
        return False
    if module == "__main__":
        return True
    loaded = sys.modules.get(module)
    if loaded is None:
        return module.partition(".")[0] not in sys.stdlib_module_names
    file = getattr(loaded, "__file__", None)
    return file is not None and _is_own_file(file)


def _is_own_file(file: str) -> bool:
    path = os.path.abspath(file)
    return not any(path.startswith(folder) for folder in _installed()) and path.endswith(".py")


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.update(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    return tuple(os.path.abspath(folder) + os.sep for folder in folders)


def module_shape(name: str) -> Shape | None:
    """Return what a module of the user's project does as a whole, from its file; None for others.

    The module is not imported, but the packages that it is in are.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not _is_own_file(spec.origin):
        return None
    if name.partition(".")[0] == "functionfuse":
        return None
    with open(spec.origin, "rb") as file:
        source = file.read()
    return _source_shape(source)


@functools.lru_cache(maxsize=256)
def _source_shape(source: bytes) -> Shape:
    return shape_of(compile(source, "<module>", "exec", dont_inherit=True))
