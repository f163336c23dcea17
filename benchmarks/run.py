"""Runs the benchmarks: `python3 run.py bench [names] [--path FOLDER] [--markdown FILE]`.

A benchmark is a module in this folder with a function `measure()`, or `measure_in(folder)`, which
is called once for each place: a memory file system and a disk, or the folders given with --path.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from machine import default_places, describe, file_system
from table import Row, as_markdown, as_text

HERE = Path(__file__).parent
WITH_PLUGINS = {"arrays", "arrays_s3", "ray_nodes", "s3", "types_of_values"}


def benchmarks() -> list[str]:
    """Return the names of the modules that measure; those that import a plugin's SDK come last.

    Once dask, for instance, is imported, every save looks for its arrays.
    """
    names = [path.stem for path in HERE.glob("*.py") if "\ndef measure" in path.read_text()]
    return sorted(names, key=lambda name: (name in WITH_PLUGINS, name))


def tables(
    names: Sequence[str], places: list[Path], *, big: bool
) -> Iterator[tuple[str, list[Row]]]:
    """Import and measure, one after the other, and iterate titles and rows."""
    for name in names:
        module: Any = importlib.import_module(name)
        if hasattr(module, "big"):
            module.big = big
        if hasattr(module, "measure"):
            yield name, list(module.measure())
        else:
            for place in places:
                with tempfile.TemporaryDirectory(prefix="functionfuse-bench-", dir=place) as folder:
                    rows = list(module.measure_in(Path(folder)))
                yield f"{name} on {file_system(place)} ({place})", rows


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments name, and print and write tables; a shortfall is not a failure."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", help="modules in benchmarks/; all, if none is named")
    parser.add_argument(
        "--path",
        action="append",
        type=Path,
        metavar="FOLDER",
        help="measure there; can be repeated",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    parser.add_argument(
        "--big", action="store_true", help="the sizes that take minutes, too, where there are any"
    )
    options = parser.parse_args(arguments)
    known = benchmarks()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(known)}")
    chosen = [name for name in known if name in options.names] or known

    facts = describe()
    print(facts, flush=True)
    pieces = [facts]
    for title, rows in tables(chosen, options.path or default_places(), big=options.big):
        print(f"\n{title}\n{as_text(rows)}", flush=True)
        pieces.append(f"## {title}\n\n{as_markdown(rows)}")
    if options.markdown:
        options.markdown.write_text("\n\n".join(pieces) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
