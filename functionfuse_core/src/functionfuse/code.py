"""What code does, apart from how it is written: bytecode without lines, docstrings and paddings.

Equal for code that differs in comments, formatting, docstrings or place, under every patch release
of one Python minor version. The compiler looks at line breaks when it decides whether a jump to a
jump goes to its end at once, whether a short way out is shared or copied, and whether a swap on the
stack is done by the order of what follows; so instructions are written in the order in which they
can run, with all of that done. See the standard library's `dis` for the instructions.
"""

from __future__ import annotations

import bisect
import dis
import functools
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

from .project import is_own_file

__all__ = ["Module", "Shape", "module_of", "shape_of"]

_DROPPED = {"NOP", "CACHE", "EXTENDED_ARG", "RESUME"}
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
_ALWAYS_JUMPS = {"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_ABSOLUTE"}
_ENDS = {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"}
_SWAPPABLE = {"STORE_FAST", "STORE_FAST_MAYBE_NULL", "POP_TOP"}
_SHORT = 4  # instructions: the compiler may copy so short a way out to each place that goes there
_FUSED = re.compile("LOAD_FAST_BORROW|LOAD_FAST|STORE_FAST")
_CONSTANTS = frozenset(dis.hasconst)
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}
_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS"}
# Methods of containers that change them.
_CHANGING = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop"),
    *("popitem", "popleft", "remove", "reverse", "rotate", "setdefault", "sort", "subtract"),
    "update",
}
# What a class body stores of how it is written, or of its methods, in an order by chance.
_NOT_MEANT = {"__doc__", "__firstlineno__", "__static_attributes__"}
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
        flow = _Flow(code)
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

    def instruction(self, flow: _Flow, place: int, code: CodeType) -> None:
        """Write an instruction, without its jump."""
        instruction = flow.swapped[place]
        value = instruction.argval
        self.out.append(b"\n")
        if instruction.opcode in _JUMPS:
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


