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
        kept: the instructions.
        swapped: the same, with stores in the order that makes swaps on the stack needless, and
            without those that the next ones make needless.
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
            if instruction.opcode in JUMPS
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
            for place in range(len(self.steps) - 1, -1, -1):
                name, after = self.steps[place]
                if name or place in exits:
                    continue
                way = exits.get(after[0]) if after else []
                if way is not None and len(way) < _SHORT:
                    exits[place], changed = [place, *way], True
        return exits


def _kept(code: CodeType) -> list[dis.Instruction]:
    kept: list[dis.Instruction] = []
    # `dis` writes each constant as text, which takes its time, and fails for a very long int.
    numbered = code.replace(co_consts=tuple(range(len(code.co_consts))))
    for instruction in dis.get_instructions(numbered):
        name, value = instruction.opname, instruction.argval
        if name in _DROPPED:
            continue
        if name == "STORE_NAME" and value in _NOT_MEANT:
            kept.pop()
        elif name in _PLAIN or "FAST" not in name:
            kept.append(instruction)
        else:
            # One for two, which the compiler only takes when both are on one line; and loads that
            # check, or don't, that there is a value, by the ways to them: copies have fewer.
            values = value if isinstance(value, tuple) else (value,)
            for part, variable in zip(_PART.findall(name), values, strict=True):
                kept.append(_other(instruction, part, variable))
    return kept


def _without_swaps(
    kept: list[dis.Instruction], targets: set[int]
) -> tuple[list[dis.Instruction], set[int]]:
    """Return the instructions with stores reordered, and the places of those to leave out.

    A value whose variable is stored again at once is dropped: so no store depends on the order.
    """
    swapped, needless = kept.copy(), set[int]()
    stores: list[int] = []  # those that follow each other from here on, the nearest last
    for place in range(len(kept) - 1, -1, -1):
        name, value = kept[place].opname, kept[place].argval
        if name in _SWAPPABLE:
            if name == "POP_TOP" or all(swapped[store].argval != value for store in stores):
                stores.append(place)
            elif place not in targets and _is_copy(kept[place - 1]):
                needless.update((place - 1, place))
            else:
                swapped[place] = _other(kept[place], "POP_TOP", None)
                stores.append(place)
        elif name == "SWAP" and value <= len(stores):
            first, last = stores[-1], stores[-value]
            swapped[first], swapped[last] = swapped[last], swapped[first]
            needless.add(place)
        elif stores and place not in needless:
            stores.clear()
        if stores and place in targets:
            stores.clear()
    return swapped, needless


def _is_copy(instruction: dis.Instruction) -> bool:
    return instruction.opname == "COPY" and instruction.argval == 1


def _other(instruction: dis.Instruction, name: str, value: str | None) -> dis.Instruction:
    return instruction._replace(opname=name, opcode=dis.opmap[name], argval=value)
