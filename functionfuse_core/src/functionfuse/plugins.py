"""Which plugins are installed, whose they are, and whether they can be used; imports none."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .entrypoints import BLOCK, NOUNS, Entry, blocked_by, entries, forget, visible

__all__ = ["Plugin", "list"]


@dataclass(frozen=True, slots=True)
class Plugin:
    """One kind that an installed distribution brings.

    Attributes:
        brings: "storage", "serializer", "backend" or "event hook".
        kind: what it is found by.
        module: what is imported when it is asked for.
        distribution, version: whose it is; "" where its metadata doesn't say.
        problem: why it can't be used, in words; "" if nothing is known against it. What only shows
            when the module runs is not known before.
    """

    brings: str
    kind: str
    module: str
    distribution: str
    version: str
    problem: str


def list() -> Sequence[Plugin]:  # noqa: A001  # it is `plugins.list()`
    """Return every installed kind, sorted; the installed distributions are looked through anew."""
    forget()
    found = []
    for group in NOUNS:
        group_entries = visible(entries(group))
        free = [entry for entry in group_entries if not blocked_by(entry)]
        for entry in group_entries:
            plugin = Plugin(
                NOUNS[group],
                entry.kind,
                entry.value,
                entry.name,
                entry.version,
                _problem(entry, free),
            )
            found.append(plugin)
    return sorted(found, key=lambda plugin: (plugin.brings, plugin.kind, plugin.distribution))


def _problem(entry: Entry, free: Sequence[Entry]) -> str:
    block = blocked_by(entry)
    if block:
        return f"blocked: {BLOCK} has {block!r}"
    others = [other for other in free if other is not entry and other.kind == entry.kind]
    if others and NOUNS[entry.group] != "event hook":
        return f"{others[0].owner} brings it, too"
    return "" if _is_there(entry.value) else f"there is no module {entry.value!r}"


def _is_there(module: str) -> bool:
    """Tell whether a module can be found, without importing the packages that it is in."""
    top, *rest = module.split(".")
    try:
        spec = sys.modules[top].__spec__ if top in sys.modules else importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return False
        name = f"{name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec is not None
