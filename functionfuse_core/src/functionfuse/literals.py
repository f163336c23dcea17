"""Literals as typed bytes: each differs from all others, of its own type and of other types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["LITERALS", "LITERAL_TYPES", "literal_of", "literal_stream", "shown", "tagged"]

LITERALS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N",
    type(...): lambda _: b"E",
    bool: lambda value: b"T" if value else b"F",
    int: b"i%x;".__mod__,
    float: lambda value: b"f%s;" % value.hex().encode(),
    complex: lambda value: b"c%s,%s;" % (value.real.hex().encode(), value.imag.hex().encode()),
    bytes: lambda value: b"b%d:%s" % (len(value), value),
    str: lambda value: tagged(b"s", value),
}
LITERAL_TYPES = frozenset(LITERALS)
literal_of = LITERALS.get  # bound once, as it is called for every value


def literal_stream(value: Any) -> bytes | None:
    """Return what a writer writes for a literal; None for anything else."""
    literal = LITERALS.get(type(value))
    return None if literal is None else literal(value)


def shown(value: Any) -> str:
    """Return a literal as text, if that is short; else ""."""
    if type(value) not in LITERALS or (type(value) is int and value.bit_length() > 200):
        return ""  # an int of thousands of digits has no text
    text = repr(value)
    return text if len(text) <= 60 else ""


def tagged(tag: bytes, text: str) -> bytes:
    """Return a text as bytes, with what it is and its length before it."""
    encoded = text.encode("utf-8", "surrogatepass")
    return b"%s%d:%s" % (tag, len(encoded), encoded)
