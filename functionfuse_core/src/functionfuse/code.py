"""What code does, apart from how it is written: bytecode without lines, docstrings and paddings.

Equal for code that differs in comments, formatting, docstrings or place, under every patch release
of one Python minor version: instructions are written in the order in which they can run.
"""

from __future__ import annotations

import dis
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

from .controlflow import JUMPS, Flow
from .project import is_own_file

__all__ = ["Module", "Shape", "module_of", "shape_of"]

_CONSTANTS = frozenset(dis.hasconst)
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}
_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS"}
# Methods of containers that change them.
_CHANGING = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop"),
    *("popitem", "popleft", "remove", "reverse", "rotate", "setdefault", "sort", "subtract"),
    "update",
}
_FLAGS = 0x3AF  # of co_flags: optimized, newlocals, var*, generator, coroutine, async


@dataclass(frozen=True, slots=True)
class Shape:
    """What a code object, and those inside it, do.

    Attributes:
        text: the instructions and their constants, as bytes.
        names: the global names that are read, each with the attributes read from it at once, as in
            `("module", "function")`, in order of first use.
        imports: of what is imported within: level, module, and names that are taken from it.
        changed: the names, of globals or of the closure, that the code itself assigns, or whose
            items it changes.
    """

    text: bytes
    names: tuple[tuple[str, ...], ...]
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
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
        self.imports: dict[tuple[int, str, tuple[str, ...]], None] = {}
        self.changed: set[tuple[str, ...]] = set()

    def code(self, code: CodeType) -> None:
        flow = Flow(code)
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
        order = flow.order()
        numbers = {place: number for number, place in enumerate(order)}
        handler = None
        for number, place in enumerate(order):
            if flow.handlers[place] != handler:
                handler = flow.handlers[place]
                self.handler(handler, numbers)
            self.instruction(flow, place, code)
            name, after = flow.steps[place]
            self.out.append(b" " + name.encode())
            for branch, target in enumerate(after):
                if target in flow.exits:
                    self.out.append(b" (")
                    for step in flow.exits[target]:
                        self.handler(flow.handlers[step], numbers)
                        self.instruction(flow, step, code)
                    self.out.append(b")")
                elif branch or numbers[target] != number + 1:
                    self.out.append(b" @%d" % numbers[target])
        self.out.append(b"}")

    def handler(self, handler: tuple[int, int, bool] | None, numbers: dict[int, int]) -> None:
        """Write where an exception goes."""
        self.out.append(b"\ntry ")
        if handler is not None:
            place, depth, lasti = handler
            self.out.append(b"@%d %d %d" % (numbers.get(place, -1), depth, lasti))

    def instruction(self, flow: Flow, place: int, code: CodeType) -> None:
        """Write an instruction, without its jump."""
        instruction = flow.swapped[place]
        value = instruction.argval
        self.out.append(b"\n")
        if instruction.opcode in JUMPS:
            return
        self.out.append(instruction.opname.encode() + b" ")
        if instruction.opcode in _CONSTANTS:
            self.constant(code.co_consts[instruction.arg or 0])
        elif value is not None:
            self.out.append(repr(value).encode("utf-8", "surrogatepass"))
        self.name(flow.kept, place, code)

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
            path = _container(kept, number)
            self.changed.update(path[:end] for end in range(1, len(path) + 1))
        elif opname == "IMPORT_NAME":
            level, names = (_constant(step, code) for step in kept[number - 2 : number])
            self.imports[level, value, names or ()] = None

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


def _constant(instruction: dis.Instruction, code: CodeType) -> Any:
    if instruction.opcode in _CONSTANTS:
        return code.co_consts[instruction.arg or 0]
    return instruction.argval


def _attributes(kept: list[dis.Instruction], number: int) -> Iterator[str]:
    while number < len(kept) and kept[number].opname in _ATTRIBUTES:
        yield kept[number].argval
        number += 1


def _container(kept: list[dis.Instruction], number: int) -> tuple[str, ...]:
    """Return by what name the container was reached whose item is stored or deleted; () if by none.

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
        if instruction.opcode in JUMPS:
            return ()
        height -= dis.stack_effect(instruction.opcode, instruction.arg, jump=False)
        if height < lowest:
            break
        place -= 1
    if place >= 0 and kept[place].opname in {*_GLOBALS, "LOAD_DEREF"}:
        return (kept[place].argval, *_attributes(kept, place + 1))
    return ()


@dataclass(frozen=True, slots=True)
class Module:
    """What a module does as a whole, and the package that it and its relative imports are in."""

    shape: Shape
    package: str


def module_of(name: str) -> Module | None:
    """Return a module of the user's project, from its file; None for others.

    The module is not imported, but the packages that it is in are.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or name.partition(".")[0] == "functionfuse":
        return None
    if spec.origin is None and spec.submodule_search_locations:
        return Module(_source_shape(b""), name)  # a package without a file
    if spec.origin is None or not is_own_file(spec.origin):
        return None
    with open(spec.origin, "rb") as file:
        source = file.read()
    return Module(_source_shape(source), spec.parent or "")


@functools.lru_cache(maxsize=256)
def _source_shape(source: bytes) -> Shape:
    return shape_of(compile(source, "<module>", "exec", dont_inherit=True))
