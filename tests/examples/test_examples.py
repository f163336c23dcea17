"""The examples run as a person runs them, print what they promise, and nothing on stderr."""

from __future__ import annotations

import doctest
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from functionfuse.storage import storage_factory

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *arguments: str, cwd: Path) -> str:
    finished = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=600,
    )
    expected = (0, "")
    assert expected == (finished.returncode, finished.stderr)
    return finished.stdout


@pytest.mark.parametrize(
    ("arguments", "folders"), [([], ["storage"]), (["elsewhere"], ["elsewhere"])]
)
def test_quick_start(tmp_path: Path, arguments: list[str], folders: list[str]) -> None:
    """The quick start computes, lists and reads, in the folder that it is given or "storage"."""
    expected = (
        "Result: 3.0\nAll graph node names: ['node1', 'node2', 'node3']\nResult of node2: 9\n"
    )
    assert expected == run("quickstart/quickstart.py", *arguments, cwd=tmp_path)
    assert folders == [path.name for path in tmp_path.iterdir()]


def test_the_examples_page_shows_what_the_quick_start_prints(tmp_path: Path) -> None:
    """`examples/README.md` shows the output as it is."""
    printed = run("quickstart/quickstart.py", cwd=tmp_path)
    assert printed in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_sweep(tmp_path: Path) -> None:
    """The sweep prints what its page shows, and computes nothing the second time."""
    printed = run("sweep/sweep.py", cwd=tmp_path)
    page = (EXAMPLES / "sweep" / "README.md").read_text(encoding="utf-8")
    shown = page.partition("sweep.py\n")[2].partition("```")[0]
    assert doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS)
    run("sweep/sweep.py", cwd=tmp_path)
    storage = storage_factory({"kind": "file", "options": {"path": tmp_path / "sweep-results"}})
    runs = storage.runs("digits", last=None)
    assert 42 == len(runs)
    actions = {node.action for record in runs[20:] for node in record.nodes}
    assert {"reused"} == actions
    scores = runs[:20].to_frame("score")
    assert (20, 4) == (len(scores), len(scores.groupby(["fit.gamma"])))
    assert 98.9 == round(100 * scores["score"].max(), 1)


def test_demo(tmp_path: Path) -> None:
    """The second run computes nothing, the third what its change touches; all is read elsewhere."""
    out = run("classifier_comparison/demo.py", "--path", "demo", cwd=tmp_path)

    # On wine, the change makes no difference to what is fitted: what follows it is reused.
    counts = [("70", "0", "0"), ("0", "70", "0"), ("7", "63", "0")]
    assert counts == re.findall(r"(\d+) computed, (\d+) taken from storage, (\d+) not needed", out)
    assert "the plan: workflow 'classifier comparison': 70 reuse, " in out
    reason = "compute: argument 'rows' changed (200 → 150)"
    assert f"    digits/Gaussian process/fit: {reason}\n" in out
    reason = "maybe: compute if 'wine/Gaussian process/fit' changes"
    assert f"    wine/Gaussian process/score: {reason}\n" in out

    config = json.loads((tmp_path / "demo" / "storage.json").read_text(encoding="utf-8"))
    storage = storage_factory(config)
    table = storage.read_task("classifier comparison", "summary")
    data_sets = ["digits", "breast cancer", "wine"]
    assert [data_sets] * 10 == [list(row) for row in table.values()]
    for classifier, row in table.items():
        if classifier == "Gaussian process":
            continue  # the third run has another
        accuracies = "".join(f"{accuracy:>15.1%}" for accuracy in row.values())
        assert f"{classifier:<20}{accuracies}\n" in out

    assert "70 tasks are stored, 30 of them match '*/score'\n" in out
    read = re.findall(r"the best on (.*): (.*), (\S+%)\n", out)
    assert sorted(data_sets) == [data_set for data_set, _, _ in read]
    for data_set, classifier, accuracy in read:
        best = max(row[data_set] for row in table.values())
        assert best == table[classifier][data_set]
        assert f"{best:.1%}" == accuracy

    again = run("classifier_comparison/read_results.py", "demo/storage.json", cwd=tmp_path)
    assert again in out

    report, following = re.findall(r"^(?:Report|Next): +(.*)$", out, re.MULTILINE)
    assert "<title>classifier comparison" in (tmp_path / report).read_text(encoding="utf-8")
    done = subprocess.run(
        shlex.split(following), cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert 71 == len(done.stdout.splitlines())
    out = run("classifier_comparison/demo.py", "--path", "demo", cwd=tmp_path)
    found = re.findall(r"(\d+) computed, (\d+) taken from storage, (\d+) not needed", out)
    assert [("0", "70", "0")] * 3 == found  # earlier results are restored


def test_notebook(tmp_path: Path) -> None:
    """Each cell can run twice in place, and then all once more: only new code is computed."""
    notebook = nbformat.read(EXAMPLES / "notebook" / "first_steps.ipynb", as_version=4)
    cells = [(at, cell) for at, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    assert [([], None)] * len(cells) == [(cell.outputs, cell.execution_count) for _, cell in cells]
    config = {"kind": "file", "options": {"path": tmp_path / "first-steps-results"}}
    storage = storage_factory(config)
    shown: dict[str, dict[str, str]] = {}

    def computed(at: int, cell: nbformat.NotebookNode) -> list[list[str]]:
        """Execute a cell; return the nodes that each run in it computed."""
        before = len(storage.runs("wine", last=None))
        outputs = client.execute_cell(cell, at).outputs
        assert not [output for output in outputs if output.output_type in ("stream", "error")]
        results = [output.data for output in outputs if output.output_type == "execute_result"]
        for data in results:
            shown[cell.id] = data
        runs = storage.runs("wine", last=None)[before:]
        return [[node.name for node in run.nodes if node.action == "computed"] for run in runs]

    pair = ["fit", "score"]
    new = {"run": [["load", "split", *pair]], "sweep": [pair, pair, [], pair, pair]}
    new["run-again"] = [pair]
    folder = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=60, kernel_name="python3", resources=folder)
    with client.setup_kernel():
        for at, cell in cells:
            expected = new.get(cell.id, [])
            assert [expected, [[]] * len(expected)] == [computed(at, cell) for _ in range(2)]
        assert float(shown["run"]["text/plain"]) < 0.8 < float(shown["run-again"]["text/plain"])
        assert "at Cell In[" in shown["node"]["text/plain"]
        assert "<td>code</td>" in shown["compare"]["text/html"]
        tables = {name for name, data in shown.items() if "text/html" in data}
        assert tables == set(shown) - {"run", "run-again"}
        again = [run for at, cell in cells for run in computed(at, cell)]
        assert [[]] * sum(map(len, new.values())) == again
