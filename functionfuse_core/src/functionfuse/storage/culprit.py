"""Find the part of a value that can't be pickled, for the message of the error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import CellType, FunctionType
from typing import Any

from ..serializers.refused import refusal_of

__all__ = ["culprit"]


def culprit(value: Any, fails: Callable[[Any], bool], kind: type | None) -> tuple[str, Any]:
    """Return the innermost part that can't be pickled, after the expression that leads to it.

    Halves the list of a value's parts until one is left, and goes on with its parts. Ends at an
    object of type `kind`, or of a type that is never stored.
    """
    path, seen = "result", {id(value)}
    for _ in range(50):
        if type(value) is kind or refusal_of(type(value)):
            break
        parts = [(suffix, part) for suffix, part in _parts(value) if id(part) not in seen]
        while len(parts) > 1:
            half = parts[: len(parts) // 2]
            parts = half if fails([part for _, part in half]) else parts[len(half) :]
        if not parts or not fails(parts[0][1]):
            break
        path, value = path + parts[0][0], parts[0][1]
        seen.add(id(value))
    return path, value


def _parts(value: Any) -> list[tuple[str, Any]]:
    """Return the parts of a value that pickle would write, each after the expression for it."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [(" (an item)", part) for part in value]
    if isinstance(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        inner = {name: cell.cell_contents for name, cell in cells if cell != CellType()}
        named = {n: value.__globals__.get(n) for n in value.__code__.co_names} | inner
        return [(f" (its variable {name!r})", part) for name, part in named.items()]
    try:
        state = value.__getstate__()
    except Exception:  # noqa: BLE001  # then the value itself is the culprit
        return []
    states = state if isinstance(state, tuple) else (state,)  # (attributes, slots)
    attributes = [item for state in states if isinstance(state, dict) for item in state.items()]
    return [(f".{name}", part) for name, part in attributes]
