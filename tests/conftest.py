"""How the tests are shared out when several processes run them."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
RAY = HERE / "ray"

# The first is handed out first; in the end, one process would be left with what takes longest.
LONGEST = (
    RAY,
    HERE / "s3" / "test_kits.py",
    HERE / "packaging",
    HERE / "s3",
    HERE / "dask",
    HERE / "core" / "battery",
    HERE / "core" / "testing",
    HERE / "core" / "test_code_shapes.py",
    HERE / "core" / "test_edits.py",
)


@pytest.hookimpl(tryfirst=True)  # before xdist, which looks at the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, for its fixtures, and those of Ray: it starts once."""
    if not config.pluginmanager.has_plugin("xdist"):
        return
    items.sort(key=_place)
    for item in items:
        group = RAY if item.path.is_relative_to(RAY) else item.path
        item.add_marker(pytest.mark.xdist_group(str(group)))


def _place(item: pytest.Item) -> int:
    above = (number for number, path in enumerate(LONGEST) if item.path.is_relative_to(path))
    return next(above, len(LONGEST))
