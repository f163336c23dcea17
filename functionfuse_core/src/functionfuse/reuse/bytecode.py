"""The shape of a code object: its bytecode without lines, docstrings and padding.

Code that differs only in comments, formatting, docstrings or location has an equal shape, under
every patch release of one Python minor version.

1. `Flow` finds the order in which instructions can run, and removes the effects of line breaks.
2. The reader numbers the instructions in that order, and writes each with its operand.
3. Jumps are written as these numbers, and constants by value; code in constants is written too.
4. Names of globals, attributes and imports are noted, for `functions` to write their values.
"""

from __future__ import annotations

import dis
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any, NamedTuple

from xxhash import xxh3_128_digest

from .controlflow import JUMPS, Flow

__all__ = ["IMPORTED", "Import", "Shape", "shape_of"]

IMPORTED = "import"  # instead of a name, for a module that code imports at run time

_CONSTANTS = frozenset(dis.hasconst)
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}
_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS"}
_FLAGS = 0x3AF  # of co_flags: optimized, newlocals, var*, generator, coroutine, async
# Code that reads these names can see types, docstrings and the order of methods.
_INSPECTING = frozenset(
    {
        *("__annotations__", "__dict__", "__doc__", "__signature__", "get_annotations"),
        *("get_type_hints", "getdoc", "getfullargspec", "signature", "vars"),
    }
)
# Methods and functions that find globals by names in a text, as in `frame.query("a > @LIMIT")`.
_EVALUATING = frozenset({"eval", "evaluate", "execute", "query", "sql"})
_identifiers = re.compile(r"[^\W\d]\w*").findall

Path = tuple[str, ...]


class Import(NamedTuple):
    """A module, or one of its variables, that code imports at run time.

    Attributes:
        level: of a relative import, the number of dots.
        module: its name, without the dots.
        name: the imported variable; "" for the module itself, "*" for its top-level package.
        reads: paths of attributes that code reads from the imported object; None if code also uses
            the object in another way.
    """

    level: int
    module: str
    name: str
    reads: tuple[Path, ...] | None


@dataclass(frozen=True, slots=True)
class Shape:
    """The instructions and names of a code object, with those of code objects inside it.

    Attributes:
        text: the instructions and their constants, as bytes.
        digest: of that text, 16 bytes.
        names: the global names that are read, each with the attributes read directly from it, as
            in `("module", "function")`, in order of first use.
        imports: the imports at run time.
        attributes: all names of attributes that are read.
        texts: the names in strings that may be evaluated, in order of first use.
        inspects: whether code may look at types, docstrings and the order of methods.
    """

    text: bytes
    digest: bytes
    names: tuple[Path, ...]
    imports: tuple[Import, ...]
    attributes: frozenset[str]
    texts: tuple[str, ...]
    inspects: bool


@functools.lru_cache(maxsize=4096)
def shape_of(code: CodeType) -> Shape:
    """Return the shape of a code object."""
    reader = _Reader()
    reader.code(code)
    text = b"".join(reader.out)
    names, imports = tuple(reader.names), tuple(reader.imports)
    attributes = frozenset(reader.attributes)
    read = attributes.union(reader.texts, (path[0] for path in names))  # also by getattr
    evaluates = not _EVALUATING.isdisjoint(read)
    texts = [known for known in reader.texts if evaluates or "~" in known]  # "y ~ scaled(x)"
    found = dict.fromkeys(name for known in texts for name in _identifiers(known))
    inspects = not _INSPECTING.isdisjoint(read)
    digest = xxh3_128_digest(text)
    return Shape(text, digest, names, imports, attributes, tuple(found), inspects)


class _Reader:
    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.names: dict[Path, None] = {}
        self.imports: dict[Import, None] = {}
        self.attributes: set[str] = set()
        self.texts: dict[str, None] = {}

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
        numbers = {index: number for number, index in enumerate(order)}
        handler = None
        for number, index in enumerate(order):
            if flow.handlers[index] != handler:
                handler = flow.handlers[index]
                self.handler(handler, numbers)
            self.instruction(flow, index, code)
            name, after = flow.steps[index]
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
        """Write the handler of an exception."""
        self.out.append(b"\ntry ")
        if handler is not None:
            index, depth, lasti = handler
            self.out.append(b"@%d %d %d" % (numbers.get(index, -1), depth, lasti))

    def instruction(self, flow: Flow, index: int, code: CodeType) -> None:
        """Write an instruction, without its jump."""
        instruction = flow.swapped[index]
        value = instruction.argval
        self.out.append(b"\n")
        if instruction.opcode in JUMPS:
            return
        self.out.append(instruction.opname.encode() + b" ")
        if instruction.opcode in _CONSTANTS:
            self.constant(code.co_consts[instruction.arg or 0])
        elif value is not None:
            self.out.append(repr(value).encode("utf-8", "surrogatepass"))
        self.name(flow.instructions, index, code)

    def name(self, instructions: list[dis.Instruction], number: int, code: CodeType) -> None:
        """Note the global, attribute or import that an instruction reads."""
        opname, value = instructions[number].opname, instructions[number].argval
        if opname in _GLOBALS:
            self.names[value, *_attributes(instructions, number + 1)] = None
        elif opname in _ATTRIBUTES:
            self.attributes.add(value)
        elif opname == "IMPORT_NAME":
            level, names = (_constant(step, code) for step in instructions[number - 2 : number])
            for name, index in _bindings(instructions, number, names):
                self.imports[
                    Import(level, value, name, _reads(instructions, instructions[index]))
                ] = None

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
            if isinstance(value, str):
                self.texts[value] = None


def _constant(instruction: dis.Instruction, code: CodeType) -> Any:
    if instruction.opcode in _CONSTANTS:
        return code.co_consts[instruction.arg or 0]
    return instruction.argval


def _attributes(instructions: list[dis.Instruction], number: int) -> Iterator[str]:
    while number < len(instructions) and instructions[number].opname in _ATTRIBUTES:
        yield instructions[number].argval
        number += 1


def _bindings(
    instructions: list[dis.Instruction], number: int, names: Path | None
) -> Iterator[tuple[str, int]]:
    """Iterate the names that an import binds (see `Import.name`), each with its store's index."""
    number += 1
    if names:  # from module import name, ...
        for name in names:
            if name == "*":
                yield "", number
            else:
                yield name, number + 1
                number += 2
    elif instructions[number].opname == "IMPORT_FROM":  # import package.module as name
        while instructions[number].opname in ("IMPORT_FROM", "SWAP", "ROT_TWO", "POP_TOP"):
            number += 1
        yield "", number
    else:
        yield "*", number


def _reads(instructions: list[dis.Instruction], store: dis.Instruction) -> tuple[Path, ...] | None:
    """Return the attributes read from a variable; None if it is also used in another way."""
    if store.opname != "STORE_FAST":
        return None  # other functions can read it
    found: dict[Path, None] = {}
    for index, instruction in enumerate(instructions):
        if instruction.argval == store.argval and instruction.opname.startswith("LOAD_FAST"):
            path = tuple(_attributes(instructions, index + 1))
            if not path:
                return None
            found[path] = None
    return tuple(found) or None
