"""What it takes to start the command line: `--version`, and a list of 100 results."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from functionfuse.storage.filestorage import FileStorage
from pairs import time_pair
from table import Row, at_most

PAIRS = 15
RESULTS = 100
# Any class of pydantic's takes twice as long as its bare import; a config's options are some.
MODEL = "import pydantic\nclass Options(pydantic.BaseModel): path: str"


def measure() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="functionfuse-bench-") as name:
        folder = Path(name)
        storage = FileStorage(folder / "results")
        for number in range(RESULTS):
            storage.save("w", f"t{number}", number)
        config = folder / "functionfuse.yaml"
        config.write_text("{kind: file, options: {path: results}}")
        typed = ("-m", "functionfuse")
        found = (*typed, "list", "w", "--storage", str(folder / "results"))
        for what, bound, ours, peer in (
            ("functionfuse --version / python -c pass", 2, (*typed, "--version"), "pass"),
            (f"list {RESULTS} results / import pydantic", 2, found, "import pydantic"),
            (
                f"list {RESULTS} results of a YAML config / a pydantic model of one field",
                2,
                (*typed, "list", "w", "--config", str(config)),
                MODEL,
            ),
        ):
            pair = time_pair(
                lambda ours=ours: start(folder, *ours),
                lambda peer=peer: start(folder, "-c", peer),
                rounds=PAIRS,
            )
            yield at_most(what, bound, pair)


def start(folder: Path, *words: str) -> None:
    """Run Python with bytecode, which an installed package has; the first start writes it."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run([sys.executable, *words], check=True, env=environment, stdout=subprocess.DEVNULL)
