"""Chromium for the tests of the report page; they are skipped where none is installed."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_data import study

from functionfuse.show.page import save

CHROMIUM = runpy.run_path(str(Path(__file__).parents[3] / "tools" / "chromium.py"))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Start a Chromium once for all tests of a process."""
    if CHROMIUM["program"]() is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with CHROMIUM["Chromium"]() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    """Return the browser as it was started; its page must have no problems and load nothing."""
    chromium.resize(1280, 900)
    chromium.media()
    chromium.refuse_policy(off=False)
    yield chromium
    assert [] == chromium.problems
    assert [] == chromium.requests


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of `study`."""
    return save(study(), tmp_path_factory.mktemp("page") / "run.html")
