"""A driver that runs the projects of a folder, each as a script; prints what was computed."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import ray

from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory
from functionfuse_ray import RayWorkflow


def run(script: Path, results: Path) -> dict[str, Any]:
    main = types.ModuleType("__main__")
    main.__file__ = str(script)
    sys.modules["__main__"] = main
    exec(compile(script.read_bytes(), str(script), "exec"), main.__dict__)
    flow = RayWorkflow(*main.nodes, workflow_name="w")
    flow.set_storage(storage_factory({"kind": "file", "options": {"path": str(results)}}))
    result = flow.run(return_results=True)
    return {
        "computed": flow.report.names("computed"),
        "result": repr(result),
        "without": repr(LocalWorkflow(*main.nodes, workflow_name="w").run()),
    }


def main(address: str, results: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    folder = Path.cwd()  # where Ray's workers look for modules, too
    sys.path[:0] = [str(folder), str(folder / "site-packages")]
    scripts = sorted(folder.glob("main_*.py"))
    print(json.dumps({script.stem: run(script, Path(results, script.stem)) for script in scripts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
