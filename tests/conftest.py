"""How the tests are shared out when several processes run them."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, for its fixtures, and those of Ray: it starts once."""
    if not config.pluginmanager.has_plugin("xdist"):
        return
    for item in items:
        place = item.path.relative_to(TESTS)
        group = "ray" if place.parts[0] == "ray" else place.as_posix()
        item.add_marker(pytest.mark.xdist_group(group))
