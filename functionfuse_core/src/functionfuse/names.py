"""Names of workflows and nodes."""

from __future__ import annotations

from .errors import InvalidNameError

TYPE_CHECKING = False  # importing typing would take longer than all the rest of the package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["check_name", "default_name", "label_of"]


def check_name(name: object, what: str) -> str:
    """Return `name` if it can name a workflow or a node.

    Raises:
        InvalidNameError: it is no string, or empty.
    """
    if not isinstance(name, str):
        raise InvalidNameError(f"a {what}'s name is a string, not {name!r}")
    if not name:
        raise InvalidNameError(f"a {what}'s name can't be empty")
    return name


def default_name(label: str, index: int) -> str:
    """Return the name of the `index`-th unnamed node of a function."""
    return f"{label}_{index:04d}"


def label_of(function: Any) -> str:
    """Return the qualified name of a function, a class or another callable."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name)
