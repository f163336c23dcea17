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
from types import ModuleType

from machine import default_places, describe, file_system
from table import Row, as_markdown, as_text

HERE = Path(__file__).parent


def benchmarks() -> dict[str, ModuleType]:
    """Import the modules of this folder, and return those that measure."""
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run")
    modules = {name: importlib.import_module(name) for name in names}
    return {
        name: module
        for name, module in modules.items()
        if hasattr(module, "measure") or hasattr(module, "measure_in")
    }


def tables(modules: dict[str, ModuleType], places: list[Path]) -> Iterator[tuple[str, list[Row]]]:
    """Measure, and iterate titles and rows."""
    for name, module in modules.items():
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
    chosen = {name: known[name] for name in options.names} or known
    for module in chosen.values():
        if hasattr(module, "big"):
            module.big = options.big

    facts = describe()
    print(facts, flush=True)
    pieces = [facts]
    for title, rows in tables(chosen, options.path or default_places()):
        print(f"\n{title}\n{as_text(rows)}", flush=True)
        pieces.append(f"## {title}\n\n{as_markdown(rows)}")
    if options.markdown:
        options.markdown.write_text("\n\n".join(pieces) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
