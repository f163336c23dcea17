"""How the tests are shared out when several processes run them."""

from __future__ import annotations

from pathlib import Path

import pytest

RAY = Path(__file__).parent / "ray"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, for its fixtures, and those of Ray: it starts once."""
    if not config.pluginmanager.has_plugin("xdist"):
        return
    for item in items:
        group = RAY if item.path.is_relative_to(RAY) else item.path
        item.add_marker(pytest.mark.xdist_group(str(group)))
