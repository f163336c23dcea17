"""Where the instructions of a code object can go, whatever the lines that they were written on.

The compiler looks at line breaks when it decides whether a jump to a jump goes to its end at once,
whether a short way out is shared or copied, whether a swap on the stack is done by the order of the
stores that follow, and whether a store goes that the next one replaces; here all of that is done.
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
_SHORT = 4  # instructions: the compiler may copy so short a way out to each place that goes there
_PLAIN = {"LOAD_FAST", "STORE_FAST"}
_PART = re.compile("LOAD_FAST_AND_CLEAR|LOAD_FAST|STORE_FAST|DELETE_FAST")
# What a class body stores of how it is written, or of its methods, in an order by chance.
_NOT_MEANT = {"__doc__", "__firstlineno__", "__static_attributes__"}


class Flow:
    """The instructions of a code object, and where each can go.

    A place is an index into them.

    Attributes:
        instructions: the instructions.
        swapped: the same, with stores in the order that makes swaps on the stack needless, and
            without those that the next ones make needless.
        steps: for each place, "" or what kind of jump it is, and the places that can be next.
        handlers: for each place, where an exception goes: place, depth of the stack, and whether
            the stack gets the place where it was raised; or None.
        exits: for each place from where it is not far to an end, and without a choice, the way.
    """

    def __init__(self, code: CodeType) -> None:
        self.instructions = _instructions(code)
        indexes = [instruction.offset for instruction in self.instructions]
        self._targets = {
            index: bisect.bisect_left(indexes, instruction.argval)
            for index, instruction in enumerate(self.instructions)
            if instruction.opcode in JUMPS
        }
        self.swapped, self._needless = _without_swaps(
            self.instructions, set(self._targets.values())
        )
        self.handlers: list[tuple[int, int, bool] | None] = [None] * len(indexes)
        for entry in getattr(dis.Bytecode(code), "exception_entries", ()):
            first, end = (bisect.bisect_left(indexes, at) for at in (entry.start, entry.end))
            target = self._landing(bisect.bisect_left(indexes, entry.target))
            self.handlers[first:end] = [(target, entry.depth, entry.lasti)] * (end - first)
        self._handled = any(self.handlers)
        self.steps = [self._step(index) for index in range(len(indexes))]
        self.exits = self._exits()

    def order(self) -> list[int]:
        """Return the places that can be reached, as they follow each other; without `exits`."""
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
        """Return the first place, from this one on, that does more than to go to another."""
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
        """Return what kind of jump stands at a place, whatever its direction; "" for none."""
        instruction = self.instructions[index]
        if instruction.opcode not in JUMPS or instruction.opname in _ALWAYS_JUMPS:
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
    # `dis` writes each constant as text, which takes its time, and fails for a very long int.
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
            # One for two, which the compiler only takes when both are on one line; and loads that
            # check, or don't, that there is a value, by the ways to them: copies have fewer.
            values = value if isinstance(value, tuple) else (value,)
            for part, variable in zip(_PART.findall(name), values, strict=True):
                instructions.append(_other(instruction, part, variable))
    return instructions


def _without_swaps(
    instructions: list[dis.Instruction], targets: set[int]
) -> tuple[list[dis.Instruction], set[int]]:
    """Return the instructions with stores reordered, and the places of those to leave out.

    A value whose variable is stored again at once is dropped: so no store depends on the order.
    """
    swapped, needless = instructions.copy(), set[int]()
    stores: list[int] = []  # those that follow each other from here on, the nearest last
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
