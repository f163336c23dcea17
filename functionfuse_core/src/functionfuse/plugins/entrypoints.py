"""Find the entry points of our groups in installed distributions, without importing them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from importlib import metadata

__all__ = [
    "BACKENDS",
    "BLOCK",
    "COMMANDS",
    "HOOKS",
    "NOUNS",
    "SERIALIZERS",
    "STORAGES",
    "Entry",
    "Plugin",
    "blocked_by",
    "entries",
    "forget",
    "installed",
    "visible",
]


STORAGES = "functionfuse.storages"
SERIALIZERS = "functionfuse.serializers"
BACKENDS = "functionfuse.backends"
HOOKS = "functionfuse.hooks"
COMMANDS = "functionfuse.commands"

BLOCK = "FUNCTIONFUSE_BLOCK"

# A noun for the kinds of each group.
NOUNS = {
    STORAGES: "storage",
    SERIALIZERS: "serializer",
    BACKENDS: "backend",
    HOOKS: "event hook",
    COMMANDS: "command",
}


class Entry(NamedTuple):
    """An entry point of one of our groups; the metadata of its distribution is read when needed."""

    group: str
    kind: str
    value: str
    distribution: metadata.Distribution

    @property
    def name(self) -> str:
        """The name of the distribution; "" if its metadata has none."""
        return _field(self.distribution, "Name")

    @property
    def version(self) -> str:
        """The version of the distribution; "" if its metadata has none."""
        return _field(self.distribution, "Version")

    @property
    def owner(self) -> str:
        """Name and version of the distribution."""
        return f"{self.name} {self.version}" if self.name else "an unknown distribution"

    def __str__(self) -> str:
        return f"{NOUNS[self.group]} {self.kind!r} (module {self.value!r} from {self.owner})"


# By group; None until the installed distributions are scanned.
_found: dict[str, list[Entry]] | None = None
generation = 0  # increased by each `forget`


def entries(group: str) -> list[Entry]:
    """Return the entry points of a group, including blocked and duplicate ones.

    The installed distributions are scanned once per process; see `forget`.
    """
    global _found  # noqa: PLW0603  # once per process
    found = _found  # another thread may call `forget` meanwhile
    if found is None:
        found = _found = _scan()
    return found[group]


def forget() -> None:
    """Scan the installed distributions again at the next lookup of a kind.

    Call it after you install a plugin into a running process. Loaded plugins stay loaded.
    """
    global _found, generation  # noqa: PLW0603  # caches of the entries compare the generation
    generation += 1
    _found = None


def visible(found: Iterable[Entry]) -> list[Entry]:
    """Drop the entry points that an earlier distribution of the same name on the path hides."""
    found = [*found]
    if len(found) < 2:
        return found  # saves reading the metadata
    from importlib import metadata  # on use: it takes longer than listing results

    visible_entries: dict[tuple[str, str], Entry] = {}
    for entry in found:
        name = _canonical(entry.name)
        if name:
            first = metadata.distribution(entry.name)
            if str(first.locate_file("")) != str(entry.distribution.locate_file("")):
                continue
        visible_entries.setdefault((name or entry.value, f"{entry.kind} {entry.value}"), entry)
    return list(visible_entries.values())


def blocked_by(entry: Entry) -> str:
    """Return the word in the environment variable FUNCTIONFUSE_BLOCK that blocks an entry point.

    Returns "" if no word does. The variable has kinds and distribution names, separated by commas.
    """
    for word in filter(None, map(str.strip, os.environ.get(BLOCK, "").split(","))):
        if word.lower() == entry.kind.lower() or _canonical(word) == _canonical(entry.name):
            return word
    return ""


def _scan() -> dict[str, list[Entry]]:
    """Find the entry points of our groups in the metadata of every distribution.

    `metadata.entry_points` parses all groups, which takes three times as long.
    """
    from importlib import metadata  # see `visible`

    found: dict[str, list[Entry]] = {group: [] for group in NOUNS}
    for distribution in metadata.distributions():
        text = distribution.read_text("entry_points.txt")
        if text and "[functionfuse." in text:
            for group, kind, value in _parsed(text.splitlines()):
                if group in found:
                    found[group].append(Entry(group, kind, value, distribution))
    return found


def _parsed(lines: Sequence[str]) -> Iterable[tuple[str, str, str]]:
    """Yield (group, name, value): https://packaging.python.org/specifications/entry-points/."""
    group = ""
    for line in map(str.strip, lines):
        if line.startswith("["):
            group = line.strip("[]").strip()
        elif "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield group, name.strip(), value.strip()


def _field(distribution: metadata.Distribution, field: str) -> str:
    try:
        found = distribution.metadata
        known = field in found
    except (TypeError, FileNotFoundError):  # raised if METADATA is missing
        return ""
    return found[field] if known else ""


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, slots=True)
class Plugin:
    """One kind that an installed distribution provides.

    Attributes:
        brings: "storage", "serializer", "backend", "event hook" or "command".
        kind: the name by which it is found.
        module: the module that is imported on first use.
        distribution, version: the distribution that provides it; "" if its metadata lacks them.
        problem: the reason why it can't be used, as text; "" if none is known. The module is not
            imported, so errors in it are not known.
    """

    brings: str
    kind: str
    module: str
    distribution: str
    version: str
    problem: str


def installed() -> Sequence[Plugin]:
    """Return every installed kind, sorted; scans the installed distributions again."""
    forget()
    found = []
    for group, noun in NOUNS.items():
        group_entries = visible(entries(group))
        free = [entry for entry in group_entries if not blocked_by(entry)]
        for entry in group_entries:
            plugin = Plugin(
                noun,
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
    """Return whether a module can be found, without importing its parent packages."""
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
