"""`docs/testing.md` names every suite, capability and helper of the conformance kits."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from functionfuse import testing
from functionfuse.testing.suite import Suite

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"
SUITES = [getattr(testing, name) for name in testing.__all__]


@pytest.mark.parametrize("suite", SUITES, ids=testing.__all__)
def test_every_capability_is_documented(suite: type[Suite]) -> None:
    """With its default, in the table, beside the suite's name."""
    rows = re.findall(r"^\| (.*) \| `(\w+)` \| .* \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    found = {
        name: value
        for base in suite.__mro__
        for name, value in vars(base).items()
        if isinstance(value, bool | int | None) and not name.startswith("_")
    }
    documented = {name: default for suites, name, default in rows if suite.__name__ in suites}
    assert sorted(found) == sorted(documented)
    for name, value in found.items():
        assert repr(getattr(suite, name)) in documented[name], value


PROMISED = {"BackendSuite": 30, "BlobStoreSuite": 60, "SerializerSuite": 20, "StorageSuite": 40}


@pytest.mark.parametrize("suite", SUITES, ids=testing.__all__)
def test_every_suite_says_what_it_tests(suite: type[Suite]) -> None:
    """Each test has a docstring, and there are as many as were promised, by pytest's count."""
    tests = {name: getattr(suite, name) for name in dir(suite) if name.startswith("test_")}
    assert [] == [name for name, test in tests.items() if not test.__doc__]
    count = 0
    for test in tests.values():
        marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        count += math.prod(len(mark.args[1]) for mark in marks)
    assert PROMISED[suite.__name__] <= count
