"""Find the names of globals in a pickle's bytes, without parsing all of them.

From protocol 4 on, a global is two strings, module and qualified name, then STACK_GLOBAL and
MEMOIZE. A string that was written before is fetched from the memo (BINGET) instead, and a frame
may begin anywhere between. So the search finds each STACK_GLOBAL, and reads the opcodes before it
backwards. Bytes that only look like an opcode count as one, so the result may have too many names,
but never too few.

A pickler that writes to a file hands on one piece for each frame. An object of `bytes` or text of
64 KiB and more is a piece without a frame; it is not searched.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["NOTHING", "Named", "names_in", "opcodes", "versions_of"]

_MEMOIZE, _STACK_GLOBAL, _EMPTY_SET, _FRAME = 0x94, 0x93, 0x8F, 0x95
_BINGET, _LONG_BINGET = ord("h"), ord("j")
_LONGEST = 1 << 12  # bytes; the longest name of a module or class that is found
_COUNTED = 1 << 16  # bytes; memoized objects are counted up to this offset only
_UNFRAMED = 1 << 16  # bytes; objects of this size are written by themselves
_CONTEXT = 2 * _LONGEST + 64  # bytes; more than STACK_GLOBAL and its two strings take

# MEMOIZE after EMPTY_SET, FROZENSET or STACK_GLOBAL. The search is for one byte, and then looks at
# the byte before: a search for the class of bytes takes ten times as long, and `bytes.find` twice.
_marked = re.compile(rb"\x94(?<=[\x8f\x91\x93]\x94)")

# Such bytes also occur by chance, for example for each number 38031 in a list. So the bytes around
# them are checked. The items of a set begin with MARK, and an opcode that can begin an object.
_items = re.compile(rb"\([(){\[\]}BCFGIJKLMNPQSTUVX\x82-\x84\x88-\x8f\x95-\x97cghj]|\(\Z").match
# The last item ends with an opcode without an argument, or with one of 1, 2, 4 or 8 bytes.
_ends_item = re.compile(
    rb"[)0NQRabestu\x81\x88-\x89\x90\x93\x94\x97\x98]\Z"
    rb"|[Kh].\Z|M..\Z|[Jj].{4}\Z|G.{8}\Z|\x95.{4}\0{4}\Z",
    re.DOTALL,
).search


class Named(NamedTuple):
    """The names in a pickle.

    Attributes:
        names: module and qualified name of each global, in order, each pair once; None for a
            string that was fetched from the memo.
        unordered: whether there may be a set with items, whose bytes differ between processes.
    """

    names: tuple[tuple[str | None, str | None], ...]
    unordered: bool


NOTHING = Named((), unordered=False)


def opcodes(frames: Sequence[bytes]) -> Sequence[bytes]:
    """Return the pieces of a pickle without those that are an object of `bytes` or text.

    The first piece begins with the protocol, and other long ones with FRAME: only such objects are
    written without a frame.
    """
    rest = frames[1:]
    return [*frames[:1], *(each for each in rest if len(each) < _UNFRAMED or each[0] == _FRAME)]


def names_in(frames: Sequence[bytes]) -> Named:
    """Return the names in the pieces of a pickle of protocol 4 or later."""
    if len(frames) == 1 and _marked.search(frames[0]) is None:
        return NOTHING  # in a third of the time
    names: dict[tuple[str | None, str | None], None] = {}
    unordered = False
    start, context = 0, b""  # the offset of a piece in the pickle, and bytes before it
    for frame in frames:
        first = b""  # its beginning, with the bytes before it
        for found in _marked.finditer(frame):
            offset = found.start() - 1
            data, before = frame, start
            if context and offset < _CONTEXT:
                first = first or context + frame[: 2 * _CONTEXT]
                data, before = first, start - len(context)
                offset += len(context)
            if data[offset] == _STACK_GLOBAL:
                for name, end in _pushed(data, offset, before):
                    for module, _ in _pushed(data, end, before):
                        names[module, name] = None
            elif not unordered:
                is_set = data[offset] == _EMPTY_SET
                has_items = _items(data, offset + 2) if is_set else _is_behind_item(data, offset)
                unordered = bool(has_items)
        context = (context + frame[-_CONTEXT:])[-_CONTEXT:]
        start += len(frame)
    return Named(tuple(names), unordered) if names or unordered else NOTHING


def versions_of(names: Sequence[tuple[str | None, str | None]]) -> dict[str, str]:
    """Return the versions of the top-level modules in `names` that have one.

    A function of `values` stands for its library.
    """
    versions: dict[str, str] = {}
    tops = [module.partition(".")[0] for module, _ in names if module]
    values = sys.modules.get(f"{__package__}.values")  # imported before a pickle names it
    if values is not None:
        tops += [name.partition("_")[0] for _, name in names if name and name in values.READERS]
    for top in dict.fromkeys(tops):
        # Not by attribute: some modules give a DeprecationWarning for it.
        version = getattr(sys.modules.get(top), "__dict__", {}).get("__version__")
        if isinstance(version, str):
            versions[top] = version
    return versions


def _is_behind_item(data: bytes, offset: int) -> bool:
    """Return whether an item of a set may end at an offset."""
    if _ends_item(data[max(0, offset - 9) : offset]):
        return True
    first = max(0, offset - 129)  # a number of up to 127 bytes: its opcode, its length
    start = data.rfind(b"\x8a", first, offset - 2)
    while start >= 0:
        if data[start + 1] == offset - start - 2:
            return True
        start = data.rfind(b"\x8a", first, start)
    return False


def _pushed(data: bytes, end: int, before: int) -> list[tuple[str | None, int]]:
    """Return each string that the bytes before an offset may push, and its own offset.

    Args:
        before: how many bytes of the pickle come before `data`.
    """
    found: list[tuple[str | None, int]] = []
    if data[end - 1] == _MEMOIZE:
        _add_texts(found, data, end - 1)
    if end > 2 and data[end - 2] == _BINGET and _is_memoized(data, data[end - 1], end, before):
        found.append((None, end - 2))
    if end > 5 and data[end - 5] == _LONG_BINGET:
        index = int.from_bytes(data[end - 4 : end], "little")
        if _is_memoized(data, index, end, before):
            found.append((None, end - 5))
    if end > 9 and data[end - 9] == _FRAME and data[end - 4 : end] == bytes(4):
        found += _pushed(data, end - 9, before)
    return found


def _add_texts(found: list[tuple[str | None, int]], data: bytes, end: int) -> None:
    """Add each string that may end at an offset: by chance, one may contain another."""
    first, before = max(0, end - 257), len(found)
    start = data.rfind(b"\x8c", first, end - 1)
    while start >= 0:
        if data[start + 1] == end - start - 2:
            found.append((data[start + 2 : end].decode("utf-8", "replace"), start))
        start = data.rfind(b"\x8c", first, start)
    if len(found) > before:
        return
    first = max(0, end - _LONGEST)
    start = data.rfind(b"X", first, end - 4)
    while start >= 0:
        if int.from_bytes(data[start + 1 : start + 5], "little") == end - start - 5:
            found.append((data[start + 5 : end].decode("utf-8", "replace"), start))
        start = data.rfind(b"X", first, start)


def _is_memoized(data: bytes, index: int, end: int, before: int) -> bool:
    """Return whether the memo can have this index before an offset."""
    counts = not before and end <= _COUNTED
    return index < (data.count(_MEMOIZE, 0, end) if counts else before + end)
