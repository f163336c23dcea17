"""What `import functionfuse` adds to the start of Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from pairs import time_pair
from table import Row, amount

PAIRS = 40


def measure() -> Iterator[Row]:
    pair = time_pair(
        lambda: start("import functionfuse"),
        lambda: start("pass"),
        rounds=PAIRS,
    )
    yield amount(
        "import functionfuse, beyond bare Python",
        pair.difference * 1e3,
        15,
        unit="ms",
        peer=f"{pair.peer * 1e3:.3g} ms",
    )


def start(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
