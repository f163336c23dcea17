"""Type the files of a document into a folder: `type_document.py docs/writing-a-storage.md folder`.

A file of a document is a block of code after a line that is its path, as in "`src/module.py`:".
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FILE = re.compile(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def type_document(document: Path, folder: Path) -> list[str]:
    """Write the files of a document, and return their paths in the folder."""
    found = FILE.findall(document.read_text(encoding="utf-8"))
    for name, text in found:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [name for name, _ in found]


if __name__ == "__main__":
    print("\n".join(type_document(Path(sys.argv[1]), Path(sys.argv[2]))))
