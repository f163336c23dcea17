"""Nodes as texts for people: the call, and where it is written."""

from __future__ import annotations

import os
import reprlib
import sys
from itertools import islice

from ..show.texts import printable
from .arguments import Reference

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

__all__ = ["arguments_of", "call_of", "cell_of", "key_text", "place_of", "shell"]

_MOST = 5  # arguments
_LONGEST = 24  # characters of a text, or bits and digits of a number


def call_of(node: Reference) -> str:
    """Return a node's call, such as "fit(<'split'[0]>, 'rbf', c=1.0)"."""
    count = len(node.args)
    found = enumerate(islice(arguments_of(node), _MOST))
    texts = [text if number < count else f"{name}={text}" for number, (name, text) in found]
    if count + len(node.kwargs) > _MOST:
        texts.append("…")
    return f"{printable(node.label)}({', '.join(texts)})"


def arguments_of(node: Reference) -> Iterator[tuple[str, str]]:
    """Iterate over the arguments of a call: the name of the parameter, or a number, and the text.

    The text is "…" for arguments that are neither nodes nor numbers nor texts, and for those in
    `ignore`, which may be passwords. So no method of a value is called.
    """
    ignored, names = set(node.settings.ignore), node.parameters.names
    # An ignored name that is neither of these may be that of *args, or in a wrapped function.
    unclear = not ignored <= {*names, *node.kwargs}
    for number, value in enumerate(node.args):
        name = names[number] if number < len(names) else ""
        hidden = unclear or name in ignored or (ignored and not name)
        yield name or str(number + 1), "…" if hidden else _text(value)
    for name, value in node.kwargs.items():
        yield printable(name), "…" if unclear or name in ignored else _text(value)


def _text(value: Any) -> str:
    kind = type(value)
    if isinstance(value, Reference):
        return f"<{value.source.name!r}{'' if value.whole else value._keys()}>"
    if kind in (str, bytes):
        return repr(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!r}…"
    # Python refuses to print an int of thousands of digits.
    plain = kind in (float, bool, type(None)) or (kind is int and value.bit_length() <= 64)
    return repr(value) if plain else "…"


def key_text(key: object) -> str:
    """Return an index or a key as it is written between brackets, shortened."""
    if isinstance(key, slice):
        parts = (key.start, key.stop) if key.step is None else (key.start, key.stop, key.step)
        return ":".join("" if part is None else key_text(part) for part in parts)
    return printable(reprlib.repr(key))


def place_of(where: tuple[str, int]) -> str:
    """Return file or cell, and line, of a call; without the folder."""
    file, line = where
    return f"{cell_of(file) or printable(os.path.basename(file))}:{line}"


def cell_of(file: str) -> str:
    """Return the cell whose code has this file name, such as "Cell In[3]"; "" if it is none."""
    format_name = getattr(getattr(shell(), "compile", None), "format_code_name", None)
    return " ".join(format_name(file) or ()) if format_name else ""


def shell() -> Any:
    """Return the shell of IPython or of a notebook; None if this is neither."""
    get = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get() if get else None


def html_of(node: Reference) -> str:
    """Return a node's call, arguments and neighbours as HTML, for a notebook."""
    from ..show.notebook import ROWS, block, facts  # for notebooks only

    rows = [("call", f"{call_of(node)} at {place_of(node.where)}")]
    rows += [(f"argument {name}", text) for name, text in islice(arguments_of(node), ROWS)]
    rows += [("needs", _names(node.parents)), ("needed by", _names(node.children))]
    return block(f"node {node.name!r}", facts(rows))


def _names(nodes: Sequence[Reference]) -> str:
    more = f" and {len(nodes) - _MOST:,} more" if len(nodes) > _MOST else ""
    return ", ".join(repr(node.name) for node in nodes[:_MOST]) + more
