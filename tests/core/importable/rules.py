"""The rows of `../rules/*.txt`: edits of which only fingerprints are looked at, in one process.

They have the form of those in `edits.py`. `python rules.py FOLDER` writes what each row's node `f`
counts as, before and after.
"""

from __future__ import annotations

import builtins
import importlib
import json
import sys
from pathlib import Path

import edits

from functionfuse.errors import FingerprintError
from functionfuse.reuse.identity import Identities

PATHS = sorted(Path(__file__).parents[1].joinpath("rules").glob("*.txt"))


def counted(files: dict[str, str], folder: Path) -> str:
    """Write a project and import it; return the digest of its node `f`, or why it has none."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    before, names = set(sys.modules), set(vars(builtins))
    sys.path[:0] = added = [str(folder), str(folder / "site-packages")]
    importlib.invalidate_caches()
    try:
        main = importlib.import_module("main")
        return Identities({}).own(main.nodes[0].needs[0]).hex()
    except FingerprintError as error:
        return str(error)
    finally:
        del sys.path[: len(added)]
        for name in set(vars(builtins)) - names:
            delattr(builtins, name)
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]


def all_counted(folder: Path) -> list[list[str]]:
    """Return what each row counts as, before and after its edit."""
    rows = [row for section in edits.table(PATHS).values() for row in section]
    return [
        [
            counted(row.before, folder / f"{number}" / "before"),
            counted(row.after, folder / f"{number}" / "after"),
        ]
        for number, row in enumerate(rows)
    ]


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    print(json.dumps(all_counted(Path(sys.argv[1]))))
