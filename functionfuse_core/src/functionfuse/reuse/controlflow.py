"""The control flow of a code object, without the effects of line breaks.

The compiler makes four optimizations, or doesn't, depending on line breaks. `Flow` always does:

1. A jump to another jump goes to the last target (`_landing`, `_threaded`).
2. A short way out is copied to each jump to it (`_exits`).
3. A swap on the stack is replaced by another order of the stores after it (`_without_swaps`).
4. A store that the next one overwrites is dropped (`_without_swaps`).

See the standard library's `dis` for the instructions.
"""

from __future__ import annotations

import bisect
import dis
import re
from types import CodeType

__all__ = ["JUMPS", "Flow"]

JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)

_DROPPED = {"NOP", "CACHE", "EXTENDED_ARG", "RESUME"}
_ALWAYS_JUMPS = {"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_ABSOLUTE"}
_ENDS = {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"}
_SWAPPABLE = {"STORE_FAST", "STORE_FAST_MAYBE_NULL", "POP_TOP"}
_SHORT = 4  # instructions; the compiler may copy so short a way out to each jump to it
_PLAIN = {"LOAD_FAST", "STORE_FAST"}
_PART = re.compile("LOAD_FAST_AND_CLEAR|LOAD_FAST|STORE_FAST|DELETE_FAST")
# Names that a class body stores about its source, or about its methods in a random order.
_NOT_MEANT = {"__doc__", "__firstlineno__", "__static_attributes__"}


class Flow:
    """The instructions of a code object, and the instructions that can follow each.

    Attributes:
        instructions: the instructions; every index is an index into this list.
        swapped: the same, with stores reordered so that swaps on the stack are needless, and
            without stores that the next ones overwrite.
        steps: for each index: the kind of jump, "" for none, and the indexes that can be next.
        handlers: for each index: the handler of an exception (index, depth of the stack, and
            whether the offset of the raising instruction is pushed), or None.
        exits: for each index with a short way to an end, without a branch: the indexes on the way.
    """

    def __init__(self, code: CodeType) -> None:
        self.instructions = _instructions(code)
        offsets = [instruction.offset for instruction in self.instructions]
        self._targets = {
            index: bisect.bisect_left(offsets, instruction.argval)
            for index, instruction in enumerate(self.instructions)
            if instruction.opcode in JUMPS
        }
        self.swapped, self._needless = _without_swaps(
            self.instructions, set(self._targets.values())
        )
        self.handlers: list[tuple[int, int, bool] | None] = [None] * len(offsets)
        for entry in getattr(dis.Bytecode(code), "exception_entries", ()):
            first, end = (bisect.bisect_left(offsets, at) for at in (entry.start, entry.end))
            target = self._landing(bisect.bisect_left(offsets, entry.target))
            self.handlers[first:end] = [(target, entry.depth, entry.lasti)] * (end - first)
        self._handled = any(self.handlers)
        self.steps = [self._step(index) for index in range(len(offsets))]
        self.exits = self._exits()

    def order(self) -> list[int]:
        """Return the reachable indexes in the order of the flow, without those of `exits`."""
        found: dict[int, None] = {}
        pending = [self._landing(0)]
        while pending:
            index = pending.pop()
            if index in found:
                continue
            found[index] = None
            after = self.steps[index][1]
            if self._handled:
                ways = [index, *(step for target in after for step in self.exits.get(target, ()))]
                handlers = [handler[0] for step in ways if (handler := self.handlers[step])]
                pending += handlers[::-1]
            pending += [target for target in after[::-1] if target not in self.exits]
        return list(found)

    def _landing(self, index: int) -> int:
        """Return the next needed instruction from an index on, along plain jumps."""
        seen = set()
        while index not in seen:
            seen.add(index)
            if index in self._needless:
                index += 1
            elif self.instructions[index].opname in _ALWAYS_JUMPS:
                index = self._targets[index]
            else:
                break
        return index

    def _step(self, index: int) -> tuple[str, tuple[int, ...]]:
        name = self._jump(index)
        if not name:
            ends = self.instructions[index].opname in _ENDS
            return "", () if ends else (self._landing(index + 1),)
        if name in _ALWAYS_JUMPS:
            return "forever", ()
        target, after = self._landing(self._targets[index]), self._landing(index + 1)
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

    def _jump(self, index: int) -> str:
        """Return the kind of jump at an index, without its direction; "" for none."""
        instruction = self.instructions[index]
        if instruction.opcode not in JUMPS or instruction.opname in _ALWAYS_JUMPS:
            return instruction.opname if instruction.opname in _ALWAYS_JUMPS else ""
        return instruction.opname.replace("FORWARD_", "").replace("BACKWARD_", "")

    def _threaded(self, name: str, target: int) -> tuple[str, int]:
        """Follow a jump that leaves its tested value on the stack to the next test of it."""
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
        while changed:  # again, because a way out can go back
            changed = False
            for index in range(len(self.steps) - 1, -1, -1):
                name, after = self.steps[index]
                if name or index in exits:
                    continue
                way = exits.get(after[0]) if after else []
                if way is not None and len(way) < _SHORT:
                    exits[index], changed = [index, *way], True
        return exits


def _instructions(code: CodeType) -> list[dis.Instruction]:
    instructions: list[dis.Instruction] = []
    # `dis` formats each constant as text, which is slow, and fails for a very long int.
    numbered = code.replace(co_consts=tuple(range(len(code.co_consts))))
    for instruction in dis.get_instructions(numbered):
        name, value = instruction.opname, instruction.argval
        if name in _DROPPED:
            continue
        if name == "STORE_NAME" and value in _NOT_MEANT:
            instructions.pop()
        elif name in _PLAIN or "FAST" not in name:
            instructions.append(instruction)
        else:
            # The compiler joins two instructions only if both are on one line. It picks loads with
            # or without a check for a value by the ways to them, and a copy has fewer ways.
            values = value if isinstance(value, tuple) else (value,)
            for part, variable in zip(_PART.findall(name), values, strict=True):
                instructions.append(_other(instruction, part, variable))
    return instructions


def _without_swaps(
    instructions: list[dis.Instruction], targets: set[int]
) -> tuple[list[dis.Instruction], set[int]]:
    """Return the instructions with stores reordered, and the indexes of needless ones.

    A value is dropped if its variable is stored again at once, so the order of stores is free.
    """
    swapped, needless = instructions.copy(), set[int]()
    stores: list[int] = []  # indexes of the stores directly after this one, the nearest last
    for index in range(len(instructions) - 1, -1, -1):
        name, value = instructions[index].opname, instructions[index].argval
        if name in _SWAPPABLE:
            if name == "POP_TOP" or all(swapped[store].argval != value for store in stores):
                stores.append(index)
            elif index not in targets and _is_copy(instructions[index - 1]):
                needless.update((index - 1, index))
            else:
                swapped[index] = _other(instructions[index], "POP_TOP", None)
                stores.append(index)
        elif name == "SWAP" and value <= len(stores):
            first, last = stores[-1], stores[-value]
            swapped[first], swapped[last] = swapped[last], swapped[first]
            needless.add(index)
        elif stores and index not in needless:
            stores.clear()
        if stores and index in targets:
            stores.clear()
    return swapped, needless


def _is_copy(instruction: dis.Instruction) -> bool:
    return instruction.opname == "COPY" and instruction.argval == 1


def _other(instruction: dis.Instruction, name: str, value: str | None) -> dis.Instruction:
    return instruction._replace(opname=name, opcode=dis.opmap[name], argval=value)
