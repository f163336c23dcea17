"""Run the classifier comparison on one storage: twice, changed, and read by a second process.

python3 demo.py [--path FOLDER] [--backend ray]

The folder keeps the results, and a page about the last run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from classifiers import CLASSIFIERS, DATA_SETS, ROWS, WORKFLOW_NAME, comparison

from functionfuse import workflow_factory

Table = dict[str, dict[str, float]]

QUIET = {
    "address": "local",
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": "ERROR",
}
BACKENDS: dict[str, dict[str, Any]] = {
    "local": {"kind": "local"},
    "ray": {"kind": "ray", "options": {"rayInitArgs": QUIET}},
}


def bind(config: dict[str, Any], rows: dict[str, int]) -> Any:
    """Build the graph anew, as a script that is started again does, and bind it to a config."""
    return workflow_factory(config, comparison(rows), workflow_name=WORKFLOW_NAME)


def run(workflow: Any) -> Table:
    """Run, and print what happened to the nodes."""
    start = time.perf_counter()
    table: Table = workflow.run()
    seconds = time.perf_counter() - start

    assert workflow.report is not None
    nodes = workflow.report.nodes
    counts = Counter(node.action for node in nodes)
    computed = [node for node in nodes if node.action == "computed"]
    print(
        f"  {counts['computed']} computed, {counts['reused']} taken from storage,"
        f" {counts['not needed']} not needed"
    )
    print(f"  {seconds:.3f} seconds")
    if computed:
        print(f"  {sum(node.bytes for node in computed) / 1e6:.1f} MB stored; the slowest nodes:")
        for node in sorted(computed, key=lambda node: -node.seconds)[:3]:
            print(f"    {node.seconds:6.3f} s  {node.name}")
    return table


def print_plan(workflow: Any) -> None:
    """Print what the next run will do, and why; a stored result that stands has no reason."""
    plan = workflow.plan()
    print(f"  the plan: {plan.summary()}")
    for node in plan.nodes:
        if node.action != "reuse":
            print(f"    {node.name}: {node.action}: {node.reason}")


def print_table(table: Table) -> None:
    """Print a line for each classifier, a column for each data set."""
    print(f"\n{'accuracy':<20}" + "".join(f"{data_set:>15}" for data_set in DATA_SETS))
    for classifier, row in table.items():
        print(f"{classifier:<20}" + "".join(f"{row[data_set]:>15.1%}" for data_set in DATA_SETS))


def demonstrate(folder: Path, backend: str) -> None:
    """Run, run again, change and run, read elsewhere; everything is kept in `folder`."""
    storage = {"kind": "file", "options": {"path": str(folder / "results")}}
    config_file = folder / "storage.json"
    config_file.write_text(json.dumps(storage, indent=2) + "\n", encoding="utf-8")
    config = {"backend": BACKENDS[backend], "storage": storage}

    workflow = bind(config, ROWS)
    print(f"{len(workflow.find_nodes())} nodes: {len(CLASSIFIERS)} classifiers on", end=" ")
    print(f"{', '.join(DATA_SETS)}\n\nFirst run")
    run(workflow)

    print("\nSecond run: the same graph, built anew, on the same storage")
    workflow = bind(config, ROWS)
    print_plan(workflow)
    table = run(workflow)
    print_table(table)

    print("\nA second process, with the same config and neither the graph nor scikit-learn")
    reader = Path(__file__).with_name("read_results.py")
    subprocess.run([sys.executable, str(reader), str(config_file)], check=True)

    print("\nThird run: the Gaussian process is fitted to 150 samples instead of 200")
    workflow = bind(config, {"Gaussian process": 150})
    print_plan(workflow)
    run(workflow)
    workflow.report.save(folder / "report.html")

    command = Path(sys.executable).with_name("functionfuse")
    words = [shown(command), "--storage", shown(folder / "results"), "list", WORKFLOW_NAME]
    print(f"\nReport: {shown(folder / 'report.html')}\nNext:   {shlex.join(words)}")


def shown(path: Path) -> str:
    """Return a path as somebody types it here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def main() -> None:
    """Take the folder from the command line."""
    parser = argparse.ArgumentParser(description="Compare ten classifiers on three data sets.")
    parser.add_argument(
        "--path", type=Path, default=Path("comparison"), help="keeps the results: %(default)s"
    )
    parser.add_argument(
        "--backend", choices=list(BACKENDS), default="local", help="what runs the graph"
    )
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    options.path.mkdir(parents=True, exist_ok=True)
    demonstrate(options.path.resolve(), options.backend)


if __name__ == "__main__":
    main()