class _Flow:
    """The instructions of a code object, and where each can go.

    A place is an index into them.

    Attributes:
        kept: the instructions.
        swapped: the same, with stores in the order that makes swaps on the stack needless.
        steps: for each place, "" or what kind of jump it is, and the places that can be next.
        handlers: for each place, where an exception goes: place, depth of the stack, and whether
            the stack gets the place where it was raised; or None.
        exits: for each place from where it is not far to an end, and without a choice, the way.
    """

    def __init__(self, code: CodeType) -> None:
        self.kept = _kept(code)
        places = [instruction.offset for instruction in self.kept]
        self._targets = {
            place: bisect.bisect_left(places, instruction.argval)
            for place, instruction in enumerate(self.kept)
            if instruction.opcode in _JUMPS
        }
        self.swapped, self._needless = _without_swaps(self.kept, set(self._targets.values()))
        self.handlers: list[tuple[int, int, bool] | None] = [None] * len(places)
        for entry in getattr(dis.Bytecode(code), "exception_entries", ()):
            first, end = (bisect.bisect_left(places, at) for at in (entry.start, entry.end))
            target = self._landing(bisect.bisect_left(places, entry.target))
            self.handlers[first:end] = [(target, entry.depth, entry.lasti)] * (end - first)
        self._handled = any(self.handlers)
        self.steps = [self._step(place) for place in range(len(places))]
        self.exits = self._exits()

    def order(self) -> list[int]:
        """Return the places that can be reached, as they follow each other; without `exits`."""
        found: dict[int, None] = {}
        pending = [self._landing(0)]
        while pending:
            place = pending.pop()
            if place in found:
                continue
            found[place] = None
            after = self.steps[place][1]
            if self._handled:
                ways = [place, *(step for target in after for step in self.exits.get(target, ()))]
                handlers = [handler[0] for step in ways if (handler := self.handlers[step])]
                pending += handlers[::-1]
            pending += [target for target in after[::-1] if target not in self.exits]
        return list(found)

    def _landing(self, place: int) -> int:
        """Return the first place, from this one on, that does more than to go to another."""
        seen = set()
        while place not in seen:
            seen.add(place)
            if place in self._needless:
                place += 1
            elif self.kept[place].opname in _ALWAYS_JUMPS:
                place = self._targets[place]
            else:
                break
        return place

    def _step(self, place: int) -> tuple[str, tuple[int, ...]]:
        name = self._jump(place)
        if not name:
            ends = self.kept[place].opname in _ENDS
            return "", () if ends else (self._landing(place + 1),)
        if name in _ALWAYS_JUMPS:
            return "forever", ()
        target, after = self._landing(self._targets[place]), self._landing(place + 1)
        if name.endswith("_OR_POP"):
            name, target = self._threaded(name, target)
        if name == "POP_JUMP_IF_FALSE":
            return "true", (after, target)
        if name == "POP_JUMP_IF_TRUE":
            return "true", (target, after)
        if name == "POP_JUMP_IF_NOT_NONE":
            return "none", (after, target)
        if name == "POP_JUMP_IF_NONE":
            return "none", (target, after)
        return name, (after, target)

    def _jump(self, place: int) -> str:
        """Return what kind of jump stands at a place, whatever its direction; "" for none."""
        instruction = self.kept[place]
        if instruction.opcode not in _JUMPS or instruction.opname in _ALWAYS_JUMPS:
            return instruction.opname if instruction.opname in _ALWAYS_JUMPS else ""
        return instruction.opname.replace("FORWARD_", "").replace("BACKWARD_", "")

    def _threaded(self, name: str, target: int) -> tuple[str, int]:
        """Follow a jump that keeps the value that it tests to where that is tested again."""
        tested, other = ("TRUE", "FALSE") if name == "JUMP_IF_TRUE_OR_POP" else ("FALSE", "TRUE")
        while self._jump(target) == name:
            target = self._landing(self._targets[target])
        if self._jump(target) == f"POP_JUMP_IF_{tested}":
            return f"POP_JUMP_IF_{tested}", self._landing(self._targets[target])
        if self._jump(target) in (f"POP_JUMP_IF_{other}", f"JUMP_IF_{other}_OR_POP"):
            return f"POP_JUMP_IF_{tested}", self._landing(target + 1)
        return name, target

    def _exits(self) -> dict[int, list[int]]:
        exits: dict[int, list[int]] = {}
        changed = True
        while changed:  # once more for a way out that goes back
            changed = False
            for place in range(len(self.steps) - 1, -1, -1):
                name, after = self.steps[place]
                if name or place in exits:
                    continue
                way = exits.get(after[0]) if after else []
                if way is not None and len(way) < _SHORT:
                    exits[place], changed = [place, *way], True
        return exits


def _constant(instruction: dis.Instruction, code: CodeType) -> Any:
    if instruction.opcode in _CONSTANTS:
        return code.co_consts[instruction.arg or 0]
    return instruction.argval


def _kept(code: CodeType) -> list[dis.Instruction]:
    kept: list[dis.Instruction] = []
    # `dis` writes each constant as text, which takes its time, and fails for a very long int.
    numbered = code.replace(co_consts=tuple(range(len(code.co_consts))))
    for instruction in dis.get_instructions(numbered):
        name = instruction.opname
        if name in _DROPPED:
            continue
        if name == "STORE_NAME" and instruction.argval in _NOT_MEANT:
            kept.pop()
        elif isinstance(instruction.argval, tuple) and "FAST" in name:
            # One for two, which the compiler only takes when both are on one line.
            for part, value in zip(_FUSED.findall(name), instruction.argval, strict=True):
                kept.append(instruction._replace(opname=part, opcode=dis.opmap[part], argval=value))
        else:
            kept.append(instruction)
    return kept


def _without_swaps(
    kept: list[dis.Instruction], targets: set[int]
) -> tuple[list[dis.Instruction], set[int]]:
    """Return the instructions with stores reordered, and the places of the swaps to leave out."""
    swapped, needless = kept.copy(), set[int]()
    for place in range(len(kept) - 1, -1, -1):
        if kept[place].opname != "SWAP":
            continue
        after = place + 1
        stores: list[int] = []
        while len(stores) < kept[place].argval and after not in targets:
            if swapped[after].opname in _SWAPPABLE:
                stores.append(after)
            elif after not in needless:
                break
            after += 1
        if len(stores) == kept[place].argval:
            first, last = stores[0], stores[-1]
            swapped[first], swapped[last] = swapped[last], swapped[first]
            needless.add(place)
    return swapped, needless


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
        if instruction.opcode in _JUMPS:
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
