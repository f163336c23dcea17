"""A process that has imported everything, and forks one child for each run of a small project.

Reads lines of JSON, `{"folder": ..., "answer": ..., "storage": ...}`: where `main.py` is, where to
write what the run did, and the storage's config; without that it is the folder `results`. Each
child imports the project anew, as a new process would. Arguments name modules to import before.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import traceback
import types
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import runs, storage_factory

IMPORTED = np, pydantic, runs  # once for all children
sys.dont_write_bytecode = True  # an edit within the same second would not be seen


def run(folder: Path, config: Any) -> dict[str, object]:
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(folder / "site-packages")]
    script = folder / "main.py"
    main = types.ModuleType("__main__")
    main.__file__ = str(script)
    sys.modules["__main__"] = main
    exec(compile(script.read_bytes(), str(script), "exec"), main.__dict__)
    workflow = LocalWorkflow(*main.nodes, workflow_name="w")
    prepare = getattr(main, "prepare", lambda workflow: None)
    prepare(workflow)
    config = config or {"kind": "file", "options": {"path": str(folder / "results")}}
    workflow.set_storage(storage_factory(config))
    plan = workflow.plan()
    result = workflow.run()
    without = LocalWorkflow(*main.nodes, workflow_name="w").run()
    return {
        "plan": {node.name: [node.action, node.reason] for node in plan.nodes},
        "report": {node.name: [node.action, node.reason] for node in workflow.report.nodes},
        "result": repr(result),
        "without": repr(without),
    }


def main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    # Once for all: it imports the kinds.
    storage_factory({"kind": "file", "options": {"path": "results"}})
    gc.collect()
    gc.freeze()  # what is here stays: a child that looks at it copies it
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            try:
                answer: dict[str, object] = run(Path(request["folder"]), request.get("storage"))
            except BaseException:  # noqa: BLE001 -- it is told to the test
                answer = {"error": traceback.format_exc()}
            Path(request["answer"]).write_text(json.dumps(answer))
            os._exit(0)
        os.waitpid(child, 0)
        print(flush=True)


if __name__ == "__main__":
    main()
