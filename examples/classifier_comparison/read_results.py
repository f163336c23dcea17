"""Read what demo.py has stored, knowing its config and the workflow's name.

python3 read_results.py FOLDER/storage.json
"""

import json
import sys
from pathlib import Path

from functionfuse import storage_factory

WORKFLOW_NAME = "classifier comparison"

storage = storage_factory(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))

tasks = storage.list_tasks(workflow_name=WORKFLOW_NAME)
score_tasks = storage.list_tasks(workflow_name=WORKFLOW_NAME, pattern="*/score")
print(f"  {len(tasks)} tasks are stored, {len(score_tasks)} of them match '*/score'")

best: dict[str, tuple[float, str]] = {}
for task in score_tasks:
    data_set, classifier, _ = task.split("/")
    accuracy = storage.read_task(workflow_name=WORKFLOW_NAME, task_name=task)
    best[data_set] = max(best.get(data_set, (0.0, "")), (accuracy, classifier))
for data_set, (accuracy, classifier) in best.items():
    print(f"  the best on {data_set}: {classifier}, {accuracy:.1%}")
