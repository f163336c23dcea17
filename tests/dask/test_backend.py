"""The backend of `docs/writing-a-backend.md`, on a cluster of two processes, passes the kit."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest
from distributed import Client

from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.testing import BackendSuite

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "writing-a-backend.md"
TYPE_DOCUMENT = runpy.run_path(str(ROOT / "tools" / "type_document.py"))["type_document"]


class TestOnDask(BackendSuite):
    """As the document tells its reader to."""

    keeps_values = True
    interrupts = False

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def cluster(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("typed")
        typed = TYPE_DOCUMENT(DOCUMENT, folder)
        assert ["src/dask_backend.py", "tests/test_dask_backend.py"] == typed
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder / "src")
            cls.backends = importlib.import_module("dask_backend")
            kept = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
            with Client(**kept) as cls.client:
                yield
            del sys.modules["dask_backend"]

    @pytest.fixture
    def backend(self):
        return LocalWorkflow

    def run(self, workflow):
        return workflow.run(self.backends.OnDask(self.client))

    def value(self, workflow, node):
        return workflow.value(node, self.backends.OnDask(self.client))


def test_it_has_about_sixty_lines():
    """Few enough to be read at once."""
    text = DOCUMENT.read_text(encoding="utf-8")
    code = text.partition("`src/dask_backend.py`:\n\n```python\n")[2].partition("```")[0]
    assert 40 < sum(bool(line.strip()) for line in code.splitlines()) <= 65
