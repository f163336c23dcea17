"""The table of edits: small projects, what is changed in them, and what must be computed then.

They are in `../edits/*.txt`, each as a heading, lines of settings, and the files' lines as a diff:

    === what is edited, in words
    runs: names of the nodes that are computed afterwards, in the order of the graph
    why: how the reason begins that the report gives for the first of them
    again: names of the nodes that a third run computes, without another edit
    store: what happens to stored results in between: remove, damage or overwrite
    stale                       the result is not what a run without a storage gives
    call: f(1) → f(2)           how `f` is called before and after; f() if there is no such line
    main: graph                 `main.py` is a program of `programs.txt`,
    change: old → new           in which this is changed
      a line of `main.py`
    - a line before the edit
    + a line after it
    --- tools.py                lines of another file follow

What `main.py` lacks is added: the import of the decorator, and at its end the nodes `f`, `after`,
which takes the result of `f`, and `unrelated`. `test_edits.py` runs the table;
`python tests/core/importable/edits.py` writes it into docs/reuse.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "edits"
DOCUMENT = Path(__file__).parents[3] / "docs" / "reuse.md"
BEGIN, END = "<!-- edits: begin -->\n", "<!-- edits: end -->\n"
SECTIONS = ["writing", "function", "helpers", "data", "classes", "arguments"]
SECTIONS += ["nodes", "stored", "settings", "stateful"]
PATHS = [FOLDER / f"{section}.txt" for section in SECTIONS]
HEADER = "from functionfuse import workflow\n\n"
FUTURE = "from __future__ import annotations\n"


@dataclass
class Edit:
    """One edit.

    Attributes:
        what: in words.
        runs, again: names of the nodes that are computed after it, and in the run after that.
        why: how the reason of the first of `runs` begins.
        store: what happens to stored results, in words.
        stale: the result is not what a run without a storage gives.
        before, after: text of the files, by name.
    """

    what: str
    runs: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    why: str = ""
    store: str = ""
    stale: bool = False
    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)

    def change_stored(self, storage: Any) -> None:
        """Do what `store` says."""
        action, *names = self.store.split() or ["leave"]
        if action == "remove" and names == ["all"]:
            storage.remove_workflow("w")
        elif action == "remove":
            for name in names:
                storage.remove_task("w", name)
        elif action == "overwrite":
            storage.save("w", names[0], 99)
        elif action == "damage":
            key = f"w/{names[0]}"
            data = bytearray(storage.store.get(key))
            data[int(names[1])] ^= 0xFF
            storage.store.put(key, [data])


def _blocks(text: str) -> list[tuple[str, list[str]]]:
    _, *blocks = text.split("\n=== ")
    return [(block.splitlines()[0], block.splitlines()[1:]) for block in blocks]


def _program(lines: list[str]) -> str:
    return "\n".join(line[2:] for line in lines).strip() + "\n"


def _read(what: str, lines: list[str]) -> Edit:
    settings = [line for line in lines if re.match(r"[a-z]", line)]
    edit, called, changes = Edit(what), ("f()", "f()"), []
    _add_files(edit, [line for line in lines if line not in settings])
    for line in settings:
        key, _, value = line.replace("runs:", "runs: ", 1).partition(": ")
        old, _, new = value.strip().partition(" → ")
        if key in ("runs", "again"):
            setattr(edit, key, value.split())
        elif key in ("why", "store"):
            setattr(edit, key, value)
        elif key == "stale":
            edit.stale = True
        elif key == "call":
            called = old, new or old
        elif key == "main":
            edit.before["main.py"] = edit.after["main.py"] = PROGRAMS[value]
        elif key == "change":
            changes.append((old, new))
        else:
            raise ValueError(f"{what}: {line}")
    for files, call in zip((edit.before, edit.after), called, strict=True):
        future, _, rest = files["main.py"].rpartition(FUTURE)
        main = future + FUTURE + HEADER + rest if FUTURE in files["main.py"] else HEADER + rest
        if "nodes = " not in main:
            main += "\n" + PROGRAMS["end"].replace("CALL", call)
        files["main.py"] = main
    for old, new in changes:
        assert edit.after["main.py"].count(old) == 1, (what, old)
        edit.after["main.py"] = edit.after["main.py"].replace(old, new)
    return edit


def _add_files(edit: Edit, lines: list[str]) -> None:
    """Add the files whose lines are given, as they are before and after."""
    name = "main.py"
    for line in lines:
        if line.startswith("--- "):
            name = line[4:]
            edit.before[name] = edit.after[name] = ""
            continue
        for files, other in ((edit.before, "+"), (edit.after, "-")):
            if not line.startswith(other):
                files[name] = files.get(name, "") + line[2:] + "\n"


PROGRAMS = {
    name: _program(lines)
    for name, lines in _blocks((FOLDER / "programs.txt").read_text(encoding="utf-8"))
}


def table(paths: Iterable[Path] = PATHS) -> dict[str, list[Edit]]:
    """Return the edits of some files by the headings of their sections."""
    found = {}
    for path in paths:
        text = path.read_text(encoding="utf-8")
        heading = text.partition("\n")[0].removeprefix("# ")
        found[heading] = [_read(*block) for block in _blocks(text)]
    return found


def as_markdown() -> str:
    """Return the table as it stands in the document."""
    lines = ["| changed | computed then |\n|---|---|\n"]
    for heading, edits in table().items():
        lines.append(f"| **{heading}** | |\n")
        lines += [f"| {edit.what} | {', '.join(edit.runs) or 'nothing'} |\n" for edit in edits]
    return "".join(lines)


if __name__ == "__main__":
    document = DOCUMENT.read_text(encoding="utf-8")
    start, rest = document.partition(BEGIN)[0], document.partition(END)[2]
    DOCUMENT.write_text(start + BEGIN + as_markdown() + END + rest, encoding="utf-8")
