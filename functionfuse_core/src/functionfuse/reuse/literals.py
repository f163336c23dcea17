"""Literals as typed bytes, different for each value and each type."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

from xxhash import xxh3_128_digest

__all__ = [
    "LITERALS",
    "LITERAL_TYPES",
    "LONG",
    "LONG_TYPES",
    "file_text",
    "literal_of",
    "literal_stream",
    "pickled",
    "shown",
    "tagged",
]

LITERALS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N",
    type(...): lambda _: b"E",
    bool: lambda value: b"T" if value else b"F",
    int: b"i%x;".__mod__,
    float: lambda value: b"f%s;" % value.hex().encode(),
    complex: lambda value: b"c%s,%s;" % (value.real.hex().encode(), value.imag.hex().encode()),
    bytes: lambda value: _sized(b"b", value),
    str: lambda value: _sized(b"s", value.encode("utf-8", "surrogatepass")),
}
LITERAL_TYPES = frozenset(LITERALS)
literal_of = LITERALS.get  # bound once, as it is called for every value


LONG = 4096  # bytes; a longer value is written as its digest
LONG_TYPES = frozenset({bytes, str})


def _sized(tag: bytes, value: bytes) -> bytes:
    if len(value) > LONG:
        return b"%sx%d:%s" % (tag, len(value), xxh3_128_digest(value))
    return b"%s%d:%s" % (tag, len(value), value)


def literal_stream(value: Any) -> bytes | None:
    """Return the typed bytes of a literal; None for any other value."""
    literal = LITERALS.get(type(value))
    return None if literal is None else literal(value)


def shown(value: Any) -> str:
    """Return a literal as text if that is short; else ""."""
    if type(value) not in LITERALS or (type(value) is int and value.bit_length() > 200):
        return ""  # an int of thousands of digits has no text
    text = repr(value)
    return text if len(text) <= 60 else ""


def file_text(value: Any) -> str:
    """Return a `File` as text, with its name alone; "" for any other value."""
    kind = type(value)
    if kind.__name__ != "File" or kind.__module__ != "functionfuse":
        return ""
    by = "" if value._by == "content" else ", by='stat'"
    return f"File({value.name!r}{by})"


def tagged(tag: bytes, text: str) -> bytes:
    """Return a text as bytes, after a tag and its length."""
    encoded = text.encode("utf-8", "surrogatepass")
    return b"%s%d:%s" % (tag, len(encoded), encoded)


def pickled(items: Any) -> bytes:
    """Return the pickle of a list or tuple of literals, without a memo: equal for equal items."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5)
    pickler.fast = True
    pickler.dump(items)
    return file.getvalue()
