"""The names of workflows and nodes, and suggestions for a misspelled name."""

from __future__ import annotations

from .errors import InvalidNameError

TYPE_CHECKING = False  # importing typing takes longer than the rest of the package
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_name", "close_to", "default_name", "label_of"]


def check_name(name: object, kind: str) -> str:
    """Return `name` if a workflow or a node can have it.

    Raises:
        InvalidNameError: `name` is no string, is empty, or has two surrogates that form a pair:
            JSON can't distinguish such a pair from the character.
    """
    if not isinstance(name, str):
        raise InvalidNameError(f"a {kind}'s name is a string, not {name!r}")
    if not name:
        raise InvalidNameError(f"a {kind}'s name can't be empty")
    if not name.isascii() and any(map(_is_pair, name, name[1:])):
        raise InvalidNameError(
            f"a {kind}'s name can't hold two halves of one character, as {name!r} does"
        )
    return name


def _is_pair(high: str, low: str) -> bool:
    return "\ud800" <= high <= "\udbff" and "\udc00" <= low <= "\udfff"


def default_name(label: str, index: int) -> str:
    """Return the name of an unnamed node; `index` counts the unnamed nodes of its function."""
    return f"{label}_{index:04d}"


def label_of(function: object) -> str:
    """Return the qualified name of a function, a class or another callable."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name)


def close_to(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the most similar of `known`; "" if none is similar."""
    import difflib  # for errors only

    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f" (did you mean {lowered[close[0]]!r}?)" if close else ""
